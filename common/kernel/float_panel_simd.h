/* Float panels written once over a vector type, as simd.h: each variant's file defines the macros
 * below and includes this file.
 *
 *   LOAD_EVEN_BF16(p) LOAD_ODD_BF16(p)  the low or high halves of LANES 32-bit lanes, as f32
 *   LOAD_EVEN_FP8(p) LOAD_ODD_FP8(p)    the low or high bytes of LANES 16-bit lanes, as f32 that
 *                                       lack FP8_FACTOR
 *   FLOAT_VECTORS    vectors of weights that are multiplied side by side in a batch
 *   FLOAT_BATCH      rows of activations for which weights are converted once: FLOAT_VECTORS x
 *                    FLOAT_BATCH sums, and the weights of two columns, fit in the registers
 *
 * An activation is read once for FLOAT_VECTORS multiply-adds, a weight for FLOAT_BATCH. */
#include "common/kernel/float_panel.h"

/* Two columns of LANES rows; `at` is the place of the first of those rows. */
#define LOAD_PAIR_f32(p, at, w)                                                                    \
    (w)[0] = LOAD((const float *)(p) + (at)), (w)[1] = LOAD((const float *)(p) + PANEL_ROWS + (at))
#define LOAD_PAIR_f16(p, at, w)                                                                    \
    (w)[0] = LOAD_F16((p) + 2 * (at)), (w)[1] = LOAD_F16((p) + 2 * PANEL_ROWS + 2 * (at))
#define LOAD_PAIR_bf16(p, at, w)                                                                   \
    (w)[0] = LOAD_EVEN_BF16((p) + 4 * (at)), (w)[1] = LOAD_ODD_BF16((p) + 4 * (at))
#define LOAD_PAIR_fp8(p, at, w)                                                                    \
    (w)[0] = LOAD_EVEN_FP8((p) + 2 * (at)), (w)[1] = LOAD_ODD_FP8((p) + 2 * (at))

#define PANEL_VECTORS (PANEL_ROWS / LANES)

/* Where the weights of one call lie. */
struct float_rows {
    const uint8_t *panels;
    uint32_t columns;
    const float *scales;
};

/* `vectors` x LANES rows of weights, from vector `first` on, times `rows` (at most FLOAT_BATCH)
 * rows of activations. Sums of `chains` columns are kept apart, so that few rows need not wait for
 * one multiply-add after another. */
#define DEFINE_FLOAT_TILE(NAME, PAIR_BYTES, FACTOR)                                                \
    PANEL_INLINE void float_tile_##NAME(const struct float_rows *w, size_t first, size_t vectors,  \
                                        const float *x, size_t x_stride, size_t rows,              \
                                        size_t chains, float *y, size_t y_stride) {                \
        size_t panel_bytes = (size_t)w->columns / 2 * (PAIR_BYTES);                                \
        uint32_t block = w->scales ? FP8_BLOCK : w->columns;                                       \
        for (uint32_t start = 0; start < w->columns; start += block) {                             \
            uint32_t end = start + block < w->columns ? start + block : w->columns;                \
            VEC sums[FLOAT_VECTORS_MAX][FLOAT_BATCH][4];                                           \
            for (size_t v = 0; v < vectors; v++)                                                   \
                for (size_t r = 0; r < rows; r++)                                                  \
                    for (size_t c = 0; c < chains; c++)                                            \
                        sums[v][r][c] = ZERO();                                                    \
            for (uint32_t column = start; column < end; column += 4) {                             \
                const uint8_t *four[FLOAT_VECTORS_MAX];                                            \
                for (size_t v = 0; v < vectors; v++) {                                             \
                    four[v] = w->panels + (first + v) / PANEL_VECTORS * panel_bytes +              \
                              column / 2 * (PAIR_BYTES);                                           \
                    if (v % PANEL_VECTORS == 0)                                                    \
                        for (size_t at = 0; at < 2 * (PAIR_BYTES); at += 64)                       \
                            __builtin_prefetch(four[v] + at + PREFETCH_BYTES);                     \
                }                                                                                  \
                for (uint32_t pair = 0; pair < 2; pair++) {                                        \
                    VEC weights[FLOAT_VECTORS_MAX][2];                                             \
                    for (size_t v = 0; v < vectors; v++)                                           \
                        LOAD_PAIR_##NAME(four[v] + pair * (PAIR_BYTES),                            \
                                         (first + v) % PANEL_VECTORS * LANES, weights[v]);         \
                    for (size_t c = 0; c < 2; c++)                                                 \
                        for (size_t r = 0; r < rows; r++) {                                        \
                            VEC a = SET(x[r * x_stride + column + 2 * pair + c]);                  \
                            for (size_t v = 0; v < vectors; v++) {                                 \
                                VEC *sum = &sums[v][r][(2 * pair + c) % chains];                   \
                                *sum = FMA(weights[v][c], a, *sum);                                \
                            }                                                                      \
                        }                                                                          \
                }                                                                                  \
            }                                                                                      \
            VEC scale = SET((w->scales ? w->scales[start / FP8_BLOCK] : 1) * (FACTOR));            \
            for (size_t v = 0; v < vectors; v++)                                                   \
                for (size_t r = 0; r < rows; r++) {                                                \
                    float *out = y + r * y_stride + (first + v) * LANES;                           \
                    VEC sum = sums[v][r][0];                                                       \
                    for (size_t c = 1; c < chains; c++)                                            \
                        sum = ADD(sum, sums[v][r][c]);                                             \
                    STORE(out, FMA(scale, sum, start ? LOAD(out) : ZERO()));                       \
                }                                                                                  \
        }                                                                                          \
    }

