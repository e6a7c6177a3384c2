// Uneven rows: an empty sky above, glass and fine noise below.
#version 3.7;
global_settings { assumed_gamma 1 max_trace_level 12 }
camera { location <0, 2.2, -6> look_at <0, 1.4, 0> }
light_source { <6, 9, -8> rgb 1 area_light x, y, 3, 3 adaptive 1 }
sky_sphere { pigment { rgb <0.6, 0.75, 1> } }
plane { y, 0 pigment { granite scale 0.4 } normal { bumps 0.4 scale 0.05 } finish { reflection 0.2 } }
#for (I, -4, 4)
  sphere { <I * 0.8, 0.35, mod(abs(I), 3) * 0.7>, 0.35
    pigment { rgbt <0.95, 1, 0.95, 0.9> } interior { ior 1.4 } finish { reflection 0.1 specular 0.6 } }
#end
