/* Random blocks of the formats that have some: any bits, with scales of sane magnitude. */
#pragma once

#include <stdint.h>
#include <string.h>

#include "common/weights/matrix.h"

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

/* Fills `count` values, whole blocks; `bits` gives at least sixteen random bits. */
static inline void block_fill(uint32_t (*bits)(void), enum weight_format format, size_t count,
                              uint8_t *out) {
    size_t block_bytes = weight_row_bytes(format, 1);
    for (size_t at = 0; at < count; at += weight_block(format), out += block_bytes) {
        for (size_t i = 0; i < block_bytes; i++)
            out[i] = (uint8_t)bits();
        for (size_t i = 0; i < BLOCK_HALVES[format].count; i++) {
            /* Magnitudes from 2^-7 to 2^-3, either sign. */
            uint16_t half = (uint16_t)((bits() & 0x8000) | (0x2000 + bits() % 0x1000));
            memcpy(out + BLOCK_HALVES[format].offset + 2 * i, &half, sizeof half);
        }
    }
}