/* All vectors times `rows` rows: a single row reads one panel after another, more rows
 * FLOAT_VECTORS vectors side by side. Some eight sums are under way at a time. */
#define DEFINE_FLOAT_ROWS(NAME)                                                                    \
    PANEL_INLINE void float_rows_##NAME(const struct float_rows *w, size_t count, const float *x,  \
                                        size_t x_stride, size_t rows, float *y, size_t y_stride) { \
        size_t side = rows == 1 ? PANEL_VECTORS : FLOAT_VECTORS, v = 0;                            \
        size_t chains = side * rows <= 2 ? 4 : side * rows <= 4 ? 2 : 1;                           \
        for (; v + side <= count * PANEL_VECTORS; v += side)                                       \
            float_tile_##NAME(w, v, side, x, x_stride, rows, chains, y, y_stride);                 \
        for (; v < count * PANEL_VECTORS; v++)                                                     \
            float_tile_##NAME(w, v, 1, x, x_stride, rows, chains, y, y_stride);                    \
    }

#define FLOAT_VECTORS_MAX (PANEL_VECTORS > FLOAT_VECTORS ? PANEL_VECTORS : FLOAT_VECTORS)

#define DEFINE_FLOAT_PANEL(NAME, PAIR_BYTES, FACTOR)                                               \
    DEFINE_FLOAT_TILE(NAME, PAIR_BYTES, FACTOR)                                                    \
    DEFINE_FLOAT_ROWS(NAME)                                                                        \
    static void float_dot_##NAME(const uint8_t *panels, size_t count, uint32_t columns,            \
                                 const float *scales, const float *x, size_t x_stride,             \
                                 size_t batch, float *y, size_t y_stride) {                        \
        const struct float_rows w = {panels, columns, scales};                                     \
        size_t r = 0;                                                                              \
        for (; r + FLOAT_BATCH <= batch; r += FLOAT_BATCH)                                         \
            float_rows_##NAME(&w, count, x + r * x_stride, x_stride, FLOAT_BATCH,                  \
                              y + r * y_stride, y_stride);                                         \
        for (; r + 4 <= batch; r += 4)                                                             \
            float_rows_##NAME(&w, count, x + r * x_stride, x_stride, 4, y + r * y_stride,          \
                              y_stride);                                                           \
        for (; r + 2 <= batch; r += 2)                                                             \
            float_rows_##NAME(&w, count, x + r * x_stride, x_stride, 2, y + r * y_stride,          \
                              y_stride);                                                           \
        if (r < batch)                                                                             \
            float_rows_##NAME(&w, count, x + r * x_stride, x_stride, 1, y + r * y_stride,          \
                              y_stride);                                                           \
    }

DEFINE_FLOAT_PANEL(f32, 8 * PANEL_ROWS, 1.0f)
DEFINE_FLOAT_PANEL(f16, 4 * PANEL_ROWS, 1.0f)
DEFINE_FLOAT_PANEL(bf16, 4 * PANEL_ROWS, 1.0f)
DEFINE_FLOAT_PANEL(fp8, 2 * PANEL_ROWS, FP8_FACTOR)
