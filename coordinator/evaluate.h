/* Logits and routes of a given text, for comparisons: every position's, not only the last. */
#pragma once

#include "coordinator/engine.h"

/* What the router chose, for every expert layer in order; the draft layer is not recorded. */
struct route_log {
    uint32_t layers; /* expert layers recorded */
    uint32_t rows, k;
    uint32_t *layer_index; /* (layers) model layer */
    uint32_t *ids;         /* (layers, rows, k) by descending choice score */
    float *weights;        /* (layers, rows, k) */
};

void route_log_cleanup(struct route_log *log);

/* Runs `ids` (count) from an empty context in steps of at most `batch_rows`. logits (count,
 * vocabulary); `routes` is filled unless NULL (the caller cleans it up); draft_logits (count - 1,
 * vocabulary), unless NULL: row t predicts token t + 2. Errors: STATUS_NO_MEMORY (the context is
 * too short), those of engine_forward. */
enum status evaluate_logits(struct engine *engine, const uint32_t *ids, size_t count,
                            uint32_t batch_rows, float *logits, struct route_log *routes,
                            float *draft_logits);
