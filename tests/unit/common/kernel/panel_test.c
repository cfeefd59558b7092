/* Packed matrices: every variant gives the product of the weights (as `expand` reads them) with the
 * activations as quantised, for any batch; and quantising activations is what it claims to be. */
#include "tests/unit/test.h"

#include <math.h>

#include "common/kernel/kernel.h"
#include "tests/unit/random.h"

#define COLUMNS_MAX 1024u
#define BATCH_MAX   9u

static const enum weight_format FORMATS[] = {
    WEIGHT_Q4_0, WEIGHT_Q4_1, WEIGHT_Q5_0, WEIGHT_Q5_1, WEIGHT_Q8_0,   WEIGHT_Q2_K,
    WEIGHT_Q3_K, WEIGHT_Q4_K, WEIGHT_Q5_K, WEIGHT_Q6_K, WEIGHT_IQ4_NL, WEIGHT_IQ4_XS};

static float dequantised(const struct q8_block *x, uint32_t column) {
    const struct q8_block *block = &x[column / Q8_BLOCK_VALUES];
    return block->scale * (float)block->values[column % Q8_BLOCK_VALUES];
}

/* Random bits in every place but the f16 scales, which are of either sign and sane. */
static void random_rows(struct random *random, enum weight_format format, size_t bytes,
                        uint8_t *rows) {
    static const struct {
        size_t block_bytes, scales[2];
    } places[WEIGHT_FORMAT_COUNT] = {
        [WEIGHT_Q4_0] = {18, {0, 0}},      [WEIGHT_Q4_1] = {20, {0, 2}},
        [WEIGHT_Q5_0] = {22, {0, 0}},      [WEIGHT_Q5_1] = {24, {0, 2}},
        [WEIGHT_Q8_0] = {34, {0, 0}},      [WEIGHT_Q2_K] = {84, {80, 82}},
        [WEIGHT_Q3_K] = {110, {108, 108}}, [WEIGHT_Q4_K] = {144, {0, 2}},
        [WEIGHT_Q5_K] = {176, {0, 2}},     [WEIGHT_Q6_K] = {210, {208, 208}},
        [WEIGHT_IQ4_NL] = {18, {0, 0}},    [WEIGHT_IQ4_XS] = {136, {0, 0}},
    };
    for (size_t i = 0; i < bytes; i++)
        rows[i] = (uint8_t)random_bits(random);
    for (size_t at = 0; at < bytes; at += places[format].block_bytes)
        for (int s = 0; s < 2; s++) {
            uint16_t scale = (uint16_t)((random_bits(random) & 0x83ff) | 0x3000);
            memcpy(rows + at + places[format].scales[s], &scale, sizeof scale);
        }
}

static void check_panel(struct random *random, const struct kernel *kernel,
                        enum weight_format format, uint32_t columns, size_t batch) {
    static uint8_t rows[PANEL_ROWS * COLUMNS_MAX * 2], panel[PANEL_ROWS * COLUMNS_MAX * 2];
    static float weights[PANEL_ROWS * COLUMNS_MAX], x[COLUMNS_MAX];
    static struct q8_block quantised[BATCH_MAX * COLUMNS_MAX / Q8_BLOCK_VALUES];
    static float y[BATCH_MAX * 20];
    size_t row_bytes = weight_row_bytes(format, columns), blocks = columns / Q8_BLOCK_VALUES;
    random_rows(random, format, PANEL_ROWS * row_bytes, rows);
    for (uint32_t i = 0; i < PANEL_ROWS; i++)
        kernel_get()->expand[format](rows + i * row_bytes, columns, 1, weights + i * columns);
    for (size_t r = 0; r < batch; r++) {
        random_fill(random, 3, columns, x);
        kernel->quantise(x, columns, quantised + r * blocks);
    }
    memset(y, 0xff, sizeof y);
    panel_pack(format, rows, columns, panel);
    kernel->panel_dot[format](panel, columns, quantised, blocks, batch, y, 20);
    for (size_t r = 0; r < batch; r++)
        for (uint32_t i = 0; i < PANEL_ROWS; i++) {
            double sum = 0, magnitude = 0;
            for (uint32_t c = 0; c < columns; c++) {
                double product =
                    (double)weights[i * columns + c] * dequantised(quantised + r * blocks, c);
                sum += product;
                magnitude += fabs(product);
            }
            if (!(fabs(sum - (double)y[r * 20 + i]) <= 1e-5 * magnitude))
                fail_msg("%s %s of %u, batch %zu: y[%zu][%u] = %g, expected %g", kernel->name,
                         weight_format_name(format), columns, batch, r, i, (double)y[r * 20 + i],
                         sum);
        }
}

