/* Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), in two forms with the
 * same result. Internal to attention.c; the forms are named here so that tests can compare them. */
#pragma once

#include "coordinator/attention_workspace.h"

/* Floats of scratch that one thread needs, with `positions` positions in the cache. */
size_t attention_latent_scratch_floats(const struct model_shape *shape, uint32_t positions);

/* From normalised rows x (rows, hidden) to attention->mixed, writing the cache. */
void attention_latent_forward(const struct attention_call *call, const float *x);

/* Keys and values stay compressed: queries are carried into the compressed space instead. Cheaper
 * for few new rows. Fills its share of attention->mixed. */
void attention_latent_absorbed(const struct attention_call *call,
                               const struct attention_share *share);

/* Keys and values of the whole past are expanded, head by head. Cheaper for many new rows. */
void attention_latent_expanded(const struct attention_call *call,
                               const struct attention_share *share);
