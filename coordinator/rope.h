/* Rotary position embedding, plain and YaRN (arXiv 2309.00071), for both pairings.
 *
 * Angles are computed once per batch and shared by all layers and heads. Used by attention. */
#pragma once

#include "common/status.h"
#include "coordinator/batch.h"
#include "coordinator/shape.h"

struct rope;

/* For batches of at most `rows_max` rows. Errors: STATUS_NO_MEMORY. */
enum status rope_create(const struct model_shape *shape, uint32_t rows_max, struct rope **out);
void rope_destroy(struct rope *rope);

/* Computes the angles of every row of `batch` from its position. */
void rope_begin(struct rope *rope, const struct batch *batch);

/* Rotates the vector `x` (rope dimensions) of batch row `row` in place. Thread-safe after
 * rope_begin. */
void rope_rotate(const struct rope *rope, uint32_t row, float *x);

/* What scores are multiplied by: 1 / sqrt(key dimensions), with YaRN times m(mscale_all_dim)^2. */
float rope_score_scale(const struct model_shape *shape);
