/* Every task runs once, on a thread whose number no other running task has, for pools of all sizes
 * and for loops that follow one another quickly or slowly enough for the helpers to fall asleep. */
#include "common/threads.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"

#define TASKS_MAX 1000

struct record {
    atomic_uint runs[TASKS_MAX];
    atomic_bool thread_busy[THREADS_MAX];
    unsigned threads;
    atomic_uint errors;
};

static void note_task(void *context, size_t task, unsigned thread) {
    struct record *record = context;
    if (thread >= record->threads || task >= TASKS_MAX ||
        atomic_exchange(&record->thread_busy[thread], true)) {
        atomic_fetch_add(&record->errors, 1);
        return;
    }
    atomic_fetch_add(&record->runs[task], 1);
    atomic_store(&record->thread_busy[thread], false);
}

static void check_loop(struct threads *threads, size_t tasks) {
    struct record *record = calloc(1, sizeof *record);
    record->threads = threads_count(threads);
    threads_run(threads, tasks, note_task, record);
    assert_int_equal(record->errors, 0);
    for (size_t i = 0; i < TASKS_MAX; i++)
        assert_int_equal(record->runs[i], i < tasks);
    free(record);
}

static void test_every_task_runs_once(void **state) {
    (void)state;
    static const unsigned COUNTS[] = {1, 2, 3, 8};
    static const size_t TASKS[] = {0, 1, 2, 3, 7, 64, TASKS_MAX};
    for (size_t c = 0; c < sizeof COUNTS / sizeof *COUNTS; c++) {
        struct threads *threads;
        assert_int_equal(threads_create(COUNTS[c], &threads), STATUS_OK);
        assert_int_equal(threads_count(threads), COUNTS[c]);
        for (size_t t = 0; t < sizeof TASKS / sizeof *TASKS; t++)
            check_loop(threads, TASKS[t]);
        threads_destroy(threads);
    }
}

static void add_one(void *context, size_t task, unsigned thread) {
    (void)task;
    (void)thread;
    atomic_fetch_add((atomic_ulong *)context, 1);
}

static void test_many_short_loops(void **state) {
    (void)state;
    struct threads *threads;
    atomic_ulong sum = 0;
    assert_int_equal(threads_create(3, &threads), STATUS_OK);
    for (int i = 0; i < 3000; i++)
        threads_run(threads, 5, add_one, &sum);
    assert_int_equal(sum, 15000);
    threads_destroy(threads);
}

static void test_helpers_wake_up_again(void **state) {
    (void)state;
    struct threads *threads;
    atomic_ulong sum = 0;
    assert_int_equal(threads_create(2, &threads), STATUS_OK);
    for (int i = 0; i < 5; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        threads_run(threads, 10, add_one, &sum);
    }
    assert_int_equal(sum, 50);
    threads_destroy(threads);
}

static void meet(void *context, size_t task, unsigned thread) {
    (void)task;
    (void)thread;
    pthread_barrier_wait(context);
}

/* Two tasks that wait for each other end only if two threads run them at the same time. */
static void test_tasks_run_at_the_same_time(void **state) {
    (void)state;
    struct threads *threads;
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, 2);
    assert_int_equal(threads_create(2, &threads), STATUS_OK);
    threads_run(threads, 2, meet, &barrier);
    threads_destroy(threads);
    pthread_barrier_destroy(&barrier);
}

static void test_spans(void **state) {
    (void)state;
    struct threads *threads;
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, 2);
    assert_int_equal(threads_create(2, &threads), STATUS_OK);
    threads_run(threads, 2, meet, &barrier);
    assert_int_equal(threads_take_span(threads, 1).busy_ns, 0);
    threads_watch(threads, true);
    uint64_t begin_ns = clock_now_ns();
    threads_run(threads, 2, meet, &barrier);
    uint64_t middle_ns = clock_now_ns();
    threads_run(threads, 2, meet, &barrier);
    struct thread_span span = threads_take_span(threads, 1);
    assert_true(span.begin_ns >= begin_ns && span.begin_ns < middle_ns);
    assert_true(span.end_ns > middle_ns && span.end_ns <= clock_now_ns());
    assert_true(span.busy_ns > 0 && span.busy_ns <= span.end_ns - span.begin_ns);
    assert_int_equal(threads_take_span(threads, 1).busy_ns, 0);
    threads_destroy(threads);
    pthread_barrier_destroy(&barrier);
}

static void test_default_and_largest_count(void **state) {
    (void)state;
    struct threads *threads;
    assert_int_equal(threads_create(0, &threads), STATUS_OK);
    assert_true(threads_count(threads) >= 1);
    threads_destroy(threads);
    threads_destroy(NULL);
}

static void test_refused_thread(void **state) {
    (void)state;
    char *text;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    log_init("test", LOG_DEBUG, stream);
    /* A stack larger than the address space is refused for any user, root too. */
    pthread_attr_t saved, impossible;
    pthread_getattr_default_np(&saved);
    pthread_attr_init(&impossible);
    pthread_attr_setstacksize(&impossible, (size_t)1 << 50);
    assert_int_equal(pthread_setattr_default_np(&impossible), 0);
    struct threads *threads = NULL;
    assert_int_equal(threads_create(4, &threads), STATUS_NO_MEMORY);
    pthread_setattr_default_np(&saved);
    assert_null(threads);
    fclose(stream);
    assert_non_null(strstr(text, "cannot start thread 2 of 4; lower --threads"));
    log_init("test", LOG_WARNING, NULL);
    free(text);
    pthread_attr_destroy(&saved);
    pthread_attr_destroy(&impossible);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task_runs_once),
        cmocka_unit_test(test_many_short_loops),
        cmocka_unit_test(test_helpers_wake_up_again),
        cmocka_unit_test(test_tasks_run_at_the_same_time),
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_default_and_largest_count),
        cmocka_unit_test(test_refused_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
