/* Tiles and batches against sums in double, over every format and ragged sizes, whatever path they
 * take. */
#include "tests/unit/test.h"

#include <math.h>

#include "common/kernel/kernel.h"
#include "common/kernel/matmul.h"
#include "tests/kernel/weights.h"
#include "tests/unit/random.h"

struct case_size {
    uint32_t rows, columns, batch;
};

static const struct case_size SIZES[] = {{1, 1, 1},     {5, 7, 1},     {33, 129, 3},
                                         {64, 256, 4},  {40, 300, 5},  {70, 1500, 2},
                                         {31, 2049, 9}, {130, 200, 33}};

/* Random stored values whose magnitudes are sane in every format. */
static void *make_storage(struct random *random, enum weight_format format, uint32_t rows,
                          uint32_t columns) {
    size_t bytes = matrix_bytes(format, rows, columns), count = (size_t)rows * columns;
    uint8_t *storage = aligned_alloc(64, bytes);
    memset(storage, 0, bytes);
    if (weight_is_blocked(format)) {
        block_fill(random, format, count, storage);
        return storage;
    }
    for (size_t i = 0; i < count; i++) {
        if (format == WEIGHT_F32)
            ((float *)storage)[i] = random_float(random, 1);
        else if (format == WEIGHT_FP8_E4M3)
            storage[i] =
                (uint8_t)((random_bits(random) & 0x80) | (0x20 + random_below(random, 0x20)));
        else
            ((uint16_t *)storage)[i] = (uint16_t)((random_bits(random) & 0x8000) |
                                                  ((format == WEIGHT_F16 ? 0x3400 : 0x3e80) +
                                                   random_below(random, 0x400 / 8)));
    }
    struct matrix matrix = matrix_view(format, rows, columns, storage);
    if (matrix.scales)
        for (uint32_t i = 0; i < (rows + 127) / 128 * ((columns + 127) / 128); i++)
            ((float *)matrix.scales)[i] = 0.5f + (float)i * 0.125f;
    return storage;
}

/* Some rows alone give what they give among all, and nothing beyond them is touched. */
static void check_rows(const struct matmul_workspace *workspace, const struct matrix *w,
                       const float *x, uint32_t batch, const float *y) {
    uint32_t first = w->rows / 32 * 16, rows = (w->rows - first + 1) / 2;
    size_t stride = rows + 3;
    float *some = malloc(batch * stride * sizeof *some);
    for (size_t i = 0; i < batch * stride; i++)
        some[i] = 77;
    matmul_rows(workspace, w, first, rows, x, batch, some, stride);
    for (uint32_t r = 0; r < batch; r++) {
        for (uint32_t i = 0; i < rows; i++)
            assert_float_equal(some[r * stride + i], y[(size_t)r * w->rows + first + i],
                               1e-4 * (1 + fabs((double)some[r * stride + i])));
        assert_true(some[r * stride + rows] == 77);
    }
    free(some);
}

static void check_case(struct threads *threads, enum weight_format format,
                       const struct case_size *wanted) {
    struct case_size whole = *wanted, *size = &whole;
    if (weight_is_blocked(format))
        whole.columns = (wanted->columns / weight_block(format) + 1) * weight_block(format);
    struct random random = {size->rows * 31 + size->columns};
    void *storage = make_storage(&random, format, size->rows, size->columns);
    struct matrix w = matrix_view(format, size->rows, size->columns, storage);
    size_t count = (size_t)size->rows * size->columns, scratch_floats = matmul_scratch_floats();
    float *expanded = malloc(count * sizeof(float));
    float *x = malloc((size_t)size->batch * size->columns * sizeof(float));
    float *y = malloc((size_t)size->batch * size->rows * sizeof(float));
    float *scratch = malloc(threads_count(threads) * scratch_floats * sizeof(float));
    random_fill(&random, 1, (size_t)size->batch * size->columns, x);
    matmul_expand(&w, 0, size->rows, 0, size->columns, expanded, size->columns);
    const struct matmul_workspace workspace = {threads, scratch, scratch_floats, NULL};
    matmul(&workspace, &w, x, size->batch, y);
    for (uint32_t r = 0; r < size->batch; r++)
        for (uint32_t i = 0; i < size->rows; i++) {
            double sum = 0, magnitude = 0;
            for (uint32_t c = 0; c < size->columns; c++) {
                double product = (double)expanded[(size_t)i * size->columns + c] *
                                 x[(size_t)r * size->columns + c];
                sum += product;
                magnitude += fabs(product);
            }
            double got = y[(size_t)r * size->rows + i];
            if (!(fabs(got - sum) <= 1e-5 * magnitude))
                fail_msg("%s %ux%u batch %u: y[%u][%u] = %g, expected %g",
                         weight_format_name(format), size->rows, size->columns, size->batch, r, i,
                         got, sum);
        }
    check_rows(&workspace, &w, x, size->batch, y);
    free(expanded);
    free(x);
    free(y);
    free(scratch);
    free(storage);
}

