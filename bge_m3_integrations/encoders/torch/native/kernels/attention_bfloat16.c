#define GROUP 2
#define NUMBER uint16_t
#define SUM __m512
#define DOT(sums, x, w) sums = _mm512_dpbf16_ps(sums, (__m512bh)(x), (__m512bh)(w))
#define ATTENTION attention_bfloat16
#include "attention.h"
