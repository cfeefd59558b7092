/* Panels written once over a vector type, as simd.h: each variant's file defines the macros below
 * and includes this file.
 *
 *   IVEC             integers as wide as VEC; PANEL_ROWS x 4 bytes of a group are several of them
 *   ILOAD(p) ISET(a) IADD(a,b)  32-bit lanes
 *   IAND(a,b) IOR(a,b) ISET8(a) SHIFT_LEFT(v,n) SHIFT_RIGHT(v,n)  of bytes, shifts in 16-bit lanes
 *   ILOOKUP(t,v)     for each byte of v, which is under 16, that entry of the 16 bytes at t
 *   DOT_GROUPS(groups,count,bits,p)  the sums over `count` (4 or 8) groups of four unsigned bytes
 *                    of `bits` (2 to 6, or 8) bits times the 4 * count signed bytes at p, in 32-bit
 *                    lanes; bytes of 8 bits are stored with an offset of 128, of which Q8_OFFSET is
 *                    left in the result
 *   FLOATS(v)        32-bit integers as f32
 *   LOAD_U8(p) LOAD_I8(p)  LANES bytes as 32-bit integers
 *   STORE_I8(p,v)    f32 rounded to bytes
 *   ABS(v)
 *   PANEL_BATCH      rows of activations for which a sub-block is unpacked once
 *
 * Whatever the format, a sub-block of 32 columns is unpacked into eight vectors of bytes q, one for
 * each group, and scales and offsets of f32 such that a weight is q * scale + offset. Integer sums
 * are exact. */
#include "common/kernel/panel_formats.h"

#define PANEL_INLINE  static inline __attribute__((always_inline))
#define PANEL_VECTORS (PANEL_ROWS / LANES)
/* How far ahead weights are asked for: memory's latency at full bandwidth, in bytes. */
#define PREFETCH_BYTES 3072

/* Vector `v` of a group. */
PANEL_INLINE IVEC load_group(const uint8_t group[64], size_t v) {
    return ILOAD(group + 4 * LANES * v);
}

/* Asks for what lies ahead of the s-th of `parts` equal parts of a block. */
PANEL_INLINE void prefetch_part(const void *block, size_t block_bytes, uint32_t s, uint32_t parts) {
    const char *part = (const char *)block + s * (block_bytes / parts) + PREFETCH_BYTES;
    for (size_t at = 0; at < block_bytes / parts; at += 64)
        __builtin_prefetch(part + at);
}

PANEL_INLINE void unpack_nibbles(const uint8_t nibbles[4][64], size_t v, IVEC groups[8]) {
    for (int g = 0; g < 4; g++) {
        IVEC bytes = load_group(nibbles[g], v);
        groups[g] = IAND(bytes, ISET8(15));
        groups[g + 4] = IAND(SHIFT_RIGHT(bytes, 4), ISET8(15));
    }
}

PANEL_INLINE void unpack_pairs(const uint8_t pairs[2][64], size_t v, IVEC groups[8]) {
    for (int h = 0; h < 2; h++) {
        IVEC bytes = load_group(pairs[h], v);
        groups[4 * h] = IAND(bytes, ISET8(3));
        groups[4 * h + 1] = IAND(SHIFT_RIGHT(bytes, 2), ISET8(3));
        groups[4 * h + 2] = IAND(SHIFT_RIGHT(bytes, 4), ISET8(3));
        groups[4 * h + 3] = IAND(SHIFT_RIGHT(bytes, 6), ISET8(3));
    }
}

/* The pairs become bits 4 and 5. */
PANEL_INLINE void add_pairs(const uint8_t pairs[2][64], size_t v, IVEC groups[8]) {
    for (int h = 0; h < 2; h++) {
        IVEC bytes = load_group(pairs[h], v);
        groups[4 * h] = IOR(groups[4 * h], IAND(SHIFT_LEFT(bytes, 4), ISET8(0x30)));
        groups[4 * h + 1] = IOR(groups[4 * h + 1], IAND(SHIFT_LEFT(bytes, 2), ISET8(0x30)));
        groups[4 * h + 2] = IOR(groups[4 * h + 2], IAND(bytes, ISET8(0x30)));
        groups[4 * h + 3] = IOR(groups[4 * h + 3], IAND(SHIFT_RIGHT(bytes, 2), ISET8(0x30)));
    }
}

