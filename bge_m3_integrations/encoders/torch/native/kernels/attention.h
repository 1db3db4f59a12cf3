/* Attention: softmax(q k' / sqrt(head)) v, Vaswani et al. 2017, section 3.2.1, blocks of keys at a
   time with running maxima and sums (Milakov and Gimelshein 2018; Dao et al. 2022). A template like
   product.h, which it needs; NUMBER is a number's type, GROUP as there. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels.h"
#include "product.h"

enum {
    KEYS = 512,   /* a block of keys and of values: 64 KiB each in bfloat16 */
    QUERIES = 24, /* rows whose scores are held at once */
    MOST = 192,   /* rows of one part; callers split by it (`_ROWS`) */
    WORDS = PANEL / GROUP,
};

/* One thread's memory. */
struct space {
    _Alignas(64) int32_t keys[KEYS * WORDS];                    /* panels of 64 keys */
    _Alignas(64) int32_t values[KEYS / GROUP * PANEL];          /* one panel, of the head's width */
    _Alignas(64) int32_t scores[KEYS / PANEL][QUERIES * PANEL];
    _Alignas(64) NUMBER shares[QUERIES * KEYS];
    _Alignas(64) float out[MOST * PANEL];
    float most[MOST], sum[MOST];
};
_Static_assert(sizeof(struct space) <= ATTENTION_SPACE, "callers give so much to each thread");

/* A square of 16 x 16 words, mirrored. */
INLINE void mirror(const int32_t *from, ptrdiff_t stride, int rows, int32_t *to)
{
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        a[i] = i < rows ? _mm512_loadu_si512(from + i * stride) : _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* lanes of 4 words: rows 0-3, 4-7, 8-11, 12-15 */
        __m512i even = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88);
        __m512i odd = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
        __m512i more = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
        __m512i most = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
        _mm512_storeu_si512(to + i * PANEL, _mm512_shuffle_i32x4(even, more, 0x88));
        _mm512_storeu_si512(to + (4 + i) * PANEL, _mm512_shuffle_i32x4(odd, most, 0x88));
        _mm512_storeu_si512(to + (8 + i) * PANEL, _mm512_shuffle_i32x4(even, more, 0xdd));
        _mm512_storeu_si512(to + (12 + i) * PANEL, _mm512_shuffle_i32x4(odd, most, 0xdd));
    }
}

/* Keys as a weight of so many channels. What stands past `count` is not of this text: `soften` takes
   no notice of its scores. */
static void pack_keys(const NUMBER *keys, ptrdiff_t stride, int count, int head, int32_t *to)
{
    int words = head / GROUP;
    for (int first = 0; first < count; first += 16) {
        int32_t *panel = to + first / PANEL * words * PANEL + first % PANEL;
        int rows = count - first < 16 ? count - first : 16;
        const int32_t *from = (const int32_t *)(keys + first * stride);
        for (int word = 0; word < words; word += 16)
            mirror(from + word, stride / GROUP, rows, panel + word * PANEL);
    }
}

/* Values as a weight of `head` channels, over `count` inputs rounded up to whole groups. */
static void pack_values(const NUMBER *values, ptrdiff_t stride, int count, int head, int32_t *to)
{
    for (int j = 0; j < count; j += GROUP, to += PANEL) {
        for (int d = 0; d < head; d += 16) {
#if GROUP == 1
            _mm512_storeu_ps((float *)to + d, _mm512_loadu_ps(values + j * stride + d));
#else
            const void *first = values + j * stride + d, *second = values + (j + 1) * stride + d;
            __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(first));
            __m512i high = _mm512_setzero_si512();
            if (j + 1 < count)
                high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(second));
            _mm512_storeu_si512(to + d, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
#endif
        }
    }
}

INLINE void put(NUMBER *to, __m512 x)
{
#if GROUP == 1
    _mm512_storeu_ps(to, x);
#else
    _mm256_storeu_si256((void *)to, (__m256i)_mm512_cvtneps_pbh(x));
#endif
}

