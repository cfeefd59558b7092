/* Every format against blocks with known values (tests/data/quant-blocks: random bits, and what
 * they stand for as f32 by an independent implementation), bit for bit. */
#include "common/kernel/blocks.h"

#include "tests/unit/test.h"

#include <math.h>

#include "common/kernel/kernel.h"

static uint8_t *read_file(const char *name, const char *suffix, size_t *bytes) {
    char path[512];
    snprintf(path, sizeof path, TEST_DATA_DIR "/quant-blocks/%s.%s", name, suffix);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    uint8_t *content = malloc(1 << 16);
    *bytes = fread(content, 1, 1 << 16, file);
    fclose(file);
    return content;
}

/* The f32 values of an npy file, behind its header of 10 + n bytes. */
static const float *npy_values(const uint8_t *npy, size_t bytes, size_t *count) {
    assert_memory_equal(npy, "\x93NUMPY\x01\x00", 8);
    size_t header_bytes = 10 + ((size_t)npy[8] | (size_t)npy[9] << 8);
    assert_non_null(strstr((const char *)npy + 10, "'<f4'"));
    *count = (bytes - header_bytes) / sizeof(float);
    return (const float *)(const void *)(npy + header_bytes);
}

static void check_format(enum weight_format format) {
    const char *name = weight_format_name(format);
    size_t bytes, npy_bytes, count;
    uint8_t *blocks = read_file(name, "bin", &bytes), *npy = read_file(name, "npy", &npy_bytes);
    const float *want = npy_values(npy, npy_bytes, &count);
    assert_int_equal(bytes, weight_row_bytes(format, (uint32_t)count));
    assert_true(count >= 8 * weight_block(format));
    const struct kernel *list[8];
    size_t variants = kernel_list(list, 8);
    float *got = malloc(count * sizeof *got), *x = malloc(count * sizeof *x);
    for (size_t v = 0; v < variants; v++) {
        list[v]->expand[format](blocks, count, 1, got);
        for (size_t i = 0; i < count; i++)
            if (memcmp(&got[i], &want[i], sizeof *got) != 0 && !(got[i] == 0 && want[i] == 0))
                fail_msg("%s %s[%zu] = %.9g, expected %.9g", list[v]->name, name, i, (double)got[i],
                         (double)want[i]);
        double sum = 0, magnitude = 0;
        for (size_t i = 0; i < count; i++) {
            x[i] = (float)(i % 17) / 8 - 1;
            sum += (double)want[i] * x[i];
            magnitude += fabs((double)want[i] * x[i]);
        }
        assert_true(fabs(list[v]->dot[format](blocks, x, count) - sum) <= 1e-5 * magnitude);
    }
    free(got);
    free(x);
    free(npy);
    free(blocks);
}

static void test_known_blocks(void **state) {
    (void)state;
    check_format(WEIGHT_BF16);
    check_format(WEIGHT_F16);
    for (int format = 0; format < WEIGHT_FORMAT_COUNT; format++)
        if (weight_is_blocked((enum weight_format)format))
            check_format((enum weight_format)format);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_known_blocks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
