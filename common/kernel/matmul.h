/* y = W x for a batch of rows, in tiles: the one place where weights meet activations.
 *
 * Few rows go through the kernel's dot products, straight from the stored format; more rows expand
 * a tile of W to f32 and go through OpenBLAS's sgemm. Both read each weight once per batch. */
#pragma once

#include "common/threads.h"
#include "common/weights/matrix.h"

/* Output rows (rows of W) that one task computes. */
#define MATMUL_TILE_ROWS 32u

/* Floats of scratch that one thread needs for matmul_tile. */
size_t matmul_scratch_floats(void);

/* A rectangle of W in f32: out (rows, columns), `stride` floats between rows. Any rectangle, but of
 * formats with blocks (weight_is_blocked) whole blocks. */
void matmul_expand(const struct matrix *w, uint32_t row, uint32_t rows, uint32_t column,
                   uint32_t columns, float *out, size_t stride);

/* y[r][i] = W[row + i] . x[r] for i in [0, rows), r in [0, batch); x_stride and y_stride in floats.
 * `scratch` as above, of the calling thread. */
void matmul_tile(const struct matrix *w, uint32_t row, uint32_t rows, const float *x,
                 size_t x_stride, size_t batch, float *y, size_t y_stride, float *scratch);

/* y (batch, w->rows) = x (batch, w->columns) W^T over all threads. Thread t's scratch starts at
 * scratch + t * scratch_stride and holds at least matmul_scratch_floats(). */
void matmul(struct threads *threads, const struct matrix *w, const float *x, size_t batch, float *y,
            float *scratch, size_t scratch_stride);
