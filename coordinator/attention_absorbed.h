/* Latent attention in the compressed space: queries are carried there by Wk, scores are dot
 * products with the cache row itself, and the weighted sum of compressed vectors goes through Wv
 * once. Cheaper than the expanded form for few new rows. Internal to attention_latent.c. */
#pragma once

#include "coordinator/attention_workspace.h"

/* With at most this many new rows, several heads share a block of queries. */
#define ABSORBED_JOINT_ROWS_MAX 4u

/* How a step over few new rows is cut into tasks: blocks of heads, and where those are fewer than
 * threads, runs of positions. */
struct absorbed_plan {
    uint32_t heads;     /* of one task */
    uint32_t splits;    /* runs of positions; 1: a task sees all */
    uint32_t positions; /* of one run */
    uint32_t segments;  /* of one task; over 1 only where all have one row */
};

/* For a batch of segments of at most ABSORBED_JOINT_ROWS_MAX rows. */
struct absorbed_plan attention_absorbed_plan(const struct attention_call *call);

/* Fills its share of attention->mixed. */
void attention_latent_absorbed(const struct attention_call *call,
                               const struct attention_share *share);

/* Fills attention->mixed for the whole batch with all threads, by a plan with several splits, or
 * with one. */
void attention_absorbed_split(const struct attention_call *call, const struct absorbed_plan *plan);
void attention_absorbed_joint(const struct attention_call *call, const struct absorbed_plan *plan);
