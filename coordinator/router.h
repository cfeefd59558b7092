/* The router: gate scores -> the experts of each token and their weights, in f32 (models:
 * DeepSeek-V2, section 2.2.2 device-limited routing; DeepSeek-V3, arXiv 2412.19437, eq. 12-16).
 * Used by the engine. */
#pragma once

#include "common/status.h"
#include "common/threads.h"
#include "coordinator/model.h"
#include "coordinator/node_limit.h"

struct router;

/* For batches of at most `rows_max` rows; `limit` may be NULL. What is pointed to must outlive it.
 * Errors: STATUS_NO_MEMORY. */
enum status router_create(const struct model_shape *shape, struct threads *threads,
                          uint32_t rows_max, const struct node_limit *limit, struct router **out);
void router_destroy(struct router *router);

/* Routes the normalised rows x (rows, hidden) of layer `index`: experts (rows, k) and weights
 * (rows, k), by descending choice score, ties to the lower index. Allocates nothing. */
void router_forward(struct router *router, const struct layer *layer, uint32_t index,
                    const float *x, uint32_t rows, uint32_t *experts, float *weights);

/* The rule alone, for one token, in two steps. `logits` (experts) become the scores, `choice`
 * (experts) what experts are chosen by; `bias` (experts) may be NULL. */
void router_score(const struct model_shape *shape, float *logits, const float *bias, float *choice);

/* The k best of `choice`, with weights from `scores`. */
void router_choose(const struct model_shape *shape, const float *scores, const float *choice,
                   uint32_t *experts, float *weights);
