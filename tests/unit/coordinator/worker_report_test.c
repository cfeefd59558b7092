/* The lines, and the JSON that scripts rely on; with figures and without. */
#include "coordinator/worker_report.h"

#include "tests/unit/test.h"

static const struct worker_info MEASURED = {
    .address = "10.0.0.2:7717",
    .name = "mini",
    .isa = "avx2",
    .cores = 4,
    .memory_bytes = 16ull << 30,
    .is_measured = true,
    .figures = {.read_bytes_per_s = 4e10,
                .formats = {[WEIGHT_Q4_0] = {3.5e10, 1.5e11}, [WEIGHT_BF16] = {3.9e10, 5e10}}},
    .link = {112e-6, 117.5e6, 12.5e6},
};

static const struct worker_info GREETED = {
    .address = "10.0.0.3:7717", .name = "old", .isa = "reference", .cores = 1};

static void expect_lines(const struct worker_info *worker, const char *wanted) {
    char *text;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    worker_report_print(worker, stream);
    fclose(stream);
    assert_string_equal(text, wanted);
    free(text);
}

static void test_lines(void **state) {
    (void)state;
    expect_lines(&MEASURED,
                 "worker    10.0.0.2:7717, avx2, 4 threads; reads 40.0 GB/s; link 0.94 Gbit/s "
                 "there, 0.1 back, round trip 112 us\n"
                 "          BF16 weights: 39.0 GB/s for one row, 100.0 GOP/s in batches\n"
                 "          Q4_0 weights: 35.0 GB/s for one row, 300.0 GOP/s in batches\n");
    expect_lines(&GREETED, "worker    10.0.0.3:7717, reference, 1 threads\n");
}

static double real_at(const json_t *object, const char *key) {
    assert_true(json_is_real(json_object_get(object, key)));
    return json_real_value(json_object_get(object, key));
}

static void test_json(void **state) {
    (void)state;
    json_t *object = worker_report_to_json(&MEASURED);
    const json_t *formats = json_object_get(object, "formats");
    const json_t *link = json_object_get(object, "link");
    assert_string_equal(json_string_value(json_object_get(object, "address")), "10.0.0.2:7717");
    assert_string_equal(json_string_value(json_object_get(object, "name")), "mini");
    assert_string_equal(json_string_value(json_object_get(object, "isa")), "avx2");
    assert_int_equal(json_integer_value(json_object_get(object, "threads")), 4);
    assert_int_equal(json_integer_value(json_object_get(object, "memory_bytes")), 16ull << 30);
    assert_float_equal(real_at(object, "read_gb_per_s"), 40, 1e-6);
    assert_int_equal(json_object_size(formats), 2);
    const json_t *quantised = json_object_get(formats, "Q4_0");
    assert_float_equal(real_at(quantised, "read_gb_per_s"), 35, 1e-6);
    assert_float_equal(real_at(quantised, "gops"), 300, 1e-6);
    assert_float_equal(real_at(link, "round_trip_us"), 112, 1e-6);
    assert_float_equal(real_at(link, "to_gbit_per_s"), 0.94, 1e-6);
    assert_float_equal(real_at(link, "from_gbit_per_s"), 0.1, 1e-6);
    json_decref(object);
    object = worker_report_to_json(&GREETED);
    assert_int_equal(json_object_size(object), 5);
    json_decref(object);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
