/* Brings further shards into this process's own store, when others' are lost or load is moved: at
 * once, while the generation waits, or by a thread of its own beside it.
 *
 * Used by failover, on the engine's thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/threads.h"
#include "common/weights/weights.h"
#include "worker/expert_store.h"

struct own_shards;

/* The pointers must outlive it; the caller destroys it. Errors: STATUS_NO_MEMORY, not logged. */
enum status own_shards_create(struct expert_store *store, const struct weights *weights,
                              struct threads *threads, struct own_shards **out);

/* Ends a loading that is under way; what it has not read by then is missing. NULL is allowed. */
void own_shards_destroy(struct own_shards *own);

/* Adds `shards` (count) in `slots` (count), as expert_store_extend. Waits for an earlier loading to
 * end; then loads them at once, or, `beside` the generation, has them loaded. Errors: those of
 * expert_store_extend and, at once, of store_load, also for what an earlier loading could not read.
 */
enum status own_shards_extend(struct own_shards *own, const uint32_t *slots,
                              const struct shard *shards, uint32_t count, bool beside);

/* Waits for a loading that is under way. */
void own_shards_wait(struct own_shards *own);

/* Whether all shards of the store are there; then all may be looked up from now on. False as long
 * as some are being loaded, and after that failed, which was logged. */
bool own_shards_serve(struct own_shards *own);
