/* y = W x for a batch of rows, in tiles: the one place where weights meet activations.
 *
 * Packed panels meet activations in the form that is fastest for their format and the batch: 8 bits
 * or f32 through panels, bf16 through a unit that multiplies tiles. Unpacked weights meet f32: few
 * rows through the kernel's dot products, straight from the stored format, and more rows through a
 * tile of W in f32 and OpenBLAS's sgemm. */
#pragma once

#include "common/kernel/activations.h"
#include "common/kernel/panel.h"
#include "common/threads.h"
#include "common/weights/matrix.h"

/* Output rows (rows of W) that one task computes at least: enough bytes in a row for the memory to
 * stream, few enough for many threads to share a small matrix. */
#define MATMUL_TILE_ROWS 64u

/* Of batches up to so many rows a task may compute more. */
#define MATMUL_FEW 4u

/* How many, where the loop at hand has `rows` of them in all: the more, the longer the streams from
 * memory, but each thread gets several tasks. A multiple of MATMUL_TILE_ROWS, at most
 * MATMUL_TASK_ROWS_MAX. */
#define MATMUL_TASK_ROWS_MAX 256u
uint32_t matmul_task_rows(size_t rows, size_t batch, const struct threads *threads);

/* Floats of scratch that one thread needs for matmul_tile. */
size_t matmul_scratch_floats(void);

/* A rectangle of W in f32: out (rows, columns), `stride` floats between rows. Any rectangle, but of
 * formats with blocks (weight_is_blocked) whole blocks. */
void matmul_expand(const struct matrix *w, uint32_t row, uint32_t rows, uint32_t column,
                   uint32_t columns, float *out, size_t stride);

/* y (w->columns) += the sum over i in [0, rows) of a[i] * row (row + i) of W, none of them packed:
 * a product with the transposed matrix. */
void matmul_add_rows(const struct matrix *w, uint32_t row, uint32_t rows, const float *a, float *y);

/* The form in which `batch` rows of activations meet W. Matrices that share their activations take
 * the larger of their forms. */
enum activation_form matmul_form(const struct matrix *w, size_t batch);

/* Rows of activations on their way into a product. */
struct matmul_input {
    const float *x;            /* for weights that are in no panel, whatever the form */
    size_t x_stride;           /* floats between rows */
    enum activation_form form; /* what matmul_form() asks for; or F32 where W is not quantised */
    void *prepared;            /* the rows in that form; not used for F32 */
    size_t prepared_stride;    /* blocks between rows */
    size_t batch;
};

/* Room for a row of prepared activations: blocks, and bytes in any form that the chosen kernels
 * take. */
size_t matmul_row_blocks(uint32_t columns);
size_t matmul_row_bytes(uint32_t columns);

/* Bytes of a block in a form other than f32. */
size_t matmul_block_bytes(enum activation_form form);

/* Prepares values [column, column + count) of row `row`. `column` is a multiple of
 * ACTIVATION_BLOCK_VALUES, and so is `count` but at a row's end. */
void matmul_prepare(const struct matmul_input *input, size_t row, uint32_t column, uint32_t count);

/* y[r][i] = W[row + i] . input[r] for i in [0, rows), r in [0, batch); y_stride in floats. `row` is
 * a multiple of PANEL_ROWS where W is packed, `rows` at most MATMUL_TILE_ROWS unless batch is at
 * most MATMUL_FEW. `scratch` as above, of the calling thread. */
void matmul_tile(const struct matrix *w, uint32_t row, uint32_t rows,
                 const struct matmul_input *input, float *y, size_t y_stride, float *scratch);

/* What matmul needs besides its operands. The owner takes the memory. */
struct matmul_workspace {
    struct threads *threads;
    float
        *scratch; /* (threads), scratch_stride floats apart, each matmul_scratch_floats() or more */
    size_t scratch_stride;
    void *prepared; /* (largest batch, matmul_row_bytes() of the most columns); NULL where no W is
                       quantised: all then take f32 */
};

/* y (batch, w->rows) = x (batch, w->columns) W^T over all threads; prepares x first. */
void matmul(const struct matmul_workspace *workspace, const struct matrix *w, const float *x,
            size_t batch, float *y);

/* The same with the rows [row, row + rows) of W alone: y[r * y_stride + i] for i in [0, rows).
 * `row` is a multiple of PANEL_ROWS where W is packed. */
void matmul_rows(const struct matmul_workspace *workspace, const struct matrix *w, uint32_t row,
                 uint32_t rows, const float *x, size_t batch, float *y, size_t y_stride);
