/* The loops do all the work they count: each product of ones adds one to a sum, each value is read
 * once. How fast they are is not tested. */
#include "tests/unit/test.h"

#include "common/kernel/kernel.h"

#define KERNELS_MAX 8
#define VALUES      4096u

static void test_reads_every_value(void **state) {
    (void)state;
    const struct kernel *kernels[KERNELS_MAX];
    size_t count = kernel_list(kernels, KERNELS_MAX);
    static float values[VALUES];
    for (size_t k = 0; k < 2 * count; k++) {
        const struct peak *peak = kernels[k / 2]->peak;
        size_t ahead_bytes = k % 2 * 4096;
        assert_true(peak->read(values, VALUES, ahead_bytes) == 0);
        for (uint32_t i = 0; i < VALUES; i++) {
            values[i] = 1;
            assert_true(peak->read(values, VALUES, ahead_bytes) == 1);
            values[i] = 0;
        }
        for (uint32_t i = 0; i < VALUES; i++)
            values[i] = (float)(i + 1);
        assert_true(peak->read(values, 128, ahead_bytes) == 128 * 129 / 2);
        memset(values, 0, sizeof values);
    }
}

static void test_multiplies_what_it_counts(void **state) {
    (void)state;
    const struct kernel *kernels[KERNELS_MAX];
    size_t count = kernel_list(kernels, KERNELS_MAX);
    for (size_t k = 0; k < count; k++) {
        const struct peak *peak = kernels[k]->peak;
        bool has_f32 = false;
        for (size_t m = 0; m < peak->multiplier_count; m++) {
            const struct peak_multiplier *multiplier = &peak->multipliers[m];
            assert_in_range(multiplier->unit, 0, PEAK_UNIT_COUNT - 1);
            assert_int_not_equal(multiplier->operations, 0);
            has_f32 = has_f32 || multiplier->unit == PEAK_F32;
            if (multiplier->is_present && !multiplier->is_present()) {
                print_message("skipped: %s, multiplier %zu\n", kernels[k]->name, m);
                continue;
            }
            for (size_t rounds = 0; rounds <= 1000; rounds += 250) {
                double want = (double)rounds * multiplier->operations / 2;
                double got = multiplier->run(rounds);
                if (got != want)
                    fail_msg("%s, multiplier %zu, %zu rounds: %g products, expected %g",
                             kernels[k]->name, m, rounds, got, want);
            }
        }
        assert_true(has_f32);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_every_value),
        cmocka_unit_test(test_multiplies_what_it_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
