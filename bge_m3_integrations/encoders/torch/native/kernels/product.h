/* Products of rows with a packed weight, in one precision: a template.

   Included once per file, with GROUP (numbers in 32 bits), SUM (a vector of 16 sums) and
   DOT(sums, x, w), which adds to sums, defined. A weight lies in panels of 64 channels; in a panel
   group after group of inputs, the 64 channels' words of a group side by side. So a group of a row
   is one word, spread over a vector, and 6 rows by 64 channels of sums stay in registers. */
#include <stdbool.h>
#include <stddef.h>

#include "vector.h"

enum { PANEL = 64, STRIP = 6 };

/* rows x 64 sums over `groups` groups, in c, one row behind the other. While it works it asks for
   what is needed next, `lines` of 16 words for each group: into the first cache if `near`. */
INLINE void tile(const int rows, const int lines, const bool near, const int32_t *x, ptrdiff_t stride,
                 const int32_t *w, int64_t groups, int32_t *c, bool fresh, const int32_t *next)
{
    SUM sums[STRIP][4];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            sums[i][v] = fresh ? (SUM)_mm512_setzero_si512()
                               : (SUM)_mm512_loadu_si512(c + i * PANEL + v * 16);
    for (int64_t g = 0; g < groups; g++) {
        SUM column[4];
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            column[v] = (SUM)_mm512_loadu_si512(w + g * PANEL + v * 16);
#pragma GCC unroll 4
        for (int line = 0; line < lines; line++)
            if (near)
                _mm_prefetch((const char *)(next + (g * lines + line) * 16), _MM_HINT_T0);
            else
                _mm_prefetch((const char *)(next + (g * lines + line) * 16), _MM_HINT_T1);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            SUM spread = (SUM)_mm512_set1_epi32(x[i * stride + g]);
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++)
                DOT(sums[i][v], spread, column[v]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            _mm512_storeu_si512(c + i * PANEL + v * 16, (__m512i)sums[i][v]);
}

INLINE void strip(int rows, const int lines, const bool near, const int32_t *x, ptrdiff_t stride,
                  const int32_t *w, int64_t groups, int32_t *c, bool fresh, const int32_t *next)
{
    switch (rows) {
    case 1: tile(1, lines, near, x, stride, w, groups, c, fresh, next); break;
    case 2: tile(2, lines, near, x, stride, w, groups, c, fresh, next); break;
    case 3: tile(3, lines, near, x, stride, w, groups, c, fresh, next); break;
    case 4: tile(4, lines, near, x, stride, w, groups, c, fresh, next); break;
    case 5: tile(5, lines, near, x, stride, w, groups, c, fresh, next); break;
    default: tile(6, lines, near, x, stride, w, groups, c, fresh, next);
    }
}

enum { FEW = 32 };

/* Any number of rows, a strip at a time. The first two ask for half of the next block each, a lone
   one for all of it. Of few rows the blocks are small, and the next one is needed at once. */
static void strips(int rows, const int32_t *x, ptrdiff_t stride, const int32_t *w, int64_t groups,
                   int32_t *c, bool fresh, const int32_t *next)
{
    if (next && rows <= STRIP) {
        strip(rows, 4, true, x, stride, w, groups, c, fresh, next);
        return;
    }
    for (int i = 0; i < rows; i += STRIP, x += STRIP * stride, c += STRIP * PANEL) {
        if (!next || i > STRIP) {
            strip(rows - i, 0, false, x, stride, w, groups, c, fresh, NULL);
            continue;
        }
        const int32_t *half = next + i / STRIP * groups * 32;
        if (rows <= FEW)
            strip(rows - i, 2, true, x, stride, w, groups, c, fresh, half);
        else
            tile(STRIP, 2, false, x, stride, w, groups, c, fresh, half);
    }
}
