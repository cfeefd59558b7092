/* The layouts of blocks of quantised values, as GGUF files have them. Numbers are little-endian;
 * `scale` and the like are f16. q is a stored value, v the weight that it stands for.
 *
 * Blocks of 32 keep value i in the low and value i + 16 in the high nibble of byte i. Blocks of 256
 * (the K formats) have two levels: the block's f16 scales times small scales for each 16 or 32
 * values. */
#pragma once

#include <assert.h>
#include <stdint.h>

/* v = (q - 8) * scale */
struct block_q4_0 {
    uint16_t scale;
    uint8_t nibbles[16];
};
static_assert(sizeof(struct block_q4_0) == 18, "layout of Q4_0");

/* v = q * scale + minimum */
struct block_q4_1 {
    uint16_t scale, minimum;
    uint8_t nibbles[16];
};
static_assert(sizeof(struct block_q4_1) == 20, "layout of Q4_1");

/* v = (q - 16) * scale; bit i of `fifth_bits` is the highest of value i */
struct block_q5_0 {
    uint16_t scale;
    uint8_t fifth_bits[4];
    uint8_t nibbles[16];
};
static_assert(sizeof(struct block_q5_0) == 22, "layout of Q5_0");

/* v = q * scale + minimum */
struct block_q5_1 {
    uint16_t scale, minimum;
    uint8_t fifth_bits[4];
    uint8_t nibbles[16];
};
static_assert(sizeof(struct block_q5_1) == 24, "layout of Q5_1");

/* v = q * scale */
struct block_q8_0 {
    uint16_t scale;
    int8_t values[32];
};
static_assert(sizeof(struct block_q8_0) == 34, "layout of Q8_0");

/* Sixteen values share a byte of `scales`: v = q * (low nibble * scale) - high nibble * minimum.
 * Byte i of each half's 32 holds values i, i + 32, i + 64, i + 96 of that half, lowest bits first.
 */
struct block_q2_k {
    uint8_t scales[16];
    uint8_t pairs[64];
    uint16_t scale, minimum;
};
static_assert(sizeof(struct block_q2_k) == 84, "layout of Q2_K");

/* v = (q - 4) * (s - 32) * scale, q of two bits as in Q2_K and a third from `third_bits`: bit b of
 * byte i is that of value 32 b + i. The sixteen s of six bits: low nibbles in the first eight bytes
 * of `scales`, high pairs in the last four. */
struct block_q3_k {
    uint8_t third_bits[32];
    uint8_t pairs[64];
    uint8_t scales[12];
    uint16_t scale;
};
static_assert(sizeof(struct block_q3_k) == 110, "layout of Q3_K");

/* v = q * (s * scale) - m * minimum for each 32 values; the eight s and m of six bits are packed in
 * `scales`. Each 32 bytes hold 64 values, the first 32 in the low nibbles. */
struct block_q4_k {
    uint16_t scale, minimum;
    uint8_t scales[12];
    uint8_t nibbles[128];
};
static_assert(sizeof(struct block_q4_k) == 144, "layout of Q4_K");

/* As Q4_K; bit b of byte i of `fifth_bits` is the highest of value 32 b + i. */
struct block_q5_k {
    uint16_t scale, minimum;
    uint8_t scales[12];
    uint8_t fifth_bits[32];
    uint8_t nibbles[128];
};
static_assert(sizeof(struct block_q5_k) == 176, "layout of Q5_K");

/* v = (q - 32) * s * scale for each sixteen values. Of each half's 128 values, the low nibbles of
 * the first 64 lie in the low nibbles of 64 bytes, those of the others in the high ones; byte i of
 * 32 bytes has the high pairs of values i, i + 32, i + 64, i + 96, lowest bits first. */
struct block_q6_k {
    uint8_t nibbles[128];
    uint8_t pairs[64];
    int8_t scales[16];
    uint16_t scale;
};
static_assert(sizeof(struct block_q6_k) == 210, "layout of Q6_K");

/* v = table[q] * scale */
struct block_iq4_nl {
    uint16_t scale;
    uint8_t nibbles[16];
};
static_assert(sizeof(struct block_iq4_nl) == 18, "layout of IQ4_NL");

/* v = table[q] * (s - 32) * scale for each 32 values, stored as in IQ4_NL. The eight s of six bits:
 * nibbles in `low_scales`, high pairs in `high_scales`. */
struct block_iq4_xs {
    uint16_t scale;
    uint16_t high_scales;
    uint8_t low_scales[4];
    uint8_t nibbles[128];
};
static_assert(sizeof(struct block_iq4_xs) == 136, "layout of IQ4_XS");
