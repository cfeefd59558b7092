/* The block formats for a variant of the kernel table: each variant's file includes this one behind
 * panel_simd.h, whose macros it uses, and SET_F16(half), an f16 as f32 in all lanes. Expanded
 * values are the results of the same operations as in block_expand.h, so the bits are the same.
 *
 * Compilers do not turn the loops there into vectors by themselves: bytes that become floats in two
 * places are too much for them. */
#include "common/kernel/block_expand.h"
#include "common/kernel/blocks.h"

#define BLOCK_INLINE static inline __attribute__((always_inline))

/* Where values go: `multiple` times each is added to what is at `out`, or (`multiple` is 1) each is
 * stored there. Both are constants but for the multiple of an addition. */
struct target {
    float multiple;
    bool add;
};

/* q * scale; `scale` is a multiple already. */
BLOCK_INLINE void put(struct target to, IVEC q, VEC scale, float *out) {
    VEC v = FLOATS(q);
    STORE(out, to.add ? FMA(v, scale, LOAD(out)) : MUL(v, scale));
}

/* q * scale + minimum; both are multiples already. */
BLOCK_INLINE void put_above(struct target to, IVEC q, VEC scale, VEC minimum, float *out) {
    VEC v = FLOATS(q);
    STORE(out, to.add ? FMA(v, scale, ADD(LOAD(out), minimum)) : ADD(MUL(v, scale), minimum));
}

BLOCK_INLINE VEC multiple_of(struct target to, uint16_t half) {
    return MUL(SET_F16(half), SET(to.multiple));
}

BLOCK_INLINE IVEC low_nibbles(IVEC bytes) {
    return IAND(bytes, ISET(15));
}

BLOCK_INLINE IVEC high_nibbles(IVEC bytes) {
    return SHIFT_RIGHT(bytes, 4);
}

BLOCK_INLINE void vector_block_q4_0(const struct block_q4_0 *block, struct target to, float *out) {
    VEC scale = multiple_of(to, block->scale);
    UNROLL for (size_t i = 0; i < 16; i += LANES) {
        IVEC bytes = LOAD_U8(block->nibbles + i);
        put(to, ISUB(low_nibbles(bytes), ISET(8)), scale, out + i);
        put(to, ISUB(high_nibbles(bytes), ISET(8)), scale, out + 16 + i);
    }
}

BLOCK_INLINE void vector_block_q4_1(const struct block_q4_1 *block, struct target to, float *out) {
    VEC scale = multiple_of(to, block->scale), minimum = multiple_of(to, block->minimum);
    UNROLL for (size_t i = 0; i < 16; i += LANES) {
        IVEC bytes = LOAD_U8(block->nibbles + i);
        put_above(to, low_nibbles(bytes), scale, minimum, out + i);
        put_above(to, high_nibbles(bytes), scale, minimum, out + 16 + i);
    }
}

/* Bit i as bit 4 of byte i: each byte is copied eight times, one of its bits is kept in each copy,
 * and carries into the highest bit. */
BLOCK_INLINE void spread_fifth_bits(const uint8_t string[4], uint8_t bits[32]) {
    UNROLL for (int i = 0; i < 4; i++) {
        uint64_t kept = (string[i] * 0x0101010101010101u) & 0x8040201008040201u;
        uint64_t eight = ((kept + 0x7f7f7f7f7f7f7f7fu) & 0x8080808080808080u) >> 3;
        memcpy(bits + 8 * i, &eight, sizeof eight);
    }
}

BLOCK_INLINE void vector_block_q5_0(const struct block_q5_0 *block, struct target to, float *out) {
    VEC scale = multiple_of(to, block->scale);
    uint8_t fifth[32];
    spread_fifth_bits(block->fifth_bits, fifth);
    UNROLL for (size_t i = 0; i < 16; i += LANES) {
        IVEC bytes = LOAD_U8(block->nibbles + i);
        IVEC low = IOR(low_nibbles(bytes), LOAD_U8(fifth + i));
        IVEC high = IOR(high_nibbles(bytes), LOAD_U8(fifth + 16 + i));
        put(to, ISUB(low, ISET(16)), scale, out + i);
        put(to, ISUB(high, ISET(16)), scale, out + 16 + i);
    }
}

BLOCK_INLINE void vector_block_q5_1(const struct block_q5_1 *block, struct target to, float *out) {
    VEC scale = multiple_of(to, block->scale), minimum = multiple_of(to, block->minimum);
    uint8_t fifth[32];
    spread_fifth_bits(block->fifth_bits, fifth);
    UNROLL for (size_t i = 0; i < 16; i += LANES) {
        IVEC bytes = LOAD_U8(block->nibbles + i);
        IVEC low = IOR(low_nibbles(bytes), LOAD_U8(fifth + i));
        IVEC high = IOR(high_nibbles(bytes), LOAD_U8(fifth + 16 + i));
        put_above(to, low, scale, minimum, out + i);
        put_above(to, high, scale, minimum, out + 16 + i);
    }
}

