/* Packed panels are multiplied as they are. Of all other matrices a tile is expanded in blocks of
 * columns that stay in the second-level cache, and each block is multiplied with the whole batch
 * while it is there. For a few rows expansion costs more than it saves, so those take dot products
 * straight from the stored format. */
#include "common/kernel/matmul.h"

#include <assert.h>
#include <cblas.h>

#include "common/kernel/kernel.h"

/* Columns expanded at a time: 64 x 1024 f32 = 256 KiB. A multiple of every format's block. */
#define TILE_COLUMNS 1024u
/* From this many rows on, expanding and sgemm win: on one core of a Zen 5 with 2048 x 2048
 * matrices, dot products were faster up to 7 rows of FP8 and up to 10 of BF16, with AVX2 and with
 * AVX-512. */
#define GEMM_BATCH_MIN 8u

/* Tasks for each thread, so that one that is held up leaves its share to others. */
#define TASKS_MIN 4u

static_assert(MATMUL_FEW < GEMM_BATCH_MIN, "tasks of more rows need no scratch");

size_t matmul_scratch_floats(void) {
    return (size_t)MATMUL_TILE_ROWS * TILE_COLUMNS;
}

/* Tiles get the same scratch. */
static_assert(TILE_SCRATCH_BYTES(MATMUL_TILE_ROWS / PANEL_ROWS) <=
                  MATMUL_TILE_ROWS * TILE_COLUMNS * sizeof(float),
              "scratch for tiles");

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

static const float *scale_row(const struct matrix *w, uint32_t row) {
    return w->scales + (size_t)(row / FP8_BLOCK) * ((w->columns + FP8_BLOCK - 1) / FP8_BLOCK);
}

/* Rows of W that lie in panels. */
static uint32_t packed_rows(const struct matrix *w) {
    return w->packed ? w->rows / PANEL_ROWS * PANEL_ROWS : 0;
}

/* A row that is in no panel, from a column on. */
static const uint8_t *row_at(const struct matrix *w, uint32_t row, uint32_t column) {
    uint32_t packed = packed_rows(w);
    const uint8_t *rows = w->data;
    if (packed)
        rows += packed / PANEL_ROWS * panel_bytes(w->format, w->columns);
    return rows + (row - packed) * weight_row_bytes(w->format, w->columns) +
           weight_row_bytes(w->format, column);
}

/* `expand` or `add` of the kernels. */
typedef void (*spread_values)(const void *values, size_t count, float scale, float *out);

/* Values [column, column + columns) of `row`, which lie at `values`, each times `factor`. */
static void spread_row(const struct matrix *w, spread_values spread, const uint8_t *values,
                       uint32_t row, uint32_t column, uint32_t columns, float factor, float *out) {
    if (!w->scales) {
        spread(values, columns, factor, out);
        return;
    }
    const float *scales = scale_row(w, row);
    for (uint32_t at = column, next; at < column + columns; at = next) {
        next = smaller((at / FP8_BLOCK + 1) * FP8_BLOCK, column + columns);
        spread(values + weight_row_bytes(w->format, at - column), next - at,
               factor * scales[at / FP8_BLOCK], out + at - column);
    }
}

void matmul_expand(const struct matrix *w, uint32_t row, uint32_t rows, uint32_t column,
                   uint32_t columns, float *out, size_t stride) {
    size_t row_bytes = weight_row_bytes(w->format, w->columns);
    const uint8_t *values = row_at(w, row, column);
    for (uint32_t i = 0; i < rows; i++)
        spread_row(w, kernel_get()->expand[w->format], values + i * row_bytes, row + i, column,
                   columns, 1, out + i * stride);
}

void matmul_add_rows(const struct matrix *w, uint32_t row, uint32_t rows, const float *a,
                     float *y) {
    size_t row_bytes = weight_row_bytes(w->format, w->columns);
    const uint8_t *values = row_at(w, row, 0);
    for (uint32_t i = 0; i < rows; i++)
        spread_row(w, kernel_get()->add[w->format], values + i * row_bytes, row + i, 0, w->columns,
                   a[i], y);
}