/* The bits become bit 4. */
PANEL_INLINE void add_fifth_bits(const uint8_t bits[64], size_t v, IVEC groups[8]) {
    IVEC bytes = load_group(bits, v), bit = ISET8(0x10);
    groups[0] = IOR(groups[0], IAND(SHIFT_LEFT(bytes, 4), bit));
    groups[1] = IOR(groups[1], IAND(SHIFT_LEFT(bytes, 3), bit));
    groups[2] = IOR(groups[2], IAND(SHIFT_LEFT(bytes, 2), bit));
    groups[3] = IOR(groups[3], IAND(SHIFT_LEFT(bytes, 1), bit));
    groups[4] = IOR(groups[4], IAND(bytes, bit));
    groups[5] = IOR(groups[5], IAND(SHIFT_RIGHT(bytes, 1), bit));
    groups[6] = IOR(groups[6], IAND(SHIFT_RIGHT(bytes, 2), bit));
    groups[7] = IOR(groups[7], IAND(SHIFT_RIGHT(bytes, 3), bit));
}

/* The bits become bit 2. */
PANEL_INLINE void add_third_bits(const uint8_t bits[64], size_t v, IVEC groups[8]) {
    IVEC bytes = load_group(bits, v), bit = ISET8(4);
    groups[0] = IOR(groups[0], IAND(SHIFT_LEFT(bytes, 2), bit));
    groups[1] = IOR(groups[1], IAND(SHIFT_LEFT(bytes, 1), bit));
    groups[2] = IOR(groups[2], IAND(bytes, bit));
    groups[3] = IOR(groups[3], IAND(SHIFT_RIGHT(bytes, 1), bit));
    groups[4] = IOR(groups[4], IAND(SHIFT_RIGHT(bytes, 2), bit));
    groups[5] = IOR(groups[5], IAND(SHIFT_RIGHT(bytes, 3), bit));
    groups[6] = IOR(groups[6], IAND(SHIFT_RIGHT(bytes, 4), bit));
    groups[7] = IOR(groups[7], IAND(SHIFT_RIGHT(bytes, 5), bit));
}

PANEL_INLINE void look_up_levels(IVEC groups[8]) {
    for (int g = 0; g < 8; g++)
        groups[g] = ILOOKUP(LEVELS_OFFSET, groups[g]);
}

/* The rows of activations that a panel is multiplied with, at a sub-block, and what has been summed
 * up of them. */
struct panel_rows {
    const struct q8_block *x;
    size_t x_stride;
    int rows;
    VEC (*sums)[PANEL_VECTORS]; /* (rows) */
};

/* A sub-block of LANES rows with one scale each. What depends on the sum before is one addition. */
PANEL_INLINE void add_sub_block(const struct panel_rows *to, size_t v, const IVEC groups[8],
                                int bits, VEC scale, VEC offset) {
    (void)bits;
    for (int r = 0; r < to->rows; r++) {
        const struct q8_block *x = to->x + r * to->x_stride;
        VEC dot = MUL(FLOATS(DOT_GROUPS(groups, 8, bits, x->values)), SET(x->scale));
        VEC part = FMA(scale, dot, MUL(offset, SET(x->total)));
        to->sums[r][v] = ADD(to->sums[r][v], part);
    }
}

/* The same with scales of their own for the first and the last 16 columns. */
PANEL_INLINE void add_halves(const struct panel_rows *to, size_t v, const IVEC groups[8], int bits,
                             const VEC scales[2], const VEC offsets[2]) {
    (void)bits;
    for (int r = 0; r < to->rows; r++) {
        const struct q8_block *x = to->x + r * to->x_stride;
        VEC first = FLOATS(DOT_GROUPS(groups, 4, bits, x->values));
        VEC last = FLOATS(DOT_GROUPS(groups + 4, 4, bits, x->values + 16));
        VEC dot = FMA(scales[0], first, MUL(scales[1], last));
        VEC part = FMA(offsets[0], SET(x->totals[0]), MUL(offsets[1], SET(x->totals[1])));
        to->sums[r][v] = ADD(to->sums[r][v], FMA(dot, SET(x->scale), part));
    }
}

/* Each of these adds vector `v` of sub-block `s` of a block. */
PANEL_INLINE void add_q4_0(const struct panel_q4_0 *p, uint32_t s, const struct panel_rows *to,
                           size_t v) {
    IVEC groups[8];
    (void)s;
    VEC scale = LOAD_F16(p->scales + LANES * v);
    unpack_nibbles(p->nibbles, v, groups);
    add_sub_block(to, v, groups, 4, scale, MUL(scale, SET(-8)));
}

