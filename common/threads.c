/* A loop is published as a generation number; threads take tasks from an atomic counter. A decode
 * step runs several hundred short loops, so waiting threads spin for a moment before they sleep in
 * a futex; the moment is short, because local workers share cores with the coordinator. */
#include "common/threads.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/log.h"

#define SPIN_ROUNDS 4000

struct threads {
    unsigned count;
    pthread_t *handles; /* (count - 1) */
    threads_task function;
    void *context;
    size_t tasks;
    atomic_uint ids;                     /* hands out thread numbers */
    _Alignas(64) atomic_uint generation; /* futex: a new value is a new loop */
    atomic_bool stopping;                /* read after `generation` */
    _Alignas(64) atomic_size_t next;     /* next task of the current loop */
    _Alignas(64) atomic_uint busy;       /* futex: helpers that have not finished the loop */
};

static void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(atomic_uint *word, unsigned value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake_all(atomic_uint *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Waits until *word differs from `value` and returns what it became. */
static unsigned wait_change(atomic_uint *word, unsigned value) {
    for (int round = 0; round < SPIN_ROUNDS; round++) {
        unsigned now = atomic_load_explicit(word, memory_order_acquire);
        if (now != value)
            return now;
        pause_cpu();
    }
    for (;;) {
        unsigned now = atomic_load_explicit(word, memory_order_acquire);
        if (now != value)
            return now;
        futex_wait(word, value);
    }
}

static void take_tasks(struct threads *threads, unsigned thread) {
    for (;;) {
        size_t task = atomic_fetch_add_explicit(&threads->next, 1, memory_order_relaxed);
        if (task >= threads->tasks)
            return;
        threads->function(threads->context, task, thread);
    }
}

static void *thread_main(void *argument) {
    struct threads *threads = argument;
    unsigned id = atomic_fetch_add(&threads->ids, 1);
    unsigned generation = 0;
    for (;;) {
        generation = wait_change(&threads->generation, generation);
        if (atomic_load(&threads->stopping))
            return NULL;
        take_tasks(threads, id);
        if (atomic_fetch_sub_explicit(&threads->busy, 1, memory_order_acq_rel) == 1)
            futex_wake_all(&threads->busy);
    }
}

static unsigned available_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set))
        return 1;
    return (unsigned)CPU_COUNT(&set);
}

enum status threads_create(unsigned count, struct threads **out) {
    if (count == 0)
        count = available_cores();
    if (count > THREADS_MAX)
        count = THREADS_MAX;
    struct threads *threads = aligned_alloc(64, sizeof *threads);
    if (!threads)
        return STATUS_NO_MEMORY;
    *threads = (struct threads){.count = 1};
    atomic_init(&threads->ids, 1);
    threads->handles = calloc(count, sizeof *threads->handles);
    if (!threads->handles) {
        free(threads);
        return STATUS_NO_MEMORY;
    }
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
    futex_wake_all(&threads->generation);
    for (unsigned i = 0; i + 1 < threads->count; i++)
        pthread_join(threads->handles[i], NULL);
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
    threads->tasks = tasks;
    atomic_store_explicit(&threads->next, 0, memory_order_relaxed);
    atomic_store_explicit(&threads->busy, threads->count - 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&threads->generation, 1, memory_order_release);
    futex_wake_all(&threads->generation);
    take_tasks(threads, 0);
    for (unsigned busy; (busy = atomic_load_explicit(&threads->busy, memory_order_acquire)) != 0;)
        wait_change(&threads->busy, busy);
}
