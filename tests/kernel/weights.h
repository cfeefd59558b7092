/* Random stored weights: any bits where they are harmless, magnitudes that are sane; and rounding.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#include "common/kernel/half.h"
#include "common/weights/matrix.h"
#include "tests/unit/random.h"

/* To the nearest bf16, ties to even. */
static inline float rounded_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return f32_from_bf16((uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16));
}

/* Where the f16 numbers of a block lie: their first byte, and how many there are. */
struct block_halves {
    uint8_t offset, count;
};

static const struct block_halves BLOCK_HALVES[WEIGHT_FORMAT_COUNT] = {
    [WEIGHT_Q4_0] = {0, 1},   [WEIGHT_Q4_1] = {0, 2},   [WEIGHT_Q5_0] = {0, 1},
    [WEIGHT_Q5_1] = {0, 2},   [WEIGHT_Q8_0] = {0, 1},   [WEIGHT_Q2_K] = {80, 2},
    [WEIGHT_Q3_K] = {108, 1}, [WEIGHT_Q4_K] = {0, 2},   [WEIGHT_Q5_K] = {0, 2},
    [WEIGHT_Q6_K] = {208, 1}, [WEIGHT_IQ4_NL] = {0, 1}, [WEIGHT_IQ4_XS] = {0, 1},
};

/* `count` values of a format with blocks, whole blocks: any bits, f16 numbers from 2^-7 to 2^-3 of
 * either sign. */
static inline void block_fill(struct random *random, enum weight_format format, size_t count,
                              uint8_t *out) {
    size_t block_bytes = weight_row_bytes(format, 1);
    for (size_t at = 0; at < count; at += weight_block(format), out += block_bytes) {
        for (size_t i = 0; i < block_bytes; i++)
            out[i] = (uint8_t)random_bits(random);
        for (size_t i = 0; i < BLOCK_HALVES[format].count; i++) {
            uint16_t half = (uint16_t)((random_bits(random) & 0x8000) |
                                       (0x2000 + random_below(random, 0x1000)));
            memcpy(out + BLOCK_HALVES[format].offset + 2 * i, &half, sizeof half);
        }
    }
}

/* `count` values of any format (whole blocks), unaligned. F16 and FP8 come with their subnormal
 * numbers, BF16 from 2^-15 up; none is larger than 2 but FP8's, which go to 448. */
static inline void weights_fill(struct random *random, enum weight_format format, size_t count,
                                uint8_t *out) {
    if (weight_is_blocked(format)) {
        block_fill(random, format, count, out);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = random_bits(random);
        float value = random_float(random, 2);
        uint16_t half = (uint16_t)(bits & 0xbfff), brain = (uint16_t)((bits & 0x87ff) | 0x3800);
        if (format == WEIGHT_F32)
            memcpy(out + 4 * i, &value, sizeof value);
        else if (format == WEIGHT_FP8_E4M3)
            out[i] = (uint8_t)((bits & 0x7f) == 0x7f ? 0 : bits);
        else
            memcpy(out + 2 * i, format == WEIGHT_F16 ? &half : &brain, sizeof half);
    }
}