static float dot_row(const struct matrix *w, uint32_t row, const float *x) {
    const struct kernel *kernel = kernel_get();
    if (!w->scales)
        return kernel->dot[w->format](row_at(w, row, 0), x, w->columns);
    const float *scales = scale_row(w, row);
    float sum = 0;
    for (uint32_t column = 0; column < w->columns; column += FP8_BLOCK) {
        uint32_t count = smaller(FP8_BLOCK, w->columns - column);
        sum += scales[column / FP8_BLOCK] *
               kernel->dot[w->format](row_at(w, row, column), x + column, count);
    }
    return sum;
}

uint32_t matmul_task_rows(size_t rows, size_t batch, const struct threads *threads) {
    size_t tasks = (size_t)TASKS_MIN * threads_count(threads);
    uint32_t task_rows = MATMUL_TILE_ROWS;
    while (batch <= MATMUL_FEW && task_rows < MATMUL_TASK_ROWS_MAX && rows / 2 / task_rows >= tasks)
        task_rows *= 2;
    return task_rows;
}

/* Few rows: straight from the stored format. */
static void dot_tile(const struct matrix *w, uint32_t row, uint32_t rows,
                     const struct matmul_input *input, float *y, size_t y_stride) {
    for (uint32_t i = 0; i < rows; i++)
        for (size_t r = 0; r < input->batch; r++)
            y[r * y_stride + i] = dot_row(w, row + i, input->x + r * input->x_stride);
}

/* More rows: through a tile in f32. */
static void expand_tile(const struct matrix *w, uint32_t row, uint32_t rows,
                        const struct matmul_input *input, float *y, size_t y_stride,
                        float *scratch) {
    for (uint32_t column = 0; column < w->columns; column += TILE_COLUMNS) {
        uint32_t columns = smaller(TILE_COLUMNS, w->columns - column);
        matmul_expand(w, row, rows, column, columns, scratch, columns);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)input->batch, (int)rows,
                    (int)columns, 1.0f, input->x + column, (int)input->x_stride, scratch,
                    (int)columns, column ? 1.0f : 0.0f, y, (int)y_stride);
    }
}

enum activation_form matmul_form(const struct matrix *w, size_t batch) {
    const struct kernel *kernel = kernel_get();
    if (w->packed && kernel->tile_dot[w->format] && batch >= kernel->tile_batch_min)
        return ACTIVATION_BF16;
    return panel_takes_q8(w) ? ACTIVATION_Q8 : ACTIVATION_F32;
}

/* An odd number, so that rows do not all start in the same few sets of a cache. */
size_t matmul_row_blocks(uint32_t columns) {
    return (columns + ACTIVATION_BLOCK_VALUES - 1) / ACTIVATION_BLOCK_VALUES | 1;
}

size_t matmul_row_bytes(uint32_t columns) {
    return matmul_row_blocks(columns) *
           (kernel_get()->split ? sizeof(struct bf16_block) : sizeof(struct q8_block));
}

size_t matmul_block_bytes(enum activation_form form) {
    return form == ACTIVATION_BF16 ? sizeof(struct bf16_block) : sizeof(struct q8_block);
}

void matmul_prepare(const struct matmul_input *input, size_t row, uint32_t column, uint32_t count) {
    const float *x = input->x + row * input->x_stride + column;
    size_t block = row * input->prepared_stride + column / ACTIVATION_BLOCK_VALUES;
    if (input->form == ACTIVATION_Q8)
        kernel_get()->quantise(x, count, (struct q8_block *)input->prepared + block);
    else if (input->form == ACTIVATION_BF16)
        kernel_get()->split(x, count, (struct bf16_block *)input->prepared + block);
}

static void float_panels(const struct matrix *w, const uint8_t *panels, uint32_t count,
                         const float *scales, const struct matmul_input *input, float *y,
                         size_t y_stride) {
    kernel_get()->float_panel_dot[w->format](panels, count, w->columns, scales, input->x,
                                             input->x_stride, input->batch, y, y_stride);
}

static void quantised_panels(const struct matrix *w, const uint8_t *panels, uint32_t count,
                             const struct matmul_input *input, float *y, size_t y_stride) {
    size_t step = panel_bytes(w->format, w->columns);
    for (uint32_t i = 0; i < count; i++)
        kernel_get()->panel_dot[w->format](panels + i * step, w->columns, input->prepared,
                                           input->prepared_stride, input->batch, y + i * PANEL_ROWS,
                                           y_stride);
}

