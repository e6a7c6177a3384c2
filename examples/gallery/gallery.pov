// The small gallery: three pictures, a bench and a twisted ring of steel.
//
// A still made of several files: the parts are included from parts/, the pictures on the wall are
// image maps from pictures/ (painted by pictures/paint.py). What travels to the nodes is the folder.
//
//   clusterray-submit examples/gallery --local 2

#version 3.7;

global_settings {
  assumed_gamma 1
  max_trace_level 8
}

#default { finish { ambient 0 diffuse 0.85 } }

// Modelled in metres, put up in centimetres: whether a point lies in shadow is vague in POV-Ray below
// a thousandth of a unit, and a picture should not depend on which thread drew its neighbours.
#declare Metre = 100;

#include "parts/room.inc"
#include "parts/frame.inc"
#include "parts/furniture.inc"

camera {
  location <-1.9, 1.62, -5.4> * Metre
  look_at <0.10, 1.28, 0> * Metre
  right x * image_width / image_height
  angle 56
}

sky_sphere { pigment { Morning } }

union {
  Room()

  Framed_Picture("pictures/dunes.png", 1.92, 1.28, <-0.55, 1.72, 0>)
  Framed_Picture("pictures/circles.png", 1.00, 1.00, <1.62, 1.72, 0>)
  Framed_Picture("pictures/rain.png", 0.84, 1.12, <-2.55, 1.72, 0>)

  Spot_Over(-0.55)
  Spot_Over(1.62)
  Spot_Over(-2.55)

  object { Bench rotate y * -6 translate <-0.35, 0, -1.75> }
  object { Plinth_With_Ring rotate y * 20 translate <1.85, 0, -1.45> }
  scale Metre
}
