/* Files are there whole or not at all, and whatever is in the way is a warning. */
#include "tests/unit/files.h"
#include "tests/unit/test.h"

#include <sys/stat.h>

#include "common/cache_dir.h"

struct fixture {
    char directory[64];
    struct log_capture capture;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    test_directory_make(f->directory);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    test_directory_remove(f->directory);
    free(f);
    return 0;
}

/* Requires one line, a warning that has both parts. */
static void expect_warning(struct log_capture *capture, const char *part, const char *other) {
    fclose(capture->stream);
    log_init("test", LOG_ERROR, NULL);
    if (!strstr(capture->text, "warning: ") || !strstr(capture->text, part) ||
        !strstr(capture->text, other) || strchr(capture->text, '\n')[1])
        fail_msg("not a warning with \"%s\" and \"%s\": \"%s\"", part, other, capture->text);
    free(capture->text);
}

static void expect_silence(struct log_capture *capture) {
    fclose(capture->stream);
    log_init("test", LOG_ERROR, NULL);
    assert_string_equal(capture->text, "");
    free(capture->text);
}

static void test_writes_and_replaces(void **state) {
    struct fixture *f = *state;
    char path[128], found[16];
    size_t bytes;
    snprintf(path, sizeof path, "%s/deep/down", f->directory);
    log_capture_begin(&f->capture);
    assert_int_equal(cache_dir_read(path, "name", found, 16, &bytes), STATUS_NOT_FOUND);
    assert_int_equal(cache_dir_write(path, "name", "one", 3), STATUS_OK);
    assert_int_equal(cache_dir_write(path, "name", "three", 5), STATUS_OK);
    assert_int_equal(cache_dir_read(path, "other", found, 16, &bytes), STATUS_NOT_FOUND);
    assert_int_equal(cache_dir_read(path, "name", found, 5, &bytes), STATUS_OK);
    expect_silence(&f->capture);
    assert_int_equal(bytes, 5);
    assert_memory_equal(found, "three", 5);
    /* Nothing else lies there: the directory can be removed. */
    snprintf(path, sizeof path, "%s/deep/down/name", f->directory);
    assert_int_equal(remove(path), 0);
    *strrchr(path, '/') = '\0';
    assert_int_equal(rmdir(path), 0);
}

static void test_no_directory(void **state) {
    struct fixture *f = *state;
    char found[16];
    size_t bytes;
    log_capture_begin(&f->capture);
    assert_int_equal(cache_dir_write(NULL, "name", "one", 3), STATUS_OK);
    assert_int_equal(cache_dir_read(NULL, "name", found, 16, &bytes), STATUS_NOT_FOUND);
    expect_silence(&f->capture);
}

static void test_what_cannot_be_read(void **state) {
    struct fixture *f = *state;
    char found[16], path[128];
    size_t bytes;
    test_file_write(f->directory, "long", "sixteen and one..");
    log_capture_begin(&f->capture);
    assert_int_equal(cache_dir_read(f->directory, "long", found, 16, &bytes), STATUS_FORMAT);
    expect_warning(&f->capture, "/long", "16 bytes");
    snprintf(path, sizeof path, "%s/pipe", f->directory);
    assert_int_equal(mkfifo(path, 0600), 0);
    log_capture_begin(&f->capture);
    assert_int_equal(cache_dir_read(f->directory, "pipe", found, 16, &bytes), STATUS_FORMAT);
    expect_warning(&f->capture, "/pipe", "no file");
    snprintf(path, sizeof path, "%s/loop", f->directory);
    assert_int_equal(symlink("loop", path), 0);
    log_capture_begin(&f->capture);
    assert_int_equal(cache_dir_read(f->directory, "loop", found, 16, &bytes), STATUS_IO);
    expect_warning(&f->capture, "/loop", "going on without");
}

static void test_what_cannot_be_written(void **state) {
    struct fixture *f = *state;
    char path[128];
    test_file_write(f->directory, "file", "in the way");
    snprintf(path, sizeof path, "%s/file/deep", f->directory);
    log_capture_begin(&f->capture);
    assert_int_equal(cache_dir_write(path, "name", "one", 3), STATUS_IO);
    expect_warning(&f->capture, "/file/deep/name", "--cache");
    /* A directory under the file's name; the temporary file goes again. */
    snprintf(path, sizeof path, "%s/taken", f->directory);
    assert_int_equal(mkdir(path, 0700), 0);
    log_capture_begin(&f->capture);
    assert_int_equal(cache_dir_write(f->directory, "taken", "one", 3), STATUS_IO);
    expect_warning(&f->capture, "/taken", "--cache");
    assert_int_equal(rmdir(path), 0);
    snprintf(path, sizeof path, "%s/file", f->directory);
    assert_int_equal(remove(path), 0);
    assert_int_equal(rmdir(f->directory), 0);
    char *endless = malloc(5000);
    memset(endless, 'x', 5000);
    endless[4999] = '\0';
    log_capture_begin(&f->capture);
    assert_int_equal(cache_dir_write(endless, "name", "one", 3), STATUS_IO);
    fclose(f->capture.stream);
    assert_non_null(strstr(f->capture.text, "too long"));
    free(f->capture.text);
    log_init("test", LOG_ERROR, NULL);
    free(endless);
}

/* Numbers come back to the last digit; what is no object, or too long, is an empty one. */
static void test_objects(void **state) {
    struct fixture *f = *state;
    json_t *object = json_pack("{s:f}", "third", 1.0 / 3);
    cache_dir_write_object(f->directory, "object.json", object);
    json_decref(object);
    object = cache_dir_read_object(f->directory, "object.json", 100);
    assert_true(json_number_value(json_object_get(object, "third")) == 1.0 / 3);
    json_decref(object);
    object = cache_dir_read_object(f->directory, "none.json", 100);
    assert_int_equal(json_object_size(object), 0);
    json_decref(object);
    const size_t capacities[] = {100, 3};
    for (size_t i = 0; i < 2; i++) {
        test_file_write(f->directory, "list.json", "[1, 2]");
        log_capture_begin(&f->capture);
        object = cache_dir_read_object(f->directory, "list.json", capacities[i]);
        expect_warning(&f->capture, "list.json", i ? "at most 3 bytes" : "is damaged");
        assert_int_equal(json_object_size(object), 0);
        json_decref(object);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_objects, setup, teardown),
        cmocka_unit_test_setup_teardown(test_writes_and_replaces, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_written, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