/* One row's scores over a block of keys to shares of its running maximum. */
static void soften(struct space *s, int row, int at, int count, int head, bool fresh)
{
    const float *scores = (const float *)s->scores[0] + row * PANEL;
    const ptrdiff_t panel = QUERIES * PANEL;
    __m512 least = _mm512_set1_ps(-INFINITY), most = least;
    for (int j = 0; j < count; j += 16) {
        __m512 x = _mm512_loadu_ps(scores + j / PANEL * panel + j % PANEL);
        most = _mm512_max_ps(most, _mm512_mask_mov_ps(least, lanes(count - j), x));
    }
    float scale = 1.44269504f / sqrtf((float)head), old = s->most[at];
    float now = _mm512_reduce_max_ps(most) * scale;
    if (!fresh && old > now)
        now = old;
    __m512 top = _mm512_set1_ps(now), times = _mm512_set1_ps(scale), sum = _mm512_setzero_ps();
    for (int j = 0; j < (count + GROUP - 1) / GROUP * GROUP; j += 16) {
        __m512 x = _mm512_loadu_ps(scores + j / PANEL * panel + j % PANEL);
        x = _mm512_maskz_mov_ps(lanes(count - j), exp2_of(_mm512_fmsub_ps(x, times, top)));
        sum = _mm512_add_ps(sum, x);
        put(s->shares + row * KEYS + j, x);
    }
    s->most[at] = now;
    if (fresh) {
        s->sum[at] = _mm512_reduce_add_ps(sum);
        return;
    }
    __m512 less = exp2_of(_mm512_set1_ps(old - now));
    s->sum[at] = s->sum[at] * _mm512_cvtss_f32(less) + _mm512_reduce_add_ps(sum);
    for (int v = 0; v < PANEL; v += 16) {
        float *out = s->out + at * PANEL + v;
        _mm512_store_ps(out, _mm512_mul_ps(_mm512_load_ps(out), less));
    }
}

/* Some rows of one head of one text. */
static void part(const struct attention *a, const int64_t *given, int h, struct space *s)
{
    int64_t start = given[0], length = given[1], from = given[2];
    int rows = (int)(given[3] - from), head = a->head;
    ptrdiff_t width = (ptrdiff_t)a->heads * head, stride = a->stride;
    const NUMBER *text = (const NUMBER *)a->qkv + start * stride + h * head;
    for (int64_t key = 0; key < length; key += KEYS) {
        int count = length - key < KEYS ? (int)(length - key) : KEYS;
        int groups = (count + GROUP - 1) / GROUP;
        pack_keys(text + width + key * stride, stride, count, head, s->keys);
        pack_values(text + 2 * width + key * stride, stride, count, head, s->values);
        for (int r = 0; r < rows; r += QUERIES) {
            int some = rows - r < QUERIES ? rows - r : QUERIES;
            const int32_t *query = (const int32_t *)(text + (from + r) * stride);
            for (int p = 0; p * PANEL < count; p++)
                strips(some, query, stride / GROUP, s->keys + p * (head / GROUP) * PANEL,
                       head / GROUP, s->scores[p], true, NULL);
            for (int i = 0; i < some; i++)
                soften(s, i, r + i, count, head, key == 0);
            strips(some, (const int32_t *)s->shares, KEYS / GROUP, s->values, groups,
                   (int32_t *)s->out + r * PANEL, key == 0, NULL);
        }
    }
    for (int i = 0; i < rows; i++) {
        NUMBER *out = (NUMBER *)a->out + (start + from + i) * a->out_stride + h * head;
        __m512 share = _mm512_set1_ps(1.0f / s->sum[i]);
        for (int d = 0; d < head; d += 16)
            put(out + d, _mm512_mul_ps(_mm512_load_ps(s->out + i * PANEL + d), share));
    }
}

void ATTENTION(const struct attention *a)
{
#pragma omp parallel num_threads(a->threads)
    {
        struct space *s = (void *)((char *)a->space + (size_t)omp_get_thread_num() * ATTENTION_SPACE);
        memset(s->values, 0, sizeof s->values); /* channels past the head's width stay 0 */
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < a->count * a->heads; i++)
            part(a, a->parts + i / a->heads * 4, (int)(i % a->heads), s);
    }
}
