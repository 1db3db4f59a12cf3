#define GROUP 2
#define SUM __m512
#define DOT(sums, x, w) sums = _mm512_dpbf16_ps(sums, (__m512bh)(x), (__m512bh)(w))
#define LINEAR linear_bfloat16
#include "linear.h"
