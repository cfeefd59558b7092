/* Drawn ten times a second from an atomic counter; a condition variable ends the wait at once. */
#include "coordinator/progress.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define REDRAW_NS 100000000L

struct progress {
    const char *what;
    uint64_t bytes_total;
    atomic_uint_least64_t bytes_done;
    _Atomic(const char *) part; /* NULL: none */
    atomic_uint_least64_t part_bytes;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stopping; /* under the mutex */
};

static void draw(struct progress *progress) {
    double done = (double)atomic_load(&progress->bytes_done), total = (double)progress->bytes_total;
    double unit = total >= 1 << 30 ? 1 << 30 : 1 << 20;
    fprintf(stderr, "\r%s  %3.0f%%  %.1f of %.1f %s ", progress->what,
            total > 0 ? 100 * done / total : 0, done / unit, total / unit,
            unit > 1 << 20 ? "GiB" : "MiB");
    const char *part = atomic_load(&progress->part);
    if (part)
        fprintf(stderr, "(%.1f %s) ", (double)atomic_load(&progress->part_bytes) / unit, part);
    fflush(stderr);
}

static void *thread_main(void *argument) {
    struct progress *progress = argument;
    pthread_mutex_lock(&progress->mutex);
    while (!progress->stopping) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += REDRAW_NS;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        if (pthread_cond_timedwait(&progress->changed, &progress->mutex, &until) == ETIMEDOUT)
            draw(progress);
    }
    pthread_mutex_unlock(&progress->mutex);
    return NULL;
}

struct progress *progress_start(const char *what, uint64_t bytes_total, bool enabled) {
    if (!enabled || !isatty(STDERR_FILENO))
        return NULL;
    struct progress *progress = calloc(1, sizeof *progress);
    if (!progress)
        return NULL;
    progress->what = what;
    progress->bytes_total = bytes_total;
    pthread_mutex_init(&progress->mutex, NULL);
    pthread_cond_init(&progress->changed, NULL);
    if (pthread_create(&progress->thread, NULL, thread_main, progress)) {
        free(progress);
        return NULL;
    }
    return progress;
}

atomic_uint_least64_t *progress_counter(struct progress *progress) {
    return progress ? &progress->bytes_done : NULL;
}

void progress_set_part(struct progress *progress, const char *which, uint64_t bytes) {
    if (!progress || bytes == 0)
        return;
    atomic_store(&progress->part_bytes, bytes);
    atomic_store(&progress->part, which);
}

void progress_stop(struct progress *progress) {
    if (!progress)
        return;
    pthread_mutex_lock(&progress->mutex);
    progress->stopping = true;
    pthread_cond_signal(&progress->changed);
    pthread_mutex_unlock(&progress->mutex);
    pthread_join(progress->thread, NULL);
    fprintf(stderr, "\r\033[K");
    fflush(stderr);
    pthread_cond_destroy(&progress->changed);
    pthread_mutex_destroy(&progress->mutex);
    free(progress);
}
