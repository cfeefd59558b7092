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

/* One scale for all 32 columns. */
PANEL_INLINE void set_scale(VEC scale, VEC offset, VEC scales[2], VEC offsets[2]) {
    scales[0] = scales[1] = scale;
    offsets[0] = offsets[1] = offset;
}

/* Each of these unpacks vector `v` of sub-block `s` of a block, with scales and offsets of the
 * first and the last 16 columns. */
PANEL_INLINE void unpack_q4_0(const struct panel_q4_0 *p, uint32_t s, size_t v, IVEC groups[8],
                              VEC scales[2], VEC offsets[2]) {
    (void)s;
    VEC scale = LOAD_F16(p->scales + LANES * v);
    unpack_nibbles(p->nibbles, v, groups);
    set_scale(scale, MUL(scale, SET(-8)), scales, offsets);
}

PANEL_INLINE void unpack_q4_1(const struct panel_q4_1 *p, uint32_t s, size_t v, IVEC groups[8],
                              VEC scales[2], VEC offsets[2]) {
    (void)s;
    unpack_nibbles(p->nibbles, v, groups);
    set_scale(LOAD_F16(p->scales + LANES * v), LOAD_F16(p->minimums + LANES * v), scales, offsets);
}

PANEL_INLINE void unpack_q5_0(const struct panel_q5_0 *p, uint32_t s, size_t v, IVEC groups[8],
                              VEC scales[2], VEC offsets[2]) {
    (void)s;
    VEC scale = LOAD_F16(p->scales + LANES * v);
    unpack_nibbles(p->nibbles, v, groups);
    add_fifth_bits(p->bits, v, groups);
    set_scale(scale, MUL(scale, SET(-16)), scales, offsets);
}

PANEL_INLINE void unpack_q5_1(const struct panel_q5_1 *p, uint32_t s, size_t v, IVEC groups[8],
                              VEC scales[2], VEC offsets[2]) {
    (void)s;
    unpack_nibbles(p->nibbles, v, groups);
    add_fifth_bits(p->bits, v, groups);
    set_scale(LOAD_F16(p->scales + LANES * v), LOAD_F16(p->minimums + LANES * v), scales, offsets);
}

PANEL_INLINE void unpack_q8_0(const struct panel_q8_0 *p, uint32_t s, size_t v, IVEC groups[8],
                              VEC scales[2], VEC offsets[2]) {
    (void)s;
    VEC scale = LOAD_F16(p->scales + LANES * v);
    for (int g = 0; g < 8; g++)
        groups[g] = load_group(p->values[g], v);
    set_scale(scale, MUL(scale, SET(-Q8_OFFSET)), scales, offsets);
}

PANEL_INLINE void unpack_iq4_nl(const struct panel_q4_0 *p, uint32_t s, size_t v, IVEC groups[8],
                                VEC scales[2], VEC offsets[2]) {
    (void)s;
    VEC scale = LOAD_F16(p->scales + LANES * v);
    unpack_nibbles(p->nibbles, v, groups);
    look_up_levels(groups);
    set_scale(scale, MUL(scale, SET(-Q8_OFFSET)), scales, offsets);
}

PANEL_INLINE void unpack_q2_k(const struct panel_q2_k *p, uint32_t s, size_t v, IVEC groups[8],
                              VEC scales[2], VEC offsets[2]) {
    VEC scale = LOAD_F16(p->scales + LANES * v);
    VEC minimum = MUL(LOAD_F16(p->minimums + LANES * v), SET(-1.0f / 16));
    unpack_pairs(p->pairs[s], v, groups);
    for (int h = 0; h < 2; h++) {
        IVEC small = LOAD_U8(p->small[2 * s + h] + LANES * v);
        scales[h] = MUL(scale, FLOATS(IAND(small, ISET(15))));
        offsets[h] = MUL(minimum, FLOATS(IAND(small, ISET(0xf0))));
    }
}

PANEL_INLINE void unpack_q3_k(const struct panel_q3_k *p, uint32_t s, size_t v, IVEC groups[8],
                              VEC scales[2], VEC offsets[2]) {
    VEC scale = LOAD_F16(p->scales + LANES * v);
    unpack_pairs(p->pairs[s], v, groups);
    add_third_bits(p->bits[s], v, groups);
    for (int h = 0; h < 2; h++) {
        scales[h] = MUL(scale, FLOATS(LOAD_I8(p->small_scales[2 * s + h] + LANES * v)));
        offsets[h] = MUL(scales[h], SET(-4));
    }
}

PANEL_INLINE void unpack_q4_k(const struct panel_q4_k *p, uint32_t s, size_t v, IVEC groups[8],
                              VEC scales[2], VEC offsets[2]) {
    VEC scale = LOAD_F16(p->scales + LANES * v);
    VEC minimum = MUL(LOAD_F16(p->minimums + LANES * v), SET(-1));
    unpack_nibbles(p->nibbles[s], v, groups);
    set_scale(MUL(scale, FLOATS(LOAD_U8(p->small_scales[s] + LANES * v))),
              MUL(minimum, FLOATS(LOAD_U8(p->small_minimums[s] + LANES * v))), scales, offsets);
}

