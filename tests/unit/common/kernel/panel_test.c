/* Packing in place: every panel and the rows behind them end up where they belong. What panels are
 * worth in products, tests/kernel checks. */
#include "tests/unit/test.h"

#include "common/kernel/panel.h"
#include "tests/kernel/weights.h"
#include "tests/unit/random.h"

static const enum weight_format FORMATS[] = {
    WEIGHT_Q4_0, WEIGHT_Q4_1, WEIGHT_Q5_0, WEIGHT_Q5_1, WEIGHT_Q8_0,   WEIGHT_Q2_K,
    WEIGHT_Q3_K, WEIGHT_Q4_K, WEIGHT_Q5_K, WEIGHT_Q6_K, WEIGHT_IQ4_NL, WEIGHT_IQ4_XS};

/* Also where panels are larger than their rows. */
static void test_pack_matrix(void **state) {
    (void)state;
    struct random random = {4};
    for (size_t f = 0; f < sizeof FORMATS / sizeof *FORMATS; f++)
        for (uint32_t rows = 15; rows <= 70; rows += 11) {
            const uint32_t columns = 512;
            size_t row_bytes = weight_row_bytes(FORMATS[f], columns);
            size_t packed_bytes = panel_bytes(FORMATS[f], columns);
            size_t bytes = matrix_bytes(FORMATS[f], rows, columns);
            uint8_t *plain = malloc(rows * row_bytes), *storage = aligned_alloc(64, bytes);
            uint8_t *panel = malloc(packed_bytes);
            block_fill(&random, FORMATS[f], (size_t)rows * columns, plain);
            memcpy(storage, plain, rows * row_bytes);
            struct matrix matrix = matrix_view(FORMATS[f], rows, columns, storage);
            assert_int_equal(panel_pack_matrix(&matrix, false), STATUS_OK);
            assert_int_equal(matrix.packed, rows >= PANEL_ROWS);
            uint32_t panels = rows / PANEL_ROWS;
            for (uint32_t p = 0; p < panels; p++) {
                panel_pack(FORMATS[f], plain + p * PANEL_ROWS * row_bytes, columns, panel);
                assert_memory_equal(storage + p * packed_bytes, panel, packed_bytes);
            }
            assert_memory_equal(storage + panels * packed_bytes,
                                plain + panels * PANEL_ROWS * row_bytes,
                                rows % PANEL_ROWS * row_bytes);
            free(plain);
            free(storage);
            free(panel);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pack_matrix)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
