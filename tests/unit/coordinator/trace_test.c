/* What a trace's file has: machines, rows, times and arguments, and that it is JSON. */
#include "tests/unit/files.h"

#include <jansson.h>
#include <stdatomic.h>

#include "common/clock.h"
#include "coordinator/trace.h"

static const char *const NAMES[] = {"a:1", "b:2", NULL};

/* NULL if there is none. */
static const json_t *look_for(const json_t *events, const char *name, int machine, int row) {
    size_t i;
    json_t *event;
    json_array_foreach(events, i, event) {
        if (strcmp(json_string_value(json_object_get(event, "name")), name) == 0 &&
            json_integer_value(json_object_get(event, "pid")) == machine &&
            json_integer_value(json_object_get(event, "tid")) == row)
            return event;
    }
    return NULL;
}

static const json_t *find(const json_t *events, const char *name, int machine, int row) {
    const json_t *event = look_for(events, name, machine, row);
    if (!event)
        fail_msg("no event %s in row %d of machine %d", name, row, machine);
    return event;
}

static double number(const json_t *event, const char *key) {
    return json_number_value(json_object_get(event, key));
}

static const json_t *argument(const json_t *event, const char *key) {
    return json_object_get(json_object_get(event, "args"), key);
}

static void wait_us(uint64_t us) {
    uint64_t begin_ns = clock_now_ns();
    while (clock_now_ns() - begin_ns < us * 1000) {
    }
}

/* Ends only when another thread has begun, so that two threads have a task. */
static void meet(void *context, size_t task, unsigned thread) {
    (void)task;
    (void)thread;
    atomic_uint *met = context;
    atomic_fetch_add(met, 1);
    while (atomic_load(met) < 2)
        threads_pause();
    wait_us(1000);
}

static void record(const char *path) {
    struct trace *trace;
    struct threads *threads;
    atomic_uint met = 0;
    assert_int_equal(threads_create(2, &threads), STATUS_OK);
    assert_int_equal(trace_create(path, threads, NAMES, 3, &trace), STATUS_OK);
    wait_us(3000);
    uint64_t begin_ns = clock_now_ns() - 2000000;
    const struct wire_header header = {.layer = 8, .rows = 5, .busy_us = 1000, .entries = 2};
    const struct wire_span spans[] = {{100, 700, 500}, {0, 0, 0}};
    trace_work(trace, "attention", 7, begin_ns);
    threads_run(threads, 2, meet, &met);
    trace_work(trace, "router", 7, begin_ns);
    met = 0;
    threads_run(threads, 2, meet, &met);
    trace_step(trace);
    trace_work(trace, "dispatch", 7, begin_ns);
    trace_worker(trace, 1, begin_ns, &header, spans);
    assert_int_equal(trace_destroy(trace), STATUS_OK);
    threads_destroy(threads);
}

static void test_file(void **state) {
    (void)state;
    char directory[64], path[96];
    test_directory_make(directory);
    snprintf(path, sizeof path, "%s/trace.json", directory);
    record(path);
    json_t *events = json_load_file(path, 0, NULL);
    assert_true(json_is_array(events));
    assert_string_equal(json_string_value(argument(find(events, "process_name", 3, 0), "name")),
                        "b:2");
    assert_string_equal(json_string_value(argument(find(events, "thread_name", 3, 2), "name")),
                        "thread 1");
    const json_t *attention = find(events, "attention", 1, 1);
    assert_true(number(attention, "dur") >= 2000);
    assert_int_equal(json_integer_value(argument(attention, "layer")), 7);
    assert_true(json_integer_value(argument(find(events, "router", 1, 2), "busy_us")) >= 1000);
    find(events, "dispatch", 1, 1);
    assert_null(look_for(events, "dispatch", 1, 2)); /* its work was before the step */
    const json_t *way = find(events, "sent to answered", 3, 0);
    const json_t *experts = find(events, "experts", 3, 1), *helper = find(events, "experts", 3, 2);
    assert_float_equal(number(experts, "dur"), 1000, 1);
    assert_float_equal(number(experts, "ts") - number(way, "ts"), (number(way, "dur") - 1000) / 2,
                       1);
    assert_float_equal(number(helper, "ts") - number(experts, "ts"), 100, 1);
    assert_float_equal(number(helper, "dur"), 600, 1);
    assert_int_equal(json_integer_value(argument(helper, "busy_us")), 500);
    char *text = json_dumps(events, 0);
    assert_null(strstr(text, "null"));       /* for a place that nobody has */
    assert_null(strstr(text, "a:1"));        /* where nothing happened */
    assert_null(strstr(text, "\"thread 2")); /* which had no work */
    free(text);
    json_decref(events);
    test_directory_remove(directory);
}

static void test_errors(void **state) {
    (void)state;
    struct trace *trace;
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(trace_create("/nowhere/trace.json", NULL, NAMES, 2, &trace), STATUS_IO);
    log_capture_expect(&capture, "/nowhere/trace.json", NULL);
    trace_work(NULL, "attention", 0, 0);
    trace_worker(NULL, 0, 0, NULL, NULL);
    assert_int_equal(trace_destroy(NULL), STATUS_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_file), cmocka_unit_test(test_errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
