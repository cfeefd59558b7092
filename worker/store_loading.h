/* Brings the shards of an expert store in from the worker's own copy of the model and from its
 * cache, and puts them into the cache and onto the disk.
 *
 * Owned by whoever owns the store: at most one of these runs at a time, except store_keep. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/threads.h"
#include "worker/expert_store.h"
#include "worker/shard_cache.h"

/* Reads every missing shard from the worker's own copy, over all threads of the pool, or by the
 * calling thread alone where `threads` is NULL. Adds to `*bytes_done` (may be NULL) as it goes, for
 * progress shown from another thread. Errors: STATUS_CANCELLED, those of shard_read. */
enum status store_load(struct expert_store *store, const struct weights *weights,
                       struct threads *threads, atomic_uint_least64_t *bytes_done);

/* The same from the cache: what is not there, or finds no memory to be read with, stays missing.
 * Each thread has many files read by io_uring and checks those that are there, unless it is refused
 * or not used. Errors: STATUS_CANCELLED. */
enum status store_load_kept(struct expert_store *store, const struct shard_cache *cache,
                            struct threads *threads, bool uses_uring,
                            atomic_uint_least64_t *bytes_done);

/* Writes the shard in `slot`, which must be filled, to the cache. False: as shard_cache_write. From
 * any thread. */
bool store_keep(const struct expert_store *store, uint32_t slot, struct shard_cache *cache);

/* Finds the files of spilled shards in the cache, by their sizes, or, if it `verifies`, by their
 * contents; writes those that are missing, one after another, from `weights` if that is not NULL.
 * What cannot be read from either stays missing. Adds to `*bytes_done`. Errors: STATUS_CANCELLED,
 * STATUS_IO (it cannot be written), STATUS_NO_MEMORY. */
enum status store_load_spilled(struct expert_store *store, struct shard_cache *cache,
                               const struct weights *weights, bool verifies,
                               atomic_uint_least64_t *bytes_done);

/* Moves the shard in `slot`, which expert_store_fill has filled, to its file. Errors: STATUS_IO. */
enum status store_spill(struct expert_store *store, uint32_t slot, struct shard_cache *cache);
