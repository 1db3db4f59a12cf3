/* What the library offers; `native/binding.py` calls it. All strides are in numbers, all matrices
   row by row. Nothing allocates, nothing fails: callers check what they pass. */
#pragma once

#include <stdint.h>

#ifdef __clang__
#error "this needs GCC: the calls that Clang makes of OpenMP are not in the library that torch loads"
#endif

#define EXPORT __attribute__((visibility("default")))

/* out = x w' + bias, (m, k) by (n, k). */
struct linear {
    int64_t m, n, k;
    const void *x; /* (m, k): float32, bfloat16, or levels in uint8 */
    int64_t x_stride;
    const void *weight; /* packed, see product.h; channels past n are there, and 0 */
    const float *bias;  /* (n,), or NULL */
    void *out;          /* (m, n) */
    int64_t out_stride;
    int32_t half; /* whether `out` is bfloat16, else float32 */
    int32_t gelu; /* whether gelu follows */
    int32_t add;  /* whether to add to what `out` has: in float32, without gelu */
    int32_t threads;
    /* Levels only: (sum - shift) row_scale channel_scale is the product. */
    const int32_t *shift;       /* (n,), or NULL */
    const float *channel_scale; /* (n,) */
    const float *row_scale;     /* (m,) */
};

EXPORT void linear_float32(const struct linear *);
EXPORT void linear_bfloat16(const struct linear *);
EXPORT void linear_levels(const struct linear *);

/* Softmax attention among the tokens of each text, every head by itself. */
struct attention {
    const void *qkv; /* (t, 3 * heads * head): query, key, value side by side */
    int64_t stride;
    void *out; /* (t, heads * head) */
    int64_t out_stride;
    const int64_t *parts; /* (count, 4): a text's first token, its length; from, to: rows to do */
    int64_t count;
    int32_t heads, head; /* head: 16, 32, 48 or 64 */
    int32_t threads;
    void *space; /* ATTENTION_SPACE bytes for each thread: too much for a small stack */
};

enum { ATTENTION_SPACE = 404 << 10 };

EXPORT void attention_float32(const struct attention *);
EXPORT void attention_bfloat16(const struct attention *);

/* Rows of `width` numbers, a multiple of 16. */
struct rows {
    int64_t count, width;
    void *x; /* (count, width) float32, or bfloat16 where `half` */
    int64_t stride;
    int32_t half, threads;
};

/* Layer normalisation of rows, in place; in float32 only. */
EXPORT void normalise(const struct rows *, const float *weight, const float *bias, float eps);

/* Each row's levels around `zero`, by its own scale: x is about scale (levels - zero).
   `most` levels lie above zero; where `depth` is given, x is nowhere below -depth, and `zero` levels
   are for that. With `rest`, what the levels leave in 1 / `finer` of one, around `zero` too, and
   `rest_scale`, what that is worth. */
struct levels {
    uint8_t *levels, *rest; /* (count, width) */
    int64_t stride;
    float *scale, *rest_scale; /* (count,) */
    float zero, most, depth, finer;
};

EXPORT void to_levels(const struct rows *, const struct levels *);

/* Bits: 1 all but bfloat16 runs here, 2 bfloat16 does, 4 the processor multiplies tiles (AMX). */
EXPORT int supported(void);
/* Of the sources, as the build found them. */
EXPORT int digest(void);
