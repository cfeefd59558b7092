/* When exactly a worker computed only its own clock knows; the bar is put in the middle between
 * sending and answer, so that what is left on both sides is the way there and back. */
#include "coordinator/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"

/* Processes of the picture, and their rows. */
#define COORDINATOR    1
#define WORKER(worker) (2 + (worker))
#define ROW_WAY        0
#define ROW(thread)    (1 + (thread))

struct event {
    const char *what;
    uint32_t machine, row, layer;
    uint32_t rows;    /* of activations; 0: not known */
    uint32_t busy_us; /* of a thread that also waited meanwhile; 0: not known */
    uint64_t begin_ns, end_ns;
};

struct trace {
    struct threads *threads;
    const char *const *names;
    uint32_t workers;
    uint32_t *threads_seen; /* (1 + workers) of each machine, those that have a row */
    char *path;
    FILE *file;
    uint64_t started_ns;
    struct event *events; /* (TRACE_EVENTS_MAX) */
    uint32_t count;
    bool is_full;
};

enum status trace_create(const char *path, struct threads *threads, const char *const *names,
                         uint32_t workers, struct trace **out) {
    struct trace *trace = calloc(1, sizeof *trace);
    if (trace) {
        trace->events = calloc(TRACE_EVENTS_MAX, sizeof *trace->events);
        trace->threads_seen = calloc(1 + (size_t)workers, sizeof *trace->threads_seen);
        trace->path = strdup(path);
    }
    if (!trace || !trace->events || !trace->threads_seen || !trace->path) {
        log_error("no memory for a trace; do without --trace");
        trace_destroy(trace);
        return STATUS_NO_MEMORY;
    }
    trace->names = names;
    trace->workers = workers;
    trace->started_ns = clock_now_ns();
    trace->file = fopen(path, "w");
    if (!trace->file) {
        log_error("cannot write %s: %s; check the path and its permissions", path, strerror(errno));
        trace_destroy(trace);
        return STATUS_IO;
    }
    trace->threads = threads;
    threads_watch(threads, true);
    *out = trace;
    return STATUS_OK;
}

static void add(struct trace *trace, const struct event *event) {
    uint32_t *seen = &trace->threads_seen[event->machine - COORDINATOR];
    *seen = event->row > *seen ? event->row : *seen;
    if (trace->count < TRACE_EVENTS_MAX) {
        trace->events[trace->count++] = *event;
        return;
    }
    if (!trace->is_full)
        log_warning("the trace is full after %u events; it shows the beginning", TRACE_EVENTS_MAX);
    trace->is_full = true;
}

void trace_step(struct trace *trace) {
    for (unsigned t = 1; trace && t < threads_count(trace->threads); t++)
        (void)threads_take_span(trace->threads, t);
}

void trace_work(struct trace *trace, const char *what, uint32_t layer, uint64_t begin_ns) {
    if (!trace)
        return;
    struct event event = {what,  COORDINATOR,          ROW(0),
                          layer, .begin_ns = begin_ns, .end_ns = clock_now_ns()};
    add(trace, &event);
    for (unsigned t = 1; t < threads_count(trace->threads); t++) {
        struct thread_span span = threads_take_span(trace->threads, t);
        event.row = ROW(t);
        event.busy_us = (uint32_t)(span.busy_ns / 1000);
        event.begin_ns = span.begin_ns;
        event.end_ns = span.end_ns;
        if (span.busy_ns)
            add(trace, &event);
    }
}

void trace_worker(struct trace *trace, uint32_t worker, uint64_t begin_ns,
                  const struct wire_header *header, const struct wire_span *spans) {
    if (!trace)
        return;
    uint64_t end_ns = clock_now_ns(), busy_ns = (uint64_t)header->busy_us * 1000;
    uint64_t left_ns = end_ns - begin_ns > busy_ns ? end_ns - begin_ns - busy_ns : 0;
    uint64_t computing_ns = begin_ns + left_ns / 2;
    struct event event = {"sent to answered", WORKER(worker), ROW_WAY,
                          header->layer,      header->rows,   0,
                          begin_ns,           end_ns};
    add(trace, &event);
    event.what = "experts";
    event.row = ROW(0);
    event.begin_ns = computing_ns;
    event.end_ns = end_ns - left_ns / 2;
    add(trace, &event);
    for (uint32_t i = 0; i < header->entries; i++) {
        if (spans[i].end_us <= spans[i].begin_us)
            continue;
        event.row = ROW(i + 1);
        event.busy_us = spans[i].busy_us;
        event.begin_ns = computing_ns + spans[i].begin_us * 1000ull;
        event.end_ns = computing_ns + spans[i].end_us * 1000ull;
        add(trace, &event);
    }
}

static void write_name(FILE *file, const char *what, uint32_t machine, uint32_t row,
                       const char *name) {
    fprintf(file,
            "{\"ph\":\"M\",\"pid\":%" PRIu32 ",\"tid\":%" PRIu32
            ",\"name\":\"%s\",\"args\":{\"name\":\"%s\"}},\n",
            machine, row, what, name);
}

/* A machine and its rows, if anything happened there. */
static void write_names(FILE *file, const struct trace *trace, uint32_t machine, const char *name) {
    uint32_t rows = trace->threads_seen[machine - COORDINATOR];
    if (rows == 0)
        return;
    write_name(file, "process_name", machine, 0, name);
    if (machine != COORDINATOR)
        write_name(file, "thread_name", machine, ROW_WAY, "sent to answered");
    for (uint32_t row = ROW(0); row <= rows; row++) {
        char text[32];
        snprintf(text, sizeof text, "thread %" PRIu32, row - ROW(0));
        write_name(file, "thread_name", machine, row, text);
    }
}

static void write_event(FILE *file, const struct trace *trace, const struct event *event) {
    fprintf(file,
            "{\"ph\":\"X\",\"pid\":%" PRIu32 ",\"tid\":%" PRIu32
            ",\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"layer\":%" PRIu32,
            event->machine, event->row, event->what,
            (double)(event->begin_ns - trace->started_ns) * 1e-3,
            (double)(event->end_ns - event->begin_ns) * 1e-3, event->layer);
    if (event->rows)
        fprintf(file, ",\"rows\":%" PRIu32, event->rows);
    if (event->busy_us)
        fprintf(file, ",\"busy_us\":%" PRIu32, event->busy_us);
    fprintf(file, "}},\n");
}

static void write_all(FILE *file, const struct trace *trace) {
    fprintf(file, "[\n");
    write_names(file, trace, COORDINATOR, "coordinator");
    for (uint32_t w = 0; w < trace->workers; w++)
        if (trace->names[w])
            write_names(file, trace, WORKER(w), trace->names[w]);
    for (uint32_t i = 0; i < trace->count; i++)
        write_event(file, trace, &trace->events[i]);
    fprintf(file, "{\"ph\":\"M\",\"pid\":1,\"name\":\"process_sort_index\",\"args\":{\"sort_"
                  "index\":0}}\n]\n");
}

enum status trace_destroy(struct trace *trace) {
    enum status status = STATUS_OK;
    if (!trace)
        return status;
    if (trace->file) {
        write_all(trace->file, trace);
        bool failed = ferror(trace->file);
        if (fclose(trace->file) || failed) {
            log_error("cannot write %s to its end; is there room on the disk?", trace->path);
            status = STATUS_IO;
        }
    }
    if (trace->threads)
        threads_watch(trace->threads, false);
    free(trace->threads_seen);
    free(trace->path);
    free(trace->events);
    free(trace);
    return status;
}
