/* The inside of expert_store: its slots and what is done to one of them. For expert_store and
 * store_loading alone. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "common/weights/shard.h"
#include "worker/expert_store.h"

struct slot {
    struct shard shard;
    struct expert expert;
    size_t bytes, filled;
    uint8_t *storage; /* (bytes); NULL once another assignment took it over, or where spilled */
    bool spilled;
    uint64_t hash; /* of a spilled one that is filled */
};

struct expert_store {
    uint64_t memory_bytes, spill_bytes; /* limits */
    uint64_t fingerprint;
    struct arena *tables;         /* of layouts, slots and served; NULL: no assignment */
    struct shard_layout *layouts; /* SHARD_LAYOUTS(layer_count) */
    uint32_t layer_count;
    bool exact;
    struct slot *slots;            /* (SHARDS_MAX), vacant from `count` on */
    atomic_bool *served;           /* (SHARDS_MAX) it is filled and may be looked up */
    uint32_t count, held;          /* the latter are not vacant */
    uint64_t bytes, spilled_bytes; /* of all; of these on the disk */
    atomic_uint served_end;        /* none is served from here on */
    atomic_uint passages;          /* times the service came in or left: odd while it is in */
    atomic_bool cancelled;
};

/* The layout that the slot's shard is of. */
const struct shard_layout *slot_layout(const struct expert_store *store, const struct slot *slot);

/* Memory for the slot's bytes, where its expert then lies. Errors: STATUS_NO_MEMORY; one line. */
enum status slot_take_storage(const struct expert_store *store, struct slot *slot);
void slot_drop_storage(struct slot *slot);

/* Bytes that may be written at the slot's storage: mappings are whole pages, which are whole blocks
 * of the disk. */
size_t slot_room_bytes(const struct slot *slot);

/* Before the slot's first byte is written: places its memory near the threads that will read it. */
void slot_place(const struct slot *slot);

/* The slot's bytes are all there: brings them into the order in which the kernels read them.
 * Errors: those of panel_pack_matrix. */
enum status slot_pack(const struct expert_store *store, struct slot *slot);

/* The same for an expert whose bytes came packed. */
void slot_adopt_expert(const struct expert_store *store, struct expert *expert);
