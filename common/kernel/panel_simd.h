/* Panels written once over a vector type, as simd.h: each variant's file defines the macros below
 * and includes this file.
 *
 *   IVEC             integers as wide as VEC; PANEL_ROWS x 4 bytes of a group are several of them
 *   ILOAD(p) ISET(a) IADD(a,b) ISUB(a,b)  32-bit lanes
 *   IAND(a,b) IOR(a,b) ISET8(a) SHIFT_LEFT(v,n) SHIFT_RIGHT(v,n)  of bytes, shifts in 16-bit lanes
 *   ILOOKUP(t,v)     for each byte of v, which is under 16, that entry of the 16 bytes at t
 *   DOT_ROWS(groups,vectors,bits,first,count,x,x_stride,rows,dots)
 *       dots[r][i] = the sums, in 32-bit lanes, over the groups [first, first + count) of vector i
 *       (`count` is 4 or 8) of four unsigned bytes of `bits` (2 to 6, or 8) bits times the four
 *       signed bytes of the r-th row of activations; bytes of 8 bits have an offset of 128, of
 *       which Q8_OFFSET is left in the result. All numbers but x_stride are constants.
 *   FLOATS(v)        32-bit integers as f32
 *   LOAD_U8(p) LOAD_I8(p)  LANES bytes as 32-bit integers
 *   STORE_I8(p,v)    f32 rounded to bytes
 *   ABS(v)
 *   PANEL_BATCH      rows of activations for which a sub-block is unpacked once
 *   PANEL_SIDE       vectors of a panel that are then unpacked and multiplied side by side
 *
 * Whatever the format, a sub-block of 32 columns is unpacked into eight vectors of bytes q, one for
 * each group, and a scale and an offset in f32 such that a weight is q * scale + offset. Integer
 * sums are exact. */
#include <stdbool.h>

#include "common/kernel/panel_unpack.h"

/* Vectors [v, v + vectors) of one sub-block, unpacked. */
struct unpacked {
    IVEC groups[PANEL_VECTORS][8];
    VEC scales[PANEL_VECTORS][2], offsets[PANEL_VECTORS][2];
};

/* sums[r][v + i] += the sub-block's vectors times `rows` rows of activations, of which x is the
 * first one's block. A constant q that stands for 0 (`zero`, else -1) is taken off the integer
 * sums. Only one addition depends on the sums before. */
PANEL_INLINE void add_products(const struct unpacked *w, size_t v, size_t vectors, int bits,
                               bool halves, int zero, const struct q8_block *x, size_t x_stride,
                               int rows, VEC (*sums)[PANEL_VECTORS]) {
    IVEC dots[PANEL_BATCH][PANEL_VECTORS], last_dots[PANEL_BATCH][PANEL_VECTORS];
    DOT_ROWS(w->groups, vectors, bits, 0, halves ? 4 : 8, x, x_stride, rows, dots);
    if (halves)
        DOT_ROWS(w->groups, vectors, bits, 4, 4, x, x_stride, rows, last_dots);
    UNROLL for (int r = 0; r < rows; r++) {
        const struct q8_block *row = x + r * x_stride;
        UNROLL for (size_t i = 0; i < vectors; i++) {
            VEC *sum = &sums[r][v + i], part, offset;
            if (zero >= 0) {
                part = MUL(w->scales[i][0], SET(row->scale));
                *sum = FMA(part, FLOATS(ISUB(dots[r][i], ISET(zero * row->sum))), *sum);
                continue;
            }
            part = MUL(w->scales[i][0], FLOATS(dots[r][i]));
            if (halves) {
                part = FMA(w->scales[i][1], FLOATS(last_dots[r][i]), part);
                offset = MUL(w->offsets[i][0], SET(row->totals[0]));
                offset = FMA(w->offsets[i][1], SET(row->totals[1]), offset);
            } else {
                offset = MUL(w->offsets[i][0], SET(row->total));
            }
            *sum = ADD(*sum, FMA(part, SET(row->scale), offset));
        }
    }
}

