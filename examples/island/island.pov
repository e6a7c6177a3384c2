// The island: a height field (terrain.png, grown by make_terrain.py) and letters of a font that
// POV-Ray brings along. Each letter finds the ground it stands on with trace().
//
// island.ini says how large; a folder with one .ini that names its input needs no job.yaml.
//
//   clusterray-submit examples/island --local 2

#version 3.7;

global_settings {
  assumed_gamma 1
  max_trace_level 8
}

#default { finish { ambient 0 diffuse 0.85 } }

// Modelled in metres, put up in centimetres: whether a point lies in shadow is vague in POV-Ray below
// a thousandth of a unit, and in metres a pixel where a tree meets the ground may depend on which
// thread drew its neighbours.
#declare Metre = 100;

camera {
  location <-9, 5.2, -46> * Metre
  look_at <0.5, 4.6, 0> * Metre
  right x * image_width / image_height
  angle 50
}

#declare Sun_Place = <-260, 210, -170> * Metre;
light_source {
  Sun_Place
  srgb <1.0, 0.94, 0.82> * 1.75
  area_light x * 7 * Metre, y * 7 * Metre, 3, 3
  adaptive 1
  circular
  orient
}
light_source { <120, 160, -220> * Metre srgb <0.55, 0.72, 1.0> * 0.35 shadowless }

sky_sphere {
  pigment {
    gradient y
    colour_map {
      [0.00 srgb <0.80, 0.90, 0.95>]
      [0.12 srgb <0.56, 0.77, 0.93>]
      [0.45 srgb <0.20, 0.45, 0.80>]
      [1.00 srgb <0.08, 0.24, 0.60>]
    }
  }
  pigment {
    bozo
    turbulence 0.65
    octaves 7
    omega 0.55
    colour_map {
      [0.00 srgbt <1, 1, 1, 1>]
      [0.52 srgbt <1, 1, 1, 1>]
      [0.66 srgbt <1, 1, 1, 0.25>]
      [0.82 srgbt <0.97, 0.97, 0.98, 0.05>]
      [1.00 srgbt <0.72, 0.76, 0.83, 0.05>]
    }
    scale <0.36, 0.13, 0.36>
    translate <0.4, 0.05, 2.2>
  }
}

// ---------------------------------------------------------------------------- land

// By height, from the sea bed to the summit; turbulence keeps the zones from being contour lines.
#declare Ground = texture {
  pigment {
    gradient y
    turbulence 0.06
    octaves 5
    colour_map {
      [0.00 srgb <0.62, 0.60, 0.45>]
      [0.09 srgb <0.85, 0.76, 0.56>]
      [0.13 srgb <0.80, 0.69, 0.47>]
      [0.16 srgb <0.36, 0.48, 0.18>]
      [0.34 srgb <0.20, 0.36, 0.12>]
      [0.50 srgb <0.30, 0.34, 0.16>]
      [0.62 srgb <0.44, 0.37, 0.29>]
      [0.84 srgb <0.55, 0.50, 0.46>]
      [1.00 srgb <0.82, 0.80, 0.78>]
    }
  }
  normal { granite 0.25 scale 0.05 }
}

#declare Wide = 62;
#declare High = 13;
#declare Sea_Level = 0.105 * High;

#declare Land = height_field {
  png "terrain.png"
  smooth
  texture { Ground }
  translate <-0.5, 0, -0.5>
  scale <Wide, High, Wide>
}

// What is seen throws no shadow; a copy a hand's breadth below does it, which no ray can start on. A
// shadow ray that meets the very facet it left is a matter of luck in POV-Ray: its threads disagree.
object { Land no_shadow scale Metre }
object { Land no_image no_reflection translate y * -0.08 scale Metre }

// Where the letters stand; the wood is cleared around them.
#declare Sign_Line = function(Across) { -13.4 + 0.006 * (Across + 4) * (Across + 4) }