static void test_products(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t variants = kernel_list(list, 8);
    struct threads *threads;
    assert_int_equal(threads_create(3, &threads), STATUS_OK);
    for (size_t v = 0; v < variants; v++) {
        assert_int_equal(kernel_select(list[v]->name), STATUS_OK);
        for (int format = 0; format < WEIGHT_FORMAT_COUNT; format++)
            for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++)
                check_case(threads, (enum weight_format)format, &SIZES[s]);
    }
    threads_destroy(threads);
}

/* A rectangle that starts and ends inside FP8 blocks takes each value's own scale. */
static void test_expand_rectangle(void **state) {
    (void)state;
    struct random random = {5};
    void *storage = make_storage(&random, WEIGHT_FP8_E4M3, 300, 290);
    struct matrix w = matrix_view(WEIGHT_FP8_E4M3, 300, 290, storage);
    float *out = malloc(200 * 150 * sizeof(float));
    matmul_expand(&w, 77, 200, 101, 150, out, 150);
    for (uint32_t r = 0; r < 200; r++)
        for (uint32_t c = 0; c < 150; c++) {
            float value;
            kernel_get()->expand[WEIGHT_FP8_E4M3](w.data + (size_t)(77 + r) * 290 + 101 + c, 1,
                                                  w.scales[(77 + r) / 128 * 3 + (101 + c) / 128],
                                                  &value);
            assert_true(out[r * 150 + c] == value);
        }
    free(out);
    free(storage);
}

/* Blocks in the middle of a row, and rows in the middle of a matrix. */
static void test_expand_blocks(void **state) {
    (void)state;
    for (int f = 0; f < WEIGHT_FORMAT_COUNT; f++) {
        enum weight_format format = (enum weight_format)f;
        if (!weight_is_blocked(format))
            continue;
        struct random random = {6};
        uint32_t block = weight_block(format), columns = 4 * block;
        void *storage = make_storage(&random, format, 9, columns);
        struct matrix w = matrix_view(format, 9, columns, storage);
        float *whole = malloc(9u * columns * sizeof(float));
        float *part = malloc(3u * 2 * block * sizeof(float));
        kernel_get()->expand[format](storage, 9u * columns, 1, whole);
        matmul_expand(&w, 5, 3, block, 2 * block, part, 2 * block);
        for (uint32_t r = 0; r < 3; r++)
            assert_memory_equal(part + r * 2 * block, whole + (5 + r) * columns + block,
                                2 * block * sizeof(float));
        free(whole);
        free(part);
        free(storage);
    }
}

#define PACKED_BATCH_MAX 33u

/* What a row of activations stands for in the form that panels of `w` take. */
static void read_inputs(const struct matrix *w, enum activation_form form, const float *x,
                        float *inputs) {
    struct q8_block q8;
    for (uint32_t c = 0; c < w->columns; c++) {
        if (form == ACTIVATION_Q8 && c % Q8_BLOCK_VALUES == 0)
            kernel_get()->quantise(x + c, Q8_BLOCK_VALUES, &q8);
        if (form == ACTIVATION_Q8)
            inputs[c] = q8.scale * (float)q8.values[c % Q8_BLOCK_VALUES];
        else
            inputs[c] =
                form == ACTIVATION_BF16 && weight_is_blocked(w->format) ? rounded_bf16(x[c]) : x[c];
    }
}

struct packed_case {
    enum weight_format format;
    uint32_t rows, columns;
    size_t batch;
};

/* Rows in panels see the activations in the form they take, the rows that fill no panel as they
 * are. */
static void check_packed(const struct matmul_workspace *workspace, struct packed_case p) {
    struct random random = {p.rows + p.batch};
    uint8_t *storage = make_storage(&random, p.format, p.rows, p.columns);
    float *weights = malloc(p.rows * p.columns * sizeof(float));
    float *x = malloc(p.batch * p.columns * sizeof(float));
    float *y = malloc(p.rows * p.batch * sizeof(float));
    float *inputs = malloc(p.columns * sizeof(float));
    random_fill(&random, 1, p.batch * p.columns, x);
    struct matrix w = matrix_view(p.format, p.rows, p.columns, storage);
    matmul_expand(&w, 0, p.rows, 0, p.columns, weights, p.columns);
    assert_int_equal(panel_pack_matrix(&w, false), STATUS_OK);
    assert_int_equal(w.packed, p.rows >= PANEL_ROWS);
    enum activation_form form = matmul_form(&w, p.batch);
    matmul(workspace, &w, x, p.batch, y);
    for (size_t r = 0; r < p.batch; r++) {
        read_inputs(&w, form, x + r * p.columns, inputs);
        for (uint32_t i = 0; i < p.rows; i++) {
            bool in_panel = i < p.rows / PANEL_ROWS * PANEL_ROWS;
            bool is_rounded = in_panel && form == ACTIVATION_BF16 && weight_is_blocked(p.format);
            double sum = 0, magnitude = 0;
            for (uint32_t c = 0; c < p.columns; c++) {
                float weight = weights[i * p.columns + c];
                double term = (double)(is_rounded ? rounded_bf16(weight) : weight) *
                              (double)(in_panel ? inputs[c] : x[r * p.columns + c]);
                sum += term;
                magnitude += fabs(term);
            }
            if (!(fabs(sum - (double)y[r * p.rows + i]) <= 1e-5 * magnitude))
                fail_msg("%s %s, row %u of %u, batch %zu: %g, expected %g", kernel_get()->name,
                         weight_format_name(p.format), i, p.rows, p.batch,
                         (double)y[r * p.rows + i], sum);
        }
    }
    free(storage);
    free(weights);
    free(x);
    free(y);
    free(inputs);
}

