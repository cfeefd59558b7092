/* Every status has a name of its own, and the exit code that the command line promises. */
#include "common/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_names_differ(void **state) {
    (void)state;
    for (int a = 0; a < STATUS_COUNT; a++) {
        assert_non_null(status_name((enum status)a));
        assert_string_not_equal(status_name((enum status)a), "unknown status");
        for (int b = 0; b < a; b++)
            assert_string_not_equal(status_name((enum status)a), status_name((enum status)b));
    }
    assert_string_equal(status_name(STATUS_OK), "ok");
}

static void test_unknown_values_have_a_name(void **state) {
    (void)state;
    assert_string_equal(status_name(STATUS_COUNT), "unknown status");
    assert_string_equal(status_name((enum status)1000), "unknown status");
}

static void test_exit_codes(void **state) {
    (void)state;
    assert_int_equal(status_exit_code(STATUS_OK), 0);
    assert_int_equal(status_exit_code(STATUS_USAGE), 2);
    for (int s = STATUS_NOT_FOUND; s < STATUS_COUNT; s++)
        assert_int_equal(status_exit_code((enum status)s), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_differ),
        cmocka_unit_test(test_unknown_values_have_a_name),
        cmocka_unit_test(test_exit_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
