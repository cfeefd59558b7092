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

/* Rows of the picture: 0 is the coordinator's thread, then two for each worker. */
#define ROW_WAY(worker)     (1 + 2 * (worker))
#define ROW_COMPUTE(worker) (2 + 2 * (worker))

struct event {
    const char *what;
    uint32_t row, layer, rows;
    uint64_t begin_ns, end_ns;
};

struct trace {
    const char *const *names;
    uint32_t workers;
    char *path;
    FILE *file;
    uint64_t started_ns;
    struct event *events; /* (TRACE_EVENTS_MAX) */
    uint32_t count;
    bool is_full;
};

enum status trace_create(const char *path, const char *const *names, uint32_t workers,
                         struct trace **out) {
    struct trace *trace = calloc(1, sizeof *trace);
    if (trace) {
        trace->events = calloc(TRACE_EVENTS_MAX, sizeof *trace->events);
        trace->path = strdup(path);
    }
    if (!trace || !trace->events || !trace->path) {
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
    *out = trace;
    return STATUS_OK;
}

static void add(struct trace *trace, const struct event *event) {
    if (trace->count < TRACE_EVENTS_MAX) {
        trace->events[trace->count++] = *event;
        return;
    }
    if (!trace->is_full)
        log_warning("the trace is full after %u events; it shows the beginning", TRACE_EVENTS_MAX);
    trace->is_full = true;
}

void trace_work(struct trace *trace, const char *what, uint32_t layer, uint64_t begin_ns) {
    if (trace)
        add(trace,
            &(struct event){what, 0, layer, 0, .begin_ns = begin_ns, .end_ns = clock_now_ns()});
}

void trace_worker(struct trace *trace, uint32_t worker, uint32_t layer, uint64_t begin_ns,
                  uint32_t busy_us, uint32_t rows) {
    if (!trace)
        return;
    uint64_t end_ns = clock_now_ns(), busy_ns = (uint64_t)busy_us * 1000;
    uint64_t left_ns = end_ns - begin_ns > busy_ns ? end_ns - begin_ns - busy_ns : 0;
    add(trace, &(struct event){"sent to answered", ROW_WAY(worker), layer, rows, begin_ns, end_ns});
    add(trace, &(struct event){"experts", ROW_COMPUTE(worker), layer, rows, begin_ns + left_ns / 2,
                               end_ns - left_ns / 2});
}

static void write_row_name(FILE *file, uint32_t row, const char *name, const char *part) {
    fprintf(file,
            "{\"ph\":\"M\",\"pid\":1,\"tid\":%" PRIu32 ",\"name\":\"thread_name\",\"args\":"
            "{\"name\":\"%s%s\"}},\n",
            row, name, part);
}

static void write_event(FILE *file, const struct trace *trace, const struct event *event) {
    fprintf(file,
            "{\"ph\":\"X\",\"pid\":1,\"tid\":%" PRIu32
            ",\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"layer\":%" PRIu32,
            event->row, event->what, (double)(event->begin_ns - trace->started_ns) * 1e-3,
            (double)(event->end_ns - event->begin_ns) * 1e-3, event->layer);
    if (event->rows)
        fprintf(file, ",\"rows\":%" PRIu32, event->rows);
    fprintf(file, "}},\n");
}

static void write_all(FILE *file, const struct trace *trace) {
    fprintf(file, "[\n");
    write_row_name(file, 0, "coordinator", "");
    for (uint32_t w = 0; w < trace->workers; w++) {
        if (!trace->names[w])
            continue;
        write_row_name(file, ROW_WAY(w), trace->names[w], ", sent to answered");
        write_row_name(file, ROW_COMPUTE(w), trace->names[w], ", computing");
    }
    for (uint32_t i = 0; i < trace->count; i++)
        write_event(file, trace, &trace->events[i]);
    fprintf(
        file,
        "{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"skein\"}}\n]\n");
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
    free(trace->path);
    free(trace->events);
    free(trace);
    return status;
}
