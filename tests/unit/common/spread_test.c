/* Medians and percentiles of odd and even numbers of values, in any order. */
#include "tests/unit/test.h"

#include "common/spread.h"

static void test_spread(void **state) {
    (void)state;
    double values[] = {4, 1, 3, 2};
    struct spread spread = spread_of(values, 1);
    assert_true(spread.median == 4 && spread.min == 4 && spread.max == 4);
    spread = spread_of(values, 3);
    assert_true(spread.median == 3 && spread.min == 1 && spread.max == 4);
    spread = spread_of(values, 4);
    assert_true(spread.median == 2.5 && spread.min == 1 && spread.max == 4 && spread.p95 == 4);
}

static void test_p95(void **state) {
    (void)state;
    double values[40];
    for (size_t count = 1; count <= 40; count++) {
        for (size_t i = 0; i < count; i++)
            values[i] = (double)(count - i);
        size_t not_over = 1; /* values 1 to `count`, the first few of which are 95 % */
        while (100 * not_over < 95 * count)
            not_over++;
        assert_true(spread_of(values, count).p95 == (double)not_over);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_p95),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
