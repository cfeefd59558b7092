/* A line on standard error that shows how far loading is, rewritten in place; nothing when standard
 * error is no terminal. A thread of its own draws it, so loaders only count bytes. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/cluster_limits.h"

struct progress;

/* Starts showing "`what`  12%  1.2 of 10.0 GiB". Returns NULL when not `enabled`, no terminal is
 * there or no thread can be had: all of which are fine. */
struct progress *progress_start(const char *what, uint64_t bytes_total, bool enabled);

/* The counter that loaders add to. With a NULL progress: NULL, which they accept. */
atomic_uint_least64_t *progress_counter(struct progress *progress);

/* From now on the line says, too, that `bytes` of those that are done came from `source`, a phrase
 * that stays the same, unless they are 0. With a NULL progress nothing happens. */
void progress_set_source(struct progress *progress, const char *source, uint64_t bytes);

/* From now on the line says, too, as far as the terminal is wide enough, that part `part`, below
 * PROGRESS_PARTS_MAX, is done to `percent`. `name` stays. With a NULL progress nothing happens. */
#define PROGRESS_PARTS_MAX WORKERS_MAX
void progress_set_part(struct progress *progress, uint32_t part, const char *name,
                       uint32_t percent);

/* Ends the display and clears the line. NULL is allowed. */
void progress_stop(struct progress *progress);
