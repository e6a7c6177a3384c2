// Evening Terrace: a brass armillary sphere above the sea, at the end of the day.
//
// What it shows: polished metal, glass that turns the sunset upside down, layered stone, a sea that
// reflects by angle, soft shadows. What it leaves out on purpose: radiosity, photons, jitter and
// scattering media, so that POV-Ray draws the very same picture with any number of threads and
// in any number of bands.
//
//   clusterray-submit examples/showcase --local 2

#version 3.7;

global_settings {
  assumed_gamma 1
  max_trace_level 12
}

#default { finish { ambient 0 diffuse 0.8 } }

// Everything is modelled in metres and put up in centimetres: whether a point lies in shadow is vague
// in POV-Ray below a thousandth of a unit, and in metres that would show, in a pixel here and there
// that depends on which thread drew its neighbours.
#declare Metre = 100;

// ---------------------------------------------------------------------------- light and air

#declare Sun_Direction = vnormalize(<-0.86, 0.34, -0.30>);
#declare Sun_Colour = srgb <1.00, 0.76, 0.48>;

camera {
  location <-0.10, 1.95, -5.9> * Metre
  look_at <-0.05, 1.28, 0> * Metre
  right x * image_width / image_height
  angle 51
}

light_source {
  Sun_Direction * 400 * Metre
  Sun_Colour * 3.6
  area_light x * 16 * Metre, y * 16 * Metre, 5, 5
  adaptive 1
  circular
  orient
}

// The light of the sky and of the stone behind the viewer.
light_source { <-30, 70, -120> * Metre srgb <0.45, 0.56, 0.82> * 0.75 shadowless }
light_source { <60, 30, -60> * Metre srgb <0.80, 0.50, 0.55> * 0.22 shadowless }

#declare Sun_X = Sun_Direction.x;
#declare Sun_Y = Sun_Direction.y;
#declare Sun_Z = Sun_Direction.z;
#declare Toward_Sun = function { max(0, x * Sun_X + y * Sun_Y + z * Sun_Z) }

sky_sphere {
  pigment {
    gradient y
    colour_map {
      [0.00 srgb <1.00, 0.76, 0.50>]
      [0.04 srgb <0.99, 0.68, 0.48>]
      [0.10 srgb <0.87, 0.57, 0.55>]
      [0.18 srgb <0.60, 0.49, 0.62>]
      [0.28 srgb <0.33, 0.39, 0.62>]
      [0.55 srgb <0.14, 0.22, 0.46>]
      [1.00 srgb <0.06, 0.10, 0.27>]
    }
  }
  pigment {
    function { pow(Toward_Sun(x, y, z), 9) }
    colour_map {
      [0.0 srgbt <1.0, 0.75, 0.40, 1.0>]
      [0.5 srgbt <1.0, 0.72, 0.36, 0.55>]
      [1.0 srgbt <1.0, 0.90, 0.62, 0.0>]
    }
  }
  pigment {
    bozo
    turbulence 0.75
    octaves 7
    lambda 2.3
    omega 0.52
    colour_map {
      [0.00 srgbt <1, 0.75, 0.60, 1>]
      [0.50 srgbt <1, 0.72, 0.56, 1>]
      [0.60 srgbt <1.0, 0.74, 0.52, 0.55>]
      [0.70 srgbt <1.0, 0.88, 0.70, 0.12>]
      [0.84 srgbt <0.80, 0.56, 0.58, 0.08>]
      [1.00 srgbt <0.50, 0.40, 0.54, 0.05>]
    }
    scale <0.42, 0.075, 0.42>
    rotate z * -4
    translate <3.1, 0.02, 1.7>
  }
}

// ---------------------------------------------------------------------------- sea and islands

plane {
  y, -9
  pigment { colour srgb <0.04, 0.16, 0.24> }
  normal {
    average
    normal_map {
      [1.0 bumps 0.055 scale <5, 1, 1.6>]
      [1.0 bumps 0.045 scale <1.4, 1, 0.5> rotate y * 14]
      [0.6 wrinkles 0.06 scale <14, 1, 5>]
    }
  }
  finish {
    diffuse 0.5
    specular 0.5 roughness 0.006
    reflection { 0.03, 0.92 fresnel on }
    conserve_energy
  }
  interior { ior 1.33 }
  scale Metre
}

