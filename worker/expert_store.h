/* The shards a worker holds: memory within a limit, filled from the worker's own copy of the model,
 * from its cache, or with bytes that the coordinator or another worker sends, looked up by slot
 * while serving.
 *
 * Owned by the worker's main thread (assign, extend, release, fill, load). Lookups come from the
 * service's thread and only of slots that are served, which stay as they are while others are added
 * or released. The coordinator uses one for the experts that it holds itself. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "common/threads.h"
#include "common/weights/shard.h"
#include "worker/shard_cache.h"

struct expert_store;

/* What a coordinator assigns; slots[i] of the data plane is shards[i]. Nothing is kept by
 * reference. */
struct assignment {
    uint64_t fingerprint;               /* of the checkpoint, see weights_fingerprint */
    const struct shard_layout *layouts; /* SHARD_LAYOUTS(layer_count) */
    uint32_t layer_count;               /* at most LAYERS_MAX */
    const struct shard *shards;
    uint32_t shard_count;
    const uint32_t *slots; /* (shard_count) ascending; NULL: from 0 on */
    const bool
        *spilled; /* (shard_count) it lies on the disk instead of in memory; NULL: none does */
    bool exact;   /* no weights are packed for 8-bit activations */
};

/* Creates an empty store that will take at most `memory_bytes` for weights. */
enum status expert_store_create(uint64_t memory_bytes, struct expert_store **out);
void expert_store_destroy(struct expert_store *store);

/* Lets shards of at most `bytes` in all lie on the disk; at first none may. */
void expert_store_allow_spill(struct expert_store *store, uint64_t bytes);

/* Replaces the assignment. Shards that the store already holds complete, of the same fingerprint
 * and layout, are kept; the others are dropped and memory for the missing ones is taken. Errors:
 * STATUS_PROTOCOL (ranges or dimensions out of bounds), STATUS_NO_MEMORY (over the limit; the line
 * says by how much), STATUS_REFUSED (more on the disk than is allowed, or no memory left to read it
 * into). On error the store is empty. */
enum status expert_store_assign(struct expert_store *store, const struct assignment *assignment);

/* Adds `shards` (count) in `slots` (count, ascending), which are vacant or behind those that are
 * there. Layers are as they were assigned. What is served may stay in use meanwhile. Errors: those
 * of assigning; the store is then as it was. STATUS_NO_MEMORY where shards are spilled: what they
 * leave of memory is what they are read into. */
enum status expert_store_extend(struct expert_store *store, const uint32_t *slots,
                                const struct shard *shards, uint32_t count);

/* Every slot is filled: from now on all may be looked up. */
void expert_store_serve(struct expert_store *store);

/* Whether `slot`, any number, may be looked up; and a bound: all that may are below it. From any
 * thread. */
bool expert_store_is_served(const struct expert_store *store, uint32_t slot);
uint32_t expert_store_served_end(const struct expert_store *store);

/* The service uses what it looks up between these two, and only there: that stays as it is even if
 * it is released meanwhile. From one thread. */
void expert_store_enter(struct expert_store *store);
void expert_store_leave(struct expert_store *store);

/* Whether the slot may be released: it is served, and not spilled. Slots (count) that may not be
 * looked up any more. */
bool expert_store_may_release(const struct expert_store *store, uint32_t slot);
void expert_store_withdraw(struct expert_store *store, const uint32_t *slots, uint32_t count);

/* Gives the memory of slots (count) that were withdrawn back to the system, once the service has
 * left them; they are vacant then. Errors: STATUS_CANCELLED (expert_store_cancel_load, with the
 * service still in; they are as they were). */
enum status expert_store_release(struct expert_store *store, const uint32_t *slots, uint32_t count);

/* A bound: slots from here on are vacant; and how many are not. */
uint32_t expert_store_count(const struct expert_store *store);
uint32_t expert_store_held(const struct expert_store *store);

/* Bytes of the shard in `slot`; 0: it is vacant. */
size_t expert_store_slot_bytes(const struct expert_store *store, uint32_t slot);

/* Whether all bytes of the slot are there; so they are of a vacant one. */
bool expert_store_is_filled(const struct expert_store *store, uint32_t slot);

/* Bytes held in all, complete or not; and of these, complete. */
uint64_t expert_store_bytes(const struct expert_store *store);
uint64_t expert_store_bytes_filled(const struct expert_store *store);

/* Makes a loading that is running (store_loading), and those until the next assignment, end soon
 * with STATUS_CANCELLED; shards read by then are kept. From any thread. */
void expert_store_cancel_load(struct expert_store *store);

/* Takes shipped bytes: they must arrive in order, starting at offset 0 of the slot. STATUS_PROTOCOL
 * for a slot, offset or length that does not fit. */
enum status expert_store_fill(struct expert_store *store, uint32_t slot, uint64_t offset,
                              const void *bytes, size_t count);

/* What a shard is called between workers: those with equal names have equal bytes, packed. */
struct packed_name {
    uint64_t fingerprint; /* of the checkpoint */
    uint32_t version;     /* SHARD_PACKING_VERSION */
    bool exact;
    struct shard shard;
};
struct packed_name expert_store_name(const struct expert_store *store, uint32_t slot);

/* The slot of [0, count) with this name that is not spilled, looked for from `first` on and then
 * from the beginning, among those that are served only if `served` says so; `count`: there is none.
 * The bytes of a slot that is filled, packed. */
uint32_t expert_store_find(const struct expert_store *store, const struct packed_name *name,
                           uint32_t first, uint32_t count, bool served);
const uint8_t *expert_store_packed(const struct expert_store *store, uint32_t slot);

/* Takes bytes that are packed already, at `offset` of a slot of which nothing was filled in another
 * way; it stays missing until expert_store_adopt, which is called when all are there, finds that
 * `hash` is their XXH3. False: they do not fit, or are not what was hashed. */
bool expert_store_receive(struct expert_store *store, uint32_t slot, uint64_t offset,
                          const void *bytes, size_t count);
bool expert_store_adopt(struct expert_store *store, uint32_t slot, uint64_t hash);

/* The expert in `slot`, which must be served. */
const struct expert *expert_store_get(const struct expert_store *store, uint32_t slot);

/* The layer and range of `slot`. */
const struct shard *expert_store_shard(const struct expert_store *store, uint32_t slot);

/* ---- Spilled shards: their slots have a file of the cache and no memory. */

bool expert_store_is_spilled(const struct expert_store *store, uint32_t slot);

/* The hash that names the file of the spilled shard in `slot`, which must be filled. */
uint64_t expert_store_hash(const struct expert_store *store, uint32_t slot);

/* Bytes of all spilled shards; and of memory, beside those that are not spilled. */
uint64_t expert_store_spilled_bytes(const struct expert_store *store);
uint64_t expert_store_room_bytes(const struct expert_store *store);

/* The expert in `slot` if its bytes, as packed, were at `storage`. Allocates nothing. */
struct expert expert_store_view(const struct expert_store *store, uint32_t slot,
                                const void *storage);
