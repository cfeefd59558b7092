/* Latent attention with the keys and values of the past expanded, head by head: k_nope = Wk c and v
 * = Wv c for every position. Cheaper than the absorbed form for many new rows. Internal to
 * attention_latent.c. */
#pragma once

#include "coordinator/attention_workspace.h"

/* Fills its share of attention->mixed. */
void attention_latent_expanded(const struct attention_call *call,
                               const struct attention_share *share);
