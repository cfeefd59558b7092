/* Floats of sixteen bits: every value there and back, and how others are rounded. */
#include "common/kernel/half.h"

#include "tests/unit/test.h"

#include <float.h>
#include <math.h>

static void test_f16_and_back(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000; bits++)
        if ((bits & 0x7c00) != 0x7c00)
            assert_int_equal(f16_from_f32(f32_from_f16((uint16_t)bits)), bits);
}

static void test_bf16_and_back(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000; bits++)
        if ((bits & 0x7f80) != 0x7f80)
            assert_int_equal(bf16_from_f32(f32_from_bf16((uint16_t)bits)), bits);
}

/* Between each two neighbours: below the middle, above it, and the middle to the even one. */
static void check_rounding(uint16_t bits, float value, float next, uint16_t (*round)(float)) {
    float middle = (value + next) / 2;
    assert_int_equal(round(nextafterf(middle, value)), bits);
    assert_int_equal(round(nextafterf(middle, next)), bits + 1);
    assert_int_equal(round(middle), bits + (bits & 1));
    assert_int_equal(round(-middle), 0x8000 | (bits + (bits & 1)));
}

static void test_rounding(void **state) {
    (void)state;
    for (uint16_t bits = 0; bits < 0x7bff; bits++)
        check_rounding(bits, f32_from_f16(bits), f32_from_f16(bits + 1), f16_from_f32);
    for (uint16_t bits = 0x100; bits < 0x7f00; bits++)
        check_rounding(bits, f32_from_bf16(bits), f32_from_bf16(bits + 1), bf16_from_f32);
}

static void test_f16_ends(void **state) {
    (void)state;
    assert_int_equal(f16_from_f32(65519), 0x7bff);
    assert_int_equal(f16_from_f32(65520), 0x7bff);
    assert_int_equal(f16_from_f32(FLT_MAX), 0x7bff);
    assert_int_equal(f16_from_f32(-FLT_MAX), 0xfbff);
    assert_int_equal(f16_from_f32(0x1p-26f), 0);
    assert_int_equal(f16_from_f32(-FLT_TRUE_MIN), 0x8000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16_and_back),
        cmocka_unit_test(test_bf16_and_back),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_f16_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
