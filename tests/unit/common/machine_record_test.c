/* Figures are measured once for each machine, format and kind of product, whatever stands in the
 * file. */
#include "tests/unit/files.h"
#include "tests/unit/test.h"

#include <jansson.h>

#include "common/kernel/kernel.h"
#include "common/limits.h"
#include "common/machine_record.h"

#define MEASURE_BYTES (8u << 20)
/* Nothing can be measured in so much. */
#define TOO_MUCH ((size_t)1 << 62)

struct fixture {
    char directory[64], path[96];
    struct threads *threads;
    struct log_capture capture;
};

static const struct machine_work Q8_0 = {.formats = 1u << WEIGHT_Q8_0};
static const struct machine_work Q8_0_EXACT = {.formats = 1u << WEIGHT_Q8_0, .exact = true};
static const struct machine_work BF16 = {.formats = 1u << WEIGHT_BF16};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    test_directory_make(f->directory);
    snprintf(f->path, sizeof f->path, "%s/machines.json", f->directory);
    assert_int_equal(kernel_select("auto"), STATUS_OK);
    assert_int_equal(threads_create(1, &f->threads), STATUS_OK);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    threads_destroy(f->threads);
    test_directory_remove(f->directory);
    free(f);
    return 0;
}

static enum status complete(struct fixture *f, const struct machine_work *work, size_t bytes,
                            unsigned threads, struct machine_figures *out) {
    *out = (struct machine_figures){.threads = threads, .isa = "none"};
    return machine_record_complete(f->directory, f->threads, work, bytes, out);
}

/* Whether `work` is remembered. */
static bool is_remembered(struct fixture *f, const struct machine_work *work, unsigned threads) {
    struct machine_figures figures;
    log_init("test", LOG_ERROR, fopen("/dev/null", "w"));
    bool remembered = complete(f, work, TOO_MUCH, threads, &figures) == STATUS_OK;
    log_init("test", LOG_ERROR, NULL);
    assert_int_equal(machine_has_figures(&figures, work), remembered);
    return remembered;
}

static void test_measures_once(void **state) {
    struct fixture *f = *state;
    struct machine_figures first, second;
    assert_false(is_remembered(f, &Q8_0, 1));
    assert_int_equal(complete(f, &Q8_0, MEASURE_BYTES, 1, &first), STATUS_OK);
    assert_int_equal(complete(f, &Q8_0, TOO_MUCH, 1, &second), STATUS_OK);
    assert_float_equal(second.read_bytes_per_s / first.read_bytes_per_s, 1, 1e-4);
    assert_float_equal(second.formats[WEIGHT_Q8_0].batch_macs_per_s /
                           first.formats[WEIGHT_Q8_0].batch_macs_per_s,
                       1, 1e-4);
    /* Other products and other machines are measured for themselves, and all are kept. */
    assert_false(is_remembered(f, &Q8_0_EXACT, 1));
    assert_false(is_remembered(f, &BF16, 1));
    assert_false(is_remembered(f, &Q8_0, 2));
    assert_int_equal(complete(f, &Q8_0_EXACT, MEASURE_BYTES, 1, &second), STATUS_OK);
    assert_int_equal(complete(f, &BF16, MEASURE_BYTES, 2, &second), STATUS_OK);
    assert_true(is_remembered(f, &Q8_0, 1));
    assert_true(is_remembered(f, &Q8_0_EXACT, 1));
    assert_true(is_remembered(f, &BF16, 2));
}

/* The disk's rate stands beside the others, and neither makes the other forgotten. */
static void test_disk(void **state) {
    struct fixture *f = *state;
    struct machine_figures first, second;
    assert_int_equal(complete(f, &Q8_0, MEASURE_BYTES, 1, &first), STATUS_OK);
    assert_true(first.disk_bytes_per_s == 0);
    machine_record_complete_disk(f->directory, &first);
    assert_true(machine_rate_is_plausible(first.disk_bytes_per_s));
    assert_true(is_remembered(f, &Q8_0, 1));
    assert_int_equal(complete(f, &BF16, MEASURE_BYTES, 1, &second), STATUS_OK);
    machine_record_complete_disk(f->directory, &second);
    assert_float_equal(second.disk_bytes_per_s / first.disk_bytes_per_s, 1, 1e-4);
    second = (struct machine_figures){.threads = 5, .isa = "none"}; /* alone in its record */
    machine_record_complete_disk(f->directory, &second);
    first = (struct machine_figures){.threads = 5, .isa = "none"};
    machine_record_complete_disk(f->directory, &first);
    assert_float_equal(second.disk_bytes_per_s / first.disk_bytes_per_s, 1, 1e-4);
    first = (struct machine_figures){.threads = 1, .isa = "none"};
    log_init("test", LOG_ERROR, NULL);
    machine_record_complete_disk("/proc/none", &first);
    assert_true(first.disk_bytes_per_s == 0);
}

