/* A rate that can be, and nothing left behind; a warning where nothing can be written. */
#include "tests/unit/files.h"

#include "common/disk.h"
#include "common/machine.h"

static void test_measures(void **state) {
    (void)state;
    char directory[64];
    double rate = 0;
    test_directory_make(directory);
    assert_int_equal(disk_measure_read(directory, &rate), STATUS_OK);
    assert_true(machine_rate_is_plausible(rate));
    assert_int_equal(rmdir(directory), 0); /* it is empty */
}

static void test_no_place(void **state) {
    (void)state;
    double rate = 3;
    log_init("test", LOG_ERROR, NULL);
    assert_int_equal(disk_measure_read("/proc/none", &rate), STATUS_IO);
    assert_true(rate == 3);
    assert_int_equal(disk_open("/proc/none"), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measures),
        cmocka_unit_test(test_no_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
