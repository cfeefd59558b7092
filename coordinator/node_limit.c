#include "coordinator/node_limit.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "common/cluster_limits.h"
#include "common/log.h"

struct node_limit {
    uint32_t experts, holders, nodes_max, k;
    uint16_t *holder_of; /* (layers, experts) */
};

enum status node_limit_create(const struct placement *placement, uint32_t nodes_max, uint32_t k,
                              struct node_limit **out) {
    size_t count = (size_t)placement->layers * placement->experts;
    struct node_limit *limit = calloc(1, sizeof *limit);
    if (limit)
        limit->holder_of = calloc(count + 1, sizeof *limit->holder_of);
    if (!limit || !limit->holder_of) {
        log_error("no memory for the machines of %zu experts; end other programs", count);
        node_limit_destroy(limit);
        return STATUS_NO_MEMORY;
    }
    limit->experts = placement->experts;
    limit->holders = placement->holders;
    limit->nodes_max = nodes_max;
    limit->k = k;
    for (size_t i = 0; i < count; i++) {
        const struct expert_places *places = placement_find(
            placement, (uint32_t)(i / placement->experts), (uint32_t)(i % placement->experts));
        if (places->count && placement_copy_end(places, 0) > 1) {
            log_error("--max-nodes needs whole experts on machines, and they are sliced; add "
                      "--placement experts");
            node_limit_destroy(limit);
            return STATUS_USAGE;
        }
        limit->holder_of[i] = places->count ? (uint16_t)places->parts[0].holder : 0;
    }
    *out = limit;
    return STATUS_OK;
}

void node_limit_destroy(struct node_limit *limit) {
    if (!limit)
        return;
    free(limit->holder_of);
    free(limit);
}

/* The sum of the `count` largest scores of a holder's experts that count; minus infinity: none. */
static float holder_score(const struct node_limit *limit, const uint16_t *holder_of,
                          const float *choice, uint32_t holder, uint32_t count) {
    float best[EXPERTS_PER_TOKEN_MAX], sum = 0;
    uint32_t kept = 0;
    for (uint32_t e = 0; e < limit->experts; e++) {
        if (holder_of[e] != holder || !(choice[e] > -INFINITY))
            continue;
        uint32_t at = kept < count ? kept++ : kept;
        if (at == kept && choice[e] <= best[kept - 1])
            continue;
        if (at == kept)
            at--;
        for (; at > 0 && best[at - 1] < choice[e]; at--)
            best[at] = best[at - 1];
        best[at] = choice[e];
    }
    for (uint32_t i = 0; i < kept; i++)
        sum += best[i];
    return kept ? sum : -INFINITY;
}

static uint32_t count_experts(const struct node_limit *limit, const uint16_t *holder_of,
                              const float *choice, uint32_t holder) {
    uint32_t count = 0;
    for (uint32_t e = 0; e < limit->experts; e++)
        count += holder_of[e] == holder && choice[e] > -INFINITY;
    return count;
}

static uint32_t count_holders(const struct node_limit *limit, const uint16_t *holder_of,
                              const uint32_t *experts) {
    bool visited[HOLDERS_MAX] = {false};
    uint32_t count = 0;
    for (uint32_t i = 0; i < limit->k; i++) {
        count += !visited[holder_of[experts[i]]];
        visited[holder_of[experts[i]]] = true;
    }
    return count;
}

bool node_limit_apply(const struct node_limit *limit, uint32_t layer, const uint32_t *experts,
                      float *choice) {
    const uint16_t *holder_of = limit->holder_of + (size_t)layer * limit->experts;
    if (count_holders(limit, holder_of, experts) <= limit->nodes_max)
        return false;
    uint32_t each = (limit->k + limit->nodes_max - 1) / limit->nodes_max, found = 0;
    float scores[HOLDERS_MAX];
    bool keep[HOLDERS_MAX] = {false};
    for (uint32_t h = 0; h < limit->holders; h++)
        scores[h] = holder_score(limit, holder_of, choice, h, each);
    for (uint32_t n = 0; n < limit->nodes_max || found < limit->k; n++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t h = 0; h < limit->holders; h++)
            if (!keep[h] && scores[h] > -INFINITY &&
                (best == UINT32_MAX || scores[h] > scores[best]))
                best = h;
        if (best == UINT32_MAX)
            break;
        keep[best] = true;
        found += count_experts(limit, holder_of, choice, best);
    }
    for (uint32_t e = 0; e < limit->experts; e++)
        if (!keep[holder_of[e]])
            choice[e] = -INFINITY;
    return true;
}
