/* Writes what was shipped to this worker to its cache, beside everything else that it does: slots
 * that are filled, which nothing changes until they are released.
 *
 * Owned by the session; everything happens on the loop's thread, except writing, which goes to
 * libuv's threads, some slots at a time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/status.h"
#include "worker/expert_store.h"
#include "worker/shard_cache.h"

struct keeper;

/* Keeps what is in `store`, which outlives it; `paused` is called whenever it stops writing.
 * Errors: STATUS_NO_MEMORY, not logged. */
enum status keeper_create(uv_loop_t *loop, const struct expert_store *store,
                          void (*paused)(void *context), void *context, struct keeper **out);

/* While it does not write. NULL is allowed. */
void keeper_destroy(struct keeper *keeper);

/* Has some of the slots that are filled and were not yet given to `cache` written there, if there
 * are any and it does not write already. */
void keeper_continue(struct keeper *keeper, struct shard_cache *cache);

bool keeper_is_writing(const struct keeper *keeper);

/* Makes it stop behind the slot at hand, until keeper_continue; and whether that was done. */
void keeper_stop(struct keeper *keeper);
bool keeper_was_stopped(const struct keeper *keeper);

/* Others have come into these slots (count): they are to be written as well. */
void keeper_renew(struct keeper *keeper, const uint32_t *slots, uint32_t count);

/* Another assignment, or another cache: all slots are new. Not while it writes. */
void keeper_reset(struct keeper *keeper);
