/* Scores are logarithms of popularity plus noise of the extreme-value kind, of which the k largest
 * are k experts drawn without putting back; the router's own function then applies groups. Where
 * every expert is as likely as the others, all layers have the same probabilities, but draws of
 * their own, since a token meets a placement in all layers. */
#include "coordinator/routing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/router.h"

struct routing {
    uint32_t experts, k;
    float *probabilities; /* (layers, experts) */
    uint16_t *draws;      /* (layers, ROUTING_DRAWS, k) */
};

/* Linear congruential, in the upper bits, as in Knuth's MMIX; in (0, 1). */
static double draw_uniform(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(*state >> 11) + 0.5) / 9007199254740992.0;
}

/* The share of each expert in all choices. One more than was counted, so that no expert is
 * impossible, and all are even where nothing was counted. */
static void find_shares(const struct model_shape *shape, const struct popularity *popularity,
                        uint32_t layer, double *shares) {
    const double *counts = popularity ? popularity->counts + (size_t)layer * shape->experts : NULL;
    double sum = 0;
    for (uint32_t e = 0; e < shape->experts; e++)
        sum += shares[e] = counts ? counts[e] + 1 : 1;
    for (uint32_t e = 0; e < shape->experts; e++)
        shares[e] /= sum;
}

/* No token chooses an expert twice: what is over 1 goes to the others. */
static void fill_probabilities(const struct model_shape *shape, const double *shares, float *out) {
    double left = shape->experts_per_token, open = 1;
    bool full[EXPERTS_MAX] = {false};
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t e = 0; e < shape->experts; e++)
            if (!full[e] && open > 0 && shares[e] / open * left >= 1) {
                full[e] = changed = true;
                open -= shares[e];
                left -= 1;
                out[e] = 1;
            }
    }
    for (uint32_t e = 0; e < shape->experts; e++)
        if (!full[e])
            out[e] = open > 0 && left > 0 ? (float)(shares[e] / open * left) : 0;
}

static int compare_experts(const void *a, const void *b) {
    return (int)*(const uint16_t *)a - (int)*(const uint16_t *)b;
}

static void draw_token(const struct model_shape *rule, const double *shares, uint64_t *state,
                       uint16_t *out) {
    float scores[EXPERTS_MAX], choice[EXPERTS_MAX], weights[EXPERTS_PER_TOKEN_MAX];
    uint32_t chosen[EXPERTS_PER_TOKEN_MAX];
    for (uint32_t e = 0; e < rule->experts; e++)
        scores[e] = (float)(log(shares[e] * rule->experts) - log(-log(draw_uniform(state))));
    router_score(rule, scores, NULL, choice);
    router_choose(rule, scores, choice, chosen, weights);
    for (uint32_t k = 0; k < rule->experts_per_token; k++)
        out[k] = (uint16_t)chosen[k];
    qsort(out, rule->experts_per_token, sizeof *out, compare_experts);
}

enum status routing_create(const struct model_shape *shape, const struct popularity *popularity,
                           struct routing **out) {
    uint32_t layers = shape->layers + 1;
    struct routing *routing = calloc(1, sizeof *routing);
    if (!routing)
        return STATUS_NO_MEMORY;
    *routing = (struct routing){.experts = shape->experts, .k = shape->experts_per_token};
    routing->probabilities = calloc((size_t)layers * routing->experts, sizeof(float));
    routing->draws = calloc((size_t)layers * ROUTING_DRAWS * routing->k, sizeof(uint16_t));
    if (!routing->probabilities || !routing->draws) {
        routing_destroy(routing);
        return STATUS_NO_MEMORY;
    }
    uint64_t state = 20240607;
    double shares[EXPERTS_MAX];
    for (uint32_t layer = 0; layer < layers; layer++) {
        if (!shape->is_expert_layer[layer])
            continue;
        find_shares(shape, popularity, layer, shares);
        fill_probabilities(shape, shares,
                           routing->probabilities + (size_t)layer * routing->experts);
        for (uint32_t d = 0; d < ROUTING_DRAWS; d++)
            draw_token(shape, shares, &state,
                       routing->draws + ((size_t)layer * ROUTING_DRAWS + d) * routing->k);
    }
    *out = routing;
    return STATUS_OK;
}

void routing_destroy(struct routing *routing) {
    if (!routing)
        return;
    free(routing->probabilities);
    free(routing->draws);
    free(routing);
}

const float *routing_probabilities(const struct routing *routing, uint32_t layer) {
    return routing->probabilities + (size_t)layer * routing->experts;
}

const uint16_t *routing_draws(const struct routing *routing, uint32_t layer) {
    return routing->draws + (size_t)layer * ROUTING_DRAWS * routing->k;
}