PANEL_INLINE void add_q4_1(const struct panel_q4_1 *p, uint32_t s, const struct panel_rows *to,
                           size_t v) {
    IVEC groups[8];
    (void)s;
    unpack_nibbles(p->nibbles, v, groups);
    add_sub_block(to, v, groups, 4, LOAD_F16(p->scales + LANES * v),
                  LOAD_F16(p->minimums + LANES * v));
}

PANEL_INLINE void add_q5_0(const struct panel_q5_0 *p, uint32_t s, const struct panel_rows *to,
                           size_t v) {
    IVEC groups[8];
    (void)s;
    VEC scale = LOAD_F16(p->scales + LANES * v);
    unpack_nibbles(p->nibbles, v, groups);
    add_fifth_bits(p->bits, v, groups);
    add_sub_block(to, v, groups, 5, scale, MUL(scale, SET(-16)));
}

PANEL_INLINE void add_q5_1(const struct panel_q5_1 *p, uint32_t s, const struct panel_rows *to,
                           size_t v) {
    IVEC groups[8];
    (void)s;
    unpack_nibbles(p->nibbles, v, groups);
    add_fifth_bits(p->bits, v, groups);
    add_sub_block(to, v, groups, 5, LOAD_F16(p->scales + LANES * v),
                  LOAD_F16(p->minimums + LANES * v));
}

PANEL_INLINE void add_q8_0(const struct panel_q8_0 *p, uint32_t s, const struct panel_rows *to,
                           size_t v) {
    IVEC groups[8];
    (void)s;
    VEC scale = LOAD_F16(p->scales + LANES * v);
    for (int g = 0; g < 8; g++)
        groups[g] = load_group(p->values[g], v);
    add_sub_block(to, v, groups, 8, scale, MUL(scale, SET(-Q8_OFFSET)));
}

PANEL_INLINE void add_iq4_nl(const struct panel_q4_0 *p, uint32_t s, const struct panel_rows *to,
                             size_t v) {
    IVEC groups[8];
    (void)s;
    VEC scale = LOAD_F16(p->scales + LANES * v);
    unpack_nibbles(p->nibbles, v, groups);
    look_up_levels(groups);
    add_sub_block(to, v, groups, 8, scale, MUL(scale, SET(-Q8_OFFSET)));
}

PANEL_INLINE void add_q2_k(const struct panel_q2_k *p, uint32_t s, const struct panel_rows *to,
                           size_t v) {
    IVEC groups[8];
    VEC scale = LOAD_F16(p->scales + LANES * v);
    VEC minimum = MUL(LOAD_F16(p->minimums + LANES * v), SET(-1.0f / 16));
    VEC scales[2], offsets[2];
    unpack_pairs(p->pairs[s], v, groups);
    for (int h = 0; h < 2; h++) {
        IVEC small = LOAD_U8(p->small[2 * s + h] + LANES * v);
        scales[h] = MUL(scale, FLOATS(IAND(small, ISET(15))));
        offsets[h] = MUL(minimum, FLOATS(IAND(small, ISET(0xf0))));
    }
    add_halves(to, v, groups, 2, scales, offsets);
}

PANEL_INLINE void add_q3_k(const struct panel_q3_k *p, uint32_t s, const struct panel_rows *to,
                           size_t v) {
    IVEC groups[8];
    VEC scale = LOAD_F16(p->scales + LANES * v);
    VEC scales[2], offsets[2];
    unpack_pairs(p->pairs[s], v, groups);
    add_third_bits(p->bits[s], v, groups);
    for (int h = 0; h < 2; h++) {
        scales[h] = MUL(scale, FLOATS(LOAD_I8(p->small_scales[2 * s + h] + LANES * v)));
        offsets[h] = MUL(scales[h], SET(-4));
    }
    add_halves(to, v, groups, 3, scales, offsets);
}

PANEL_INLINE void add_q4_k(const struct panel_q4_k *p, uint32_t s, const struct panel_rows *to,
                           size_t v) {
    IVEC groups[8];
    VEC scale = LOAD_F16(p->scales + LANES * v);
    VEC minimum = MUL(LOAD_F16(p->minimums + LANES * v), SET(-1));
    unpack_nibbles(p->nibbles[s], v, groups);
    add_sub_block(to, v, groups, 4, MUL(scale, FLOATS(LOAD_U8(p->small_scales[s] + LANES * v))),
                  MUL(minimum, FLOATS(LOAD_U8(p->small_minimums[s] + LANES * v))));
}

