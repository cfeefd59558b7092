/* Shards on holders' disks: what that adds to what holders can take, and which ones they are. Pure;
 * used by the planner and by repair.
 *
 * A holder spills only what it has beyond its memory. It then keeps a part of that free, into which
 * the rest is read. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "coordinator/placement.h"
#include "coordinator/routing.h"

struct spilling {
    const struct shard_layout *layouts; /* SHARD_LAYOUTS(layers) */
    const bool *is_expert_layer;        /* (layers) */
    uint32_t layers, experts;
    const uint64_t *memory_bytes; /* (holders) */
    const uint64_t *spill_bytes;  /* (holders) on the disk beyond memory; NULL: none */
    const double *disk_rates;     /* (holders) bytes/s; NULL: all disks are as fast */
    uint32_t holders;
    const struct routing *routing; /* NULL: every expert is as likely */
};

/* Whether any holder may spill. */
bool spilling_is_allowed(const struct spilling *spilling);

/* What each holder can take in all, with a `part` of disks between none (0) and all that may be
 * spilled (1): as much on each as takes them equally long to read. capacity (holders). */
void spilling_find_capacity(const struct spilling *spilling, double part, uint64_t *capacity);

/* The part with which `total_bytes` just fit all holders together, and some more; 0 where memory
 * suffices, 1 where nothing does. */
double spilling_find_part(const struct spilling *spilling, uint64_t total_bytes);

/* Puts on disks what holders of `placement` have beyond their memory: the experts that are chosen
 * least, of equal ones some of each layer. Errors: STATUS_NO_MEMORY. */
enum status spilling_mark(const struct spilling *spilling, struct placement *placement);

/* The same for one holder, whose shards count as being in memory before. */
enum status spilling_mark_holder(const struct spilling *spilling, struct placement *placement,
                                 uint32_t holder);
