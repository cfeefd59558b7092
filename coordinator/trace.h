/* What happened when, as a Chrome trace (chrome://tracing, Perfetto): a process for each machine,
 * with one row for each of its threads and, on workers, one for what is on the way.
 *
 * Used by the engine's thread. Events are kept in memory and written at the end. A trace that is
 * NULL takes no events. */
#pragma once

#include <stdint.h>

#include "common/status.h"
#include "common/threads.h"
#include "proto/wire.h"

struct trace;

/* Will be written to `path`, which is made now; until it is destroyed `threads` are watched.
 * `names` (workers): addresses, must outlive it. Errors: STATUS_NO_MEMORY, STATUS_IO; one line
 * each. */
enum status trace_create(const char *path, struct threads *threads, const char *const *names,
                         uint32_t workers, struct trace **out);

/* Writes the file and frees the trace. NULL is allowed. Errors: STATUS_IO, with one line. */
enum status trace_destroy(struct trace *trace);

/* A step begins: what threads did before, between steps, is not shown. */
void trace_step(struct trace *trace);

/* The coordinator did `what` (a literal) for a layer from `begin_ns` to now, and so did those of
 * its threads that worked since the last call, or since the step began. */
void trace_work(struct trace *trace, const char *what, uint32_t layer, uint64_t begin_ns);

/* A worker's part of a layer: sent at `begin_ns`, answered now with a COMBINE frame of this header
 * and these spans (header->entries). */
void trace_worker(struct trace *trace, uint32_t worker, uint64_t begin_ns,
                  const struct wire_header *header, const struct wire_span *spans);
