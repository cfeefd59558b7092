/* Ordinary multi-head attention with grouped keys (DeepSeekMoE 16B). Internal to attention.c. */
#pragma once

#include "coordinator/attention_workspace.h"

/* Floats of scratch that one thread needs, with `positions` positions in the cache. */
size_t attention_multi_head_scratch_floats(const struct model_shape *shape, uint32_t positions);

/* From normalised rows x (rows, hidden) to attention->mixed, writing the cache. */
void attention_multi_head_forward(const struct attention_call *call, const float *x);
