#define GROUP 1
#define SUM __m512
#define DOT(sums, x, w) sums = _mm512_fmadd_ps(x, w, sums)
#define LINEAR linear_float32
#include "linear.h"
