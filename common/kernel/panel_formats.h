/* The layouts of one block of a panel. Group g of a sub-block of 32 columns is its columns 4 g to
 * 4 g + 3: byte 4 r + c of a group belongs to row r and column 4 g + c. Internal to the kernels. */
#pragma once

#include <assert.h>
#include <stdint.h>

#include "common/kernel/panel.h"

/* The levels of IQ4_NL and IQ4_XS (block_expand.h), with an offset of 128. */
static const uint8_t LEVELS_OFFSET[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                          129, 141, 153, 166, 181, 197, 217, 241};

/* Groups g and g + 4 in the low and high nibbles; v = (q - 8) * scale, of IQ4_NL level[q] * scale
 */
struct panel_q4_0 {
    uint16_t scales[PANEL_ROWS];
    uint8_t nibbles[4][64];
};
static_assert(sizeof(struct panel_q4_0) == 16 * 18, "a panel takes what its rows take");

/* v = q * scale + minimum */
struct panel_q4_1 {
    uint16_t scales[PANEL_ROWS], minimums[PANEL_ROWS];
    uint8_t nibbles[4][64];
};
static_assert(sizeof(struct panel_q4_1) == 16 * 20, "a panel takes what its rows take");

/* v = (q - 16) * scale; bit g of byte i of `bits` is the fifth of byte i of group g */
struct panel_q5_0 {
    uint16_t scales[PANEL_ROWS];
    uint8_t bits[64];
    uint8_t nibbles[4][64];
};
static_assert(sizeof(struct panel_q5_0) == 16 * 22, "a panel takes what its rows take");

/* v = q * scale + minimum */
struct panel_q5_1 {
    uint16_t scales[PANEL_ROWS], minimums[PANEL_ROWS];
    uint8_t bits[64];
    uint8_t nibbles[4][64];
};
static_assert(sizeof(struct panel_q5_1) == 16 * 24, "a panel takes what its rows take");

/* v = (q - 128) * scale */
struct panel_q8_0 {
    uint16_t scales[PANEL_ROWS];
    uint8_t values[8][64];
};
static_assert(sizeof(struct panel_q8_0) == 16 * 34, "a panel takes what its rows take");

/* v = q * small_scale * scale - small_minimum * minimum, small ones for each 16 columns in the low
 * and high nibbles of `small`. Bits 2 j and 2 j + 1 of pairs[s][h] are group 4 h + j. */
struct panel_q2_k {
    uint16_t scales[PANEL_ROWS], minimums[PANEL_ROWS];
    uint8_t small[16][PANEL_ROWS];
    uint8_t pairs[8][2][64];
};
static_assert(sizeof(struct panel_q2_k) == 16 * 84, "a panel takes what its rows take");

/* v = (q - 4) * small_scale * scale, a small scale for each 16 columns; bits[s] has the third ones
 */
struct panel_q3_k {
    uint16_t scales[PANEL_ROWS];
    int8_t small_scales[16][PANEL_ROWS];
    uint8_t bits[8][64];
    uint8_t pairs[8][2][64];
};
static_assert(sizeof(struct panel_q3_k) == 16 * 114, "4 bytes over what its rows take");

/* v = q * small_scale * scale - small_minimum * minimum, small ones by sub-block */
struct panel_q4_k {
    uint16_t scales[PANEL_ROWS], minimums[PANEL_ROWS];
    uint8_t small_scales[8][PANEL_ROWS], small_minimums[8][PANEL_ROWS];
    uint8_t nibbles[8][4][64];
};
static_assert(sizeof(struct panel_q4_k) == 16 * 148, "4 bytes over what its rows take");

/* As Q4_K, with the fifth bits. */
struct panel_q5_k {
    uint16_t scales[PANEL_ROWS], minimums[PANEL_ROWS];
    uint8_t small_scales[8][PANEL_ROWS], small_minimums[8][PANEL_ROWS];
    uint8_t bits[8][64];
    uint8_t nibbles[8][4][64];
};
static_assert(sizeof(struct panel_q5_k) == 16 * 180, "4 bytes over what its rows take");

/* v = (q - 32) * small_scale * scale, a small scale for each 16 columns. Bits 2 j and 2 j + 1 of
 * pairs[s][h] are the upper ones of group 4 h + j. */
struct panel_q6_k {
    uint16_t scales[PANEL_ROWS];
    int8_t small_scales[16][PANEL_ROWS];
    uint8_t nibbles[8][4][64];
    uint8_t pairs[8][2][64];
};
static_assert(sizeof(struct panel_q6_k) == 16 * 210, "a panel takes what its rows take");

/* v = level[q] * small_scale * scale, small ones by sub-block */
struct panel_iq4_xs {
    uint16_t scales[PANEL_ROWS];
    int8_t small_scales[8][PANEL_ROWS];
    uint8_t nibbles[8][4][64];
};
static_assert(sizeof(struct panel_iq4_xs) == 16 * 138, "2 bytes over what its rows take");
