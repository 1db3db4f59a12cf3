/* Linear layers: a product, and what is done to its sums while they are in cache. A template like
   product.h, which it needs. */
#include "kernels.h"
#include "product.h"

enum { CHUNK = 384 };

enum kind { HALF, WHOLE, ADDED };

/* 16 channels' sums of some rows to the layer's numbers, and to where they belong. */
INLINE void finish(const struct linear *l, const int32_t *c, int64_t first, int rows,
                   int64_t channel, const bool gelu, const enum kind kind)
{
    const __mmask16 there = lanes(l->n - channel);
    __m512 bias = l->bias ? _mm512_maskz_loadu_ps(there, l->bias + channel) : _mm512_setzero_ps();
#if GROUP == 4
    __m512i shift = _mm512_maskz_loadu_epi32(there, l->shift + channel);
    __m512 scale = _mm512_maskz_loadu_ps(there, l->channel_scale + channel);
#endif
    int64_t at = first * l->out_stride + channel;
    for (int i = 0; i < rows; i++, c += PANEL, at += l->out_stride) {
#if GROUP == 4
        __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(l->row_scale[first + i]));
        __m512i sums = _mm512_sub_epi32(_mm512_load_si512(c), shift);
        __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), both, bias);
#else
        __m512 y = _mm512_add_ps(_mm512_load_ps(c), bias);
#endif
        if (gelu)
            y = gelu_of(y);
        if (kind == HALF) {
            _mm256_mask_storeu_epi16((uint16_t *)l->out + at, there, narrowed(y));
            continue;
        }
        float *out = (float *)l->out + at;
        if (kind == ADDED)
            y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(there, out));
        _mm512_mask_storeu_ps(out, there, y);
    }
}

static void finish_panel(const struct linear *l, const int32_t *c, int64_t first, int rows,
                         int64_t panel)
{
    for (int v = 0; v < PANEL; v += 16) {
        int64_t channel = panel * PANEL + v;
        if (l->half && l->gelu)
            finish(l, c + v, first, rows, channel, true, HALF);
        else if (l->half)
            finish(l, c + v, first, rows, channel, false, HALF);
        else if (l->add)
            finish(l, c + v, first, rows, channel, false, ADDED);
        else if (l->gelu)
            finish(l, c + v, first, rows, channel, true, WHOLE);
        else
            finish(l, c + v, first, rows, channel, false, WHOLE);
    }
}

/* Rows from `first` on by one panel of channels. */
static void block(const struct linear *l, int64_t first, int rows, int64_t panel)
{
    _Alignas(64) int32_t c[CHUNK * PANEL];
    int64_t groups = l->k / GROUP, stride = l->x_stride / GROUP;
    /* of few rows the weight's way from memory is the work: short blocks, the next one asked for */
    int64_t depth = rows <= FEW ? 64 : 128;
    const int32_t *w = (const int32_t *)l->weight + panel * groups * PANEL;
    const int32_t *x = (const int32_t *)l->x + first * stride;
    for (int64_t g = 0; g < groups; g += depth) {
        int64_t some = groups - g < depth ? groups - g : depth;
        strips(rows, x + g, stride, w + g * PANEL, some, c, g == 0, w + (g + some) * PANEL);
    }
    finish_panel(l, c, first, rows, panel);
}

void LINEAR(const struct linear *l)
{
    int64_t panels = (l->n + PANEL - 1) / PANEL, chunks = (l->m + CHUNK - 1) / CHUNK;
    /* neighbours in memory to one thread where memory is the work */
    int64_t together = l->m <= FEW ? (panels + 2 * l->threads - 1) / (2 * l->threads) : 1;
#pragma omp parallel for schedule(dynamic, together) num_threads(l->threads)
    for (int64_t i = 0; i < panels * chunks; i++) {
        int64_t first = i / panels * CHUNK, rows = l->m - first < CHUNK ? l->m - first : CHUNK;
        block(l, first, (int)rows, i % panels);
    }
}
