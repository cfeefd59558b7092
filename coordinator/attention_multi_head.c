/* A cache row is all keys, then all values; heads that share a key (grouped) just read the same
 * columns. */
#include "coordinator/attention_multi_head.h"

#include <string.h>

size_t attention_multi_head_scratch_floats(const struct model_shape *shape, uint32_t positions) {
    /* Queries and results of a block, and its scores. */
    return (size_t)ATTEND_QUERIES_MAX * (2 * (size_t)shape->head_dim + positions);
}

/* Rotates queries and keys and moves keys and values into the cache. */
static void rotate_row(void *context, size_t task, unsigned thread) {
    (void)thread;
    const struct attention_call *call = context;
    const struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    uint32_t row = (uint32_t)task;
    float *q = attention->q + (size_t)row * s->heads * s->head_dim;
    for (uint32_t h = 0; h < s->heads; h++)
        rope_rotate(attention->rope, row, q + (size_t)h * s->head_dim);
    size_t half = (size_t)s->kv_heads * s->head_dim;
    float *cached = attention_cache_row(call, row);
    memcpy(cached, attention->kv + row * half, half * sizeof(float));
    memcpy(cached + half, attention->kv + (call->batch->rows + row) * half, half * sizeof(float));
    for (uint32_t h = 0; h < s->kv_heads; h++)
        rope_rotate(attention->rope, row, cached + (size_t)h * s->head_dim);
}

/* One head over one block of query rows of a segment. */
static void attend_block(const struct attention_call *call, const struct attention_share *share,
                         uint32_t head, uint32_t first, uint32_t count) {
    const struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    const struct batch_segment *segment = share->segment;
    uint32_t dim = s->head_dim, kv_head = head / (s->heads / s->kv_heads);
    float *queries = share->scratch;
    float *result = queries + (size_t)ATTEND_QUERIES_MAX * dim;
    float *scores = result + (size_t)ATTEND_QUERIES_MAX * dim;
    uint32_t limits[ATTEND_QUERIES_MAX];
    for (uint32_t i = 0; i < count; i++) {
        size_t row = segment->row + first + i;
        memcpy(queries + (size_t)i * dim, attention->q + (row * s->heads + head) * dim,
               dim * sizeof(float));
        limits[i] = segment->position + first + i + 1;
    }
    struct attend_source source = {
        .cache = attention->cache,
        .layer = call->layer,
        .sequence = segment->sequence,
        .stride = kv_cache_width(attention->cache),
        .key_offset = kv_head * dim,
        .key_width = dim,
        .value_offset = (s->kv_heads + kv_head) * dim,
        .value_width = dim,
    };
    attend(&source, queries, count, limits, attention->scale, scores, result);
    for (uint32_t i = 0; i < count; i++) {
        size_t row = segment->row + first + i;
        memcpy(attention->mixed + (row * s->heads + head) * dim, result + (size_t)i * dim,
               dim * sizeof(float));
    }
}

static void attend_share(void *context, size_t task, unsigned thread) {
    const struct attention_call *call = context;
    struct attention_share share = attention_find_share(call, task, thread);
    for (uint32_t h = 0; h < share.heads; h++)
        for (uint32_t first = 0; first < share.segment->rows; first += ATTEND_QUERIES_MAX) {
            uint32_t left = share.segment->rows - first;
            attend_block(call, &share, share.head + h, first,
                         left < ATTEND_QUERIES_MAX ? left : ATTEND_QUERIES_MAX);
        }
}

void attention_multi_head_forward(const struct attention_call *call, const float *x) {
    struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    uint32_t rows = call->batch->rows;
    attention_project(attention, &call->weights->q, x, rows, attention->q);
    attention_project(attention, &call->weights->k, x, rows, attention->kv);
    attention_project(attention, &call->weights->v, x, rows,
                      attention->kv + (size_t)rows * s->kv_heads * s->head_dim);
    threads_run(attention->threads, rows, rotate_row, (void *)call);
    threads_run(attention->threads,
                (size_t)call->batch->segment_count * attention->tasks_per_segment, attend_share,
                (void *)call);
}
