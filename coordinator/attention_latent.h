/* Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), in two forms with the
 * same result: attention_absorbed and attention_expanded. Internal to attention.c. */
#pragma once

#include "coordinator/attention_workspace.h"

/* What one thread needs for batches of at most `rows_max` rows over `cache`. */
struct attention_sizes attention_latent_sizes(const struct model_shape *shape,
                                              const struct kv_cache *cache, uint32_t rows_max);

/* From normalised rows x (rows, hidden) to attention->mixed, writing the cache. */
void attention_latent_forward(const struct attention_call *call, const float *x);
