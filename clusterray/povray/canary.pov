// The canary: a small picture that asks much of a machine's arithmetic and of POV-Ray's library.
// Two machines that paint it alike will most likely paint anything alike. Nothing in it is random.
#version 3.7;
#include "colors.inc"
#include "functions.inc"
#include "woods.inc"
global_settings { assumed_gamma srgb max_trace_level 6 }

camera { location <0, 2.2, -7.5> right x*4/3 up y look_at <0, 1.0, 0> angle 48 }
light_source { <-6, 9, -8> srgb <1, 0.95, 0.85> }
light_source { <7, 4, -5> rgb 0.35 spotlight radius 8 falloff 20 tightness 7 point_at <1, 1, 0> }
sky_sphere {
  pigment {
    gradient y turbulence 0.25 octaves 5 lambda 2.1 omega 0.6
    color_map { [0.0 srgb <0.75, 0.8, 0.9>] [0.45 srgb <0.1, 0.2, 0.6>] [1 srgb <0.9, 0.3, 0.1>] }
  }
}

// Noise, turbulence, normals.
plane {
  y, 0
  pigment { granite scale 1.7 color_map { [0.1 srgb 0.15] [0.6 Tan] [0.9 srgb <0.3, 0.5, 0.3>] } }
  normal { bumps 0.3 scale 0.23 }
  finish { reflection { 0.05, 0.4 fresnel on } conserve_energy specular 0.3 }
  interior { ior 1.4 }
}

// Fractals: two of the pigments, one of the solids.
box {
  <-4.6, 0, 2.2>, <-1.4, 3.2, 2.4>
  pigment {
    mandel 60 scale 1.15 translate <-2.5, 1.6, 0>
    color_map { [0 rgb 0] [0.1 Blue] [0.3 Yellow] [0.6 Red] [1 White] }
  }
  finish { ambient 0.3 }
}
box {
  <1.4, 0, 2.2>, <4.6, 3.2, 2.4>
  pigment {
    julia <0.353, 0.288>, 50 scale 1.2 translate <3, 1.6, 0>
    color_map { [0 rgb 0.05] [0.2 Green] [0.5 Orange] [1 White] }
  }
  finish { ambient 0.3 }
}
julia_fractal {
  <-0.083, 0.0, -0.83, -0.025> quaternion sqr max_iteration 7 precision 60
  scale 0.6 rotate <20, 35, 0> translate <-2.1, 0.85, -1.2>
  texture { T_Wood7 }
}

// An isosurface with noise and trigonometry.
isosurface {
  function {
    x*x + y*y + z*z - 0.55 + 0.18*f_noise3d(x*3.1, y*3.3, z*2.9)
    + 0.04*sin(9*x)*cos(11*y)*tanh(z) + 0.03*exp(-x*x)*sqrt(abs(y))
  }
  contained_by { sphere { 0, 1.05 } } max_gradient 2.6 accuracy 0.0005
  pigment { wrinkles color_map { [0 srgb <0.9, 0.6, 0.2>] [1 srgb <0.4, 0.1, 0.1>] } scale 0.4 }
  finish { phong 0.6 phong_size 30 }
  translate <2.0, 0.95, -1.1>
}

// Glass: refraction and dispersion.
sphere {
  <0.1, 0.65, -2.2>, 0.6
  pigment { srgbf <0.9, 0.95, 1, 0.9> }
  finish { specular 0.7 roughness 0.002 reflection 0.1 }
  interior { ior 1.52 dispersion 1.02 dispersion_samples 5 fade_distance 1.5 fade_power 2 }
}

// A font.
text {
  ttf "timrom.ttf" "Ray&7" 0.25, 0
  scale <1.25, 1.25, 1> translate <-1.75, 1.75, 0.2>
  pigment { agate agate_turb 0.8 color_map { [0 Brown] [0.5 Gold] [1 White] } scale 0.7 }
  finish { brilliance 1.6 metallic specular 0.5 }
}

// Trigonometry while it parses.
#declare N = 0;
#while (N < 17)
  #declare A = 2*pi*N/17;
  #declare R = 0.11 + 0.05*sin(3*A)*exp(-N/20);
  sphere {
    <3.2*sin(A) + log(1 + N)/9, R + abs(tan(A/5))/9 + atan2(N, 5)/40, 0.4 + 2.6*cos(A)*pow(0.97, N)>, R
    pigment { rgb <0.5 + 0.5*cos(A), 0.5 + 0.5*sin(A*2), acos(cos(A*1.7))/pi> }
    normal { quilted 0.5 scale 0.07 }
    finish { phong 0.4 }
  }
  #declare N = N + 1;
#end
