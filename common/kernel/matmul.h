/* y = W x for a batch of rows, in tiles: the one place where weights meet activations.
 *
 * Packed panels of quantised formats meet activations in 8 bits, all other weights f32: through
 * panels; or unpacked, few rows through the kernel's dot products, straight from the stored format,
 * and more rows through a tile of W in f32 and OpenBLAS's sgemm. */
#pragma once

#include "common/kernel/panel.h"
#include "common/threads.h"
#include "common/weights/matrix.h"

/* Output rows (rows of W) that one task computes: enough bytes in a row for the memory to stream,
 * few enough for many threads to share a small matrix. Measured with Q4_0: 64 decode 15 % faster
 * than 32. */
#define MATMUL_TILE_ROWS 64u

/* Floats of scratch that one thread needs for matmul_tile. */
size_t matmul_scratch_floats(void);

/* A rectangle of W in f32: out (rows, columns), `stride` floats between rows. Any rectangle, but of
 * formats with blocks (weight_is_blocked) whole blocks. */
void matmul_expand(const struct matrix *w, uint32_t row, uint32_t rows, uint32_t column,
                   uint32_t columns, float *out, size_t stride);

/* Rows of activations on their way into a product: in 8 bits where panel_takes_q8(), else f32. */
struct matmul_input {
    const float *x;
    size_t x_stride;           /* floats between rows */
    const struct q8_block *q8; /* NULL where no matrix takes it */
    size_t q8_stride;          /* blocks between rows */
    size_t batch;
};

/* y[r][i] = W[row + i] . input[r] for i in [0, rows), r in [0, batch); y_stride in floats. `row` is
 * a multiple of PANEL_ROWS where W is packed. `scratch` as above, of the calling thread. */
void matmul_tile(const struct matrix *w, uint32_t row, uint32_t rows,
                 const struct matmul_input *input, float *y, size_t y_stride, float *scratch);

/* What matmul needs besides its operands. The owner takes the memory. */
struct matmul_workspace {
    struct threads *threads;
    float
        *scratch; /* (threads), scratch_stride floats apart, each matmul_scratch_floats() or more */
    size_t scratch_stride;
    struct q8_block *q8; /* (largest batch, most columns / Q8_BLOCK_VALUES) */
};

/* y (batch, w->rows) = x (batch, w->columns) W^T over all threads; quantises x first where W takes
 * that. */
void matmul(const struct matmul_workspace *workspace, const struct matrix *w, const float *x,
            size_t batch, float *y);