static void check_packed_variant(struct threads *threads) {
    static const struct {
        enum weight_format format;
        uint32_t columns;
    } formats[] = {{WEIGHT_F32, 132},      {WEIGHT_F16, 132}, {WEIGHT_BF16, 132},
                   {WEIGHT_FP8_E4M3, 260}, {WEIGHT_Q8_0, 96}, {WEIGHT_Q6_K, 256}};
    static const uint32_t rows[] = {5, 16, 37, 64, 79, 200};
    static const size_t batches[] = {1, 2, 9, 16, PACKED_BATCH_MAX};
    float *scratch = malloc(3 * matmul_scratch_floats() * sizeof(float));
    void *prepared = malloc(PACKED_BATCH_MAX * matmul_row_bytes(260));
    const struct matmul_workspace workspace = {threads, scratch, matmul_scratch_floats(), prepared};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            for (size_t b = 0; b < sizeof batches / sizeof *batches; b++)
                check_packed(&workspace, (struct packed_case){formats[f].format, rows[i],
                                                              formats[f].columns, batches[b]});
    /* Rows enough for long tasks, of which the last one is shorter. */
    for (size_t f = 2; f < sizeof formats / sizeof *formats - 1; f++)
        for (size_t batch = 1; batch <= MATMUL_FEW; batch += MATMUL_FEW - 1)
            check_packed(&workspace,
                         (struct packed_case){formats[f].format, 3205, formats[f].columns, batch});
    free(prepared);
    free(scratch);
}

static void test_packed_products(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t variants = kernel_list(list, 8);
    struct threads *threads;
    assert_int_equal(threads_create(3, &threads), STATUS_OK);
    for (size_t v = 0; v < variants; v++) {
        assert_int_equal(kernel_select(list[v]->name), STATUS_OK);
        check_packed_variant(threads);
    }
    threads_destroy(threads);
}

/* Long tasks for few rows of activations, and several of them for each thread. */
static void test_task_rows(void **state) {
    (void)state;
    struct threads *threads;
    assert_int_equal(threads_create(3, &threads), STATUS_OK);
    assert_int_equal(matmul_task_rows(100000, 1, threads), MATMUL_TASK_ROWS_MAX);
    assert_int_equal(matmul_task_rows(100000, MATMUL_FEW, threads), MATMUL_TASK_ROWS_MAX);
    assert_int_equal(matmul_task_rows(100000, MATMUL_FEW + 1, threads), MATMUL_TILE_ROWS);
    assert_int_equal(matmul_task_rows(1535, 1, threads), 64);
    assert_int_equal(matmul_task_rows(1536, 1, threads), 128);
    assert_int_equal(matmul_task_rows(3072, 1, threads), 256);
    assert_int_equal(matmul_task_rows(1, 1, threads), MATMUL_TILE_ROWS);
    threads_destroy(threads);
}

/* The forms and thresholds: unpacked weights never ask for a form, packed ones for tiles only from
 * the table's number of rows on. */
static void test_forms(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t variants = kernel_list(list, 8);
    for (size_t v = 0; v < variants; v++) {
        assert_int_equal(kernel_select(list[v]->name), STATUS_OK);
        for (int format = 0; format < WEIGHT_FORMAT_COUNT; format++)
            for (size_t batch = 1; batch <= 64; batch++) {
                struct matrix w = {.format = (enum weight_format)format, .rows = 16};
                assert_int_equal(matmul_form(&w, batch), ACTIVATION_F32);
                w.packed = true;
                bool in_tiles = list[v]->tile_dot[format] && batch >= list[v]->tile_batch_min;
                assert_int_equal(matmul_form(&w, batch), in_tiles             ? ACTIVATION_BF16
                                                         : panel_takes_q8(&w) ? ACTIVATION_Q8
                                                                              : ACTIVATION_F32);
            }
        size_t block = list[v]->split ? sizeof(struct bf16_block) : sizeof(struct q8_block);
        assert_int_equal(matmul_row_bytes(1), block);
        assert_int_equal(matmul_row_bytes(33), 3 * block);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expand_blocks),    cmocka_unit_test(test_products),
        cmocka_unit_test(test_expand_rectangle), cmocka_unit_test(test_packed_products),
        cmocka_unit_test(test_task_rows),        cmocka_unit_test(test_forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