BLOCK_INLINE void vector_block_q8_0(const struct block_q8_0 *block, struct target to, float *out) {
    VEC scale = multiple_of(to, block->scale);
    UNROLL for (size_t i = 0; i < 32; i += LANES)
        put(to, LOAD_I8(block->values + i), scale, out + i);
}

BLOCK_INLINE IVEC levels_of(IVEC nibbles) {
    return ISUB(IAND(ILOOKUP(LEVELS_OFFSET, nibbles), ISET(255)), ISET(128));
}

BLOCK_INLINE void put_levels(const uint8_t nibbles[16], struct target to, VEC scale, float *out) {
    UNROLL for (size_t i = 0; i < 16; i += LANES) {
        IVEC bytes = LOAD_U8(nibbles + i);
        put(to, levels_of(low_nibbles(bytes)), scale, out + i);
        put(to, levels_of(high_nibbles(bytes)), scale, out + 16 + i);
    }
}

BLOCK_INLINE void vector_block_iq4_nl(const struct block_iq4_nl *block, struct target to,
                                      float *out) {
    put_levels(block->nibbles, to, multiple_of(to, block->scale), out);
}

BLOCK_INLINE void vector_block_iq4_xs(const struct block_iq4_xs *block, struct target to,
                                      float *out) {
    float scale = f32_from_f16(block->scale) * to.multiple;
    for (int group = 0; group < 8; group++)
        put_levels(block->nibbles + 16 * group, to, SET(scale * iq4_xs_scale(block, group)),
                   out + 32 * group);
}

/* Of the formats whose small scales are 16 or 32 values apart: the bits of a byte that are wanted,
 * moved by shifts that have to be constants. */
#define BITS_STAY(v)    (v)
#define BITS_RIGHT_1(v) SHIFT_RIGHT(v, 1)
#define BITS_RIGHT_2(v) SHIFT_RIGHT(v, 2)
#define BITS_RIGHT_3(v) SHIFT_RIGHT(v, 3)
#define BITS_RIGHT_4(v) SHIFT_RIGHT(v, 4)
#define BITS_RIGHT_5(v) SHIFT_RIGHT(v, 5)
#define BITS_RIGHT_6(v) SHIFT_RIGHT(v, 6)
#define BITS_LEFT_1(v)  SHIFT_LEFT(v, 1)
#define BITS_LEFT_2(v)  SHIFT_LEFT(v, 2)
#define BITS_LEFT_3(v)  SHIFT_LEFT(v, 3)
#define BITS_LEFT_4(v)  SHIFT_LEFT(v, 4)

/* The QUARTER-th 32 values of a half, whose pairs PAIR moves to the lowest bits. */
#define PUT_Q2_K(QUARTER, PAIR)                                                                    \
    UNROLL for (int i = 0; i < 32; i += LANES) {                                                   \
        uint8_t small = scales[2 * (QUARTER) + i / 16];                                            \
        put_above(to, IAND(PAIR(LOAD_U8(pairs + i)), ISET(3)), SET(scale *(float)(small & 15)),    \
                  SET(-(minimum * (float)(small >> 4))), out + 32 * (QUARTER) + i);                \
    }

BLOCK_INLINE void vector_block_q2_k(const struct block_q2_k *block, struct target to, float *out) {
    float scale = f32_from_f16(block->scale) * to.multiple;
    float minimum = f32_from_f16(block->minimum) * to.multiple;
    const uint8_t *pairs = block->pairs, *scales = block->scales;
    for (int half = 0; half < 2; half++, pairs += 32, scales += 8, out += 128) {
        PUT_Q2_K(0, BITS_STAY)
        PUT_Q2_K(1, BITS_RIGHT_2)
        PUT_Q2_K(2, BITS_RIGHT_4)
        PUT_Q2_K(3, BITS_RIGHT_6)
    }
}

/* The GROUP-th 32 values, whose third bits THIRD moves to bit 2. */
#define PUT_Q3_K(GROUP, PAIR, THIRD)                                                               \
    UNROLL for (int i = 0; i < 32; i += LANES) {                                                   \
        IVEC pair = IAND(PAIR(LOAD_U8(block->pairs + (GROUP) / 4 * 32 + i)), ISET(3));             \
        IVEC third = IAND(THIRD(LOAD_U8(block->third_bits + i)), ISET(4));                         \
        put(to, ISUB(IOR(pair, third), ISET(4)),                                                   \
            SET(scale *q3_k_scale(block, 2 * (GROUP) + i / 16)), out + 32 * (GROUP) + i);          \
    }

BLOCK_INLINE void vector_block_q3_k(const struct block_q3_k *block, struct target to, float *out) {
    float scale = f32_from_f16(block->scale) * to.multiple;
    PUT_Q3_K(0, BITS_STAY, BITS_LEFT_2)
    PUT_Q3_K(1, BITS_RIGHT_2, BITS_LEFT_1)
    PUT_Q3_K(2, BITS_RIGHT_4, BITS_STAY)
    PUT_Q3_K(3, BITS_RIGHT_6, BITS_RIGHT_1)
    PUT_Q3_K(4, BITS_STAY, BITS_RIGHT_2)
    PUT_Q3_K(5, BITS_RIGHT_2, BITS_RIGHT_3)
    PUT_Q3_K(6, BITS_RIGHT_4, BITS_RIGHT_4)
    PUT_Q3_K(7, BITS_RIGHT_6, BITS_RIGHT_5)
}

