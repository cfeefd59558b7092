/* For each head Wk, and Wv where it is not packed, are expanded to f32 once; then a tile of
 * positions after the other is expanded to keys and values, which all rows of the segment meet
 * while they are in the cache. */
#include "coordinator/attention_expanded.h"

#include <cblas.h>
#include <string.h>

#include "common/kernel/kernel.h"
#include "coordinator/latent_weights.h"

/* Wk or Wv of one head: in f32, or packed. */
struct part {
    struct head_weights weights;
    const float *values; /* (rows, columns); NULL: packed */
};

static struct part open_part(struct head_weights weights, float *out) {
    const struct matrix *matrix = weights.matrix;
    if (matrix->packed)
        return (struct part){weights, NULL};
    matmul_expand(matrix, weights.first, weights.rows, 0, matrix->columns, out, matrix->columns);
    return (struct part){weights, out};
}

/* The compressed vectors of a tile, in f32 and in the form that a packed Wv takes. */
static struct matmul_input compressed_input(const struct attention_call *call, const struct part *v,
                                            const struct attention_scratch *scratch,
                                            uint32_t count) {
    uint32_t rank = call->attention->shape->kv_rank;
    const struct matmul_input input = {
        .x = scratch->tile,
        .x_stride = kv_cache_part_floats(call->attention->cache),
        .form = matmul_form(v->weights.matrix, count),
        .prepared = scratch->prepared,
        .prepared_stride = matmul_row_blocks(rank),
        .batch = count,
    };
    for (uint32_t i = 0; i < count; i++)
        matmul_prepare(&input, i, 0, rank);
    return input;
}

/* out (input->batch, outputs) = W times each row of the input, `stride` floats apart. */
static void multiply(const struct part *part, const struct matmul_input *input, uint32_t outputs,
                     float *scratch, float *out, size_t stride) {
    const struct matrix *matrix = part->weights.matrix;
    if (part->values) {
        bool transposed = part->weights.transposed;
        uint32_t inputs = transposed ? part->weights.rows : matrix->columns;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, transposed ? CblasNoTrans : CblasTrans,
                    (int)input->batch, (int)outputs, (int)inputs, 1.0f, input->x,
                    (int)input->x_stride, part->values, (int)matrix->columns, 0.0f, out,
                    (int)stride);
        return;
    }
    for (uint32_t at = 0; at < outputs; at += MATMUL_TILE_ROWS) {
        uint32_t left = outputs - at;
        matmul_tile(matrix, part->weights.first + at,
                    left < MATMUL_TILE_ROWS ? left : MATMUL_TILE_ROWS, input, out + at, stride,
                    scratch);
    }
}

/* expanded (count, nope + rope + v) = [Wk c | k_rope | Wv c] for the tile that has been read. */
static void expand_tile(const struct attention_call *call, const struct part *k,
                        const struct part *v, uint32_t count,
                        const struct attention_scratch *scratch) {
    const struct model_shape *s = call->attention->shape;
    size_t key = (size_t)s->nope_dim + s->rope_dim, stride = key + s->v_dim;
    struct matmul_input input = compressed_input(call, v, scratch, count);
    multiply(k, &input, s->nope_dim, scratch->products, scratch->expanded, stride);
    multiply(v, &input, s->v_dim, scratch->products, scratch->expanded + key, stride);
    for (uint32_t i = 0; i < count; i++)
        memcpy(scratch->expanded + i * stride + s->nope_dim,
               input.x + i * input.x_stride + s->kv_rank, s->rope_dim * sizeof(float));
}

static void attend_past(const struct attention_call *call, const struct attention_share *share,
                        uint32_t head, const struct attend_queries *queries) {
    const struct model_shape *s = call->attention->shape;
    const struct attention_scratch *scratch = share->scratch;
    const struct kv_cache *cache = call->attention->cache;
    size_t key = (size_t)s->nope_dim + s->rope_dim;
    struct part k = open_part(latent_find_keys(call->weights, s, head), scratch->weights);
    struct part v = open_part(latent_find_values(call->weights, s, head),
                              scratch->weights + (size_t)s->nope_dim * s->kv_rank);
    uint32_t end = share->segment->position + share->segment->rows;
    struct kv_run run = {call->layer, share->segment->sequence, 0, 0};
    for (; run.position < end; run.position += run.count) {
        uint32_t left = end - run.position;
        run.count = left < ATTEND_POSITIONS_MAX ? left : ATTEND_POSITIONS_MAX;
        kv_cache_read(cache, &run, 0, scratch->tile, kv_cache_part_floats(cache));
        expand_tile(call, &k, &v, run.count, scratch);
        struct attend_tile tile = {scratch->expanded, scratch->expanded + key,
                                   key + s->v_dim,    (uint32_t)key,
                                   run.position,      run.count};
        attend_add_tile(queries, &tile, scratch->scores);
    }
}

/* Queries and results are copied, because rows of all heads lie a power of two apart and would push
 * each other out of the caches. */
static void run_head(const struct attention_call *call, const struct attention_share *share,
                     uint32_t head) {
    const struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    const struct attention_scratch *scratch = share->scratch;
    uint32_t rows = share->segment->rows;
    size_t key = (size_t)s->nope_dim + s->rope_dim, row = share->segment->row;
    struct attend_queries queries = {
        .values = scratch->queries,
        .stride = key,
        .count = rows,
        .rows = rows,
        .position = share->segment->position,
        .scale = attention->scale,
        .largest = scratch->largest,
        .totals = scratch->totals,
        .out = scratch->sums,
        .out_stride = s->v_dim,
        .value_width = s->v_dim,
    };
    for (uint32_t r = 0; r < rows; r++)
        memcpy(scratch->queries + r * key, attention->q + ((row + r) * s->heads + head) * key,
               key * sizeof(float));
    attend_begin(&queries);
    attend_past(call, share, head, &queries);
    attend_end(&queries);
    for (uint32_t r = 0; r < rows; r++)
        memcpy(attention->mixed + ((row + r) * s->heads + head) * s->v_dim,
               scratch->sums + (size_t)r * s->v_dim, s->v_dim * sizeof(float));
}

void attention_latent_expanded(const struct attention_call *call,
                               const struct attention_share *share) {
    for (uint32_t head = share->head; head < share->head + share->heads; head++)
        run_head(call, share, head);
}
