#define GROUP 4
#define SUM __m512i
/* GCC copies the sums of its intrinsic from register to register, at half the speed */
#define DOT(sums, x, w) __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(x), "v"(w))
#define LINEAR linear_levels
#include "linear.h"
