/* What is done to rows between products. */
#include "kernels.h"
#include "vector.h"

void normalise(const struct rows *r, const float *weight, const float *bias, float eps)
{
    const float part = 1.0f / (float)r->width;
#pragma omp parallel for schedule(static) num_threads(r->threads)
    for (int64_t i = 0; i < r->count; i++) {
        float *x = (float *)r->x + i * r->stride;
        __m512 sum = _mm512_setzero_ps(), squares = sum;
        for (int64_t j = 0; j < r->width; j += 16)
            sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + j));
        __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) * part);
        for (int64_t j = 0; j < r->width; j += 16) {
            __m512 from = _mm512_sub_ps(_mm512_loadu_ps(x + j), mean);
            squares = _mm512_fmadd_ps(from, from, squares);
        }
        __m512 variance = _mm512_set1_ps(_mm512_reduce_add_ps(squares) * part + eps);
        __m512 scale = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(variance));
        for (int64_t j = 0; j < r->width; j += 16) {
            __m512 y = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + j), mean), scale);
            y = _mm512_fmadd_ps(y, _mm512_loadu_ps(weight + j), _mm512_loadu_ps(bias + j));
            _mm512_storeu_ps(x + j, y);
        }
    }
}

INLINE __m512 numbers(const struct rows *r, int64_t at)
{
    if (r->half)
        return widened(_mm256_loadu_si256((const void *)((const uint16_t *)r->x + at)));
    return _mm512_loadu_ps((const float *)r->x + at);
}

/* What one level of a row is worth. Bits of numbers without sign are ordered as integers, and those
   of NaN are above all: one NaN makes the row's scale NaN. */
static float scale_of(const struct rows *r, int64_t first, const struct levels *l)
{
    __m512i most = _mm512_setzero_si512();
    for (int64_t j = 0; j < r->width; j += 16) {
        __m512 x = numbers(r, first + j);
        /* with a depth, negative numbers have room of their own; maximum gives NaN of its second */
        x = l->depth > 0 ? _mm512_max_ps(_mm512_setzero_ps(), x) : x;
        most = _mm512_max_epi32(most, _mm512_castps_si512(_mm512_abs_ps(x)));
    }
    int32_t bits = _mm512_reduce_max_epi32(most);
    float found = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(bits)));
    float least = l->depth > 0 ? l->depth / l->zero : 1e-12f;
    found /= l->most;
    return found < least ? least : found;
}

void to_levels(const struct rows *r, const struct levels *l)
{
    const __m512 zero = _mm512_set1_ps(l->zero), finer = _mm512_set1_ps(l->finer);
#pragma omp parallel for schedule(static) num_threads(r->threads)
    for (int64_t i = 0; i < r->count; i++) {
        int64_t first = i * r->stride, to = i * l->stride;
        float scale = scale_of(r, first, l);
        __m512 inverse = _mm512_set1_ps(1.0f / scale);
        l->scale[i] = scale;
        if (l->rest)
            l->rest_scale[i] = scale / l->finer;
        for (int64_t j = 0; j < r->width; j += 16) {
            __m512 x = _mm512_mul_ps(numbers(r, first + j), inverse);
            __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT);
            __m512i level = _mm512_cvtps_epi32(_mm512_add_ps(whole, zero));
            _mm_storeu_si128((void *)(l->levels + to + j), _mm512_cvtepi32_epi8(level));
            if (l->rest) {
                __m512 rest = _mm512_fmadd_ps(_mm512_sub_ps(x, whole), finer, zero);
                __m512i steps = _mm512_cvtps_epi32(rest);
                _mm_storeu_si128((void *)(l->rest + to + j), _mm512_cvtepi32_epi8(steps));
            }
        }
    }
}
