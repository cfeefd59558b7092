/* The one thread pool: splits a loop of independent tasks over all threads of the process.
 *
 * Owned by main; used by one caller at a time (the engine thread of a coordinator, the service or
 * the loader of a worker). The caller works along as thread 0; the others are spread over the NUMA
 * nodes in order. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct threads;

/* One task of a loop. `thread` is in [0, threads_count) and unique among the tasks that run at the
 * same time: it indexes per-thread scratch. */
typedef void (*threads_task)(void *context, size_t task, unsigned thread);

/* Starts a pool of `count` threads (the caller counts as one; 0 means one per available core).
 * Errors: STATUS_NO_MEMORY, when the system refuses a thread. */
enum status threads_create(unsigned count, struct threads **out);

/* Ends all threads. NULL is allowed. */
void threads_destroy(struct threads *threads);

unsigned threads_count(const struct threads *threads);

/* Processors that the calling thread may run on. */
unsigned threads_processors(void);

/* Tells the processor that the caller goes round in a loop until memory changes. */
static inline void threads_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Runs function(context, task, thread) once for every task in [0, tasks) and returns when all are
 * done. Each thread starts with its own part of the tasks, of consecutive numbers and the same in
 * each loop of as many tasks, and helps the others when it is through. Allocates nothing. */
void threads_run(struct threads *threads, size_t tasks, threads_task function, void *context);

/* When a thread worked on tasks, as clock_now_ns: from its first to its last one, and how long in
 * all loops together. busy_ns is 0 where it had none. */
struct thread_span {
    uint64_t begin_ns, end_ns, busy_ns;
};

/* Whether loops note spans from now on. Call it, as the next one, between two loops. */
void threads_watch(struct threads *threads, bool watched);

/* What thread `thread` of [1, threads_count) did since this was last asked of it, or watching
 * began; thread 0 is the caller, who knows. */
struct thread_span threads_take_span(struct threads *threads, unsigned thread);