// Haze: what the evening air makes of a hillside at that distance.
#macro Island(Place, Size, Turn, Haze, Seed)
  blob {
    threshold 0.3
    sphere { <0, 0, 0>, 1.0, 1 scale <1.9, 0.55, 1> }
    sphere { <0.9, 0.05, 0.1>, 0.8, 1 scale <1.2, 0.62, 1> }
    sphere { <-1.1, 0, 0>, 0.7, 1 scale <1.1, 0.34, 1> }
    #local Chance = seed(Seed);
    #for (Hill, 1, 26)
      #local Along = 3.6 * (rand(Chance) - 0.5);
      sphere {
        <Along, 0.20 * rand(Chance) * (1.9 - abs(Along)), 0.5 * (rand(Chance) - 0.5)>
        0.16 + 0.30 * rand(Chance), 0.9
      }
    #end
    pigment {
      bozo
      turbulence 0.6
      colour_map { [0 srgb Haze * 0.80] [1 srgb Haze * 0.95] }
      scale 0.15
    }
    finish { emission 0.55 diffuse 0.45 }
    scale Size
    rotate y * Turn
    translate Place
    scale Metre
  }
#end

Island(<-390, -9, 700>, <100, 46, 40>, 8, <0.36, 0.31, 0.45>, 11)
Island(<-170, -9, 1500>, <170, 84, 60>, -12, <0.72, 0.50, 0.52>, 5)
Island(<520, -9, 980>, <150, 66, 45>, 12, <0.50, 0.39, 0.49>, 23)

// ---------------------------------------------------------------------------- terrace

#declare Pale_Marble = pigment {
  marble
  turbulence 1.4
  octaves 6
  colour_map {
    [0.00 srgb <0.93, 0.90, 0.85>]
    [0.60 srgb <0.88, 0.84, 0.78>]
    [0.85 srgb <0.74, 0.69, 0.65>]
    [1.00 srgb <0.58, 0.53, 0.52>]
  }
  rotate <20, 35, 50>
  scale 0.7
}

#declare Dark_Marble = pigment {
  marble
  turbulence 1.9
  octaves 7
  lambda 2.2
  colour_map {
    [0.00 srgb <0.03, 0.10, 0.09>]
    [0.70 srgb <0.05, 0.16, 0.13>]
    [0.92 srgb <0.16, 0.32, 0.26>]
    [0.98 srgb <0.62, 0.72, 0.62>]
    [1.00 srgb <0.85, 0.88, 0.80>]
  }
  rotate <40, 10, 70>
  scale 0.45
}

#declare Polished = finish {
  diffuse 0.72
  specular 0.35 roughness 0.004
  reflection { 0.03, 0.55 fresnel on }
  conserve_energy
}

#declare Honed = finish { diffuse 0.8 specular 0.12 roughness 0.03 }

#declare Floor_Tiles = pigment {
  checker
  pigment { Pale_Marble scale 0.8 }
  pigment { Dark_Marble }
}

box {
  <-30, -1, -30>, <30, 0, 3.2>
  pigment { Floor_Tiles scale 0.62 rotate y * 45 translate <0, 0.003, 0.2> }
  finish { Polished }
  interior { ior 1.52 }
  scale Metre
}

#declare Stone = texture {
  pigment {
    granite
    turbulence 0.4
    colour_map {
      [0.0 srgb <0.86, 0.80, 0.72>]
      [0.5 srgb <0.80, 0.73, 0.65>]
      [1.0 srgb <0.66, 0.58, 0.53>]
    }
    scale 0.35
  }
  normal { granite 0.05 scale 0.12 }
  finish { Honed }
}

#declare Baluster = lathe {
  cubic_spline
  16,
  <0.00, -0.02>, <0.085, 0.00>, <0.085, 0.05>, <0.055, 0.08>, <0.050, 0.10>, <0.088, 0.17>,
  <0.108, 0.25>, <0.096, 0.34>, <0.062, 0.45>, <0.042, 0.55>, <0.046, 0.58>, <0.062, 0.595>,
  <0.045, 0.62>, <0.075, 0.66>, <0.075, 0.70>, <0.00, 0.72>
}

#macro Slab(Low, High, Round)
  union {
    box { Low + <Round, 0, Round>, High - <Round, 0, Round> }
    box { Low + <0, Round, Round>, High - <0, Round, Round> }
    box { Low + <Round, Round, 0>, High - <Round, Round, 0> }
    cylinder { <Low.x+Round, Low.y+Round, Low.z+Round>, <High.x-Round, Low.y+Round, Low.z+Round>, Round }
    cylinder { <Low.x+Round, High.y-Round, Low.z+Round>, <High.x-Round, High.y-Round, Low.z+Round>, Round }
    cylinder { <Low.x+Round, Low.y+Round, High.z-Round>, <High.x-Round, Low.y+Round, High.z-Round>, Round }
    cylinder { <Low.x+Round, High.y-Round, High.z-Round>, <High.x-Round, High.y-Round, High.z-Round>, Round }
  }
