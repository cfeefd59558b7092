/* Reading of JSON files: values, and every error with its place. */
#include "common/json.h"

#include <sys/stat.h>

#include "common/limits.h"
#include "tests/unit/files.h"
#include "tests/unit/test.h"

struct fixture {
    char directory[64];
    char path[128];
    struct log_capture log;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    test_directory_make(f->directory);
    snprintf(f->path, sizeof f->path, "%s/value.json", f->directory);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    test_directory_remove(f->directory);
    free(f);
    return 0;
}

static void write_value(struct fixture *f, const char *content) {
    test_file_write(f->directory, "value.json", content);
}

static void reads_an_object(void **state) {
    struct fixture *f = *state;
    write_value(f, "{\"layers\": 27, \"name\": \"é\"}\n");
    json_t *root;
    assert_int_equal(json_read_file(f->path, false, &root), STATUS_OK);
    assert_int_equal(json_integer_value(json_object_get(root, "layers")), 27);
    assert_string_equal(json_string_value(json_object_get(root, "name")), "é");
    json_decref(root);
}

static void missing_file_is_named_unless_optional(void **state) {
    struct fixture *f = *state;
    json_t *root = NULL;
    log_capture_begin(&f->log);
    assert_int_equal(json_read_file(f->path, true, &root), STATUS_NOT_FOUND);
    assert_int_equal(json_read_file(f->path, false, &root), STATUS_NOT_FOUND);
    log_capture_expect(&f->log, f->path, "No such file", NULL);
    assert_null(root);
}

static void malformed_text_is_placed(void **state) {
    struct fixture *f = *state;
    json_t *root = NULL;
    static const struct {
        const char *content, *place;
    } CASES[] = {
        {"{\n \"a\": 1,\n \"b\": }", "line 3"},
        {"{\"a\": 1", "line 1"},
        {"", "line 1"},
        {"{\"a\": \"\xff\"}", "line 1"},
        {"{\"a\": 1} x", "line 1"},
        {"{\"a\": 1e999}", "line 1"},
        {"[1, 2]", "this is a list"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        write_value(f, CASES[i].content);
        log_capture_begin(&f->log);
        assert_int_equal(json_read_file(f->path, false, &root), STATUS_FORMAT);
        log_capture_expect(&f->log, f->path, CASES[i].place, NULL);
    }
    assert_null(root);
}

static void deep_nesting_is_refused(void **state) {
    struct fixture *f = *state;
    char *content = calloc(1, 100001);
    memset(content, '[', 100000);
    write_value(f, content);
    free(content);
    json_t *root;
    log_capture_begin(&f->log);
    assert_int_equal(json_read_file(f->path, false, &root), STATUS_FORMAT);
    log_capture_expect(&f->log, f->path, "depth", NULL);
}

static void directory_is_no_file(void **state) {
    struct fixture *f = *state;
    json_t *root;
    log_capture_begin(&f->log);
    assert_int_equal(json_read_file(f->directory, false, &root), STATUS_IO);
    log_capture_expect(&f->log, f->directory, "Is a directory", NULL);
}

static void file_over_the_bound_is_refused(void **state) {
    struct fixture *f = *state;
    write_value(f, "{");
    /* A hole of zero bytes would be malformed at its first; blanks are allowed for ever. */
    FILE *file = fopen(f->path, "r+b");
    char blanks[65536];
    memset(blanks, ' ', sizeof blanks);
    for (size_t i = 0; i <= JSON_FILE_BYTES_MAX / sizeof blanks; i++)
        assert_int_equal(fwrite(blanks, 1, sizeof blanks, file), sizeof blanks);
    fclose(file);
    json_t *root;
    log_capture_begin(&f->log);
    assert_int_equal(json_read_file(f->path, false, &root), STATUS_FORMAT);
    log_capture_expect(&f->log, f->path, "longer than", NULL);
}

static void reads_ids(void **state) {
    struct fixture *f = *state;
    uint32_t *ids;
    size_t count;
    write_value(f, "[0, 17, 99]");
    assert_int_equal(json_read_ids(f->path, 100, &ids, &count), STATUS_OK);
    assert_int_equal(count, 3);
    assert_int_equal(ids[0], 0);
    assert_int_equal(ids[1], 17);
    assert_int_equal(ids[2], 99);
    free(ids);
    write_value(f, "[]");
    assert_int_equal(json_read_ids(f->path, 100, &ids, &count), STATUS_OK);
    assert_int_equal(count, 0);
    free(ids);
}

static void wrong_ids_are_named(void **state) {
    struct fixture *f = *state;
    static const struct {
        const char *content, *part;
    } CASES[] = {
        {"[1, 100]", "entry 1"}, {"[-1]", "entry 0"},        {"[1, 2.0]", "entry 1"},
        {"[\"1\"]", "entry 0"},  {"{\"ids\": [1]}", "list"}, {"[1, 99999999999]", "entry 1"},
        {"[1, 2", "line 1"},
    };
    uint32_t *ids = NULL;
    size_t count = 7;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        write_value(f, CASES[i].content);
        log_capture_begin(&f->log);
        assert_int_equal(json_read_ids(f->path, 100, &ids, &count), STATUS_FORMAT);
        log_capture_expect(&f->log, f->path, CASES[i].part, NULL);
    }
    assert_null(ids);
    assert_int_equal(count, 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_an_object, setup, teardown),
        cmocka_unit_test_setup_teardown(missing_file_is_named_unless_optional, setup, teardown),
        cmocka_unit_test_setup_teardown(malformed_text_is_placed, setup, teardown),
        cmocka_unit_test_setup_teardown(deep_nesting_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(directory_is_no_file, setup, teardown),
        cmocka_unit_test_setup_teardown(file_over_the_bound_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_ids_are_named, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
