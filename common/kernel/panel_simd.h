/* Panels written once over a vector type, as simd.h: each variant's file defines the macros below
 * and includes this file.
 *
 *   IVEC             integers as wide as VEC; a group of 64 bytes is HALVES of them
 *   ILOAD(p) ISET(a) IADD(a,b) ISUB(a,b) IMUL(a,b)  32-bit lanes
 *   IAND(a,b) IOR(a,b) ISET8(a) SHIFT_LEFT(v,n) SHIFT_RIGHT(v,n)  of bytes, shifts in 16-bit lanes
 *   IDOT(acc,w,p)    acc + the sums of four unsigned bytes of w times the four signed bytes at p
 *   IDOT_Q8(acc,w,p) the same for w stored with an offset of 128, of which Q8_OFFSET is left in
 *   FLOATS(v)        32-bit integers as f32
 *   LOAD_U8(p) LOAD_I8(p)  LANES bytes as 32-bit integers
 *   STORE_I8(p,v)    f32 rounded to bytes
 *   ABS(v)
 *   PANEL_BATCH      rows of activations for which a sub-block is unpacked once
 *
 * Sub-blocks are unpacked into eight vectors (one for each group) and multiplied with up to
 * PANEL_BATCH rows of activations; integer sums are exact. */
#include "common/kernel/panel_formats.h"

#define PANEL_INLINE static inline __attribute__((always_inline))
/* How far ahead weights are asked for: memory's latency at full bandwidth, in bytes. */
#define PREFETCH_BYTES 3072

static inline int four_bytes(const int8_t *p) {
    int value;
    memcpy(&value, p, sizeof value);
    return value;
}

PANEL_INLINE void unpack_nibbles(const uint8_t nibbles[4][64], size_t half, IVEC groups[8]) {
    for (int g = 0; g < 4; g++) {
        IVEC v = ILOAD(nibbles[g] + half);
        __builtin_prefetch(nibbles[g] + PREFETCH_BYTES);
        groups[g] = IAND(v, ISET8(15));
        groups[g + 4] = IAND(SHIFT_RIGHT(v, 4), ISET8(15));
    }
}

PANEL_INLINE void add_pairs(const uint8_t pairs[2][64], size_t half, IVEC groups[8]) {
    for (int h = 0; h < 2; h++) {
        IVEC v = ILOAD(pairs[h] + half);
        __builtin_prefetch(pairs[h] + PREFETCH_BYTES);
        groups[4 * h] = IOR(groups[4 * h], IAND(SHIFT_LEFT(v, 4), ISET8(0x30)));
        groups[4 * h + 1] = IOR(groups[4 * h + 1], IAND(SHIFT_LEFT(v, 2), ISET8(0x30)));
        groups[4 * h + 2] = IOR(groups[4 * h + 2], IAND(v, ISET8(0x30)));
        groups[4 * h + 3] = IOR(groups[4 * h + 3], IAND(SHIFT_RIGHT(v, 2), ISET8(0x30)));
    }
}

/* Groups [first, first + 4) times their activations. */
PANEL_INLINE IVEC dot_half(const IVEC *groups, const int8_t *values, int first) {
    IVEC sum = ISET(0);
    for (int g = first; g < first + 4; g++)
        sum = IDOT(sum, groups[g], values + 4 * g);
    return sum;
}

/* Each of these adds one block (of 32 or 256 columns) of LANES rows to the sums of `rows` rows of
 * activations. `half` is the first of those rows within the panel. */
PANEL_INLINE void add_q4_0(const struct panel_q4_0 *p, size_t half, const struct q8_block *x,
                           size_t x_stride, int rows, VEC *sums) {
    IVEC groups[8];
    unpack_nibbles(p->nibbles, 4 * half, groups);
    VEC scale = LOAD_F16(p->scales + half);
    for (int r = 0; r < rows; r++) {
        const struct q8_block *b = x + r * x_stride;
        IVEC dot = IADD(dot_half(groups, b->values, 0), dot_half(groups, b->values, 4));
        dot = ISUB(dot, ISET(8 * (b->sums[0] + b->sums[1])));
        sums[r] = FMA(MUL(scale, SET(b->scale)), FLOATS(dot), sums[r]);
    }
}

PANEL_INLINE void add_q8_0(const struct panel_q8_0 *p, size_t half, const struct q8_block *x,
                           size_t x_stride, int rows, VEC *sums) {
    IVEC groups[8];
    for (int g = 0; g < 8; g++) {
        groups[g] = ILOAD(p->values[g] + 4 * half);
        __builtin_prefetch(p->values[g] + PREFETCH_BYTES);
    }
    VEC scale = LOAD_F16(p->scales + half);
    for (int r = 0; r < rows; r++) {
        const struct q8_block *b = x + r * x_stride;
        IVEC even = ISET(0), odd = ISET(0);
        for (int g = 0; g < 8; g += 2) {
            even = IDOT_Q8(even, groups[g], b->values + 4 * g);
            odd = IDOT_Q8(odd, groups[g + 1], b->values + 4 * g + 4);
        }
        IVEC dot = ISUB(IADD(even, odd), ISET(Q8_OFFSET * (b->sums[0] + b->sums[1])));
        sums[r] = FMA(MUL(scale, SET(b->scale)), FLOATS(dot), sums[r]);
    }
}