#end

#declare Pier = union {
  Slab(<-0.20, 0.10, -0.20>, <0.20, 0.98, 0.20>, 0.02)
  Slab(<-0.25, 0.98, -0.25>, <0.25, 1.06, 0.25>, 0.03)
  Slab(<-0.25, 0.00, -0.25>, <0.25, 0.14, 0.25>, 0.03)
  cylinder { <0, 1.05, 0>, <0, 1.11, 0>, 0.11 }
  sphere { <0, 1.27, 0>, 0.18 }
}

union {
  Slab(<-9, 0, -0.16>, <9, 0.13, 0.16>, 0.025)
  Slab(<-9, 0.83, -0.17>, <9, 0.93, 0.17>, 0.04)
  #for (Column, -24, 24)
    object { Baluster translate <Column * 0.31, 0.13, 0> }
  #end
  object { Pier translate x * -2.48 }
  object { Pier translate x * 2.48 }
  texture { Stone }
  translate z * 2.6
  scale Metre
}

// ---------------------------------------------------------------------------- armillary sphere

#declare Brass = texture {
  pigment { colour srgb <0.95, 0.70, 0.30> }
  finish {
    diffuse 0.42
    specular 1.4 roughness 0.015 metallic
    brilliance 2
    reflection { srgb <0.95, 0.73, 0.40> * 0.72 metallic }
  }
}

#declare Bronze = texture {
  pigment { colour srgb <0.55, 0.33, 0.17> }
  finish {
    diffuse 0.30
    specular 0.7 roughness 0.02 metallic
    brilliance 2
    reflection { srgb <0.75, 0.50, 0.32> * 0.45 metallic }
  }
}

// A flat ring about y, engraved with Ticks marks on its upper and outer faces.
#macro Ring(Outer, Wide, High, Ticks)
  union {
    difference {
      cylinder { y * -High / 2, y * High / 2, Outer }
      cylinder { y * -High, y * High, Outer - Wide }
    }
    // Marks of black enamel, proud by a hair; cut into the ring they would cost a hundred times more.
    #for (Tick, 0, Ticks - 1)
      box {
        <Outer - Wide * (mod(Tick, 5) = 0 ? 0.72 : 0.42), -High / 2 - 0.0015, -0.0026>
        <Outer + 0.0015, High / 2 + 0.0015, 0.0026>
        rotate y * 360 * Tick / max(Ticks, 1)
        pigment { colour srgb <0.05, 0.03, 0.02> }
        finish { Honed }
      }
    #end
    torus { Outer - 0.004, 0.0085 translate y * High * -0.5 }
    torus { Outer - Wide + 0.004, 0.0085 translate y * High * -0.5 }
    torus { Outer - Wide + 0.004, 0.0085 translate y * High * 0.5 }
  }
#end

#declare Tilt = 38;

#declare Zodiac_Band = union {
  difference {
    cylinder { y * -0.085, y * 0.085, 0.700 }
    cylinder { y * -0.1, y * 0.1, 0.684 }
  }
  torus { 0.695, 0.014 translate y * 0.085 }
  torus { 0.695, 0.014 translate y * -0.085 }
  #for (Sign, 0, 11)
    union {
      sphere { <0.700, 0, 0>, 0.030 }
      torus { 0.048, 0.006 rotate z * 90 translate x * 0.702 }
      rotate y * (Sign * 30 + 15)
    }
    box { <0.69, -0.085, -0.005>, <0.708, 0.085, 0.005> rotate y * Sign * 30 }
  #end
}

#declare Globe = union {
  sphere {
    0, 0.265
    pigment { colour srgbf <0.90, 0.97, 1.0, 1> }
    finish {
      diffuse 0
      specular 0.9 roughness 0.001
      reflection { 0.02, 1.0 fresnel on }
      conserve_energy
    }
    interior { ior 1.5 fade_distance 0.5 * Metre fade_power 1 fade_colour srgb <0.45, 0.75, 0.95> }
  }
  // The little sun in the middle of it.
  sphere {
    0, 0.085
    pigment {
      wrinkles
      colour_map { [0 srgb <1.0, 0.42, 0.05>] [1 srgb <1.0, 0.80, 0.25>] }
      scale 0.05
    }
    finish { emission 1.3 diffuse 0.4 }
  }
  #for (Spoke, 0, 11)
    cone {
      y * 0.08, 0.016, y * (mod(Spoke, 2) = 0 ? 0.20 : 0.16), 0
      rotate z * Spoke * 30
      rotate y * 20
      pigment { colour srgb <1.0, 0.66, 0.18> }
      finish { emission 0.8 diffuse 0.5 }
    }
  #end
}

