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
