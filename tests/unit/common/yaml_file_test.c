/* Files that are read, and those that are not there, too long or no YAML. */
#include "tests/unit/files.h"

#include "common/limits.h"
#include "common/yaml_file.h"

static void test_read(void **state) {
    (void)state;
    char directory[64], path[96];
    yaml_document_t document;
    test_directory_make(directory);
    test_file_write(directory, "a.yaml", "key: [1, 2]\n");
    snprintf(path, sizeof path, "%s/a.yaml", directory);
    assert_int_equal(yaml_file_read(path, "a file", &document), STATUS_OK);
    assert_int_equal(yaml_document_get_root_node(&document)->type, YAML_MAPPING_NODE);
    yaml_document_delete(&document);
    test_file_write(directory, "a.yaml", "");
    assert_int_equal(yaml_file_read(path, "a file", &document), STATUS_OK);
    assert_null(yaml_document_get_root_node(&document));
    yaml_document_delete(&document);
    test_directory_remove(directory);
}

static void expect_refused(const char *path, enum status wanted, const char *words) {
    yaml_document_t document;
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(yaml_file_read(path, "cluster file", &document), wanted);
    log_capture_expect(&capture, path, words, NULL);
}

static void test_refused(void **state) {
    (void)state;
    char directory[64], path[96];
    test_directory_make(directory);
    snprintf(path, sizeof path, "%s/a.yaml", directory);
    expect_refused(path, STATUS_NOT_FOUND, "cannot open cluster file");
    expect_refused(directory, STATUS_IO, "cannot read cluster file");
    test_file_write(directory, "a.yaml", "a: b\nc: [1\n");
    expect_refused(path, STATUS_FORMAT, "a.yaml:3: not valid YAML");
    test_file_write(directory, "a.yaml", "a: \x01\n");
    expect_refused(path, STATUS_FORMAT, "not valid YAML");
    char *text = malloc(CONFIG_FILE_BYTES_MAX + 2);
    memset(text, ' ', CONFIG_FILE_BYTES_MAX + 1);
    text[CONFIG_FILE_BYTES_MAX + 1] = '\0';
    test_file_write(directory, "a.yaml", text);
    expect_refused(path, STATUS_FORMAT, "is over 1048576 bytes");
    free(text);
    test_directory_remove(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