BLOCK_INLINE void vector_block_q4_k(const struct block_q4_k *block, struct target to, float *out) {
    struct small_scales small;
    unpack_scales(block->scales, f32_from_f16(block->scale) * to.multiple,
                  f32_from_f16(block->minimum) * to.multiple, &small);
    for (int group = 0; group < 8; group += 2, out += 64)
        UNROLL for (int i = 0; i < 32; i += LANES) {
            IVEC bytes = LOAD_U8(block->nibbles + group / 2 * 32 + i);
            put_above(to, low_nibbles(bytes), SET(small.scales[group]), SET(small.offsets[group]),
                      out + i);
            put_above(to, high_nibbles(bytes), SET(small.scales[group + 1]),
                      SET(small.offsets[group + 1]), out + 32 + i);
        }
}

/* The GROUP-th 32 values, whose fifth bits FIFTH moves to bit 4. */
#define PUT_Q5_K(GROUP, NIBBLES, FIFTH)                                                            \
    UNROLL for (int i = 0; i < 32; i += LANES) {                                                   \
        IVEC nibbles = NIBBLES(LOAD_U8(block->nibbles + (GROUP) / 2 * 32 + i));                    \
        IVEC fifth = IAND(FIFTH(LOAD_U8(block->fifth_bits + i)), ISET(16));                        \
        put_above(to, IOR(nibbles, fifth), SET(small.scales[GROUP]), SET(small.offsets[GROUP]),    \
                  out + 32 * (GROUP) + i);                                                         \
    }

BLOCK_INLINE void vector_block_q5_k(const struct block_q5_k *block, struct target to, float *out) {
    struct small_scales small;
    unpack_scales(block->scales, f32_from_f16(block->scale) * to.multiple,
                  f32_from_f16(block->minimum) * to.multiple, &small);
    PUT_Q5_K(0, low_nibbles, BITS_LEFT_4)
    PUT_Q5_K(1, high_nibbles, BITS_LEFT_3)
    PUT_Q5_K(2, low_nibbles, BITS_LEFT_2)
    PUT_Q5_K(3, high_nibbles, BITS_LEFT_1)
    PUT_Q5_K(4, low_nibbles, BITS_STAY)
    PUT_Q5_K(5, high_nibbles, BITS_RIGHT_1)
    PUT_Q5_K(6, low_nibbles, BITS_RIGHT_2)
    PUT_Q5_K(7, high_nibbles, BITS_RIGHT_3)
}

/* The QUARTER-th 32 values of a half, whose pairs PAIR moves to bits 4 and 5. */
#define PUT_Q6_K(QUARTER, NIBBLES, PAIR)                                                           \
    UNROLL for (int i = 0; i < 32; i += LANES) {                                                   \
        IVEC low = NIBBLES(LOAD_U8(nibbles + (QUARTER) % 2 * 32 + i));                             \
        IVEC q = IOR(low, IAND(PAIR(LOAD_U8(pairs + i)), ISET(0x30)));                             \
        put(to, ISUB(q, ISET(32)), SET(scale *(float)scales[2 * (QUARTER) + i / 16]),              \
            out + 32 * (QUARTER) + i);                                                             \
    }

BLOCK_INLINE void vector_block_q6_k(const struct block_q6_k *block, struct target to, float *out) {
    float scale = f32_from_f16(block->scale) * to.multiple;
    const uint8_t *nibbles = block->nibbles, *pairs = block->pairs;
    const int8_t *scales = block->scales;
    for (int half = 0; half < 2; half++, nibbles += 64, pairs += 32, scales += 8, out += 128) {
        PUT_Q6_K(0, low_nibbles, BITS_LEFT_4)
        PUT_Q6_K(1, low_nibbles, BITS_LEFT_2)
        PUT_Q6_K(2, high_nibbles, BITS_STAY)
        PUT_Q6_K(3, high_nibbles, BITS_RIGHT_2)
    }
}

/* The loops of block_expand.h over these. */
#define DEFINE_BLOCK_LOOPS(FORMAT, NAME)                                                           \
    BLOCK_INLINE void store_##NAME(const struct block_##NAME *block, float *out) {                 \
        vector_block_##NAME(block, (struct target){1, false}, out);                                \
    }                                                                                              \
    BLOCK_INLINE void sum_##NAME(const struct block_##NAME *block, float multiple, float *y) {     \
        vector_block_##NAME(block, (struct target){multiple, true}, y);                            \
    }                                                                                              \
    BLOCK_EXPAND_LOOP(static, expand_##NAME, FORMAT, NAME, store_##NAME)                           \
    BLOCK_ADD_LOOP(static, add_##NAME, FORMAT, NAME, sum_##NAME)                                   \
    BLOCK_DOT_LOOP(static, dot_block_##NAME, FORMAT, NAME, store_##NAME, dot_f32)

BLOCK_FORMATS(DEFINE_BLOCK_LOOPS)