static void test_products(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t variants = kernel_list(list, 8);
    struct random random = {21};
    for (size_t v = 0; v < variants; v++)
        for (size_t f = 0; f < sizeof FORMATS / sizeof *FORMATS; f++)
            for (uint32_t columns = weight_block(FORMATS[f]); columns <= COLUMNS_MAX; columns *= 2)
                for (size_t batch = 1; batch <= BATCH_MAX; batch++)
                    check_panel(&random, list[v], FORMATS[f], columns, batch);
}

/* The largest stored values times the largest activations: the sums that could overflow. */
static void test_extremes(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t variants = kernel_list(list, 8);
    static uint8_t rows[PANEL_ROWS * 34], panel[PANEL_ROWS * 34];
    struct q8_block x;
    float values[32], y[PANEL_ROWS];
    for (int sign = -1; sign <= 1; sign += 2)
        for (size_t v = 0; v < variants; v++) {
            for (int i = 0; i < 32; i++)
                values[i] = (float)(127 * sign);
            for (uint32_t r = 0; r < PANEL_ROWS; r++) {
                const uint16_t one = 0x3c00;
                memcpy(rows + r * 34, &one, sizeof one);
                memset(rows + r * 34 + 2, r % 2 ? 0x80 : 0x7f, 32);
            }
            list[v]->quantise(values, 32, &x);
            panel_pack(WEIGHT_Q8_0, rows, 32, panel);
            list[v]->panel_dot[WEIGHT_Q8_0](panel, 32, &x, 1, 1, y, PANEL_ROWS);
            for (uint32_t r = 0; r < PANEL_ROWS; r++)
                assert_true(y[r] == (float)(sign * (r % 2 ? -128 : 127) * 127 * 32));
        }
}

/* In place: every panel and the rows behind them end up where they belong, also where panels are
 * larger than their rows. */
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
            random_rows(&random, FORMATS[f], rows * row_bytes, plain);
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

static void test_quantise(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t variants = kernel_list(list, 8);
    struct random random = {8};
    float x[96];
    struct q8_block want[3], got[3];
    for (int round = 0; round < 200; round++) {
        random_fill(&random, round % 3 ? 10 : 1e-20f, 96, x);
        if (round % 5 == 0)
            memset(x + 32, 0, 32 * sizeof *x);
        list[0]->quantise(x, 96, want);
        for (uint32_t i = 0; i < 96; i++) {
            const struct q8_block *block = &want[i / 32];
            assert_true(fabsf(dequantised(want, i) - x[i]) <= block->scale * 0.501f);
        }
        for (int b = 0; b < 3; b++) {
            int sums[2] = {0, 0};
            for (int i = 0; i < 32; i++)
                sums[i / 16] += want[b].values[i];
            assert_true(want[b].total == want[b].scale * (float)(sums[0] + sums[1]));
            assert_true(want[b].totals[0] == want[b].scale * (float)sums[0]);
            assert_true(want[b].totals[1] == want[b].scale * (float)sums[1]);
        }
        for (size_t v = 1; v < variants; v++) {
            list[v]->quantise(x, 96, got);
            assert_memory_equal(want, got, sizeof want);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_pack_matrix),
        cmocka_unit_test(test_quantise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