PANEL_INLINE void unpack_q5_k(const struct panel_q5_k *p, uint32_t s, size_t v, IVEC groups[8],
                              VEC scales[2], VEC offsets[2]) {
    VEC scale = LOAD_F16(p->scales + LANES * v);
    VEC minimum = MUL(LOAD_F16(p->minimums + LANES * v), SET(-1));
    unpack_nibbles(p->nibbles[s], v, groups);
    add_fifth_bits(p->bits[s], v, groups);
    set_scale(MUL(scale, FLOATS(LOAD_U8(p->small_scales[s] + LANES * v))),
              MUL(minimum, FLOATS(LOAD_U8(p->small_minimums[s] + LANES * v))), scales, offsets);
}

PANEL_INLINE void unpack_q6_k(const struct panel_q6_k *p, uint32_t s, size_t v, IVEC groups[8],
                              VEC scales[2], VEC offsets[2]) {
    VEC scale = LOAD_F16(p->scales + LANES * v);
    unpack_nibbles(p->nibbles[s], v, groups);
    add_pairs(p->pairs[s], v, groups);
    for (int h = 0; h < 2; h++) {
        scales[h] = MUL(scale, FLOATS(LOAD_I8(p->small_scales[2 * s + h] + LANES * v)));
        offsets[h] = MUL(scales[h], SET(-32));
    }
}

PANEL_INLINE void unpack_iq4_xs(const struct panel_iq4_xs *p, uint32_t s, size_t v, IVEC groups[8],
                                VEC scales[2], VEC offsets[2]) {
    VEC scale =
        MUL(LOAD_F16(p->scales + LANES * v), FLOATS(LOAD_I8(p->small_scales[s] + LANES * v)));
    unpack_nibbles(p->nibbles[s], v, groups);
    look_up_levels(groups);
    set_scale(scale, MUL(scale, SET(-Q8_OFFSET)), scales, offsets);
}

/* Vectors [v, v + vectors) of one sub-block, unpacked. */
struct unpacked {
    IVEC groups[PANEL_VECTORS][8];
    VEC scales[PANEL_VECTORS][2], offsets[PANEL_VECTORS][2];
};

/* sums[r][v + i] += the sub-block's vectors times `rows` rows of activations, of which x is the
 * first one's block. Only one addition depends on the sums before. */
PANEL_INLINE void add_products(const struct unpacked *w, size_t v, size_t vectors, int bits,
                               bool halves, const struct q8_block *x, size_t x_stride, int rows,
                               VEC (*sums)[PANEL_VECTORS]) {
    IVEC dots[PANEL_BATCH][PANEL_VECTORS], last_dots[PANEL_BATCH][PANEL_VECTORS];
    DOT_ROWS(w->groups, vectors, bits, 0, halves ? 4 : 8, x, x_stride, rows, dots);
    if (halves)
        DOT_ROWS(w->groups, vectors, bits, 4, 4, x, x_stride, rows, last_dots);
    UNROLL for (int r = 0; r < rows; r++) {
        const struct q8_block *row = x + r * x_stride;
        UNROLL for (size_t i = 0; i < vectors; i++) {
            VEC part = MUL(w->scales[i][0], FLOATS(dots[r][i])), offset;
            if (halves) {
                part = FMA(w->scales[i][1], FLOATS(last_dots[r][i]), part);
                offset = MUL(w->offsets[i][0], SET(row->totals[0]));
                offset = FMA(w->offsets[i][1], SET(row->totals[1]), offset);
            } else {
                offset = MUL(w->offsets[i][0], SET(row->total));
            }
            sums[r][v + i] = ADD(sums[r][v + i], FMA(part, SET(row->scale), offset));
        }
    }
}

/* Calls APPLY(name, type of a block, its columns, bits of q, whether halves of sub-blocks have
 * scales of their own) for each format. */
#define PANEL_LIST(APPLY)                                                                          \
    APPLY(q4_0, panel_q4_0, 32, 4, false)                                                          \
    APPLY(q4_1, panel_q4_1, 32, 4, false)                                                          \
    APPLY(q5_0, panel_q5_0, 32, 5, false)                                                          \
    APPLY(q5_1, panel_q5_1, 32, 5, false)                                                          \
    APPLY(q8_0, panel_q8_0, 32, 8, false)                                                          \
    APPLY(iq4_nl, panel_q4_0, 32, 8, false)                                                        \
    APPLY(q2_k, panel_q2_k, 256, 2, true)                                                          \
    APPLY(q3_k, panel_q3_k, 256, 3, true)                                                          \
    APPLY(q4_k, panel_q4_k, 256, 4, false)                                                         \
    APPLY(q5_k, panel_q5_k, 256, 5, false)                                                         \
    APPLY(q6_k, panel_q6_k, 256, 6, true)                                                          \
    APPLY(iq4_xs, panel_iq4_xs, 256, 8, false)

/* One panel times `rows` rows of activations; then any number of rows. A single row is multiplied
 * vector by vector, whose groups then stay in registers; of several rows each activation is read
 * once for PANEL_SIDE vectors. */
#define DEFINE_PANEL(NAME, TYPE, BLOCK_VALUES, BITS, HALVES)                                       \
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
                    add_products(&w, v, vectors, BITS, HALVES, x, x_stride, rows, sums);           \
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
