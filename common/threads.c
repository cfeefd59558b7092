/* A loop is published as a generation number. Each thread works through a run of consecutive tasks,
 * the same part of a loop each time, so that weights stream without gaps and stay near their
 * thread; a thread that is through takes tasks from the others' runs. The loop is over when all
 * tasks are done, whoever did them: a helper that the system has not given a processor by then is
 * not waited for, and finds the loop closed.
 *
 * A decode step runs several hundred short loops, so waiting threads spin for a moment before they
 * sleep in a futex; the moment is short, because local workers share cores with the coordinator. */
#include "common/threads.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/nodes.h"

#define SPIN_ROUNDS 4000

/* The tasks of one thread's run that nobody has taken, and what that thread did. */
struct run {
    _Alignas(64) atomic_size_t next;
    size_t end;
    struct thread_span span; /* written by the thread inside a loop, read between loops */
};

struct threads {
    unsigned count;
    unsigned wanted;    /* what count becomes */
    pthread_t *handles; /* (count - 1) */
    struct run *runs;   /* (count) */
    threads_task function;
    void *context;
    bool watched;
    atomic_uint ids;                     /* hands out thread numbers */
    atomic_uint sleepers;                /* threads in a futex or on the way there */
    _Alignas(64) atomic_uint generation; /* futex: a new value is a new loop */
    atomic_bool stopping;                /* read after `generation` */
    _Alignas(64) atomic_uint inside;     /* futex: helpers in the loop, and CLOSED */
};

/* Nobody may enter the loop any more. What a loop consists of changes while it is closed and no
 * helper is inside. */
#define CLOSED (1u << 31)

/* Waits until *word differs from `value` and returns what it became. A sleeper counts itself before
 * the kernel looks at the word, and whoever changes the word looks at the count afterwards: one of
 * the two sees the other. */
static unsigned wait_change(struct threads *threads, atomic_uint *word, unsigned value) {
    unsigned now;
    for (int round = 0; round < SPIN_ROUNDS; round++) {
        now = atomic_load_explicit(word, memory_order_acquire);
        if (now != value)
            return now;
        threads_pause();
    }
    atomic_fetch_add(&threads->sleepers, 1);
    while ((now = atomic_load(word)) == value)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    atomic_fetch_sub(&threads->sleepers, 1);
    return now;
}

/* Call after changing *word. */
static void wake(struct threads *threads, atomic_uint *word) {
    if (atomic_load(&threads->sleepers))
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Returns how many it has done. */
static size_t take_tasks(struct threads *threads, unsigned thread) {
    size_t done = 0;
    for (unsigned i = 0; i < threads->count; i++) {
        struct run *run = &threads->runs[(thread + i) % threads->count];
        for (;;) {
            size_t task = atomic_fetch_add_explicit(&run->next, 1, memory_order_relaxed);
            if (task >= run->end)
                break;
            threads->function(threads->context, task, thread);
            done++;
        }
    }
    return done;
}

/* take_tasks of a helper, noting when it was. */
static void help(struct threads *threads, unsigned thread) {
    struct thread_span *span = &threads->runs[thread].span;
    uint64_t begin_ns = threads->watched ? clock_now_ns() : 0;
    if (take_tasks(threads, thread) == 0 || !threads->watched)
        return;
    span->end_ns = clock_now_ns();
    span->begin_ns = span->busy_ns ? span->begin_ns : begin_ns;
    span->busy_ns += span->end_ns - begin_ns;
}

/* False: the loop is closed. */
static bool enter(struct threads *threads) {
    unsigned inside = atomic_load(&threads->inside);
    while (!(inside & CLOSED))
        if (atomic_compare_exchange_weak(&threads->inside, &inside, inside + 1))
            return true;
    return false;
}

static void leave(struct threads *threads) {
    if (atomic_fetch_sub(&threads->inside, 1) == (CLOSED | 1))
        wake(threads, &threads->inside);
}

static void *thread_main(void *argument) {
    struct threads *threads = argument;
    unsigned id = atomic_fetch_add(&threads->ids, 1);
    unsigned generation = 0;
    /* The caller's thread stays free: whatever it starts would inherit its processors. */
    nodes_bind_thread(id, threads->wanted);
    for (;;) {
        generation = wait_change(threads, &threads->generation, generation);
        if (atomic_load(&threads->stopping))
            return NULL;
        if (!enter(threads))
            continue;
        help(threads, id);
        leave(threads);
    }
}

unsigned threads_processors(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set))
        return 1;
    return (unsigned)CPU_COUNT(&set);
}

enum status threads_create(unsigned count, struct threads **out) {
    if (count == 0)
        count = threads_processors();
    if (count > THREADS_MAX)
        count = THREADS_MAX;
    struct threads *threads = aligned_alloc(64, sizeof *threads);
    if (!threads)
        return STATUS_NO_MEMORY;
    *threads = (struct threads){.count = 1, .wanted = count};
    atomic_init(&threads->ids, 1);
    atomic_init(&threads->inside, CLOSED);
    (void)nodes_count(); /* before there are threads, see nodes.h */
    threads->handles = calloc(count, sizeof *threads->handles);
    threads->runs = aligned_alloc(64, count * sizeof *threads->runs);
    if (!threads->handles || !threads->runs) {
        threads_destroy(threads);
        return STATUS_NO_MEMORY;
    }
    memset(threads->runs, 0, count * sizeof *threads->runs);
    for (; threads->count < count; threads->count++) {
        if (pthread_create(&threads->handles[threads->count - 1], NULL, thread_main, threads)) {
            log_error("cannot start thread %u of %u; lower --threads", threads->count + 1, count);
            threads_destroy(threads);
            return STATUS_NO_MEMORY;
        }
    }
    *out = threads;
    return STATUS_OK;
}

void threads_destroy(struct threads *threads) {
    if (!threads)
        return;
    atomic_store(&threads->stopping, true);
    atomic_fetch_add(&threads->generation, 1);
    wake(threads, &threads->generation);
    for (unsigned i = 0; i + 1 < threads->count; i++)
        pthread_join(threads->handles[i], NULL);
    free(threads->runs);
    free(threads->handles);
    free(threads);
}

unsigned threads_count(const struct threads *threads) {
    return threads->count;
}

void threads_run(struct threads *threads, size_t tasks, threads_task function, void *context) {
    if (tasks <= 1 || threads->count == 1) {
        for (size_t task = 0; task < tasks; task++)
            function(context, task, 0);
        return;
    }
    threads->function = function;
    threads->context = context;
    for (size_t t = 0; t < threads->count; t++) {
        atomic_store_explicit(&threads->runs[t].next, tasks * t / threads->count,
                              memory_order_relaxed);
        threads->runs[t].end = tasks * (t + 1) / threads->count;
    }
    atomic_store(&threads->inside, 0);
    atomic_fetch_add(&threads->generation, 1);
    wake(threads, &threads->generation);
    (void)take_tasks(threads, 0);
    unsigned inside = atomic_fetch_or(&threads->inside, CLOSED) | CLOSED;
    while (inside != CLOSED)
        inside = wait_change(threads, &threads->inside, inside);
}

void threads_watch(struct threads *threads, bool watched) {
    threads->watched = watched;
    for (unsigned t = 0; t < threads->count; t++)
        threads->runs[t].span = (struct thread_span){0};
}

struct thread_span threads_take_span(struct threads *threads, unsigned thread) {
    struct thread_span span = threads->runs[thread].span;
    threads->runs[thread].span = (struct thread_span){0};
    return span;
}
