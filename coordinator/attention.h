/* One attention layer for one batch, whatever the kind: projections, rotary embedding, the new rows
 * of the KV cache, attention over the past, output projection. Used by the engine thread. */
#pragma once

#include "common/status.h"
#include "common/threads.h"
#include "coordinator/batch.h"
#include "coordinator/kv_cache.h"
#include "coordinator/model.h"

struct attention;

/* Scratch for batches of at most `rows_max` rows over `cache` (not owned, as `shape` and
 * `threads`). Errors: STATUS_NO_MEMORY. */
enum status attention_create(const struct model_shape *shape, struct threads *threads,
                             struct kv_cache *cache, uint32_t rows_max, struct attention **out);
void attention_destroy(struct attention *attention);

/* Prepares for the layers of one batch, or of its parts (rotary angles). */
void attention_begin(struct attention *attention, const struct batch *batch);

/* out (rows, hidden) = attention of the normalised rows x (rows, hidden). The cache has room for
 * the batch's positions already; their rows of `layer` are written. Allocates nothing. */
void attention_forward(struct attention *attention, const struct attention_weights *weights,
                       uint32_t layer, const struct batch *batch, const float *x, float *out);
