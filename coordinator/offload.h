/* Divides what all rows meet among the coordinator and its workers, beside the routed experts that
 * a placement has already: each layer's feed-forward (shared experts as one, or a dense layer's)
 * and the output head. The coordinator keeps the beginning, workers get slices behind it.
 *
 * Part of the planner; plain arithmetic. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "coordinator/cost_model.h"
#include "coordinator/placement.h"

struct offload_input {
    uint32_t workers;             /* holders [0, workers) may get slices */
    const uint64_t *memory_bytes; /* (holders) for all that each holds */
    struct cost_model *costs;     /* NULL: figures are not known, all get equal slices */
    double rows;                  /* of the step that all are to be done with at once */
    uint32_t members_max;         /* most workers that share a layer */
    bool regardless;              /* of links and of what else the workers have to do */
};

/* Adds slices to `placement`, which has none yet. Memory is spread over the layers and the head:
 * each may take what it is of all of them of what a worker has left. Errors: STATUS_NO_MEMORY (of
 * this process). */
enum status offload_fill(const struct offload_input *input, struct placement *placement);

/* Bytes of all slices that workers have. */
uint64_t offload_bytes(const struct placement *placement);
