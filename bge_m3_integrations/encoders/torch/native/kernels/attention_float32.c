#define GROUP 1
#define NUMBER float
#define SUM __m512
#define DOT(sums, x, w) sums = _mm512_fmadd_ps(x, w, sums)
#define ATTENTION attention_float32
#include "attention.h"