static void test_without_directory(void **state) {
    struct fixture *f = *state;
    struct machine_figures figures = {.threads = 1, .isa = "none"};
    assert_int_equal(machine_record_complete(NULL, f->threads, &BF16, MEASURE_BYTES, &figures),
                     STATUS_OK);
    assert_true(machine_has_figures(&figures, &BF16));
}

/* Requires that nothing is taken from such a file, with one warning that names it. */
static void expect_ignored(struct fixture *f, const char *content) {
    struct machine_figures figures;
    test_file_write(f->directory, "machines.json", content);
    log_capture_begin(&f->capture);
    assert_int_equal(complete(f, &Q8_0, TOO_MUCH, 1, &figures), STATUS_NO_MEMORY);
    fclose(f->capture.stream);
    log_init("test", LOG_ERROR, NULL);
    const char *warning = strstr(f->capture.text, "warning: ");
    if (!warning || !strstr(warning, f->path) || strstr(warning + 1, "warning: "))
        fail_msg("not one warning for %s: \"%s\"", content, f->capture.text);
    free(f->capture.text);
}

/* The next figures replace what is in the file. */
static void expect_repair(struct fixture *f) {
    struct machine_figures figures;
    log_capture_begin(&f->capture);
    assert_int_equal(complete(f, &Q8_0, MEASURE_BYTES, 1, &figures), STATUS_OK);
    fclose(f->capture.stream);
    log_init("test", LOG_ERROR, NULL);
    assert_non_null(strstr(f->capture.text, "warning: "));
    assert_null(strstr(f->capture.text, "error: "));
    free(f->capture.text);
    assert_true(is_remembered(f, &Q8_0, 1));
}

static void test_foreign_files(void **state) {
    struct fixture *f = *state;
    static const char *const CONTENTS[] = {
        "", "no JSON", "[1, 2]", "17", "{\"a\": 1, \"a\": 2}", "{\"a\": {\"formats\": {"};
    for (size_t i = 0; i < sizeof CONTENTS / sizeof *CONTENTS; i++)
        expect_ignored(f, CONTENTS[i]);
    char *large = malloc(MACHINE_RECORDS_BYTES_MAX + 2);
    memset(large, ' ', MACHINE_RECORDS_BYTES_MAX + 1);
    large[0] = '{', large[MACHINE_RECORDS_BYTES_MAX] = '}';
    large[MACHINE_RECORDS_BYTES_MAX + 1] = '\0';
    expect_ignored(f, large);
    free(large);
    expect_repair(f);
}

/* Puts `value` where the one record has a rate: reading's, or a format's. */
static char *damage(const struct fixture *f, const char *value, bool in_format) {
    json_t *records = json_load_file(f->path, 0, NULL);
    json_t *record = json_object_iter_value(json_object_iter(records));
    json_t *format = json_object_get(json_object_get(record, "formats"), "Q8_0");
    assert_non_null(format);
    json_object_set_new(in_format ? format : record,
                        in_format ? "batch_macs_per_s" : "read_bytes_per_s",
                        json_loads(value, JSON_DECODE_ANY, NULL));
    char *content = json_dumps(records, 0);
    json_decref(records);
    return content;
}

static void test_damaged_records(void **state) {
    struct fixture *f = *state;
    static const char *const VALUES[] = {"0", "-1", "1e300", "\"fast\"", "{}", "null", "true"};
    struct machine_figures figures;
    assert_int_equal(complete(f, &Q8_0, MEASURE_BYTES, 1, &figures), STATUS_OK);
    json_t *records = json_load_file(f->path, 0, NULL);
    char *good = json_dumps(records, 0), without_formats[1024];
    snprintf(without_formats, sizeof without_formats, "{\"%s\": {\"formats\": []}, \"other\": 3}",
             json_object_iter_key(json_object_iter(records)));
    json_decref(records);
    for (size_t i = 0; i < 2 * sizeof VALUES / sizeof *VALUES; i++) {
        test_file_write(f->directory, "machines.json", good);
        char *content = damage(f, VALUES[i / 2], i % 2);
        expect_ignored(f, content);
        free(content);
    }
    expect_ignored(f, without_formats);
    expect_repair(f);
    free(good);
}

static void test_directory_that_cannot_be_written(void **state) {
    struct fixture *f = *state;
    struct machine_figures figures = {.threads = 1, .isa = "none"};
    char path[128];
    test_file_write(f->directory, "file", "in the way");
    snprintf(path, sizeof path, "%s/file", f->directory);
    log_capture_begin(&f->capture);
    assert_int_equal(machine_record_complete(path, f->threads, &BF16, MEASURE_BYTES, &figures),
                     STATUS_OK);
    fclose(f->capture.stream);
    log_init("test", LOG_ERROR, NULL);
    assert_non_null(strstr(f->capture.text, "warning: "));
    assert_null(strstr(f->capture.text, "error: "));
    free(f->capture.text);
    assert_true(machine_has_figures(&figures, &BF16));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_measures_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_foreign_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_records, setup, teardown),
        cmocka_unit_test_setup_teardown(test_directory_that_cannot_be_written, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
