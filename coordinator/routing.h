/* How tokens are expected to choose experts: probabilities for the load of a large batch, and drawn
 * choices for what a single token's experts have in common (how many machines they are on, and how
 * much the busiest of these has to do).
 *
 * Choices are drawn by the model's own rule, groups included, from scores of chance: evenly, or by
 * a popularity measured before. Always the same ones for the same input. Used for planning. */
#pragma once

#include <stdint.h>

#include "common/status.h"
#include "coordinator/popularity.h"
#include "coordinator/shape.h"

/* Drawn tokens of each layer: with 26 expert layers (V2-Lite) a mean over a token's layers is then
 * exact to about a percent. */
#define ROUTING_DRAWS 64u

struct routing;

/* `popularity` may be NULL: all experts are chosen evenly. The caller destroys it. Errors:
 * STATUS_NO_MEMORY. */
enum status routing_create(const struct model_shape *shape, const struct popularity *popularity,
                           struct routing **out);
void routing_destroy(struct routing *routing);

/* (experts): the probability that a token chooses each; their sum is k. */
const float *routing_probabilities(const struct routing *routing, uint32_t layer);

/* (ROUTING_DRAWS, k): the experts of drawn tokens, each token's in ascending order, as dispatch
 * takes them. */
const uint16_t *routing_draws(const struct routing *routing, uint32_t layer);
