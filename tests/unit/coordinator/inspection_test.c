/* Every byte of a checkpoint is accounted for once, and the arithmetic agrees with the formats. */
#include "coordinator/inspection.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/log.h"

static uint64_t bytes_in_all(const struct inspection *inspection) {
    uint64_t bytes = 0;
    for (size_t f = 0; f <= WEIGHT_FORMAT_COUNT; f++)
        bytes += inspection->formats[f].bytes;
    return bytes;
}

static void test_demo_model(void **state) {
    (void)state;
    struct inspection inspection;
    assert_int_equal(inspection_read(DEMO_MODEL_DIR, &inspection), STATUS_OK);
    assert_int_equal(inspection.dense_layers, 1);
    assert_int_equal(inspection.expert_layers, 4);
    /* Three BF16 matrices of 64 x 128. */
    assert_int_equal(inspection.expert_bytes, 3 * 64 * 128 * 2);
    assert_int_equal(inspection.routed_bytes, 4ull * 32 * 3 * 64 * 128 * 2);
    assert_true(inspection.draft_bytes > 32 * inspection.expert_bytes);
    assert_int_equal(bytes_in_all(&inspection), inspection.coordinator_bytes +
                                                    inspection.routed_bytes +
                                                    inspection.draft_bytes);
    assert_int_equal(inspection.formats[WEIGHT_FORMAT_COUNT].tensors, 0);
}

static void test_fp8_experts_count_their_scales(void **state) {
    (void)state;
    struct inspection inspection;
    assert_int_equal(inspection_read(TEST_DATA_DIR "/golden/deepseek-v3-tiny-fp8", &inspection),
                     STATUS_OK);
    assert_true(inspection.formats[WEIGHT_FP8_E4M3].tensors > 0);
    assert_true(inspection.expert_bytes > 3 * 192 * 256);
    assert_true(inspection.expert_bytes < 3 * 192 * 256 + 1024);
    assert_int_equal(inspection.draft_bytes, 0);
}

static void test_missing_model(void **state) {
    (void)state;
    char *text;
    size_t bytes;
    FILE *log = open_memstream(&text, &bytes);
    struct inspection inspection;
    log_init("test", LOG_DEBUG, log);
    assert_int_equal(inspection_read("/nowhere", &inspection), STATUS_NOT_FOUND);
    log_init("test", LOG_WARNING, NULL);
    fclose(log);
    assert_non_null(strstr(text, "/nowhere"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_demo_model),
        cmocka_unit_test(test_fp8_experts_count_their_scales),
        cmocka_unit_test(test_missing_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
