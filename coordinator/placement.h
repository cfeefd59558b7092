/* Which holder has which shard: what the planner fills in, and what cluster, dispatch and combine
 * go by.
 *
 * An expert has one or more copies; a copy is a list of parts on holders that cover its inner
 * dimension once, in ascending order. So a copy begins where a part's `begin` is 0. The first copy
 * is the one to use; further ones are replicas. A layer without routed experts has none.
 *
 * The feed-forward that all rows of a layer meet (SHARD_FFN) is the coordinator's. Its end may be
 * placed as well, on workers that are asked first: one list of parts, whose first one begins where
 * the coordinator's own part ends. The coordinator can compute each of them itself. So with the
 * rows of the output head (SHARD_HEAD).
 *
 * Plain data without a lock: used by the engine's thread, changed only between two steps. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/limits.h"
#include "common/status.h"
#include "common/weights/shard.h"

/* Why a copy is there. */
enum copy_origin {
    COPY_PLANNED, /* stays for good */
    COPY_REPAIR,  /* in the place of one that was lost, see repair */
    COPY_BALANCE, /* it is to be faster than others, see rebalance */
};

/* Where a part of one expert lives. */
struct placed_shard {
    uint32_t begin, end; /* of the inner dimension */
    uint32_t holder;
    uint32_t slot;  /* in the holder's assignment */
    uint32_t order; /* shards that were placed on the holder before it */
    uint8_t origin; /* enum copy_origin, of its copy */
    uint8_t idle;   /* of a copy's first part: see rebalance_note_idle */
};

/* All copies of one expert, one behind the other. */
struct expert_places {
    struct placed_shard *parts; /* (count) */
    uint32_t count, capacity;
};

/* What one holder is to hold: shards[slot]. A slot that was released is taken again for the next
 * shard, so there are never more than the holder once had at a time. */
struct holder_shards {
    struct shard *shards; /* (count) by slot; `begin` and `end` are 0 where it is vacant */
    uint32_t *orders;     /* (count) as in struct placed_shard */
    uint32_t count, capacity;
    uint32_t placed;    /* shards that were ever placed here */
    uint32_t *vacant;   /* (vacant_count) slots below count */
    uint32_t *released; /* (released_count) slots, since somebody last set that to 0 */
    uint32_t vacant_count, released_count, vacant_capacity, released_capacity;
    uint64_t bytes;
    bool *spilled;          /* (spilled_slots) it lies on the holder's disk; NULL: none does */
    uint32_t spilled_slots; /* slots behind these were added later and are in memory */
    uint64_t spilled_bytes; /* of `bytes`, on the disk */
};

struct placement {
    const struct shard_layout *layouts; /* SHARD_LAYOUTS(layers); not owned */
    uint32_t layers, experts, holders;
    struct expert_places *experts_at; /* (layers, experts + 1), SHARD_FFN last; then SHARD_HEAD */
    struct holder_shards *held;       /* (holders) */
};

/* A placement of nothing; `layouts` must outlive it. The caller frees with placement_destroy.
 * Errors: STATUS_NO_MEMORY. */
enum status placement_create(const struct shard_layout *layouts, uint32_t layers, uint32_t experts,
                             uint32_t holders, struct placement **out);
void placement_destroy(struct placement *placement);

/* Appends [begin, end) of the expert on `holder`; begin 0 opens a new copy, anything else goes on
 * where the last part ended (SHARD_FFN and SHARD_HEAD begin anywhere). A shard that the holder has
 * for another copy is used for both. Errors: STATUS_NO_MEMORY. */
enum status placement_add(struct placement *placement, const struct shard *shard, uint32_t holder);

/* The same for a copy that the plan did not have; `origin` is that of all its parts. */
enum status placement_add_more(struct placement *placement, const struct shard *shard,
                               uint32_t holder, enum copy_origin origin);

/* Takes away the copy that begins at `first`. Slots that no other copy uses become vacant; they are
 * listed in `released` of their holders. Errors: STATUS_NO_MEMORY; nothing has changed then. */
enum status placement_remove(struct placement *placement, uint32_t layer, uint32_t expert,
                             uint32_t first);

/* The copy that begins at `first` is in use: its `idle` is 0 again. */
void placement_note_use(struct placement *placement, uint32_t layer, uint32_t expert,
                        uint32_t first);

/* How many more shards the holder may be given, and how many it has. */
uint32_t placement_slots_left(const struct placement *placement, uint32_t holder);
uint32_t placement_shards(const struct placement *placement, uint32_t holder);

/* Puts the shard in `slot`, which is in memory, on the holder's disk. What is added afterwards
 * cannot be spilled, unless all are taken back into memory first. Errors: STATUS_NO_MEMORY. */
enum status placement_spill(struct placement *placement, uint32_t holder, uint32_t slot);
void placement_unspill(struct placement *placement, uint32_t holder);

bool placement_is_spilled(const struct placement *placement, uint32_t holder, uint32_t slot);

/* `expert` may be SHARD_FFN, or SHARD_HEAD in layer 0. */
const struct expert_places *placement_find(const struct placement *placement, uint32_t layer,
                                           uint32_t expert);

/* The part behind the copy that begins at `first`. */
uint32_t placement_copy_end(const struct expert_places *places, uint32_t first);

/* Whether each part of the copy that begins at `first` is among the first served[holder] shards
 * that were placed on its holder. */
bool placement_copy_is_served(const struct expert_places *places, uint32_t first,
                              const uint32_t *served);

/* Bytes of a shard of this model. */
size_t placement_shard_bytes(const struct placement *placement, const struct shard *shard);

/* What all holders have together. */
uint64_t placement_bytes(const struct placement *placement);
