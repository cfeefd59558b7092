/* Weights without blocks (F32, F16, BF16, FP8) in the order in which kernels read them, for
 * products with activations in f32.
 *
 * A panel is sixteen rows of a matrix (PANEL_ROWS), one column behind another, so that a sum is one
 * lane of a vector and no lanes have to be added up. Packing keeps every bit and takes no room.
 *
 *   F32, F16   a column of sixteen values after another
 *   BF16, FP8  columns c and c + 1 side by side, as the low and high half of a 32-bit (BF16) or
 *              16-bit (FP8) lane */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/weights/matrix.h"

/* Columns of a float panel are a multiple of this. */
#define FLOAT_PANEL_COLUMNS 4u

/* Sixteen rows, weight_row_bytes() apart, into `panel`; they do not overlap. */
void float_panel_pack(enum weight_format format, const uint8_t *rows, uint32_t columns,
                      uint8_t *panel);

/* In plain C, for the kernel tables; contract in kernel.h. */
void float_panel_dot_f32(const uint8_t *panels, size_t count, uint32_t columns, const float *scales,
                         const float *x, size_t x_stride, size_t batch, float *y, size_t y_stride);
void float_panel_dot_f16(const uint8_t *panels, size_t count, uint32_t columns, const float *scales,
                         const float *x, size_t x_stride, size_t batch, float *y, size_t y_stride);
void float_panel_dot_bf16(const uint8_t *panels, size_t count, uint32_t columns,
                          const float *scales, const float *x, size_t x_stride, size_t batch,
                          float *y, size_t y_stride);
void float_panel_dot_fp8(const uint8_t *panels, size_t count, uint32_t columns, const float *scales,
                         const float *x, size_t x_stride, size_t batch, float *y, size_t y_stride);
