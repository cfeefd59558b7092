/* Scores, then choice scores, then groups, then the k best: each step is a small loop over the
 * experts, so the families differ only in the fields of model_shape that select among them. Dropped
 * groups get a choice score of minus infinity, so that no expert of theirs can be chosen whatever
 * the bias says. */
#include "coordinator/router.h"

#include <math.h>
#include <stdlib.h>

#include "common/arena.h"
#include "common/kernel/kernel.h"
#include "common/kernel/matmul.h"

struct router {
    const struct model_shape *shape;
    struct threads *threads;
    const struct node_limit *limit;
    struct arena *arena;
    float *logits; /* (rows_max, experts) */
    float *choice; /* (threads, experts) */
    struct matmul_workspace matmul;
};

struct router_call {
    struct router *router;
    const struct layer *layer;
    uint32_t index;
    uint32_t *experts;
    float *weights;
};

enum status router_create(const struct model_shape *shape, struct threads *threads,
                          uint32_t rows_max, const struct node_limit *limit, struct router **out) {
    struct router *router = calloc(1, sizeof *router);
    if (!router || !(router->arena = arena_create(0)))
        goto err_memory;
    router->shape = shape;
    router->threads = threads;
    router->limit = limit;
    uint32_t count = threads_count(threads);
    router->logits = arena_take(router->arena, (size_t)rows_max * shape->experts, sizeof(float));
    router->choice = arena_take(router->arena, (size_t)count * shape->experts, sizeof(float));
    float *scratch = arena_take(router->arena, count * matmul_scratch_floats(), sizeof(float));
    /* The gate is f32 and meets f32: rounding could choose other experts. */
    router->matmul = (struct matmul_workspace){threads, scratch, matmul_scratch_floats(), NULL};
    if (!router->logits || !router->choice || !scratch)
        goto err_memory;
    *out = router;
    return STATUS_OK;
err_memory:
    router_destroy(router);
    return STATUS_NO_MEMORY;
}

void router_destroy(struct router *router) {
    if (!router)
        return;
    arena_destroy(router->arena);
    free(router);
}

static float group_score(enum group_rule rule, const float *choice, uint32_t count) {
    float best = -INFINITY, second = -INFINITY;
    for (uint32_t e = 0; e < count; e++) {
        if (choice[e] > best) {
            second = best;
            best = choice[e];
        } else if (choice[e] > second) {
            second = choice[e];
        }
    }
    return rule == GROUP_TWO_BEST && count > 1 ? best + second : best;
}

/* Keeps the best groups_per_token groups; the choice scores of all others become minus infinity. */
static void limit_groups(const struct model_shape *shape, float *choice) {
    uint32_t size = shape->experts / shape->groups;
    float scores[GROUPS_MAX];
    bool keep[GROUPS_MAX] = {false};
    for (uint32_t g = 0; g < shape->groups; g++)
        scores[g] = group_score(shape->group_rule, choice + g * size, size);
    for (uint32_t n = 0; n < shape->groups_per_token; n++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t g = 0; g < shape->groups; g++)
            if (!keep[g] && (best == UINT32_MAX || scores[g] > scores[best]))
                best = g;
        keep[best] = true;
    }
    for (uint32_t e = 0; e < shape->experts; e++)
        if (!keep[e / size])
            choice[e] = -INFINITY;
}

static bool is_taken(const uint32_t *experts, uint32_t count, uint32_t expert) {
    for (uint32_t k = 0; k < count; k++)
        if (experts[k] == expert)
            return true;
    return false;
}

/* Takes the k largest in descending order. An expert is never taken twice, even where scores are
 * not numbers. */
static void take_best(const struct model_shape *shape, const float *choice, uint32_t *experts) {
    for (uint32_t k = 0; k < shape->experts_per_token; k++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < shape->experts; e++)
            if ((best == UINT32_MAX || choice[e] > choice[best]) && !is_taken(experts, k, e))
                best = e;
        experts[k] = best;
    }
}

void router_score(const struct model_shape *shape, float *logits, const float *bias,
                  float *choice) {
    float *scores = logits;
    if (shape->score == SCORE_SOFTMAX)
        kernel_get()->softmax(scores, shape->experts);
    else
        for (uint32_t e = 0; e < shape->experts; e++)
            scores[e] = 1.0f / (1.0f + expf(-logits[e]));
    for (uint32_t e = 0; e < shape->experts; e++)
        choice[e] = bias ? scores[e] + bias[e] : scores[e];
    if (shape->group_rule != GROUP_NONE)
        limit_groups(shape, choice);
}

void router_choose(const struct model_shape *shape, const float *scores, const float *choice,
                   uint32_t *experts, float *weights) {
    take_best(shape, choice, experts);
    float sum = 0;
    for (uint32_t k = 0; k < shape->experts_per_token; k++)
        sum += scores[experts[k]];
    float factor = shape->weight_scale / (shape->normalise_weights ? sum + 1e-20f : 1.0f);
    for (uint32_t k = 0; k < shape->experts_per_token; k++)
        weights[k] = scores[experts[k]] * factor;
}

static void choose_row(void *context, size_t row, unsigned thread) {
    const struct router_call *call = context;
    const struct router *router = call->router;
    const struct model_shape *shape = router->shape;
    float *scores = router->logits + row * shape->experts;
    float *choice = router->choice + (size_t)thread * shape->experts;
    router_score(shape, scores, call->layer->gate_bias, choice);
    uint32_t *experts = call->experts + row * shape->experts_per_token;
    float *weights = call->weights + row * shape->experts_per_token;
    router_choose(shape, scores, choice, experts, weights);
    if (router->limit && node_limit_apply(router->limit, call->index, experts, choice))
        router_choose(shape, scores, choice, experts, weights);
}

void router_forward(struct router *router, const struct layer *layer, uint32_t index,
                    const float *x, uint32_t rows, uint32_t *experts, float *weights) {
    matmul(&router->matmul, &layer->gate, x, rows, router->logits);
    struct router_call call = {router, layer, index, experts, weights};
    threads_run(router->threads, rows, choose_row, &call);
}
