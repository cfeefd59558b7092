/* A link that is measured again is the one that was known, until it has changed. */
#include "tests/unit/files.h"
#include "tests/unit/test.h"

#include "common/limits.h"
#include "coordinator/link_record.h"

static const struct link_figures LINK = {100e-6, 1e9, 0.9e9};

static bool same(const struct link_figures *a, const struct link_figures *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

/* What comes of a measurement. */
static struct link_figures settle(const char *directory, const char *address, double round_trip,
                                  double to, double from) {
    struct link_figures link = {LINK.round_trip_s * round_trip, LINK.to_bytes_per_s * to,
                                LINK.from_bytes_per_s * from};
    link_record_settle(directory, address, &link);
    return link;
}

static void test_settles(void **state) {
    (void)state;
    char directory[64];
    test_directory_make(directory);
    struct link_figures found = settle(directory, "10.0.0.2:7717", 1, 1, 1);
    assert_true(same(&found, &LINK));
    found = settle(directory, "10.0.0.2:7717", 1.2, 0.85, 1.1);
    assert_true(same(&found, &LINK));
    found = settle(directory, "10.0.0.3:7717", 1.2, 1, 1); /* another worker */
    assert_false(same(&found, &LINK));
    const double changed[][3] = {{1.3, 1, 1}, {1, 0.7, 1}, {1, 1, 1.4}, {0.7, 1, 1}};
    for (size_t i = 0; i < sizeof changed / sizeof *changed; i++) {
        const double *by = changed[i];
        found = settle(directory, "10.0.0.2:7717", by[0], by[1], by[2]);
        assert_false(same(&found, &LINK));
        struct link_figures again = settle(directory, "10.0.0.2:7717", by[0], by[1], by[2] * 1.1);
        assert_true(same(&found, &again)); /* that is known now */
        settle(directory, "10.0.0.2:7717", 100, 1, 1);
        settle(directory, "10.0.0.2:7717", 1, 1, 1);
    }
    test_directory_remove(directory);
}

static void test_many(void **state) {
    (void)state;
    char directory[64], address[32], path[96];
    test_directory_make(directory);
    for (uint32_t i = 0; i < 2 * LINK_RECORDS_MAX + 10; i++) {
        snprintf(address, sizeof address, "192.168.100.%u:65535", i);
        settle(directory, address, 1.0 / 3, 1.0 / 3, 1.0 / 7);
    }
    struct link_figures known = settle(directory, address, 1.0 / 3, 1.0 / 3, 1.0 / 7);
    struct link_figures found = settle(directory, address, 0.35, 0.35, 0.15);
    assert_true(same(&found, &known));
    snprintf(path, sizeof path, "%s/links.json", directory);
    FILE *file = fopen(path, "rb");
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    assert_true(ftell(file) < (long)LINK_RECORDS_BYTES_MAX);
    fclose(file);
    test_directory_remove(directory);
}

static void test_damaged_files(void **state) {
    (void)state;
    static const char *const CONTENTS[] = {
        "",
        "no JSON",
        "[1, 2]",
        "{\"a\": 1, \"a\": 2}",
        "{\"a:1\": 3}",
        "{\"a:1\": {\"round_trip_s\": \"1\"}}",
        "{\"a:1\": {\"round_trip_s\": -1e-4, \"to_bytes_per_s\": 1e9, \"from_bytes_per_s\": 1e9}}",
        "{\"a:1\": {\"round_trip_s\": 1e-4, \"to_bytes_per_s\": 1e99, \"from_bytes_per_s\": 1e9}}",
        "{\"a:1\": {\"round_trip_s\": 1e-4, \"to_bytes_per_s\": 0, \"from_bytes_per_s\": 1e9}}"};
    char directory[64];
    test_directory_make(directory);
    log_init("test", LOG_ERROR, fopen("/dev/null", "w"));
    for (size_t i = 0; i < sizeof CONTENTS / sizeof *CONTENTS; i++) {
        test_file_write(directory, "links.json", CONTENTS[i]);
        struct link_figures found = settle(directory, "a:1", 1, 1, 1);
        assert_true(same(&found, &LINK));
        found = settle(directory, "a:1", 1.1, 1, 1);
        assert_true(same(&found, &LINK));
    }
    struct link_figures found = settle(NULL, "a:1", 1, 1, 1); /* nowhere to remember it */
    assert_true(same(&found, &LINK));
    log_init("test", LOG_ERROR, NULL);
    test_directory_remove(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settles),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_damaged_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
