/* Activations on their way into a product. Whatever their form, 32 values make a block, and a row's
 * last block is filled up with zeros. */
#pragma once

#include <assert.h>
#include <stdint.h>

/* Of two matrices that take the same activations in different forms, the later one suits both. */
enum activation_form {
    ACTIVATION_F32,  /* as they come */
    ACTIVATION_BF16, /* struct bf16_block: for tiles, see kernel.h */
    ACTIVATION_Q8,   /* struct q8_block (panel.h): for panels of quantised formats */
    ACTIVATION_FORMS
};

#define ACTIVATION_BLOCK_VALUES 32u

#define BF16_PARTS 3

/* 32 consecutive activations as sums of bf16: x[i] rounded, what is missing, rounded, and what is
 * still missing. The first part alone is off by 2^-8 of x[i] at most; all three are x[i]. */
struct bf16_block {
    uint16_t parts[BF16_PARTS][ACTIVATION_BLOCK_VALUES];
};
static_assert(sizeof(struct bf16_block) == 192, "a row of a tile for each part");
