/* Figures are there; what they are is the machine's affair. */
#include "tests/unit/test.h"

#include <math.h>

#include "common/kernel/kernel.h"
#include "common/machine.h"

#define MEASURE_BYTES (8u << 20)

static void test_peak_of_every_kernel(void **state) {
    (void)state;
    struct threads *threads;
    assert_int_equal(threads_create(2, &threads), STATUS_OK);
    const struct kernel *kernels[8];
    size_t count = kernel_list(kernels, 8);
    for (size_t k = 0; k < count; k++) {
        assert_int_equal(kernel_select(kernels[k]->name), STATUS_OK);
        struct machine_peak peak = {1e18, {1e24, 1e24, 1e24}}; /* of what was measured before */
        assert_int_equal(machine_measure_peak(threads, MEASURE_BYTES, &peak), STATUS_OK);
        assert_true(machine_rate_is_plausible(peak.read_bytes_per_s));
        assert_true(peak.operations_per_s[PEAK_F32] > 0);
        bool has[PEAK_UNIT_COUNT] = {false};
        for (size_t m = 0; m < kernels[k]->peak->multiplier_count; m++) {
            const struct peak_multiplier *multiplier = &kernels[k]->peak->multipliers[m];
            if (!multiplier->is_present || multiplier->is_present())
                has[multiplier->unit] = true;
        }
        for (size_t unit = 0; unit < PEAK_UNIT_COUNT; unit++)
            assert_int_equal(machine_rate_is_plausible(peak.operations_per_s[unit]), has[unit]);
    }
    threads_destroy(threads);
}

static void test_no_memory(void **state) {
    (void)state;
    struct threads *threads;
    assert_int_equal(threads_create(1, &threads), STATUS_OK);
    struct machine_peak peak = {0};
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(machine_measure_peak(threads, (size_t)1 << 62, &peak), STATUS_NO_MEMORY);
    log_capture_expect(&capture, "no memory to measure this machine", "MiB", NULL);
    assert_true(peak.read_bytes_per_s == 0);
    threads_destroy(threads);
}

/* Products of every format with every kernel, packed and as stored. */
static void test_figures_of_every_kernel(void **state) {
    (void)state;
    struct threads *threads;
    assert_int_equal(threads_create(2, &threads), STATUS_OK);
    const struct kernel *kernels[8];
    size_t count = kernel_list(kernels, 8);
    for (size_t k = 0; k < count; k++) {
        assert_int_equal(kernel_select(kernels[k]->name), STATUS_OK);
        const struct machine_work works[] = {
            {1u << WEIGHT_F32 | 1u << WEIGHT_FP8_E4M3 | 1u << WEIGHT_Q4_K, false},
            {1u << WEIGHT_Q2_K | 1u << WEIGHT_BF16, true},
        };
        for (size_t w = 0; w < 2; w++) {
            struct machine_figures figures = {0};
            assert_false(machine_has_figures(&figures, &works[w]));
            assert_int_equal(machine_measure_figures(threads, &works[w], MEASURE_BYTES, &figures),
                             STATUS_OK);
            assert_true(machine_has_figures(&figures, &works[w]));
            assert_true(machine_rate_is_plausible(figures.read_bytes_per_s));
            for (int f = 0; f < WEIGHT_FORMAT_COUNT; f++) {
                bool wanted = works[w].formats >> f & 1;
                const struct format_figures *found = &figures.formats[f];
                assert_int_equal(machine_rate_is_plausible(found->decode_bytes_per_s), wanted);
                assert_int_equal(machine_rate_is_plausible(found->batch_macs_per_s), wanted);
            }
        }
    }
    threads_destroy(threads);
}

/* What is there is not measured again. */
static void test_measures_what_is_missing(void **state) {
    (void)state;
    struct threads *threads;
    assert_int_equal(threads_create(1, &threads), STATUS_OK);
    assert_int_equal(kernel_select("auto"), STATUS_OK);
    struct machine_figures figures = {.memory_bytes = 3, .threads = 4, .read_bytes_per_s = 7};
    const struct machine_work bf16 = {.formats = 1u << WEIGHT_BF16};
    const struct machine_work both = {.formats = 1u << WEIGHT_BF16 | 1u << WEIGHT_Q8_0};
    figures.formats[WEIGHT_BF16] = (struct format_figures){8, 9};
    assert_true(machine_has_figures(&figures, &bf16));
    assert_false(machine_has_figures(&figures, &both));
    /* Nothing to measure takes no memory. */
    assert_int_equal(machine_measure_figures(threads, &bf16, (size_t)1 << 62, &figures), STATUS_OK);
    assert_int_equal(machine_measure_figures(threads, &both, MEASURE_BYTES, &figures), STATUS_OK);
    assert_true(figures.memory_bytes == 3 && figures.threads == 4);
    assert_true(figures.read_bytes_per_s == 7);
    assert_true(figures.formats[WEIGHT_BF16].decode_bytes_per_s == 8);
    assert_true(figures.formats[WEIGHT_BF16].batch_macs_per_s == 9);
    assert_true(machine_has_figures(&figures, &both));
    threads_destroy(threads);
}

static void test_plausible_rates(void **state) {
    (void)state;
    const double good[] = {1, 1e9, 1e15};
    const double bad[] = {0, 1e-300, -1, NAN, INFINITY, -INFINITY, 1e300};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(machine_rate_is_plausible(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(machine_rate_is_plausible(bad[i]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_peak_of_every_kernel),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_figures_of_every_kernel),
        cmocka_unit_test(test_measures_what_is_missing),
        cmocka_unit_test(test_plausible_rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
