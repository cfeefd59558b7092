/* One function for each quantised format, over the macros of panel_simd.h: a sub-block of 32
 * columns becomes eight vectors of bytes q, one for each group, and a scale and an offset in f32
 * for each 16 columns, such that a weight is q * scale + offset. */
#include "common/kernel/panel_bits.h"

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

/* Calls APPLY(name, type of a block, its columns, bits of q, whether halves of sub-blocks have
 * scales of their own, the q of a weight of 0; or -1 where that is no constant, and for halves). */
#define PANEL_LIST(APPLY)                                                                          \
    APPLY(q4_0, panel_q4_0, 32, 4, false, 8)                                                       \
    APPLY(q4_1, panel_q4_1, 32, 4, false, -1)                                                      \
    APPLY(q5_0, panel_q5_0, 32, 5, false, 16)                                                      \
    APPLY(q5_1, panel_q5_1, 32, 5, false, -1)                                                      \
    APPLY(q8_0, panel_q8_0, 32, 8, false, Q8_OFFSET)                                               \
    APPLY(iq4_nl, panel_q4_0, 32, 8, false, Q8_OFFSET)                                             \
    APPLY(q2_k, panel_q2_k, 256, 2, true, -1)                                                      \
    APPLY(q3_k, panel_q3_k, 256, 3, true, -1)                                                      \
    APPLY(q4_k, panel_q4_k, 256, 4, false, -1)                                                     \
    APPLY(q5_k, panel_q5_k, 256, 5, false, -1)                                                     \
    APPLY(q6_k, panel_q6_k, 256, 6, true, -1)                                                      \
    APPLY(iq4_xs, panel_iq4_xs, 256, 8, false, Q8_OFFSET)
