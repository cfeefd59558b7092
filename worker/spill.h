/* Spilled shards: experts that lie in files of the shard cache and come into memory when a frame
 * asks for them, read ahead of the computation.
 *
 * Created by the session when all shards are there; used by the service's thread alone while that
 * lives. Reads are io_uring's, or the pool's threads' where that is refused. What was read stays
 * until its buffer is needed for something that was not. Each read is checked against the hash that
 * the file is named by. Memory is taken at creation; nothing below allocates after that. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "common/threads.h"
#include "worker/expert.h"
#include "worker/expert_store.h"
#include "worker/shard_cache.h"

struct spill;

/* Everything outlives the spill. */
struct spill_options {
    const struct expert_store *store; /* filled; some of its shards are spilled */
    const struct shard_cache *cache;  /* that has their files */
    struct threads *threads;          /* that read where io_uring does not */
    bool uses_uring;                  /* false: it is not even tried */
};

/* Takes the memory that the store's resident shards leave, at most what all spilled ones need, as
 * buffers of the largest one's size. The caller destroys it. Errors: STATUS_NO_MEMORY, with one
 * line. */
enum status spill_create(const struct spill_options *options, struct spill **out);

/* Waits for what is being read; logs what was read in all, and how fast. NULL is allowed. */
void spill_destroy(struct spill *spill);

/* How expert_forward is to be told of what is here and waits for the rest. */
struct expert_arrivals spill_arrivals(struct spill *spill);

/* The expert in `slot`, which is spilled: always the same address, with weights only where
 * spill_fetch says so. */
const struct expert *spill_expert(const struct spill *spill, uint32_t slot);

/* Has the experts of `tasks` read, as many of the first ones as there are buffers for; those of
 * earlier calls that are not among them may go. Returns how many tasks may be computed now, at
 * least one: all, or fewer, so that the rest can be read meanwhile; the caller goes on with those
 * that are left. 0: a file cannot be read, which was logged. */
size_t spill_fetch(struct spill *spill, const struct expert_task *tasks, size_t count);

/* Why something could not be read, for the peer: from then on nothing that is computed counts.
 * NULL: all was read so far. */
const char *spill_fault(const struct spill *spill);
