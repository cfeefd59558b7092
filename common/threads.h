/* The one thread pool: splits a loop of independent tasks over all threads of the process.
 *
 * Owned by main; used by one caller at a time (the engine thread of a coordinator, the service or
 * the loader of a worker). The caller works along as thread 0; the others are spread over the NUMA
 * nodes in order. */
#pragma once

#include <stddef.h>

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
