/* Decides which holder gets which shard. Pure planning: no sockets, no files, no clock.
 *
 * The planner is given what the routed experts of each layer take and what each holder can take,
 * and answers with shards. Equal shares, except where a holder's memory is the limit: then the
 * others take more (water-filling). Called once by main, before anything is loaded. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/weights/shard.h"
#include "coordinator/placement.h"

enum placement_kind {
    PLACEMENT_EXPERTS, /* whole experts; experts of one routing group stay together where they fit
                        */
    PLACEMENT_SLICES,  /* every expert sliced over all holders, in widths by their share */
};

struct planner_input {
    const struct shard_layout *layouts; /* (layers), by model layer */
    const bool *is_expert_layer;        /* (layers) */
    uint32_t layers;
    uint32_t experts, groups;     /* per layer; groups is at least 1 and divides experts */
    const uint64_t *memory_bytes; /* (holders) */
    uint32_t holders;
    enum placement_kind kind;
};

/* Plans. The caller frees with placement_destroy. Errors: STATUS_NO_MEMORY with one line that says
 * how many bytes the experts take, what the holders offer and how much is missing. */
enum status planner_plan(const struct planner_input *input, struct placement **out);
