/* What a trace's file has: rows, times and arguments, and that it is JSON. */
#include "tests/unit/files.h"

#include <jansson.h>

#include "common/clock.h"
#include "coordinator/trace.h"

static const char *const NAMES[] = {"a:1", "b:2", NULL};

static const json_t *find(const json_t *events, const char *name, int row) {
    size_t i;
    json_t *event;
    json_array_foreach(events, i, event) {
        const json_t *tid = json_object_get(event, "tid");
        if (strcmp(json_string_value(json_object_get(event, "name")), name) == 0 &&
            json_integer_value(tid) == row)
            return event;
    }
    fail_msg("no event %s in row %d", name, row);
    return NULL;
}

static double number(const json_t *event, const char *key) {
    return json_number_value(json_object_get(event, key));
}

static void test_file(void **state) {
    (void)state;
    char directory[64], path[96];
    struct trace *trace;
    test_directory_make(directory);
    snprintf(path, sizeof path, "%s/trace.json", directory);
    assert_int_equal(trace_create(path, NAMES, 3, &trace), STATUS_OK);
    uint64_t now_ns = clock_now_ns();
    while (clock_now_ns() - now_ns < 3000000) {
    }
    uint64_t begin_ns = clock_now_ns() - 2000000;
    trace_work(trace, "attention", 7, begin_ns);
    trace_worker(trace, 1, 8, begin_ns, 1000, 5);
    assert_int_equal(trace_destroy(trace), STATUS_OK);
    json_t *events = json_load_file(path, 0, NULL);
    assert_true(json_is_array(events));
    const json_t *name = json_object_get(find(events, "thread_name", 3), "args");
    assert_string_equal(json_string_value(json_object_get(name, "name")), "b:2, sent to answered");
    const json_t *attention = find(events, "attention", 0);
    assert_true(number(attention, "dur") >= 2000);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(attention, "args"), "layer")), 7);
    const json_t *way = find(events, "sent to answered", 3), *experts = find(events, "experts", 4);
    assert_float_equal(number(experts, "dur"), 1000, 1);
    assert_float_equal(number(experts, "ts") - number(way, "ts"), (number(way, "dur") - 1000) / 2,
                       1);
    char *text = json_dumps(events, 0);
    assert_null(strstr(text, "null")); /* for a place that nobody has */
    free(text);
    json_decref(events);
    test_directory_remove(directory);
}

static void test_errors(void **state) {
    (void)state;
    struct trace *trace;
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(trace_create("/nowhere/trace.json", NAMES, 2, &trace), STATUS_IO);
    log_capture_expect(&capture, "/nowhere/trace.json", NULL);
    trace_work(NULL, "attention", 0, 0);
    trace_worker(NULL, 0, 0, 0, 0, 0);
    assert_int_equal(trace_destroy(NULL), STATUS_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_file), cmocka_unit_test(test_errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
