/* Gets shards from other workers: from each over a control connection of its own, all beside each
 * other, the shards of one after another.
 *
 * Owned by the session while slots are missing; everything happens on the loop's thread. What a
 * worker does not give in time, or not as it should, is handed back for the coordinator to send. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "common/status.h"
#include "worker/expert_store.h"

struct fetcher;

struct fetcher_options {
    uv_loop_t *loop;
    struct expert_store *store;

    /* The slot has come, was checked and is filled. May call fetcher_destroy, as may `failed`. */
    void (*filled)(void *context, uint32_t slot);

    /* These slots (count), valid during the call, do not come from the worker that was named for
     * them. Why was logged. */
    void (*failed)(void *context, const uint32_t *slots, size_t count);
    void *context;
};

/* Errors: STATUS_NO_MEMORY, not logged. The caller ends it with fetcher_destroy. */
enum status fetcher_create(const struct fetcher_options *options, struct fetcher **out);

/* Has the shard in `slot`, of which nothing was filled, brought from the worker at `address`
 * (HOST:PORT). Errors: STATUS_REFUSED (that worker has failed before), STATUS_PROTOCOL (no such
 * slot, or it is filled; not an address; too many workers), STATUS_NO_MEMORY; not logged. */
enum status fetcher_add(struct fetcher *fetcher, const char *address, uint32_t slot);

/* Bytes that have come of shards that are not whole yet. */
uint64_t fetcher_bytes_under_way(const struct fetcher *fetcher);

/* Parts with all workers, with a line on what each gave, and calls nothing any more; the loop frees
 * what is left. NULL is allowed. */
void fetcher_destroy(struct fetcher *fetcher);
