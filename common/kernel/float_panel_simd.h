/* Float panels written once over a vector type, as simd.h: each variant's file defines the macros
 * below and includes this file.
 *
 *   EVEN_BF16(v) ODD_BF16(v)  the low or high halves of LANES 32-bit lanes, as f32
 *   LOAD_PAIRS_fp8(p, panel_bytes, panels, w)  two columns of FLOAT_PANELS panels or of one:
 * w[v][c] are LANES rows of column c, as f32 whose products with activations times FP8_INPUT_FACTOR
 * lack FP8_SUM_FACTOR ARRANGE_fp8(sums, panels)  brings the vectors of sums with those into the
 * order of the rows FLOAT_PANELS     panels that are multiplied side by side in a batch FLOAT_BATCH
 * rows of activations for which weights are converted once: their sums with FLOAT_PANELS panels,
 * and the weights of two columns, fit in the registers
 *
 * An activation is read once for all vectors of FLOAT_PANELS panels, a weight for FLOAT_BATCH rows.
 * Larger batches take FLOAT_COLUMNS columns at a time and copy FLOAT_BATCH rows of those for all
 * panels: rows are often a power of two apart, and most reads would then miss the first cache. */
#include "common/kernel/float_panel.h"

#define FLOAT_COLUMNS 256u
/* Floats between copied rows, such that they are not all in the same few sets of a cache. */
#define FLOAT_STRIDE (FLOAT_COLUMNS + 16)

#define PANEL_VECTORS (PANEL_ROWS / LANES)
#define FLOAT_VECTORS (FLOAT_PANELS * PANEL_VECTORS)

/* Two columns of a panel, as LOAD_PAIRS_fp8. */
PANEL_INLINE void LOAD_PAIR_f32(const uint8_t *p, VEC (*w)[2]) {
    for (size_t v = 0; v < PANEL_VECTORS; v++) {
        w[v][0] = LOAD((const float *)(const void *)p + v * LANES);
        w[v][1] = LOAD((const float *)(const void *)p + PANEL_ROWS + v * LANES);
    }
}

PANEL_INLINE void LOAD_PAIR_f16(const uint8_t *p, VEC (*w)[2]) {
    for (size_t v = 0; v < PANEL_VECTORS; v++) {
        w[v][0] = LOAD_F16(p + 2 * v * LANES);
        w[v][1] = LOAD_F16(p + 2 * (PANEL_ROWS + v * LANES));
    }
}

PANEL_INLINE void LOAD_PAIR_bf16(const uint8_t *p, VEC (*w)[2]) {
    for (size_t v = 0; v < PANEL_VECTORS; v++) {
        IVEC pairs = ILOAD(p + 4 * v * LANES);
        w[v][0] = EVEN_BF16(pairs);
        w[v][1] = ODD_BF16(pairs);
    }
}

#define LOAD_EACH(LOAD_PAIR, p, panel_bytes, panels, w)                                            \
    for (size_t i = 0; i < (panels); i++)                                                          \
    LOAD_PAIR((p) + i * (panel_bytes), (w) + i * PANEL_VECTORS)
#define LOAD_PAIRS_f32(...)  LOAD_EACH(LOAD_PAIR_f32, __VA_ARGS__)
#define LOAD_PAIRS_f16(...)  LOAD_EACH(LOAD_PAIR_f16, __VA_ARGS__)
#define LOAD_PAIRS_bf16(...) LOAD_EACH(LOAD_PAIR_bf16, __VA_ARGS__)

#define ARRANGE_NOTHING(sums, panels) ((void)(sums), (void)(panels))
#define ARRANGE_f32                   ARRANGE_NOTHING
#define ARRANGE_f16                   ARRANGE_NOTHING
#define ARRANGE_bf16                  ARRANGE_NOTHING

/* Some columns of panels that lie panel_bytes apart, what their products are scaled by, and whether
 * those are added to what is in y. */
struct float_part {
    const uint8_t *panels;
    size_t panel_bytes;
    uint32_t columns;
    float scale;
    bool add;
};