PANEL_INLINE void add_q5_k(const struct panel_q5_k *p, uint32_t s, const struct panel_rows *to,
                           size_t v) {
    IVEC groups[8];
    VEC scale = LOAD_F16(p->scales + LANES * v);
    VEC minimum = MUL(LOAD_F16(p->minimums + LANES * v), SET(-1));
    unpack_nibbles(p->nibbles[s], v, groups);
    add_fifth_bits(p->bits[s], v, groups);
    add_sub_block(to, v, groups, 5, MUL(scale, FLOATS(LOAD_U8(p->small_scales[s] + LANES * v))),
                  MUL(minimum, FLOATS(LOAD_U8(p->small_minimums[s] + LANES * v))));
}

PANEL_INLINE void add_q6_k(const struct panel_q6_k *p, uint32_t s, const struct panel_rows *to,
                           size_t v) {
    IVEC groups[8];
    VEC scale = LOAD_F16(p->scales + LANES * v);
    VEC scales[2], offsets[2];
    unpack_nibbles(p->nibbles[s], v, groups);
    add_pairs(p->pairs[s], v, groups);
    for (int h = 0; h < 2; h++) {
        scales[h] = MUL(scale, FLOATS(LOAD_I8(p->small_scales[2 * s + h] + LANES * v)));
        offsets[h] = MUL(scales[h], SET(-32));
    }
    add_halves(to, v, groups, 6, scales, offsets);
}

PANEL_INLINE void add_iq4_xs(const struct panel_iq4_xs *p, uint32_t s, const struct panel_rows *to,
                             size_t v) {
    IVEC groups[8];
    VEC scale =
        MUL(LOAD_F16(p->scales + LANES * v), FLOATS(LOAD_I8(p->small_scales[s] + LANES * v)));
    unpack_nibbles(p->nibbles[s], v, groups);
    look_up_levels(groups);
    add_sub_block(to, v, groups, 8, scale, MUL(scale, SET(-Q8_OFFSET)));
}

/* One panel times `rows` rows of activations; then any number of rows. */
#define DEFINE_PANEL(NAME, TYPE, BLOCK_VALUES)                                                     \
    PANEL_INLINE void dot_rows_##NAME(const uint8_t *panel, uint32_t columns,                      \
                                      const struct q8_block *x, size_t x_stride, int rows,         \
                                      float *y, size_t y_stride) {                                 \
        const struct TYPE *blocks = (const struct TYPE *)panel;                                    \
        VEC sums[PANEL_BATCH][PANEL_VECTORS];                                                      \
        for (int r = 0; r < rows; r++)                                                             \
            for (size_t v = 0; v < PANEL_VECTORS; v++)                                             \
                sums[r][v] = ZERO();                                                               \
        struct panel_rows to = {x, x_stride, rows, sums};                                          \
        const uint32_t parts = (BLOCK_VALUES) / Q8_BLOCK_VALUES;                                   \
        for (uint32_t b = 0; b < columns / (BLOCK_VALUES); b++)                                    \
            for (uint32_t s = 0; s < parts; s++, to.x++) {                                         \
                prefetch_part(blocks + b, sizeof *blocks, s, parts);                               \
                _Pragma("GCC unroll 4") for (size_t v = 0; v < PANEL_VECTORS; v++)                 \
                    add_##NAME(blocks + b, s, &to, v);                                             \
            }                                                                                      \
        for (int r = 0; r < rows; r++)                                                             \
            for (size_t v = 0; v < PANEL_VECTORS; v++)                                             \
                STORE(y + r * y_stride + LANES * v, sums[r][v]);                                   \
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

DEFINE_PANEL(q4_0, panel_q4_0, 32)
DEFINE_PANEL(q4_1, panel_q4_1, 32)
DEFINE_PANEL(q5_0, panel_q5_0, 32)
DEFINE_PANEL(q5_1, panel_q5_1, 32)
DEFINE_PANEL(q8_0, panel_q8_0, 32)
DEFINE_PANEL(iq4_nl, panel_q4_0, 32)
DEFINE_PANEL(q2_k, panel_q2_k, 256)
DEFINE_PANEL(q3_k, panel_q3_k, 256)
DEFINE_PANEL(q4_k, panel_q4_k, 256)
DEFINE_PANEL(q5_k, panel_q5_k, 256)
DEFINE_PANEL(q6_k, panel_q6_k, 256)
DEFINE_PANEL(iq4_xs, panel_iq4_xs, 256)

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