static void tile_panels(const struct matrix *w, const uint8_t *panels, uint32_t count,
                        const float *scales, const struct matmul_input *input, float *y,
                        size_t y_stride, float *scratch) {
    const struct tile_product product = {
        .panels = panels,
        .count = count,
        .columns = w->columns,
        .scales = scales,
        .x = input->prepared,
        .x_stride = input->prepared_stride,
        .batch = input->batch,
        .y = y,
        .y_stride = y_stride,
        .scratch = (uint8_t *)scratch,
    };
    kernel_get()->tile_dot[w->format](&product);
}

/* Panels take any number of rows. A call takes those of one row of scale blocks. */
static void panel_tile(const struct matrix *w, uint32_t row, uint32_t rows,
                       const struct matmul_input *input, float *y, size_t y_stride,
                       float *scratch) {
    size_t step = panel_bytes(w->format, w->columns);
    bool in_tiles = input->form == ACTIVATION_BF16 && kernel_get()->tile_dot[w->format];
    while (rows) {
        uint32_t taken = w->scales ? smaller(rows, FP8_BLOCK - row % FP8_BLOCK) : rows;
        const uint8_t *panels = w->data + row / PANEL_ROWS * step;
        const float *scales = w->scales ? scale_row(w, row) : NULL;
        if (in_tiles)
            tile_panels(w, panels, taken / PANEL_ROWS, scales, input, y, y_stride, scratch);
        else if (panel_takes_q8(w))
            quantised_panels(w, panels, taken / PANEL_ROWS, input, y, y_stride);
        else
            float_panels(w, panels, taken / PANEL_ROWS, scales, input, y, y_stride);
        row += taken;
        rows -= taken;
        y += taken;
    }
}

void matmul_tile(const struct matrix *w, uint32_t row, uint32_t rows,
                 const struct matmul_input *input, float *y, size_t y_stride, float *scratch) {
    uint32_t packed = packed_rows(w);
    assert(rows <= MATMUL_TILE_ROWS || input->batch <= MATMUL_FEW);
    if (row < packed) {
        uint32_t in_panels = smaller(rows, packed - row);
        panel_tile(w, row, in_panels, input, y, y_stride, scratch);
        row += in_panels;
        rows -= in_panels;
        y += in_panels;
    }
    if (input->batch < GEMM_BATCH_MIN)
        dot_tile(w, row, rows, input, y, y_stride);
    else if (rows)
        expand_tile(w, row, rows, input, y, y_stride, scratch);
}

struct matmul_loop {
    const struct matmul_workspace *workspace;
    const struct matrix *w;
    uint32_t first, rows; /* of W */
    uint32_t task_rows;
    struct matmul_input input;
    float *y;
    size_t y_stride;
};

static void prepare_row(void *context, size_t row, unsigned thread) {
    (void)thread;
    const struct matmul_loop *loop = context;
    matmul_prepare(&loop->input, row, 0, loop->w->columns);
}

static void matmul_task(void *context, size_t task, unsigned thread) {
    const struct matmul_loop *loop = context;
    uint32_t row = (uint32_t)task * loop->task_rows;
    uint32_t rows = smaller(loop->task_rows, loop->rows - row);
    matmul_tile(loop->w, loop->first + row, rows, &loop->input, loop->y + row, loop->y_stride,
                loop->workspace->scratch + thread * loop->workspace->scratch_stride);
}

void matmul_rows(const struct matmul_workspace *workspace, const struct matrix *w, uint32_t row,
                 uint32_t rows, const float *x, size_t batch, float *y, size_t y_stride) {
    struct matmul_loop loop = {.workspace = workspace,
                               .w = w,
                               .first = row,
                               .rows = rows,
                               .task_rows = matmul_task_rows(rows, batch, workspace->threads),
                               .input = {.x = x, .x_stride = w->columns, .batch = batch},
                               .y = y,
                               .y_stride = y_stride};
    if (workspace->prepared)
        loop.input.form = matmul_form(w, batch);
    if (loop.input.form != ACTIVATION_F32) {
        loop.input.prepared = workspace->prepared;
        loop.input.prepared_stride = matmul_row_blocks(w->columns);
        threads_run(workspace->threads, batch, prepare_row, &loop);
    }
    threads_run(workspace->threads, (rows + loop.task_rows - 1) / loop.task_rows, matmul_task,
                &loop);
}

void matmul(const struct matmul_workspace *workspace, const struct matrix *w, const float *x,
            size_t batch, float *y) {
    matmul_rows(workspace, w, 0, w->rows, x, batch, y, w->rows);
}