/* One panel times `rows` rows of activations; then any number of rows. A single row is multiplied
 * vector by vector, whose groups then stay in registers; of several rows each activation is read
 * once for PANEL_SIDE vectors. */
#define DEFINE_PANEL(NAME, TYPE, BLOCK_VALUES, BITS, HALVES, ZERO_POINT)                           \
    PANEL_INLINE void dot_rows_##NAME(const uint8_t *panel, uint32_t columns,                      \
                                      const struct q8_block *x, size_t x_stride, int rows,         \
                                      float *y, size_t y_stride) {                                 \
        const struct TYPE *blocks = (const struct TYPE *)panel;                                    \
        const uint32_t parts = (BLOCK_VALUES) / Q8_BLOCK_VALUES;                                   \
        const size_t vectors = rows == 1 ? 1 : PANEL_SIDE;                                         \
        VEC sums[PANEL_BATCH][PANEL_VECTORS];                                                      \
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (size_t v = 0; v < PANEL_VECTORS; v++)    \
            sums[r][v] = ZERO();                                                                   \
        for (uint32_t b = 0; b < columns / (BLOCK_VALUES); b++)                                    \
            for (uint32_t s = 0; s < parts; s++, x++) {                                            \
                prefetch_part(blocks + b, sizeof *blocks, s, parts);                               \
                UNROLL for (size_t v = 0; v < PANEL_VECTORS; v += vectors) {                       \
                    struct unpacked w;                                                             \
                    UNROLL for (size_t i = 0; i < vectors; i++) unpack_##NAME(                     \
                        blocks + b, s, v + i, w.groups[i], w.scales[i], w.offsets[i]);             \
                    add_products(&w, v, vectors, BITS, HALVES, ZERO_POINT, x, x_stride, rows,      \
                                 sums);                                                            \
                }                                                                                  \
            }                                                                                      \
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (size_t v = 0; v < PANEL_VECTORS; v++)    \
            STORE(y + r * y_stride + LANES * v, sums[r][v]);                                       \
    }                                                                                              \
    static void dot_##NAME(const uint8_t *panel, uint32_t columns, const struct q8_block *x,       \
                           size_t x_stride, size_t batch, float *y, size_t y_stride) {             \
        for (; batch >= PANEL_BATCH; batch -= PANEL_BATCH) {                                       \
            dot_rows_##NAME(panel, columns, x, x_stride, PANEL_BATCH, y, y_stride);                \
            x += PANEL_BATCH * x_stride;                                                           \
            y += PANEL_BATCH * y_stride;                                                           \
        }                                                                                          \
        for (; PANEL_BATCH > 4 && batch >= 4; batch -= 4, x += 4 * x_stride, y += 4 * y_stride)    \
            dot_rows_##NAME(panel, columns, x, x_stride, 4, y, y_stride);                          \
        for (; batch >= 2; batch -= 2, x += 2 * x_stride, y += 2 * y_stride)                       \
            dot_rows_##NAME(panel, columns, x, x_stride, 2, y, y_stride);                          \
        if (batch)                                                                                 \
            dot_rows_##NAME(panel, columns, x, x_stride, 1, y, y_stride);                          \
    }

PANEL_LIST(DEFINE_PANEL)

#define SIMD_PANEL_ENTRY(FORMAT, NAME) [WEIGHT_##FORMAT] = dot_##NAME,

static void quantise(const float *x, size_t count, struct q8_block *out) {
    for (size_t b = 0; b < count / Q8_BLOCK_VALUES; b++, x += Q8_BLOCK_VALUES) {
        VEC top = ABS(LOAD(x));
        for (size_t i = LANES; i < Q8_BLOCK_VALUES; i += LANES)
            top = MAX(top, ABS(LOAD(x + i)));
        float largest_value = BEST(top), inverse = largest_value > 0 ? 127 / largest_value : 0;
        out[b].scale = largest_value / 127;
        for (size_t i = 0; i < Q8_BLOCK_VALUES; i += LANES)
            STORE_I8(out[b].values + i, MUL(LOAD(x + i), SET(inverse)));
        panel_total(&out[b]);
    }
}
