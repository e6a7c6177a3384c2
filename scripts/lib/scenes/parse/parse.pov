// A heavy parse: a field of 60,000 blades, each computed by the scene's own loops.
#version 3.7;
global_settings { assumed_gamma 1 }
camera { location <0, 3, -9> look_at <0, 0.6, 0> }
light_source { <6, 9, -8> rgb 1 }
plane { y, 0 pigment { rgb <0.25, 0.3, 0.15> } }
#declare R = seed(7);
union {
  #for (I, 1, 60000)
    #local X = 14 * (rand(R) - 0.5);
    #local Z = 14 * (rand(R) - 0.5);
    #local H = 0.3 + 0.5 * pow(rand(R), 2) + 0.2 * sin(X) * cos(Z);
    cone { <X, 0, Z>, 0.02, <X + 0.2 * (rand(R) - 0.5), H, Z + 0.2 * (rand(R) - 0.5)>, 0 }
  #end
  pigment { rgb <0.4, 0.7, 0.2> } finish { specular 0.2 }
}
