/* What happened when, as a Chrome trace (chrome://tracing, Perfetto): one row for the coordinator's
 * thread and two for each worker, on the way and computing.
 *
 * Used by the engine's thread. Events are kept in memory and written at the end. A trace that is
 * NULL takes no events. */
#pragma once

#include <stdint.h>

#include "common/status.h"

struct trace;

/* Will be written to `path`, which is made now. `names` (workers): addresses, must outlive it.
 * Errors: STATUS_NO_MEMORY, STATUS_IO; one line each. */
enum status trace_create(const char *path, const char *const *names, uint32_t workers,
                         struct trace **out);

/* Writes the file and frees the trace. NULL is allowed. Errors: STATUS_IO, with one line. */
enum status trace_destroy(struct trace *trace);

/* The coordinator did `what` (a literal) for a layer from `begin_ns` to now. */
void trace_work(struct trace *trace, const char *what, uint32_t layer, uint64_t begin_ns);

/* A worker's part of a layer: sent at `begin_ns`, answered now, of which it computed `busy_us`. */
void trace_worker(struct trace *trace, uint32_t worker, uint32_t layer, uint64_t begin_ns,
                  uint32_t busy_us, uint32_t rows);
