/* The frame around the kinds: memory, the split of work into tasks, the output projection. */
#include "coordinator/attention.h"

#include <stdlib.h>

#include "common/kernel/matmul.h"
#include "common/log.h"
#include "coordinator/attention_latent.h"
#include "coordinator/attention_multi_head.h"

/* Floats of one row of q, kv and mixed. */
struct widths {
    size_t q, kv, mixed;
};

static struct widths row_widths(const struct model_shape *s) {
    if (s->attention == ATTENTION_LATENT)
        return (struct widths){(size_t)s->heads * (s->nope_dim + s->rope_dim),
                               (size_t)s->kv_rank + s->rope_dim, (size_t)s->heads * s->v_dim};
    size_t heads = (size_t)s->heads * s->head_dim;
    return (struct widths){heads, (size_t)2 * s->kv_heads * s->head_dim, heads};
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t thread_scratch_floats(const struct model_shape *shape, uint32_t positions) {
    size_t kind = shape->attention == ATTENTION_LATENT
                      ? attention_latent_scratch_floats(shape, positions)
                      : attention_multi_head_scratch_floats(shape, positions);
    /* Rounded to a cache line, so that threads do not share one. */
    return (larger(kind, matmul_scratch_floats()) + 15) / 16 * 16;
}

enum status attention_create(const struct model_shape *shape, struct threads *threads,
                             struct kv_cache *cache, uint32_t rows_max, struct attention **out) {
    struct attention *attention = calloc(1, sizeof *attention);
    if (!attention || !(attention->arena = arena_create(0)) ||
        rope_create(shape, rows_max, &attention->rope))
        goto err_memory;
    attention->shape = shape;
    attention->threads = threads;
    attention->cache = cache;
    attention->scale = rope_score_scale(shape);
    uint32_t per_task = (shape->heads + threads_count(threads) - 1) / threads_count(threads);
    attention->heads_per_task = per_task < HEADS_PER_TASK_MAX ? per_task : HEADS_PER_TASK_MAX;
    attention->tasks_per_segment =
        (shape->heads + attention->heads_per_task - 1) / attention->heads_per_task;
    attention->scratch_floats = thread_scratch_floats(shape, kv_cache_positions_max(cache));
    struct widths widths = row_widths(shape);
    struct arena *arena = attention->arena;
    attention->q_low = arena_take(arena, (size_t)rows_max * shape->q_rank, sizeof(float));
    attention->q = arena_take(arena, rows_max * widths.q, sizeof(float));
    attention->kv = arena_take(arena, rows_max * widths.kv, sizeof(float));
    attention->mixed = arena_take(arena, rows_max * widths.mixed, sizeof(float));
    attention->scratch =
        arena_take(arena, threads_count(threads) * attention->scratch_floats, sizeof(float));
    size_t inputs = larger(larger(shape->hidden, shape->q_rank), widths.mixed);
    struct q8_block *q8 = arena_take(arena, rows_max * (inputs / Q8_BLOCK_VALUES + 1), sizeof *q8);
    attention->matmul =
        (struct matmul_workspace){threads, attention->scratch, attention->scratch_floats, q8};
    if (!q8 || !attention->q_low || !attention->q || !attention->kv || !attention->mixed ||
        !attention->scratch)
        goto err_memory;
    *out = attention;
    return STATUS_OK;
err_memory:
    log_error("not enough memory for attention over %u rows; lower --batch-tokens or --context",
              rows_max);
    attention_destroy(attention);
    return STATUS_NO_MEMORY;
}

void attention_destroy(struct attention *attention) {
    if (!attention)
        return;
    rope_destroy(attention->rope);
    arena_destroy(attention->arena);
    free(attention);
}

struct attention_share attention_find_share(const struct attention_call *call, size_t task,
                                            unsigned thread) {
    const struct attention *attention = call->attention;
    uint32_t head = (uint32_t)(task % attention->tasks_per_segment) * attention->heads_per_task;
    uint32_t left = attention->shape->heads - head;
    return (struct attention_share){
        .segment = &call->batch->segments[task / attention->tasks_per_segment],
        .head = head,
        .heads = left < attention->heads_per_task ? left : attention->heads_per_task,
        .scratch = attention->scratch + thread * attention->scratch_floats,
    };
}

float *attention_cache_row(const struct attention_call *call, uint32_t row) {
    const struct batch_segment *segment = call->batch->segments;
    while (row >= segment->row + segment->rows)
        segment++;
    return kv_cache_row(call->attention->cache, call->layer, segment->sequence,
                        segment->position + row - segment->row);
}

void attention_project(const struct attention *attention, const struct matrix *w, const float *x,
                       uint32_t rows, float *y) {
    matmul(&attention->matmul, w, x, rows, y);
}

void attention_begin(struct attention *attention, const struct batch *batch) {
    rope_begin(attention->rope, batch);
}

void attention_forward(struct attention *attention, const struct attention_weights *weights,
                       uint32_t layer, const struct batch *batch, const float *x, float *out) {
    struct attention_call call = {attention, weights, layer, batch};
    if (attention->shape->attention == ATTENTION_LATENT)
        attention_latent_forward(&call, x);
    else
        attention_multi_head_forward(&call, x);
    attention_project(attention, &weights->o, attention->mixed, batch->rows, out);
}