#declare Moving_Part = union {
  // Axis, with an arrow head and a fletching.
  cylinder { y * -1.12, y * 1.12, 0.012 texture { Brass } }
  cone { y * 1.12, 0.045, y * 1.27, 0 texture { Brass } }
  sphere { y * -1.13, 0.035 texture { Brass } }
  // Two colures, the equator, the tropics, the polar circles and the band of the zodiac.
  object { Ring(0.80, 0.055, 0.035, 0) rotate x * 90 texture { Brass } }
  object { Ring(0.80, 0.055, 0.035, 0) rotate x * 90 rotate y * 90 texture { Brass } }
  object { Ring(0.80, 0.050, 0.060, 72) texture { Brass } }
  object { Ring(0.735, 0.026, 0.022, 0) translate y * 0.315 texture { Brass } }
  object { Ring(0.735, 0.026, 0.022, 0) translate y * -0.315 texture { Brass } }
  object { Ring(0.36, 0.026, 0.022, 0) translate y * 0.70 texture { Brass } }
  object { Ring(0.36, 0.026, 0.022, 0) translate y * -0.70 texture { Brass } }
  object { Zodiac_Band rotate z * 23.4 texture { Bronze } }
  object { Globe }
}

#declare Armillary = union {
  object { Moving_Part rotate y * 34 rotate z * -Tilt rotate y * -22 }
  // The meridian stands upright, the horizon lies level; both carry degrees.
  object { Ring(0.985, 0.075, 0.042, 120) rotate x * 90 rotate y * -22 texture { Brass } }
  object { Ring(1.10, 0.115, 0.040, 120) texture { Brass } }
  // Four arms carry the horizon.
  #for (Arm, 0, 3)
    union {
      intersection {
        torus { 1.04, 0.022 rotate x * 90 }
        box { <0, -2, -1>, <2, 0, 1> }
      }
      sphere { <1.04, 0, 0>, 0.034 }
      texture { Bronze }
      rotate y * (Arm * 90 + 20)
    }
  #end
}

#declare Pedestal = union {
  lathe {
    cubic_spline
    18,
    <0.00, -0.02>, <0.36, 0.00>, <0.36, 0.06>, <0.33, 0.085>, <0.27, 0.10>, <0.25, 0.13>,
    <0.17, 0.17>, <0.115, 0.24>, <0.10, 0.30>, <0.125, 0.36>, <0.165, 0.42>, <0.155, 0.47>,
    <0.09, 0.52>, <0.085, 0.55>, <0.15, 0.58>, <0.155, 0.61>, <0.10, 0.635>, <0.00, 0.64>
    pigment { Dark_Marble scale 0.6 }
    finish { Polished }
    interior { ior 1.55 }
  }
  torus { 0.118, 0.022 translate y * 0.29 texture { Brass } }
  torus { 0.095, 0.018 translate y * 0.535 texture { Brass } }
  cylinder { y * 0.60, y * 0.70, 0.06 texture { Brass } }
}

#declare Stand_Place = <0.62, 0, 0.35>;

object { Pedestal translate Stand_Place scale Metre }
object { Armillary translate Stand_Place + y * 1.70 scale Metre }

// ---------------------------------------------------------------------------- glass on the floor

#macro Glass_Ball(Place, Radius, Tint)
  sphere {
    Place + y * Radius, Radius
    pigment { colour srgbf <1, 1, 1, 1> }
    finish {
      diffuse 0
      specular 1.0 roughness 0.0008
      reflection { 0.02, 1.0 fresnel on }
      conserve_energy
    }
    interior { ior 1.5 fade_distance Radius * 0.6 * Metre fade_power 1 fade_colour Tint }
    scale Metre
  }
#end

Glass_Ball(<-1.45, 0, 0.55>, 0.36, srgb <1.00, 1.00, 1.00>)
Glass_Ball(<-0.95, 0, -0.40>, 0.23, srgb <0.95, 0.16, 0.12>)
Glass_Ball(<-0.42, 0, -0.10>, 0.15, srgb <0.08, 0.45, 0.70>)
Glass_Ball(<2.05, 0, -0.50>, 0.19, srgb <0.15, 0.70, 0.35>)
sphere { <-2.02, 0.26, -0.30>, 0.26 texture { Brass } scale Metre }
