/* Ways to divide the experts of a layer among machines, and the filling of a placement by one.
 *
 * Holders form teams. Each unit of experts (a routing group, a part of one, or a single expert)
 * belongs to one team, and each of its experts is sliced over that team's members. So one team of
 * all holders is every expert sliced over all machines, teams of one with units of a group are
 * whole groups on machines, teams of one with units of one expert are experts spread over machines,
 * and what lies between caps the fan-out and adds up bandwidths all the same. Pure: used by the
 * planner.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/cluster_limits.h"
#include "common/status.h"
#include "coordinator/placement.h"
#include "coordinator/routing.h"

#define SCHEME_NO_TEAM UINT32_MAX

struct scheme {
    uint32_t teams;                /* at least 1 */
    uint32_t members;              /* of all teams together */
    uint32_t unit;                 /* experts that stay together; divides their number */
    uint32_t team_of[HOLDERS_MAX]; /* SCHEME_NO_TEAM: the holder takes no part */
};

/* How fast holders are: with `load` experts of each row, a layer takes fixed_s + load * load_s. */
struct scheme_speeds {
    double fixed_s[HOLDERS_MAX], load_s[HOLDERS_MAX];
};

struct scheme_input {
    const struct shard_layout *layouts; /* SHARD_LAYOUTS(layers) */
    const bool *is_expert_layer;        /* (layers) */
    uint32_t layers;
    uint32_t experts;             /* per layer */
    const uint64_t *memory_bytes; /* (holders) */
    uint32_t holders;
    const struct routing *routing;        /* NULL: every expert is as likely */
    const struct scheme *const *by_layer; /* (layers) */
    const struct scheme_speeds *speeds;
};

/* Fills a placement with one copy of each expert, so that the teams of each layer are expected to
 * be done at the same time, within every holder's memory. The caller frees with placement_destroy.
 * Errors: STATUS_NO_MEMORY, without a line: *unplaced_bytes says how many bytes found no place, 0
 * where this process itself ran out. */
enum status scheme_fill(const struct scheme_input *input, struct placement **out,
                        uint64_t *unplaced_bytes);

/* Bytes of all routed experts of a layer, 0 for other layers. */
uint64_t scheme_layer_bytes(const struct scheme_input *input, uint32_t layer);

/* Adds a second copy of experts, the most chosen first, where `part` of the memory that is left has
 * room for it on a holder that is not expected to be busier than the first one; with `always`,
 * wherever there is room. An expert that is sliced over all holders gets a copy with every slice on
 * its neighbour, and that only with `always`. Errors: STATUS_NO_MEMORY. */
enum status scheme_replicate(const struct scheme_input *input, double part, bool always,
                             struct placement *placement);
