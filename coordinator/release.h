/* Lets go of copies of experts that are not needed any more. Pure planning, like repair and
 * rebalance, which added them: no sockets, no clock. Called by failover between two dispatches. */
#pragma once

#include <stdint.h>

#include "common/status.h"
#include "coordinator/placement.h"

/* Takes away copies that the plan did not have, the newest of an expert first. served[h] (holders)
 * as in placement_copy_is_served, 0 for holders that are not to be relied on.
 *
 * One that repair_placement added goes when of those that the plan had and those of its own kind as
 * many others are served as the plan had; one of rebalance_placement when its `idle` is above
 * REBALANCE_IDLE_MAX and any other is served. Holders of the former have nothing on their disks
 * (placement_unspill). Adds the number of copies to *removed. Errors: STATUS_NO_MEMORY (of this
 * process). */
enum status release_copies(struct placement *placement, const uint32_t *served, uint32_t *removed);
