/* The choice of a table, and known values of the reference; tests/kernel compares the variants. */
#include "tests/unit/test.h"

#include "common/kernel/kernel.h"

static void test_known_values(void **state) {
    (void)state;
    const struct kernel *reference = kernel_get();
    const uint8_t fp8[] = {0x00, 0x01, 0x08, 0x38, 0x7e, 0xfe, 0xb8};
    const float fp8_want[] = {0, 0x1p-9f, 0x1p-6f, 1, 448, -448, -1};
    const uint16_t f16[] = {0x3c00, 0x0001, 0xc000, 0x7bff, 0x8000};
    const float f16_want[] = {1, 0x1p-24f, -2, 65504, -0.0f};
    float out[8];
    reference->expand[WEIGHT_FP8_E4M3](fp8, 7, 1, out);
    assert_memory_equal(out, fp8_want, sizeof fp8_want);
    reference->expand[WEIGHT_F16](f16, 5, 1, out);
    assert_memory_equal(out, f16_want, sizeof f16_want);
}

static void test_select_by_name(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t count = kernel_list(list, 8);
    for (size_t v = 0; v < count; v++) {
        assert_int_equal(kernel_select(list[v]->name), STATUS_OK);
        assert_ptr_equal(kernel_get(), list[v]);
    }
    assert_int_equal(kernel_select("auto"), STATUS_OK);
    assert_ptr_equal(kernel_get(), list[count - 1]);
    char *text = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&text, &bytes);
    log_init("test", LOG_DEBUG, stream);
    assert_int_equal(kernel_select("z80"), STATUS_UNSUPPORTED);
    fclose(stream);
    log_init("test", LOG_ERROR, NULL);
    assert_non_null(strstr(text, "--isa z80: this processor has auto, reference"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_values),
        cmocka_unit_test(test_select_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