/* `panels` panels (FLOAT_PANELS or 1) times `rows` (at most FLOAT_BATCH) rows of activations. Sums
 * of several columns are kept apart where there are few of them, so that some eight are under way
 * at a time. */
#define DEFINE_FLOAT_TILE(NAME, PAIR_BYTES)                                                        \
    PANEL_INLINE void float_tile_##NAME(const struct float_part *part, size_t panels,              \
                                        const float *x, size_t x_stride, size_t rows, float *y,    \
                                        size_t y_stride) {                                         \
        const size_t vectors = panels * PANEL_VECTORS;                                             \
        const size_t chains = vectors * rows <= 2 ? 4 : vectors * rows <= 4 ? 2 : 1;               \
        VEC sums[FLOAT_VECTORS][FLOAT_BATCH][4];                                                   \
        for (size_t v = 0; v < vectors; v++)                                                       \
            for (size_t r = 0; r < rows; r++)                                                      \
                for (size_t c = 0; c < chains; c++)                                                \
                    sums[v][r][c] = ZERO();                                                        \
        for (uint32_t column = 0; column < part->columns; column += 4) {                           \
            const uint8_t *four = part->panels + column / 2 * (PAIR_BYTES);                        \
            for (size_t i = 0; i < panels; i++)                                                    \
                for (size_t at = 0; at < 2 * (PAIR_BYTES); at += 64)                               \
                    __builtin_prefetch(four + i * part->panel_bytes + at + PREFETCH_BYTES);        \
            for (uint32_t pair = 0; pair < 2; pair++) {                                            \
                VEC weights[FLOAT_VECTORS][2];                                                     \
                LOAD_PAIRS_##NAME(four + pair * (PAIR_BYTES), part->panel_bytes, panels, weights); \
                for (size_t c = 0; c < 2; c++)                                                     \
                    for (size_t r = 0; r < rows; r++) {                                            \
                        VEC a = SET(x[r * x_stride + column + 2 * pair + c]);                      \
                        for (size_t v = 0; v < vectors; v++) {                                     \
                            VEC *sum = &sums[v][r][(2 * pair + c) % chains];                       \
                            *sum = FMA(weights[v][c], a, *sum);                                    \
                        }                                                                          \
                    }                                                                              \
            }                                                                                      \
        }                                                                                          \
        VEC scale = SET(part->scale);                                                              \
        for (size_t r = 0; r < rows; r++) {                                                        \
            VEC totals[FLOAT_VECTORS];                                                             \
            for (size_t v = 0; v < vectors; v++) {                                                 \
                totals[v] = sums[v][r][0];                                                         \
                for (size_t c = 1; c < chains; c++)                                                \
                    totals[v] = ADD(totals[v], sums[v][r][c]);                                     \
            }                                                                                      \
            ARRANGE_##NAME(totals, panels);                                                        \
            for (size_t v = 0; v < vectors; v++) {                                                 \
                float *out = y + r * y_stride + v * LANES;                                         \
                STORE(out, FMA(scale, totals[v], part->add ? LOAD(out) : ZERO()));                 \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    /* The same for any number of rows up to FLOAT_BATCH. */                                       \
    PANEL_INLINE void float_rows_##NAME(const struct float_part *part, size_t panels,              \
                                        const float *x, size_t x_stride, size_t rows, float *y,    \
                                        size_t y_stride) {                                         \
        if (rows == FLOAT_BATCH) {                                                                 \
            float_tile_##NAME(part, panels, x, x_stride, FLOAT_BATCH, y, y_stride);                \
            return;                                                                                \
        }                                                                                          \
        for (; rows >= 4; rows -= 4, x += 4 * x_stride, y += 4 * y_stride)                         \
            float_tile_##NAME(part, panels, x, x_stride, 4, y, y_stride);                          \
        for (; rows >= 2; rows -= 2, x += 2 * x_stride, y += 2 * y_stride)                         \
            float_tile_##NAME(part, panels, x, x_stride, 2, y, y_stride);                          \
        if (rows)                                                                                  \
            float_tile_##NAME(part, panels, x, x_stride, 1, y, y_stride);                          \
    }

/* A product as float_panel_dot has it. */
struct float_product {
    size_t panel_bytes;
    uint32_t columns;
    const float *scales;
    const float *x;
    size_t x_stride, batch;
    float *y;
    size_t y_stride;
};

/* At most FLOAT_BATCH rows side by side, times `factor`. */
PANEL_INLINE void copy_rows(const float *x, size_t x_stride, size_t rows, uint32_t columns,
                            float factor, float *out) {
    for (size_t r = 0; r < rows; r++, x += x_stride, out += FLOAT_STRIDE)
        for (uint32_t c = 0; c < columns; c++)
            out[c] = x[c] * factor;
}

#define DEFINE_FLOAT_PANEL(NAME, PAIR_BYTES, INPUT_FACTOR, SUM_FACTOR)                             \
    DEFINE_FLOAT_TILE(NAME, PAIR_BYTES)                                                            \
    /* `count` panels at `panels`, some columns after the others; y of the first. */               \
    static void float_columns_##NAME(const struct float_product *p, const uint8_t *panels,         \
                                     size_t count, float *y) {                                     \
        struct float_part part = {.panel_bytes = p->panel_bytes};                                  \
        float copied[FLOAT_BATCH * FLOAT_STRIDE];                                                  \
        bool copies = p->batch > FLOAT_BATCH || (INPUT_FACTOR) != 1;                               \
        uint32_t block = p->scales ? FP8_BLOCK : copies ? FLOAT_COLUMNS : p->columns;              \
        for (uint32_t start = 0; start < p->columns; start += block) {                             \
            part.columns = p->columns - start < block ? p->columns - start : block;                \
            part.scale = (p->scales ? p->scales[start / FP8_BLOCK] : 1) * (SUM_FACTOR);            \
            part.add = start > 0;                                                                  \
            for (size_t r = 0, rows; r < p->batch; r += rows) {                                    \
                const float *x = p->x + r * p->x_stride + start;                                   \
                float *out = y + r * p->y_stride;                                                  \
                size_t x_stride = copies ? FLOAT_STRIDE : p->x_stride, i = 0;                      \
                rows = p->batch - r < FLOAT_BATCH ? p->batch - r : FLOAT_BATCH;                    \
                if (copies)                                                                        \
                    copy_rows(x, p->x_stride, rows, part.columns, INPUT_FACTOR, copied);           \
                x = copies ? copied : x;                                                           \
                part.panels = panels + start / 2 * (PAIR_BYTES);                                   \
                for (; i + FLOAT_PANELS <= count; i += FLOAT_PANELS) {                             \
                    float_rows_##NAME(&part, FLOAT_PANELS, x, x_stride, rows, out, p->y_stride);   \
                    part.panels += FLOAT_PANELS * part.panel_bytes;                                \
                    out += FLOAT_PANELS * PANEL_ROWS;                                              \
                }                                                                                  \
                if (i < count)                                                                     \
                    float_rows_##NAME(&part, 1, x, x_stride, rows, out, p->y_stride);              \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    static void float_dot_##NAME(const uint8_t *panels, size_t count, uint32_t columns,            \
                                 const float *scales, const float *x, size_t x_stride,             \
                                 size_t batch, float *y, size_t y_stride) {                        \
        const struct float_product product = {                                                     \
            columns / 2 * (PAIR_BYTES), columns, scales, x, x_stride, batch, y, y_stride};         \
        size_t step = batch > FLOAT_BATCH ? count : FLOAT_PANELS;                                  \
        for (size_t i = 0; i < count; i += step)                                                   \
            float_columns_##NAME(&product, panels + i * product.panel_bytes,                       \
                                 count - i < step ? count - i : step, y + i * PANEL_ROWS);         \
    }

DEFINE_FLOAT_PANEL(f32, 8 * PANEL_ROWS, 1.0f, 1.0f)
DEFINE_FLOAT_PANEL(f16, 4 * PANEL_ROWS, 1.0f, 1.0f)
DEFINE_FLOAT_PANEL(bf16, 4 * PANEL_ROWS, 1.0f, 1.0f)
DEFINE_FLOAT_PANEL(fp8, 2 * PANEL_ROWS, FP8_INPUT_FACTOR, FP8_SUM_FACTOR)