// Trees: two cones wherever a seeded throw lands on gentle green ground.
#declare Chance = seed(77);
#declare Tree = union {
  cone { y * 0.10, 0.17, y * 0.55, 0 }
  cone { y * 0.32, 0.12, y * 0.75, 0 }
  pigment { colour srgb <0.07, 0.19, 0.07> }
  normal { bumps 0.7 scale 0.05 }
}
union {
  #for (Throw, 1, 5200)
    #local Spot = <(rand(Chance) - 0.5) * 44, 50, (rand(Chance) - 0.5) * 44>;
    #local Size = 0.8 + rand(Chance) * 0.7;
    #local Slope = <0, 0, 0>;
    #local Foot = trace(Land, Spot, -y, Slope);
    #if (Slope.y > 0.80 & Foot.y > 0.17 * High & Foot.y < (0.36 + 0.14 * rand(Chance)) * High
         & (abs(Spot.x - 0.5) > 15 | abs(Spot.z + 1.2 - Sign_Line(Spot.x)) > 2.2))
      object { Tree scale <1, 1.1, 1> * Size translate Foot - y * 0.05 }
    #end
  #end
  scale Metre
}

// ---------------------------------------------------------------------------- water

plane {
  y, Sea_Level
  pigment { colour srgbf <0.72, 0.94, 0.94, 0.88> }
  normal {
    average
    normal_map {
      [1 bumps 0.08 scale <1.8, 1, 0.7>]
      [1 bumps 0.06 scale <0.5, 1, 0.25> rotate y * 25]
    }
  }
  finish {
    diffuse 0.1
    specular 0.6 roughness 0.004
    reflection { 0.02, 1.0 fresnel on }
    conserve_energy
  }
  interior { ior 1.33 fade_distance 1.1 * Metre fade_power 2 fade_colour srgb <0.05, 0.52, 0.58> }
  scale Metre
}

// The sea bed goes on where the height field ends.
plane { y, -0.05 pigment { colour srgb <0.62, 0.60, 0.45> } scale Metre }

// ---------------------------------------------------------------------------- letters

#declare Word = "CLUSTERRAY";
#declare Letter_High = 2.3;
#declare Letter_Step = 2.75;

#macro Letter(Index)
  #local Glyph = text {
    ttf "cyrvetic.ttf" substr(Word, Index, 1) 0.12, 0
    scale <1, 1, 1> * Letter_High / 0.70
  }
  #local Across = (Index - (strlen(Word) + 1) / 2) * Letter_Step + 0.5;
  #local Back = Sign_Line(Across);
  #local Foot = trace(Land, <Across, 50, Back>, -y);
  #local Middle = (min_extent(Glyph) + max_extent(Glyph)) / 2;
  union {
    object { Glyph translate -Middle * x }
    // Two posts keep it off the slope.
    cylinder { <-0.4, 0.1, 0.4>, <-0.4, -2.2, 0.4>, 0.06 }
    cylinder { <0.4, 0.1, 0.4>, <0.4, -2.2, 0.4>, 0.06 }
    pigment { colour srgb <0.96, 0.95, 0.92> }
    finish { diffuse 0.9 specular 0.2 roughness 0.02 }
    // Turned towards the boat, most of the way.
    rotate y * degrees(atan2(Across + 9, 33)) * 0.7
    translate Foot + y * 0.75
    scale Metre
  }
#end

#for (Index, 1, strlen(Word))
  Letter(Index)
#end

// ---------------------------------------------------------------------------- a boat

union {
  intersection {
    sphere { 0, 1 scale <1.25, 0.55, 0.42> }
    plane { y, 0 }
    pigment { colour srgb <0.62, 0.10, 0.08> }
    finish { specular 0.5 roughness 0.01 }
  }
  box { <-1.1, -0.03, -0.30>, <0.95, 0.02, 0.30> pigment { colour srgb <0.70, 0.52, 0.32> } }
  cylinder { <0.1, 0, 0>, <0.1, 2.7, 0>, 0.03 pigment { colour srgb <0.45, 0.32, 0.20> } }
  triangle { <0.14, 0.35, 0>, <0.14, 2.6, 0>, <1.25, 0.35, 0.12> }
  triangle { <0.04, 0.35, 0>, <0.04, 2.3, 0>, <-1.0, 0.4, 0.10> }
  pigment { colour srgb <0.97, 0.96, 0.92> }
  finish { diffuse 0.8 emission 0.08 }
  rotate z * 4
  rotate y * 25
  translate <-9.5, Sea_Level + 0.18, -30>
  scale Metre
}
