/* Ordinary multi-head attention with grouped keys (DeepSeekMoE 16B). Internal to attention.c. */
#pragma once

#include "coordinator/attention_workspace.h"

/* What one thread needs for batches of at most `rows_max` rows over `cache`. */
struct attention_sizes attention_multi_head_sizes(const struct model_shape *shape,
                                                  const struct kv_cache *cache, uint32_t rows_max);

/* From normalised rows x (rows, hidden) to attention->mixed, writing the cache. */
void attention_multi_head_forward(const struct attention_call *call, const float *x);
