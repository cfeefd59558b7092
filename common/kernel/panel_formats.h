/* The layouts of one block of a panel. Group g of a sub-block of 32 columns is its columns 4 g to
 * 4 g + 3: byte 4 r + c of a group belongs to row r and column 4 g + c. Internal to the kernels. */
#pragma once

#include <assert.h>
#include <stdint.h>

#include "common/kernel/panel.h"

/* Groups g and g + 4 in the low and high nibbles; v = (q - 8) * scale */
struct panel_q4_0 {
    uint16_t scales[PANEL_ROWS];
    uint8_t nibbles[4][64];
};
static_assert(sizeof(struct panel_q4_0) == 16 * 18, "a panel takes what its rows take");

/* v = (q - 128) * scale */
struct panel_q8_0 {
    uint16_t scales[PANEL_ROWS];
    uint8_t values[8][64];
};
static_assert(sizeof(struct panel_q8_0) == 16 * 34, "a panel takes what its rows take");

/* v = q * small_scale * scale - small_minimum * minimum, small ones by sub-block */
struct panel_q4_k {
    uint16_t scales[PANEL_ROWS], minimums[PANEL_ROWS];
    uint8_t small_scales[8][PANEL_ROWS], small_minimums[8][PANEL_ROWS];
    uint8_t nibbles[8][4][64];
};
static_assert(sizeof(struct panel_q4_k) == 16 * 148, "4 bytes over what its rows take");

/* v = (q - 32) * small_scale * scale, a small scale for each 16 columns. Bits 2 j and 2 j + 1 of
 * pairs[s][h] are the upper ones of group 4 h + j. */
struct panel_q6_k {
    uint16_t scales[PANEL_ROWS];
    int8_t small_scales[16][PANEL_ROWS];
    uint8_t nibbles[8][4][64];
    uint8_t pairs[8][2][64];
};
static_assert(sizeof(struct panel_q6_k) == 16 * 210, "a panel takes what its rows take");
