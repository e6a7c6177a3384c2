// Lantern: a gyroid carved out of a ball, lit from within, throwing its pattern on the walls.
//
// The slow one: every ray, and every ray to the light, walks through an isosurface. It takes one to
// a few minutes on two cores, and its rows cost very differently, which is what a farm has to
// be good at. There is no job.yaml on purpose: a folder with one .pov is enough, and what nobody
// sets has POV-Ray's own value.
//
//   clusterray-submit examples/slow --local 2

#version 3.7;

global_settings {
  assumed_gamma 1
  max_trace_level 6
}

#default { finish { ambient 0 diffuse 0.8 } }

// Modelled in metres, put up in decimetres: whether a point lies in shadow is vague in POV-Ray below
// a thousandth of a unit, and a picture should not depend on which thread drew its neighbours.
#declare Metre = 10;

camera {
  location <0.3, 1.75, -4.6> * Metre
  look_at <0, 1.28, 0> * Metre
  right x * image_width / image_height
  angle 48
}

#declare Centre = <-0.05, 1.45, 0>;

// ---------------------------------------------------------------------------- light

light_source {
  Centre * Metre
  srgb <1.0, 0.62, 0.28> * 3.0
  fade_distance 1.6 * Metre
  fade_power 2
  area_light x * 0.05 * Metre, y * 0.05 * Metre, 5, 5
  adaptive 0
  circular
  orient
}

// Moonlight, and what the room behind the viewer gives back.
light_source {
  <-3.2, 3.4, -6> * Metre
  srgb <0.50, 0.60, 0.92> * 0.75
}

light_source { <3, 2, -6> * Metre srgb <0.70, 0.50, 0.40> * 0.35 shadowless }

// ---------------------------------------------------------------------------- room

#declare Plaster = texture {
  pigment {
    bozo
    turbulence 0.5
    colour_map { [0 srgb <0.84, 0.79, 0.73>] [1 srgb <0.76, 0.70, 0.66>] }
    scale 0.8
  }
  normal { granite 0.06 scale 0.4 }
}

plane { -z, -2.1 texture { Plaster } rotate y * 38 scale Metre }
plane { -z, -2.1 texture { Plaster } rotate y * -44 scale Metre }

plane {
  y, 0
  pigment {
    wood
    turbulence 0.06
    colour_map {
      [0.0 srgb <0.34, 0.19, 0.10>]
      [0.6 srgb <0.27, 0.14, 0.07>]
      [1.0 srgb <0.20, 0.10, 0.05>]
    }
    scale 0.16
    rotate <2, 84, 0>
  }
  normal { wood 0.05 scale 0.16 rotate <2, 84, 0> }
  finish { specular 0.3 roughness 0.02 reflection { 0.02, 0.35 fresnel on } conserve_energy }
  interior { ior 1.5 }
  scale Metre
}

// ---------------------------------------------------------------------------- lantern

#declare Period = 13;
#declare Gyroid = function {
  sin(Period * x) * cos(Period * y) + sin(Period * y) * cos(Period * z) + sin(Period * z) * cos(Period * x)
}

#declare Shell = isosurface {
  function { abs(Gyroid(x, y, z)) - 0.40 }
  contained_by { sphere { 0, 0.86 } }
  max_gradient 23
  accuracy 0.0015
  all_intersections
}

difference {
  object { Shell }
  sphere { 0, 0.70 }
  pigment {
    onion
    turbulence 0.25
    colour_map { [0 srgb <0.92, 0.90, 0.86>] [1 srgb <0.72, 0.80, 0.80>] }
    scale 0.2
  }
  finish { diffuse 0.75 specular 0.4 roughness 0.01 reflection { 0.02, 0.20 } }
  rotate <18, 32, 0>
  translate Centre
  scale Metre
}

// The flame, a glass bead that does not stand in its own light.
sphere {
  Centre, 0.10
  no_shadow
  pigment { colour srgb <1.0, 0.72, 0.35> }
  finish { emission 2.2 diffuse 0 }
  scale Metre
}

#declare Iron = texture {
  pigment { colour srgb <0.10, 0.09, 0.09> }
  finish { diffuse 0.6 specular 0.4 roughness 0.04 reflection 0.06 }
}

union {
  cylinder { Centre + y * 0.84, Centre + y * 4, 0.012 }
  torus { 0.10, 0.014 translate Centre + y * 0.86 }
  sphere { Centre + y * 0.90, 0.05 }
  texture { Iron }
  scale Metre
}

// ---------------------------------------------------------------------------- on the floor

#declare Bowl_Glaze = texture {
  pigment {
    gradient y
    turbulence 0.15
    colour_map { [0 srgb <0.08, 0.22, 0.26>] [0.7 srgb <0.12, 0.38, 0.42>] [1 srgb <0.70, 0.76, 0.66>] }
    scale 0.34
  }
  finish { diffuse 0.7 specular 0.6 roughness 0.005 reflection { 0.03, 0.35 } }
}

lathe {
  cubic_spline
  10,
  <0.00, 0.02>, <0.12, 0.00>, <0.13, 0.03>, <0.22, 0.10>, <0.31, 0.24>,
  <0.33, 0.33>, <0.315, 0.335>, <0.28, 0.24>, <0.19, 0.11>, <0.00, 0.06>
  texture { Bowl_Glaze }
  translate <0.95, 0, -0.55>
  scale Metre
}

union {
  sphere { <-1.05, 0.16, -0.60>, 0.16 }
  sphere { <-0.74, 0.10, -0.95>, 0.10 }
  pigment { colour srgbf <0.98, 0.98, 1.0, 1> }
  finish { diffuse 0 specular 0.9 roughness 0.001 reflection { 0.02, 1.0 fresnel on } conserve_energy }
  interior { ior 1.5 }
  scale Metre
}
