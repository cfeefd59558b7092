/* Restricts tokens to their best machines (--max-nodes), as group-limited routing restricts them to
 * their best groups: for models without groups, or to go below the limit that one was trained with.
 *
 * Made once from the planned placement, so that what a token is routed to depends neither on the
 * order of requests nor on which machines have been lost. Read by the router's threads. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "coordinator/placement.h"

struct node_limit;

/* At most `nodes_max` holders for each token, of which an expert counts for the holder of its first
 * copy. `k`: experts of a token. Errors: STATUS_USAGE (experts are sliced over machines; one line),
 * STATUS_NO_MEMORY. */
enum status node_limit_create(const struct placement *placement, uint32_t nodes_max, uint32_t k,
                              struct node_limit **out);
void node_limit_destroy(struct node_limit *limit);

/* Whether a token must be routed anew, as its `experts` (k), the best of `choice` (experts), are on
 * more machines than allowed. Leaves in `choice` then the scores of experts on the best machines;
 * all others become minus infinity, as scores that do not count are already. A machine's score is
 * the sum of its ceil(k / nodes_max) best. More machines than allowed are taken where those do not
 * have k experts that count. */
bool node_limit_apply(const struct node_limit *limit, uint32_t layer, const uint32_t *experts,
                      float *choice);
