/* One function for each format that expands one block in plain C, parts of it that vectors share
 * (block_simd.h), and the loops around either. Internal to the kernels. */
#pragma once

#include "common/kernel/block_formats.h"
#include "common/kernel/blocks.h"
#include "common/kernel/half.h"

/* Values of the largest block. */
#define BLOCK_VALUES_MAX 256

/* The sixteen levels of IQ4_NL and IQ4_XS. */
static const int8_t LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};

static inline uint32_t read_u32(const uint8_t bytes[4]) {
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

static inline void expand_block_q4_0(const struct block_q4_0 *block, float *out) {
    float scale = f32_from_f16(block->scale);
    for (int i = 0; i < 16; i++) {
        out[i] = (float)((block->nibbles[i] & 15) - 8) * scale;
        out[i + 16] = (float)((block->nibbles[i] >> 4) - 8) * scale;
    }
}

static inline void expand_block_q4_1(const struct block_q4_1 *block, float *out) {
    float scale = f32_from_f16(block->scale), minimum = f32_from_f16(block->minimum);
    for (int i = 0; i < 16; i++) {
        out[i] = (float)(block->nibbles[i] & 15) * scale + minimum;
        out[i + 16] = (float)(block->nibbles[i] >> 4) * scale + minimum;
    }
}

static inline void expand_block_q5_0(const struct block_q5_0 *block, float *out) {
    float scale = f32_from_f16(block->scale);
    uint32_t high = read_u32(block->fifth_bits);
    for (int i = 0; i < 16; i++) {
        int low_value = (block->nibbles[i] & 15) | (int)(high >> i & 1) << 4;
        int high_value = block->nibbles[i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
        out[i] = (float)(low_value - 16) * scale;
        out[i + 16] = (float)(high_value - 16) * scale;
    }
}

static inline void expand_block_q5_1(const struct block_q5_1 *block, float *out) {
    float scale = f32_from_f16(block->scale), minimum = f32_from_f16(block->minimum);
    uint32_t high = read_u32(block->fifth_bits);
    for (int i = 0; i < 16; i++) {
        int low_value = (block->nibbles[i] & 15) | (int)(high >> i & 1) << 4;
        int high_value = block->nibbles[i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
        out[i] = (float)low_value * scale + minimum;
        out[i + 16] = (float)high_value * scale + minimum;
    }
}

static inline void expand_block_q8_0(const struct block_q8_0 *block, float *out) {
    float scale = f32_from_f16(block->scale);
    for (int i = 0; i < 32; i++)
        out[i] = (float)block->values[i] * scale;
}

static inline void expand_block_q2_k(const struct block_q2_k *block, float *out) {
    float scale = f32_from_f16(block->scale), minimum = f32_from_f16(block->minimum);
    for (int group = 0; group < 16; group++, out += 16) {
        const uint8_t *pairs = block->pairs + group / 8 * 32 + group % 2 * 16;
        int shift = group % 8 / 2 * 2;
        float factor = scale * (float)(block->scales[group] & 15);
        float offset = minimum * (float)(block->scales[group] >> 4);
        for (int i = 0; i < 16; i++)
            out[i] = factor * (float)(pairs[i] >> shift & 3) - offset;
    }
}

/* The small scale of the `group`-th 16 values. */
static inline float q3_k_scale(const struct block_q3_k *block, int group) {
    int low = block->scales[group % 8] >> group / 8 * 4 & 15;
    int high = block->scales[8 + group % 4] >> group / 4 * 2 & 3;
    return (float)((low | high << 4) - 32);
}

static inline void expand_block_q3_k(const struct block_q3_k *block, float *out) {
    float scale = f32_from_f16(block->scale);
    for (int group = 0; group < 16; group++, out += 16) {
        const uint8_t *pairs = block->pairs + group / 8 * 32 + group % 2 * 16;
        const uint8_t *third = block->third_bits + group % 2 * 16;
        int shift = group % 8 / 2 * 2;
        float factor = scale * q3_k_scale(block, group);
        for (int i = 0; i < 16; i++) {
            int value = (pairs[i] >> shift & 3) | (third[i] >> group / 2 & 1) << 2;
            out[i] = factor * (float)(value - 4);
        }
    }
}

/* v = q * scale + offset for each 32 values of Q4_K and Q5_K. */
struct small_scales {
    float scales[8], offsets[8];
};

/* Scales and minimums of six bits, four at a time, times the block's own. */
static inline void unpack_scales(const uint8_t packed[12], float scale, float minimum,
                                 struct small_scales *out) {
    uint32_t a = read_u32(packed), b = read_u32(packed + 4), c = read_u32(packed + 8);
    uint32_t scales[2] = {a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030)};
    uint32_t minimums[2] = {b & 0x3f3f3f3f, (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030)};
    for (int group = 0; group < 8; group++) {
        int shift = group % 4 * 8;
        out->scales[group] = scale * (float)(int)(scales[group / 4] >> shift & 63);
        out->offsets[group] = -(minimum * (float)(int)(minimums[group / 4] >> shift & 63));
    }
}

static inline void expand_block_q4_k(const struct block_q4_k *block, float *out) {
    struct small_scales small;
    unpack_scales(block->scales, f32_from_f16(block->scale), f32_from_f16(block->minimum), &small);
    for (int group = 0; group < 8; group++, out += 32) {
        const uint8_t *nibbles = block->nibbles + group / 2 * 32;
        for (int i = 0; i < 32; i++)
            out[i] = small.scales[group] * (float)(nibbles[i] >> group % 2 * 4 & 15) +
                     small.offsets[group];
    }
}

static inline void expand_block_q5_k(const struct block_q5_k *block, float *out) {
    struct small_scales small;
    unpack_scales(block->scales, f32_from_f16(block->scale), f32_from_f16(block->minimum), &small);
    for (int group = 0; group < 8; group++, out += 32) {
        const uint8_t *nibbles = block->nibbles + group / 2 * 32;
        for (int i = 0; i < 32; i++) {
            int value = (nibbles[i] >> group % 2 * 4 & 15) | (block->fifth_bits[i] >> group & 1)
                                                                 << 4;
            out[i] = small.scales[group] * (float)value + small.offsets[group];
        }
    }
}

static inline void expand_block_q6_k(const struct block_q6_k *block, float *out) {
    float scale = f32_from_f16(block->scale);
    for (int group = 0; group < 16; group++, out += 16) {
        int quarter = group % 8 / 2, start = group % 2 * 16;
        const uint8_t *nibbles = block->nibbles + group / 8 * 64 + quarter % 2 * 32 + start;
        const uint8_t *pairs = block->pairs + group / 8 * 32 + start;
        float factor = scale * (float)block->scales[group];
        for (int i = 0; i < 16; i++) {
            int value = (nibbles[i] >> quarter / 2 * 4 & 15) | (pairs[i] >> quarter * 2 & 3) << 4;
            out[i] = factor * (float)(value - 32);
        }
    }
}

static inline void expand_levels(const uint8_t nibbles[16], float factor, float *out) {
    for (int i = 0; i < 16; i++) {
        out[i] = factor * (float)LEVELS[nibbles[i] & 15];
        out[i + 16] = factor * (float)LEVELS[nibbles[i] >> 4];
    }
}

static inline void expand_block_iq4_nl(const struct block_iq4_nl *block, float *out) {
    expand_levels(block->nibbles, f32_from_f16(block->scale), out);
}

/* The small scale of the `group`-th 32 values. */
static inline float iq4_xs_scale(const struct block_iq4_xs *block, int group) {
    int low = block->low_scales[group / 2] >> group % 2 * 4 & 15;
    int high = block->high_scales >> 2 * group & 3;
    return (float)((low | high << 4) - 32);
}

static inline void expand_block_iq4_xs(const struct block_iq4_xs *block, float *out) {
    float scale = f32_from_f16(block->scale);
    for (int group = 0; group < 8; group++)
        expand_levels(block->nibbles + 16 * group, scale * iq4_xs_scale(block, group),
                      out + 32 * group);
}

/* LINKAGE void EXPAND(...), see kernel.h, over BLOCK(block, out). */
#define BLOCK_EXPAND_LOOP(LINKAGE, EXPAND, FORMAT, NAME, BLOCK)                                    \
    LINKAGE void EXPAND(const void *values, size_t count, float scale, float *out) {               \
        const struct block_##NAME *block = values;                                                 \
        uint32_t width = weight_block(WEIGHT_##FORMAT);                                            \
        for (size_t at = 0; at < count; at += width, block++) {                                    \
            BLOCK(block, out + at);                                                                \
            for (uint32_t i = 0; i < width && scale != 1.0f; i++)                                  \
                out[at + i] *= scale;                                                              \
        }                                                                                          \
    }

/* LINKAGE void ADD(...), see kernel.h, over BLOCK(block, scale, y). */
#define BLOCK_ADD_LOOP(LINKAGE, ADD, FORMAT, NAME, BLOCK)                                          \
    LINKAGE void ADD(const void *values, size_t count, float scale, float *y) {                    \
        const struct block_##NAME *block = values;                                                 \
        uint32_t width = weight_block(WEIGHT_##FORMAT);                                            \
        for (size_t at = 0; at < count; at += width, block++)                                      \
            BLOCK(block, scale, y + at);                                                           \
    }

/* LINKAGE float DOT(...), see kernel.h; BLOCK(block, out) expands a block, SUM(expanded, x, count)
 * multiplies some. */
#define BLOCK_DOT_LOOP(LINKAGE, DOT, FORMAT, NAME, BLOCK, SUM)                                     \
    LINKAGE float DOT(const void *values, const float *x, size_t count) {                          \
        const struct block_##NAME *block = values;                                                 \
        uint32_t width = weight_block(WEIGHT_##FORMAT);                                            \
        float expanded[BLOCK_VALUES_MAX], sum = 0;                                                 \
        for (size_t at = 0; at < count; at += BLOCK_VALUES_MAX) {                                  \
            size_t some = count - at < BLOCK_VALUES_MAX ? count - at : BLOCK_VALUES_MAX;           \
            for (size_t i = 0; i < some; i += width, block++)                                      \
                BLOCK(block, expanded + i);                                                        \
            sum += SUM(expanded, x + at, some);                                                    \
        }                                                                                          \
        return sum;                                                                                \
    }
