/* Rows of values as blocks of Q8_0: 32 values of 8 bits with one f16 scale, the last block filled
 * up with zeros. For what is rounded at run time (rows of the KV cache, rows on their way to
 * workers), where speed counts more than the last bit; weights in files go through block_quantise.
 *
 * Called from any thread; needs no memory. */
#pragma once

#include <stddef.h>

/* Bytes of a row of `count` values. */
size_t q8_row_bytes(size_t count);

/* Rounds x[0, count) into q8_row_bytes(count) bytes at `out`, each value to within half of its
 * block's scale, which is the block's largest magnitude / 127. Magnitudes beyond 8.3 million, 127
 * times the largest scale that f16 can hold, become that. */
void q8_row_store(const float *x, size_t count, void *out);

/* The values again: out[0, count). */
void q8_row_load(const void *row, size_t count, float *out);
