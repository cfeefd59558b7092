/* The block formats for a variant of the kernel table: each variant's file includes this one behind
 * panel_simd.h, whose macros it uses. The formats that are used most are expanded with vectors, all
 * others are the plain C of block_expand.h compiled for the instruction set. Every value is the
 * result of the same operations as there, so the bits are the same.
 *
 * Compilers do not turn those loops into vectors by themselves: bytes that become floats in two
 * places are too much for them. */
#include "common/kernel/block_expand.h"
#include "common/kernel/blocks.h"

#define BLOCK_INLINE static inline __attribute__((always_inline))

/* out[i] = q * scale + minimum for the low (shift 0) or high (4) nibbles q of `count`
 * bytes; a multiple of LANES. */
BLOCK_INLINE void expand_low_nibbles(const uint8_t *bytes, size_t count, VEC scale, VEC minimum,
                                     float *out) {
    for (size_t i = 0; i < count; i += LANES)
        STORE(out + i, ADD(MUL(FLOATS(IAND(LOAD_U8(bytes + i), ISET(15))), scale), minimum));
}

BLOCK_INLINE void expand_high_nibbles(const uint8_t *bytes, size_t count, VEC scale, VEC minimum,
                                      float *out) {
    for (size_t i = 0; i < count; i += LANES)
        STORE(out + i, ADD(MUL(FLOATS(SHIFT_RIGHT(LOAD_U8(bytes + i), 4)), scale), minimum));
}

BLOCK_INLINE void vector_block_q4_0(const struct block_q4_0 *block, float *out) {
    VEC scale = SET(f32_from_f16(block->scale));
    for (size_t i = 0; i < 16; i += LANES) {
        IVEC bytes = LOAD_U8(block->nibbles + i);
        STORE(out + i, MUL(FLOATS(ISUB(IAND(bytes, ISET(15)), ISET(8))), scale));
        STORE(out + 16 + i, MUL(FLOATS(ISUB(SHIFT_RIGHT(bytes, 4), ISET(8))), scale));
    }
}

BLOCK_INLINE void vector_block_q4_1(const struct block_q4_1 *block, float *out) {
    VEC scale = SET(f32_from_f16(block->scale)), minimum = SET(f32_from_f16(block->minimum));
    expand_low_nibbles(block->nibbles, 16, scale, minimum, out);
    expand_high_nibbles(block->nibbles, 16, scale, minimum, out + 16);
}

BLOCK_INLINE void vector_block_q8_0(const struct block_q8_0 *block, float *out) {
    VEC scale = SET(f32_from_f16(block->scale));
    for (size_t i = 0; i < 32; i += LANES)
        STORE(out + i, MUL(FLOATS(LOAD_I8(block->values + i)), scale));
}

BLOCK_INLINE void vector_block_q4_k(const struct block_q4_k *block, float *out) {
    float scale = f32_from_f16(block->scale), minimum = f32_from_f16(block->minimum);
    for (int group = 0; group < 8; group += 2, out += 64) {
        const uint8_t *nibbles = block->nibbles + group / 2 * 32;
        float factor, offset;
        unpack_scales(block->scales, group, &factor, &offset);
        expand_low_nibbles(nibbles, 32, SET(factor * scale), SET(-(offset * minimum)), out);
        unpack_scales(block->scales, group + 1, &factor, &offset);
        expand_high_nibbles(nibbles, 32, SET(factor * scale), SET(-(offset * minimum)), out + 32);
    }
}

/* One of the quarters that share 32 bytes of high pairs: NIBBLE and PAIR move a byte's bits to the
 * lowest four and to bits 4 and 5. */
#define EXPAND_QUARTER(QUARTER, NIBBLE, PAIR)                                                      \
    for (int i = 0; i < 32; i += LANES) {                                                          \
        IVEC low = LOAD_U8(nibbles + (QUARTER) % 2 * 32 + i), high = LOAD_U8(pairs + i);           \
        IVEC q = IOR(IAND(NIBBLE(low), ISET(15)), IAND(PAIR(high), ISET(0x30)));                   \
        VEC factor = SET(scale * (float)scales[2 * (QUARTER) + i / 16]);                           \
        STORE(out + 32 * (QUARTER) + i, MUL(factor, FLOATS(ISUB(q, ISET(32)))));                   \
    }
#define BITS_STAY(v)    (v)
#define BITS_RIGHT_2(v) SHIFT_RIGHT(v, 2)
#define BITS_RIGHT_4(v) SHIFT_RIGHT(v, 4)
#define BITS_LEFT_2(v)  SHIFT_LEFT(v, 2)
#define BITS_LEFT_4(v)  SHIFT_LEFT(v, 4)

BLOCK_INLINE void vector_block_q6_k(const struct block_q6_k *block, float *out) {
    float scale = f32_from_f16(block->scale);
    const uint8_t *nibbles = block->nibbles, *pairs = block->pairs;
    const int8_t *scales = block->scales;
    for (int half = 0; half < 2; half++, nibbles += 64, pairs += 32, scales += 8, out += 128) {
        EXPAND_QUARTER(0, BITS_STAY, BITS_LEFT_4)
        EXPAND_QUARTER(1, BITS_STAY, BITS_LEFT_2)
        EXPAND_QUARTER(2, BITS_RIGHT_4, BITS_STAY)
        EXPAND_QUARTER(3, BITS_RIGHT_4, BITS_RIGHT_2)
    }
}

/* From here on these take the place of the plain ones. */
#define expand_block_q4_0 vector_block_q4_0
#define expand_block_q4_1 vector_block_q4_1
#define expand_block_q8_0 vector_block_q8_0
#define expand_block_q4_k vector_block_q4_k
#define expand_block_q6_k vector_block_q6_k

#define DEFINE_BLOCK_LOOPS(FORMAT, NAME)                                                           \
    BLOCK_EXPAND_LOOP(static, expand_##NAME, FORMAT, NAME)                                         \
    BLOCK_DOT_LOOP(static, dot_block_##NAME, FORMAT, NAME, dot_f32)

BLOCK_FORMATS(DEFINE_BLOCK_LOOPS)
