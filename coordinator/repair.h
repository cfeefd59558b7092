/* Finds new homes for experts that no copy is left of, in memory or else on disks; release lets go
 * of them. Pure planning, like planner: no sockets, no clock. Called by failover between two
 * dispatches, when a holder was lost, wants to leave, or has come back. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/cluster_limits.h"
#include "common/status.h"
#include "coordinator/placement.h"
#include "coordinator/spilling.h"

struct repair_input {
    const bool *can_hold;         /* (holders) neither lost nor about to leave */
    const uint64_t *memory_bytes; /* (holders) for shards, those that are there included */
    /* What disks there are; NULL: none. Its memory_bytes are not looked at. */
    const struct spilling *disks;
};

struct repair_result {
    uint64_t bytes_added;   /* that holders have to load now */
    uint64_t bytes_missing; /* that no holder has room for */
    uint32_t homeless;      /* experts without a copy for that reason */
    /* Holders of which other shards lie on the disk now than before. */
    bool respilled[HOLDERS_MAX];
};

/* Gives each expert that has no copy on holders that can hold one more copy: the parts of an
 * existing one that are on such holders, and the rest anew, wherever least was added so far and
 * memory allows; where memory suffices nowhere, disks too, and then the holders' coldest shards lie
 * there. Experts for which all that does not suffice stay as they are. Nothing that was there
 * changes, so earlier copies are good again when their holders return. Errors: STATUS_NO_MEMORY
 * (of this process). */
enum status repair_placement(struct placement *placement, const struct repair_input *input,
                             struct repair_result *out);
