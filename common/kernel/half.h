/* Floats of sixteen and eight bits as f32, without instructions of their own. */
#pragma once

#include <stdint.h>
#include <string.h>

static inline float f32_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float f32_from_bf16(uint16_t bits) {
    return f32_from_bits((uint32_t)bits << 16);
}

/* E4M3: exponent and mantissa move as in f32_from_f16, the bias differs by 127 - 7. */
static inline float f32_from_fp8(uint8_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x80) << 24;
    return f32_from_bits(sign | (uint32_t)(bits & 0x7f) << 20) * 0x1p120f;
}

/* Moves exponent and mantissa to f32's places and corrects the exponent's bias (127 - 15) by a
 * multiplication, which makes subnormals come out right; infinities and NaNs are put in by hand. */
static inline float f32_from_f16(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    uint32_t magnitude = (uint32_t)(bits & 0x7fff) << 13;
    if ((bits & 0x7c00) == 0x7c00)
        return f32_from_bits(sign | 0x7f800000 | magnitude);
    return f32_from_bits(sign | magnitude) * 0x1p112f;
}

static inline uint32_t bits_from_f32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* To the nearest, halves to even. Finite values only: what is too large becomes infinite. */
static inline uint16_t bf16_from_f32(float value) {
    uint32_t bits = bits_from_f32(value);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* To the nearest, halves to even. What is too large becomes the largest finite value. Below f16's
 * smallest normal value the sum with a number whose last bit is worth 2^-24 does the rounding. */
static inline uint16_t f16_from_f32(float value) {
    uint32_t bits = bits_from_f32(value);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x477ff000) /* rounds to 65536 or more */
        return sign | 0x7bff;
    if (magnitude < 0x38800000) /* 2^-14 */
        return sign | (uint16_t)(bits_from_f32(f32_from_bits(magnitude) + 0.5f) - 0x3f000000);
    magnitude -= (127 - 15) << 23;
    return sign | (uint16_t)((magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13);
}
