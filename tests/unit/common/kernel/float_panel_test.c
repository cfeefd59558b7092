/* Float panels: every variant gives the product of the weights, as `expand` reads them, with the
 * activations, for any number of panels, columns and rows, and writes nothing else; packing in
 * place puts every row where it belongs. */
#include "tests/unit/test.h"

#include <math.h>

#include "common/kernel/float_panel.h"
#include "common/kernel/kernel.h"
#include "tests/unit/random.h"

#define PANELS_MAX  5u
#define COLUMNS_MAX 644u
#define BATCH_MAX   21u
#define Y_STRIDE    (PANELS_MAX * PANEL_ROWS + 3)
#define TOLERANCE   1e-5

static const enum weight_format FORMATS[] = {WEIGHT_F32, WEIGHT_F16, WEIGHT_BF16, WEIGHT_FP8_E4M3};
#define FORMAT_COUNT (sizeof FORMATS / sizeof *FORMATS)

/* Random finite values of either sign; F16 and FP8 with subnormals among them. */
static void random_weights(struct random *random, enum weight_format format, size_t count,
                           uint8_t *out) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)random_bits(random);
        uint16_t half = (uint16_t)(bits & 0xbfff), brain = (uint16_t)((bits & 0x80ff) | 0x3f00);
        float value;
        if (format == WEIGHT_F32) {
            random_fill(random, 2, 1, &value);
            memcpy(out + 4 * i, &value, 4);
        } else if (format == WEIGHT_F16)
            memcpy(out + 2 * i, &half, 2);
        else if (format == WEIGHT_BF16)
            memcpy(out + 2 * i, &brain, 2);
        else
            out[i] = (uint8_t)((bits & 0x7f) == 0x7f ? 0 : bits);
    }
}

struct product {
    enum weight_format format;
    size_t panels, batch;
    uint32_t columns;
};

static void check_product(struct random *random, const struct kernel *kernel, struct product p) {
    static uint8_t rows[PANELS_MAX * PANEL_ROWS * COLUMNS_MAX * 4], packed[sizeof rows + 1];
    static float weights[COLUMNS_MAX], x[BATCH_MAX * (COLUMNS_MAX + 1) + 1],
        y[BATCH_MAX * Y_STRIDE], scales[COLUMNS_MAX / FP8_BLOCK + 1];
    size_t row_bytes = weight_row_bytes(p.format, p.columns), x_stride = p.columns + 1;
    /* One byte off: nothing may be taken to be aligned. */
    uint8_t *panels = packed + 1;
    float *input = x + 1;
    bool is_fp8 = p.format == WEIGHT_FP8_E4M3;
    random_weights(random, p.format, p.panels * PANEL_ROWS * p.columns, rows);
    random_fill(random, 3, p.batch * x_stride, input);
    random_fill(random, 1, sizeof scales / sizeof *scales, scales);
    for (size_t i = 0; i < p.panels; i++)
        float_panel_pack(p.format, rows + i * PANEL_ROWS * row_bytes, p.columns,
                         panels + i * PANEL_ROWS * row_bytes);
    for (size_t i = 0; i < BATCH_MAX * Y_STRIDE; i++)
        y[i] = 12345;
    kernel->float_panel_dot[p.format](panels, p.panels, p.columns, is_fp8 ? scales : NULL, input,
                                      x_stride, p.batch, y, Y_STRIDE);
    for (size_t i = 0; i < Y_STRIDE; i++) {
        if (i < p.panels * PANEL_ROWS)
            kernel_get()->expand[p.format](rows + i * row_bytes, p.columns, 1, weights);
        for (size_t r = 0; r < BATCH_MAX; r++) {
            double sum = 0, magnitude = 0, got = (double)y[r * Y_STRIDE + i];
            if (i >= p.panels * PANEL_ROWS || r >= p.batch)
                sum = 12345;
            else
                for (uint32_t c = 0; c < p.columns; c++) {
                    double term = (double)weights[c] * (double)input[r * x_stride + c] *
                                  (is_fp8 ? (double)scales[c / FP8_BLOCK] : 1);
                    sum += term;
                    magnitude += fabs(term);
                }
            if (!(fabs(sum - got) <= TOLERANCE * magnitude))
                fail_msg("%s %s, %zu panels of %u, batch %zu: y[%zu][%zu] = %g, expected %g",
                         kernel->name, weight_format_name(p.format), p.panels, p.columns, p.batch,
                         r, i, got, sum);
        }
    }
}

static void test_products(void **state) {
    (void)state;
    static const uint32_t columns[] = {4, 8, 124, 128, 132, 256, COLUMNS_MAX};
    const struct kernel *list[8];
    size_t variants = kernel_list(list, 8);
    struct random random = {33};
    for (size_t v = 0; v < variants; v++)
        for (size_t f = 0; f < FORMAT_COUNT; f++)
            for (size_t c = 0; c < sizeof columns / sizeof *columns; c++)
                for (size_t batch = 1; batch <= BATCH_MAX; batch++)
                    check_product(
                        &random, list[v],
                        (struct product){FORMATS[f], 1 + batch % PANELS_MAX, batch, columns[c]});
}

/* Expanding a row that lies in no panel still works, and panels hold every bit. */
static void test_pack_matrix(void **state) {
    (void)state;
    struct random random = {34};
    for (size_t f = 0; f < FORMAT_COUNT; f++)
        for (uint32_t rows = 15; rows <= 70; rows += 11) {
            const uint32_t columns = 132;
            size_t row_bytes = weight_row_bytes(FORMATS[f], columns);
            size_t rows_bytes = PANEL_ROWS * row_bytes;
            uint8_t *plain = malloc(rows * row_bytes), *panel = malloc(rows_bytes);
            uint8_t *storage = aligned_alloc(64, matrix_bytes(FORMATS[f], rows, columns));
            random_weights(&random, FORMATS[f], (size_t)rows * columns, plain);
            memcpy(storage, plain, rows * row_bytes);
            struct matrix matrix = matrix_view(FORMATS[f], rows, columns, storage);
            assert_int_equal(panel_pack_matrix(&matrix, true), STATUS_OK);
            assert_int_equal(matrix.packed, rows >= PANEL_ROWS);
            assert_false(panel_takes_q8(&matrix));
            uint32_t panels = rows / PANEL_ROWS;
            for (uint32_t p = 0; p < panels; p++) {
                float_panel_pack(FORMATS[f], plain + p * rows_bytes, columns, panel);
                assert_memory_equal(storage + p * rows_bytes, panel, rows_bytes);
            }
            assert_memory_equal(storage + panels * rows_bytes, plain + panels * rows_bytes,
                                rows % PANEL_ROWS * row_bytes);
            free(plain);
            free(panel);
            free(storage);
        }
}

/* Rows of an odd number of columns stay as they are. */
static void test_odd_columns(void **state) {
    (void)state;
    static uint8_t storage[32 * 2 * 130];
    struct matrix matrix = matrix_view(WEIGHT_BF16, 32, 130, storage);
    assert_int_equal(panel_pack_matrix(&matrix, false), STATUS_OK);
    assert_false(matrix.packed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_pack_matrix),
        cmocka_unit_test(test_odd_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
