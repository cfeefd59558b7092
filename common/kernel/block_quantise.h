/* Rounding weights to the formats that files are written in: the inverse of the kernels' `expand`,
 * made for the smallest squared error and not for speed at run time.
 *
 * Called by the exporter from any thread; needs no memory. The result does not depend on the
 * instruction set that the kernels were chosen for. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/weights/matrix.h"

/* Whether block_quantise writes this format: F32, F16, BF16, Q4_0, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and
 * Q6_K. */
bool block_quantise_has(enum weight_format format);

/* Rounds x[0, count) to `format`, weight_row_bytes(format, count) bytes at `out`. `count` is a
 * multiple of weight_block(format), and x is finite. Scales are kept within what f16 can hold:
 * values that would need larger ones saturate (Q8_0: beyond 8.3 million), and blocks that would
 * need smaller ones become zeros. */
void block_quantise(enum weight_format format, const float *x, size_t count, void *out);
