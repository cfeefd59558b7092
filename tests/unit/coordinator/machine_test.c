/* Rates are there and only rise; what they are is the machine's affair. */
#include "tests/unit/test.h"

#include "common/kernel/kernel.h"
#include "coordinator/machine.h"

#define READ_BYTES (8u << 20)

static void test_rates_of_every_kernel(void **state) {
    (void)state;
    struct threads *threads;
    assert_int_equal(threads_create(2, &threads), STATUS_OK);
    const struct kernel *kernels[8];
    size_t count = kernel_list(kernels, 8);
    for (size_t k = 0; k < count; k++) {
        assert_int_equal(kernel_select(kernels[k]->name), STATUS_OK);
        struct machine_rates rates = {0};
        assert_int_equal(machine_measure(threads, READ_BYTES, &rates), STATUS_OK);
        assert_true(rates.read_bytes_per_s > 0);
        assert_true(rates.operations_per_s[PEAK_F32] > 0);
        bool has[PEAK_UNIT_COUNT] = {false};
        for (size_t m = 0; m < kernels[k]->peak->multiplier_count; m++) {
            const struct peak_multiplier *multiplier = &kernels[k]->peak->multipliers[m];
            if (!multiplier->is_present || multiplier->is_present())
                has[multiplier->unit] = true;
        }
        for (size_t unit = 0; unit < PEAK_UNIT_COUNT; unit++)
            assert_int_equal(rates.operations_per_s[unit] > 0, has[unit]);
    }
    threads_destroy(threads);
}

static void test_second_call_only_raises(void **state) {
    (void)state;
    struct threads *threads;
    assert_int_equal(threads_create(1, &threads), STATUS_OK);
    assert_int_equal(kernel_select("auto"), STATUS_OK);
    struct machine_rates rates = {.read_bytes_per_s = 1e18, .operations_per_s = {1, 1e24, 1e24}};
    assert_int_equal(machine_measure(threads, READ_BYTES, &rates), STATUS_OK);
    assert_true(rates.read_bytes_per_s == 1e18);
    assert_true(rates.operations_per_s[PEAK_F32] > 1e6);
    assert_true(rates.operations_per_s[PEAK_INT8] == 1e24);
    threads_destroy(threads);
}

static void test_no_memory(void **state) {
    (void)state;
    struct threads *threads;
    assert_int_equal(threads_create(1, &threads), STATUS_OK);
    struct machine_rates rates = {0};
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(machine_measure(threads, (size_t)1 << 62, &rates), STATUS_NO_MEMORY);
    log_capture_expect(&capture, "no memory to measure reading", "MiB", NULL);
    assert_true(rates.read_bytes_per_s == 0);
    threads_destroy(threads);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates_of_every_kernel),
        cmocka_unit_test(test_second_call_only_raises),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
