/* The clock never goes back and counts real time. */
#include "common/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

static void test_never_goes_back(void **state) {
    (void)state;
    uint64_t before = clock_now_ns();
    for (int i = 0; i < 100000; i++) {
        uint64_t now = clock_now_ns();
        assert_true(now >= before);
        before = now;
    }
}

static void test_counts_real_time(void **state) {
    (void)state;
    uint64_t start = clock_now_ns();
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    double elapsed_s = clock_elapsed_s(start);
    assert_true(elapsed_s >= 0.0199);
    assert_true(elapsed_s < 20); /* a crowded machine may oversleep, but not a thousandfold */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never_goes_back),
        cmocka_unit_test(test_counts_real_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
