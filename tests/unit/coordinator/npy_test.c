/* The file's bytes, against the format's description, and the errors. */
#include "coordinator/npy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/log.h"

static void test_bytes(void **state) {
    (void)state;
    char path[] = "/tmp/npy_test_XXXXXX";
    close(mkstemp(path));
    const float values[] = {1, -2.5f, 3e-9f, 4, 5, 6};
    assert_int_equal(npy_write_float32(path, values, 3, 2), STATUS_OK);
    unsigned char bytes[256];
    FILE *file = fopen(path, "r");
    size_t count = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    unlink(path);
    assert_memory_equal(bytes, "\x93NUMPY\x01\x00", 8);
    size_t header = 10 + bytes[8] + 256u * bytes[9];
    assert_int_equal(header % 64, 0);
    assert_int_equal(bytes[header - 1], '\n');
    assert_int_equal(count, header + sizeof values);
    assert_memory_equal(bytes + header, values, sizeof values);
    static const char DICTIONARY[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }";
    assert_memory_equal(bytes + 10, DICTIONARY, sizeof DICTIONARY - 1);
    for (size_t i = 10 + sizeof DICTIONARY - 1; i + 1 < header; i++)
        assert_int_equal(bytes[i], ' ');
}

static void test_largest_shape_fits_the_header(void **state) {
    (void)state;
    char path[] = "/tmp/npy_test_XXXXXX", header[128];
    const float value = 1;
    close(mkstemp(path));
    assert_int_equal(npy_write_float32(path, &value, 0, SIZE_MAX), STATUS_OK);
    FILE *file = fopen(path, "r");
    assert_int_equal(fread(header, 1, sizeof header, file), sizeof header);
    fclose(file);
    unlink(path);
    assert_int_equal(header[127], '\n');
    assert_non_null(memmem(header, sizeof header, "(0, 18446744073709551615), }", 28));
}

static void test_errors_name_the_file(void **state) {
    (void)state;
    static const struct {
        const char *path, *expected;
    } CASES[] = {
        {"/nowhere/logits.npy", "cannot create /nowhere/logits.npy: No such file"},
        {"/dev/full", "cannot write /dev/full: No space left"},
    };
    const float value = 1;
    for (size_t i = 0; i < 2; i++) {
        char *text;
        size_t bytes;
        FILE *stream = open_memstream(&text, &bytes);
        log_init("test", LOG_DEBUG, stream);
        assert_int_equal(npy_write_float32(CASES[i].path, &value, 1, 1), STATUS_IO);
        log_init("test", LOG_WARNING, NULL);
        fclose(stream);
        assert_non_null(strstr(text, CASES[i].expected));
        free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_largest_shape_fits_the_header),
        cmocka_unit_test(test_errors_name_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