PANEL_INLINE void add_q4_k(const struct panel_q4_k *p, size_t half, const struct q8_block *x,
                           size_t x_stride, int rows, VEC *sums) {
    VEC scale = LOAD_F16(p->scales + half), minimum = LOAD_F16(p->minimums + half);
    for (int s = 0; s < 8; s++) {
        IVEC groups[8];
        unpack_nibbles(p->nibbles[s], 4 * half, groups);
        VEC sub_scale = MUL(scale, FLOATS(LOAD_U8(p->small_scales[s] + half)));
        VEC sub_minimum = MUL(minimum, FLOATS(LOAD_U8(p->small_minimums[s] + half)));
        for (int r = 0; r < rows; r++) {
            const struct q8_block *b = x + r * x_stride + s;
            IVEC dot = IADD(dot_half(groups, b->values, 0), dot_half(groups, b->values, 4));
            float offset = -b->scale * (float)(b->sums[0] + b->sums[1]);
            sums[r] = FMA(MUL(sub_scale, SET(b->scale)), FLOATS(dot), sums[r]);
            sums[r] = FMA(sub_minimum, SET(offset), sums[r]);
        }
    }
}

PANEL_INLINE void add_q6_k(const struct panel_q6_k *p, size_t half, const struct q8_block *x,
                           size_t x_stride, int rows, VEC *sums) {
    VEC scale = LOAD_F16(p->scales + half);
    for (int s = 0; s < 8; s++) {
        IVEC groups[8];
        unpack_nibbles(p->nibbles[s], 4 * half, groups);
        add_pairs(p->pairs[s], 4 * half, groups);
        IVEC first = LOAD_I8(p->small_scales[2 * s] + half);
        IVEC last = LOAD_I8(p->small_scales[2 * s + 1] + half);
        for (int r = 0; r < rows; r++) {
            const struct q8_block *b = x + r * x_stride + s;
            IVEC low = ISUB(dot_half(groups, b->values, 0), ISET(32 * b->sums[0]));
            IVEC high = ISUB(dot_half(groups, b->values, 4), ISET(32 * b->sums[1]));
            IVEC dot = IADD(IMUL(low, first), IMUL(high, last));
            sums[r] = FMA(MUL(scale, SET(b->scale)), FLOATS(dot), sums[r]);
        }
    }
}

/* One panel times `rows` rows of activations, LANES rows of the panel at a time. */
#define DEFINE_PANEL(NAME, BLOCK_VALUES)                                                           \
    PANEL_INLINE void dot_rows_##NAME(const uint8_t *panel, uint32_t columns,                      \
                                      const struct q8_block *x, size_t x_stride, int rows,         \
                                      float *y, size_t y_stride) {                                 \
        const struct panel_##NAME *blocks = (const struct panel_##NAME *)panel;                    \
        for (size_t half = 0; half < PANEL_ROWS; half += LANES) {                                  \
            VEC sums[PANEL_BATCH];                                                                 \
            for (int r = 0; r < rows; r++)                                                         \
                sums[r] = ZERO();                                                                  \
            for (uint32_t b = 0; b < columns / BLOCK_VALUES; b++)                                  \
                add_##NAME(blocks + b, half, x + b * (BLOCK_VALUES / Q8_BLOCK_VALUES), x_stride,   \
                           rows, sums);                                                            \
            for (int r = 0; r < rows; r++)                                                         \
                STORE(y + r * y_stride + half, sums[r]);                                           \
        }                                                                                          \
    }                                                                                              \
    static void dot_##NAME(const uint8_t *panel, uint32_t columns, const struct q8_block *x,       \
                           size_t x_stride, size_t batch, float *y, size_t y_stride) {             \
        for (; batch >= PANEL_BATCH; batch -= PANEL_BATCH) {                                       \
            dot_rows_##NAME(panel, columns, x, x_stride, PANEL_BATCH, y, y_stride);                \
            x += PANEL_BATCH * x_stride;                                                           \
            y += PANEL_BATCH * y_stride;                                                           \
        }                                                                                          \
        for (; batch; batch--, x += x_stride, y += y_stride)                                       \
            dot_rows_##NAME(panel, columns, x, x_stride, 1, y, y_stride);                          \
    }

DEFINE_PANEL(q4_0, 32)
DEFINE_PANEL(q8_0, 32)
DEFINE_PANEL(q4_k, 256)
DEFINE_PANEL(q6_k, 256)

static void quantise(const float *x, size_t count, struct q8_block *out) {
    for (size_t b = 0; b < count / Q8_BLOCK_VALUES; b++, x += Q8_BLOCK_VALUES) {
        VEC top = ABS(LOAD(x));
        for (size_t i = LANES; i < Q8_BLOCK_VALUES; i += LANES)
            top = MAX(top, ABS(LOAD(x + i)));
        float largest_value = BEST(top), inverse = largest_value > 0 ? 127 / largest_value : 0;
        out[b].scale = largest_value / 127;
        for (size_t i = 0; i < Q8_BLOCK_VALUES; i += LANES)
            STORE_I8(out[b].values + i, MUL(LOAD(x + i), SET(inverse)));
        for (int h = 0; h < 2; h++) {
            int32_t sum = 0;
            for (int i = 0; i < 16; i++)
                sum += out[b].values[16 * h + i];
            out[b].sums[h] = sum;
        }
    }
}
