/* Medians of odd and even numbers of values, in any order. */
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
    assert_true(spread.median == 2.5 && spread.min == 1 && spread.max == 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
