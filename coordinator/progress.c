/* Drawn ten times a second from atomics, so that nobody waits for a terminal that takes nothing; a
 * condition variable ends the wait at once. */
#include "coordinator/progress.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define REDRAW_NS 100000000L

/* Of a terminal that does not say how wide it is, and the most that is written. */
#define COLUMNS_USUAL 80u
#define COLUMNS_MAX   1024u

struct part {
    _Atomic(const char *) name; /* NULL: nothing was said of it yet */
    atomic_uint_least32_t percent;
};

struct progress {
    const char *what;
    uint64_t bytes_total;
    atomic_uint_least64_t bytes_done;
    _Atomic(const char *) source; /* NULL: none */
    atomic_uint_least64_t source_bytes;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stopping; /* under the mutex */
    struct part parts[PROGRESS_PARTS_MAX];
};

/* What fits on one line, so that it can be written over. */
struct line {
    char text[COLUMNS_MAX];
    size_t length, columns;
};

static size_t count_columns(void) {
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || size.ws_col == 0)
        return COLUMNS_USUAL;
    return size.ws_col < COLUMNS_MAX ? size.ws_col : COLUMNS_MAX;
}

__attribute__((format(printf, 2, 3))) static void append(struct line *line, const char *format,
                                                         ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t room = line->columns - line->length;
    int length = vsnprintf(line->text + line->length, room, format, arguments);
    va_end(arguments);
    if (length > 0)
        line->length += (size_t)length < room ? (size_t)length : room - 1;
}

static void draw(struct progress *progress) {
    double done = (double)atomic_load(&progress->bytes_done), total = (double)progress->bytes_total;
    double unit = total >= 1 << 30 ? 1 << 30 : 1 << 20;
    struct line line = {.columns = count_columns()};
    append(&line, "%s  %3.0f%%  %.1f of %.1f %s", progress->what,
           total > 0 ? 100 * done / total : 0, done / unit, total / unit,
           unit > 1 << 20 ? "GiB" : "MiB");
    const char *source = atomic_load(&progress->source);
    if (source)
        append(&line, " (%.1f %s)", (double)atomic_load(&progress->source_bytes) / unit, source);
    for (uint32_t i = 0; i < PROGRESS_PARTS_MAX; i++) {
        const char *name = atomic_load(&progress->parts[i].name);
        if (name)
            append(&line, "  %s %" PRIuLEAST32 "%%", name,
                   atomic_load(&progress->parts[i].percent));
    }
    fprintf(stderr, "\r%s\033[K", line.text);
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

void progress_set_source(struct progress *progress, const char *source, uint64_t bytes) {
    if (!progress || bytes == 0)
        return;
    atomic_store(&progress->source_bytes, bytes);
    atomic_store(&progress->source, source);
}

void progress_set_part(struct progress *progress, uint32_t part, const char *name,
                       uint32_t percent) {
    if (!progress)
        return;
    atomic_store(&progress->parts[part].percent, percent);
    atomic_store(&progress->parts[part].name, name);
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
