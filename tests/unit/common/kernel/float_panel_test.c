/* Packing in place: every row ends up where it belongs. What float panels are worth in products,
 * tests/kernel checks. */
#include "tests/unit/test.h"

#include "common/kernel/float_panel.h"
#include "common/kernel/panel.h"
#include "tests/kernel/weights.h"
#include "tests/unit/random.h"

static const enum weight_format FORMATS[] = {WEIGHT_F32, WEIGHT_F16, WEIGHT_BF16, WEIGHT_FP8_E4M3};
#define FORMAT_COUNT (sizeof FORMATS / sizeof *FORMATS)

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
            weights_fill(&random, FORMATS[f], (size_t)rows * columns, plain);
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
        cmocka_unit_test(test_pack_matrix),
        cmocka_unit_test(test_odd_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
