/* Which worker holds which shard. Pure planning: no sockets, no files, no clock.
 *
 * The planner is given what the routed experts of each layer take and what each holder can take,
 * and answers with shards. Equal shares, except where a holder's memory is the limit: then the
 * others take more (water-filling). Called once by main, before anything is loaded. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/limits.h"
#include "common/status.h"
#include "common/weights/shard.h"

enum placement_kind {
    PLACEMENT_EXPERTS, /* whole experts; experts of one routing group stay together where they fit
                        */
    PLACEMENT_SLICES,  /* every expert sliced over all holders, in widths by their share */
};

struct placement_input {
    const struct shard_layout *layouts; /* (layers), by model layer */
    const bool *is_expert_layer;        /* (layers) */
    uint32_t layers;
    uint32_t experts, groups;     /* per layer; groups is at least 1 and divides experts */
    const uint64_t *memory_bytes; /* (holders) */
    uint32_t holders;
    enum placement_kind kind;
};

/* Where a part of one expert lives. */
struct placed_shard {
    uint32_t begin, end;
    uint32_t holder;
    uint32_t slot; /* in the holder's assignment */
};

struct placement {
    uint32_t layers, experts, holders;
    /* Shards of (layer, expert): placed[first[layer * experts + expert]] up to the next first. */
    uint32_t *first; /* (layers * experts + 1) */
    struct placed_shard *placed;
    /* The same by holder: shards[holder][slot], slots[holder] of them, bytes[holder] in all. */
    struct shard **shards;
    uint32_t *slots;
    uint64_t *bytes;
};

/* Plans. The caller frees with placement_destroy. Errors: STATUS_NO_MEMORY with one line that says
 * how many bytes the experts take, what the holders offer and how much is missing. */
enum status placement_create(const struct placement_input *input, struct placement **out);
void placement_destroy(struct placement *placement);
