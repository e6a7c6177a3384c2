// Cheap pixels: a plain, a sky, a few spheres, each pixel antialiased. What a farm costs beside them
// shows most here.
#version 3.7;
global_settings { assumed_gamma 1 }
camera { location <0, 1.6, -6> look_at <0, 0.8, 0> }
light_source { <6, 9, -8> rgb 1 }
sky_sphere { pigment { gradient y color_map { [0 rgb <0.9, 0.9, 1>] [1 rgb <0.2, 0.4, 0.9>] } } }
plane { y, 0 pigment { checker rgb 0.9 rgb 0.3 } finish { reflection 0.15 } }
#for (I, -3, 3)
  sphere { <I * 1.2, 0.6, mod(I + 4, 2)>, 0.55 pigment { rgb <0.9, 0.4 + 0.08 * I, 0.3> } finish { phong 0.7 } }
#end
