/* Products of packed panels with activations in 8 bits in plain C, for the kernel tables: what the
 * vector variants must give. The contract is panel_dot's in kernel.h. */
#pragma once

#include "common/kernel/blocks.h"
#include "common/kernel/panel.h"

#define PANEL_DOT_DECLARE(FORMAT, NAME)                                                            \
    void panel_dot_##NAME(const uint8_t *panel, uint32_t columns, const struct q8_block *x,        \
                          size_t x_stride, size_t batch, float *y, size_t y_stride);

BLOCK_FORMATS(PANEL_DOT_DECLARE)

/* Entries of a kernel table's `panel_dot`. */
#define PANEL_DOT_ENTRY(FORMAT, NAME) [WEIGHT_##FORMAT] = panel_dot_##NAME,
