/* A batch of rows through experts: what a worker does for a living, and what the coordinator does
 * for its shared experts, dense layers and, without workers, for all routed experts.
 *
 * expert(h) = down(silu(gate h) * up h); a slice of the inner dimension gives its part of that sum
 * (models: DeepSeek-MoE, arXiv 2401.06066, eq. 9). Called from the thread that owns the pool. */
#pragma once

#include <stdbool.h>

#include "common/status.h"
#include "common/threads.h"
#include "common/weights/shard.h"

struct expert_workspace;

/* One row through one expert. */
struct expert_task {
    const struct expert *expert;
    uint32_t row;
    float weight;
};

/* Weights that may still be on their way when expert_forward is asked to compute with them. Both
 * are called from its thread and allocate nothing. */
struct expert_arrivals {
    bool (*is_here)(void *context, const struct expert *expert);
    void (*await)(void *context, const struct expert *expert); /* until it is */
    void *context;
};

/* Scratch for expert_forward: up to `rows_max` rows of `hidden` values, experts up to `inner_max`
 * wide. Errors: STATUS_NO_MEMORY. */
enum status expert_workspace_create(struct threads *threads, uint32_t hidden, uint32_t inner_max,
                                    uint32_t rows_max, struct expert_workspace **out);
void expert_workspace_destroy(struct expert_workspace *workspace);

/* From now on expert_forward computes gate and up of what is here before it waits for the rest; the
 * sums are the same to the bit. Without this all weights are here. */
void expert_workspace_set_arrivals(struct expert_workspace *workspace,
                                   const struct expert_arrivals *arrivals);

/* out[task.row] += task.weight * expert(x[task.row]) for every task; x and out are (rows, hidden).
 * Tasks of the same expert must stand together, with rows in ascending order and below rows_max;
 * `hidden` is the workspace's. Deterministic: sums are formed in the order of tasks whatever the
 * number of threads. Allocates nothing. */
void expert_forward(struct expert_workspace *workspace, const float *x,
                    const struct expert_task *tasks, size_t count, float *out);
