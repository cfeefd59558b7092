/* A cache row is all keys, then all values; heads that share a key (grouped) just read the same
 * part. A task takes a head over all rows of a segment, so that each tile of the past is read once
 * for all of them. */
#include "coordinator/attention_multi_head.h"

#include <string.h>

struct attention_sizes attention_multi_head_sizes(const struct model_shape *shape,
                                                  const struct kv_cache *cache, uint32_t rows_max) {
    return (struct attention_sizes){
        .tile = (size_t)ATTEND_POSITIONS_MAX * 2 * kv_cache_part_floats(cache),
        .queries = (size_t)rows_max * shape->head_dim,
        .sums = (size_t)rows_max * shape->head_dim,
        .query_rows = rows_max,
    };
}

/* Rotates queries and keys and moves keys and values into the cache. */
static void finish_row(void *context, size_t task, unsigned thread) {
    (void)thread;
    const struct attention_call *call = context;
    const struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    uint32_t row = (uint32_t)task;
    float *q = attention->q + (size_t)row * s->heads * s->head_dim;
    for (uint32_t h = 0; h < s->heads; h++)
        rope_rotate(attention->rope, call->batch->first_row + row, q + (size_t)h * s->head_dim);
    float *kv = attention->kv + (size_t)row * 2 * s->kv_heads * s->head_dim;
    for (uint32_t h = 0; h < s->kv_heads; h++)
        rope_rotate(attention->rope, call->batch->first_row + row, kv + (size_t)h * s->head_dim);
    attention_write_cache(call, row, kv);
}

/* Copies one head's vectors (rows, dim) out of or into rows of all heads, which lie a power of two
 * apart and would push each other out of the caches. */
static void gather(const float *all, uint32_t rows, size_t stride, uint32_t dim, float *out) {
    for (uint32_t r = 0; r < rows; r++)
        memcpy(out + (size_t)r * dim, all + r * stride, dim * sizeof(float));
}

static void scatter(const float *values, uint32_t rows, uint32_t dim, float *all, size_t stride) {
    for (uint32_t r = 0; r < rows; r++)
        memcpy(all + r * stride, values + (size_t)r * dim, dim * sizeof(float));
}

static void attend_head(const struct attention_call *call, const struct attention_share *share,
                        uint32_t head) {
    const struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    const struct batch_segment *segment = share->segment;
    const struct attention_scratch *scratch = share->scratch;
    uint32_t dim = s->head_dim, kv_head = head / (s->heads / s->kv_heads);
    uint32_t end = segment->position + segment->rows;
    size_t part = kv_cache_part_floats(attention->cache);
    size_t stride = (size_t)s->heads * dim, first = segment->row * stride + (size_t)head * dim;
    struct attend_queries queries = {
        .values = scratch->queries,
        .stride = dim,
        .count = segment->rows,
        .rows = segment->rows,
        .position = segment->position,
        .scale = attention->scale,
        .largest = scratch->largest,
        .totals = scratch->totals,
        .out = scratch->sums,
        .out_stride = dim,
        .value_width = dim,
    };
    gather(attention->q + first, segment->rows, stride, dim, scratch->queries);
    attend_begin(&queries);
    struct kv_run run = {call->layer, segment->sequence, 0, 0};
    for (; run.position < end; run.position += run.count) {
        uint32_t left = end - run.position;
        run.count = left < ATTEND_POSITIONS_MAX ? left : ATTEND_POSITIONS_MAX;
        kv_cache_read(attention->cache, &run, kv_head, scratch->tile, 2 * part);
        kv_cache_read(attention->cache, &run, s->kv_heads + kv_head, scratch->tile + part,
                      2 * part);
        struct attend_tile tile = {scratch->tile, scratch->tile + part, 2 * part,
                                   dim,           run.position,         run.count};
        attend_add_tile(&queries, &tile, scratch->scores);
    }
    attend_end(&queries);
    scatter(scratch->sums, segment->rows, dim, attention->mixed + first, stride);
}

static void attend_share(void *context, size_t task, unsigned thread) {
    const struct attention_call *call = context;
    struct attention_share share = attention_find_share(call, 1, task, thread);
    attend_head(call, &share, share.head);
}

void attention_multi_head_forward(const struct attention_call *call, const float *x) {
    struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    const struct attention_weights *w = call->weights;
    size_t half = (size_t)s->kv_heads * s->head_dim;
    const struct attention_product products[] = {
        {&w->q, attention->q, w->q.rows},
        {&w->k, attention->kv, 2 * half},
        {&w->v, attention->kv + half, 2 * half},
    };
    attention_project(attention, products, 3, x, call->batch->rows);
    threads_run(attention->threads, call->batch->rows, finish_row, (void *)call);
    threads_run(attention->threads, attention_count_tasks(call, 1), attend_share, (void *)call);
}
