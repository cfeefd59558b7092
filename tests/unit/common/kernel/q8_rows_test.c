/* Rows of any length come back within half a step of their blocks, and nothing beyond them is
 * touched. */
#include "tests/unit/test.h"

#include <float.h>
#include <math.h>

#include "common/kernel/kernel.h"
#include "common/kernel/q8_rows.h"
#include "tests/unit/random.h"

#define COUNT_MAX 131
#define GUARD     0xa5

static float largest_of_block(const float *x, size_t count, size_t i) {
    float largest = 0;
    for (size_t j = i / 32 * 32; j < count && j < i / 32 * 32 + 32; j++)
        largest = fmaxf(largest, fabsf(x[j]));
    return largest;
}

static void test_round_trip(void **state) {
    (void)state;
    struct random random = {5};
    for (size_t count = 1; count <= COUNT_MAX; count++) {
        float x[COUNT_MAX], back[COUNT_MAX + 1];
        uint8_t row[COUNT_MAX * 2 + 64];
        for (size_t i = 0; i < count; i++)
            x[i] = random_float(&random, 4) * powf(10, (float)(i / 32) - 2);
        memset(row, GUARD, sizeof row);
        back[count] = 77;
        q8_row_store(x, count, row);
        assert_int_equal(row[q8_row_bytes(count)], GUARD);
        q8_row_load(row, count, back);
        assert_true(back[count] == 77);
        /* f16 scales are off by up to 2^-11 of themselves, 127 of them by a sixteenth of a step. */
        for (size_t i = 0; i < count; i++)
            assert_true(fabsf(back[i] - x[i]) <= largest_of_block(x, count, i) / 127 * 0.57f);
    }
}

/* Zeros, values beyond what scales can hold, and what is no number give numbers again. */
static void test_extremes(void **state) {
    (void)state;
    const float x[64] = {0, 1e9f, -1e9f, INFINITY, NAN, FLT_MIN, -0.0f};
    float back[64];
    uint8_t row[2 * 34];
    q8_row_store(x, 64, row);
    q8_row_load(row, 64, back);
    for (int i = 0; i < 64; i++)
        assert_true(isfinite(back[i]));
    assert_true(back[1] == 127 * 65504.0f && back[2] == -127 * 65504.0f);
    for (int i = 32; i < 64; i++)
        assert_true(back[i] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
