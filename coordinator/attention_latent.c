/* The cache row of a position is [c | k_rope]: kv_rank values after the norm, and the rotated
 * shared key.
 *
 * Absorbed: q' = Wk^T q_nope makes scores dot products with the cache row itself, and the weighted
 * sum of the c goes through Wv once per query. Expanded: k_nope = Wk c and v = Wv c for every past
 * position. The choice is by counting multiplications for the segment at hand; Wk and Wv of one
 * head are expanded from their stored format in the thread's scratch. */
#include "coordinator/attention_latent.h"

#include <cblas.h>
#include <string.h>

#include "common/kernel/kernel.h"
#include "common/kernel/matmul.h"

/* With at most this many new rows, several heads go through attend() together. */
#define JOINT_ROWS_MAX 4u

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Scratch of a thread: one head's Wk or Wv, then either form's own. */
static size_t weight_floats(const struct model_shape *s) {
    return larger(larger(s->nope_dim, s->v_dim) * (size_t)s->kv_rank, matmul_scratch_floats());
}

static size_t key_width(const struct model_shape *s) {
    return (size_t)s->nope_dim + s->rope_dim;
}

size_t attention_latent_scratch_floats(const struct model_shape *s, uint32_t positions) {
    size_t absorbed = (size_t)ATTEND_QUERIES_MAX * (2 * (size_t)s->kv_rank + s->rope_dim);
    size_t expanded = (size_t)ATTEND_QUERIES_MAX * (key_width(s) + s->v_dim) +
                      (size_t)positions * (key_width(s) + s->v_dim);
    return weight_floats(s) + larger(absorbed, expanded) + (size_t)ATTEND_QUERIES_MAX * positions;
}

static void project_query(const struct attention_call *call, const float *x) {
    struct attention *attention = call->attention;
    const struct attention_weights *w = call->weights;
    uint32_t rows = call->batch->rows, rank = attention->shape->q_rank;
    if (rank == 0) {
        attention_project(attention, &w->q, x, rows, attention->q);
        return;
    }
    attention_project(attention, &w->q_a, x, rows, attention->q_low);
    for (uint32_t r = 0; r < rows; r++) {
        float *low = attention->q_low + (size_t)r * rank;
        kernel_get()->rms_norm(low, w->q_a_norm, rank, attention->shape->norm_epsilon, low);
    }
    attention_project(attention, &w->q_b, attention->q_low, rows, attention->q);
}

/* Rotates the query's heads and writes the position's cache row. */
static void finish_row(void *context, size_t task, unsigned thread) {
    (void)thread;
    const struct attention_call *call = context;
    const struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    uint32_t row = (uint32_t)task;
    float *q = attention->q + row * s->heads * key_width(s);
    for (uint32_t h = 0; h < s->heads; h++)
        rope_rotate(attention->rope, row, q + h * key_width(s) + s->nope_dim);
    const float *kv = attention->kv + (size_t)row * (s->kv_rank + s->rope_dim);
    float *cached = attention_cache_row(call, row);
    kernel_get()->rms_norm(kv, call->weights->kv_a_norm, s->kv_rank, s->norm_epsilon, cached);
    memcpy(cached + s->kv_rank, kv + s->kv_rank, s->rope_dim * sizeof(float));
    rope_rotate(attention->rope, row, cached + s->kv_rank);
}

/* Wk or Wv of one head in f32, (rows, kv_rank) or transposed, as the checkpoint has it. */
struct head_weights {
    const float *values;
    int stride; /* floats from row to row */
    bool transposed;
};

static struct head_weights expand_key_weights(const struct attention_call *call, uint32_t head,
                                              float *out) {
    const struct model_shape *s = call->attention->shape;
    const struct attention_weights *w = call->weights;
    if (w->k_b.data) {
        matmul_expand(&w->k_b, head * s->kv_rank, s->kv_rank, 0, s->nope_dim, out, s->nope_dim);
        return (struct head_weights){out, (int)s->nope_dim, true};
    }
    matmul_expand(&w->kv_b, head * (s->nope_dim + s->v_dim), s->nope_dim, 0, s->kv_rank, out,
                  s->kv_rank);
    return (struct head_weights){out, (int)s->kv_rank, false};
}

/* The matrix that holds Wv of one head, (v, kv_rank), and the row where it starts. */
static const struct matrix *find_value_weights(const struct attention_call *call, uint32_t head,
                                               uint32_t *first) {
    const struct model_shape *s = call->attention->shape;
    const struct attention_weights *w = call->weights;
    *first = w->v_b.data ? head * s->v_dim : head * (s->nope_dim + s->v_dim) + s->nope_dim;
    return w->v_b.data ? &w->v_b : &w->kv_b;
}

static const float *query_at(const struct attention *attention, uint32_t row, uint32_t head) {
    const struct model_shape *s = attention->shape;
    return attention->q + ((size_t)row * s->heads + head) * key_width(s);
}

/* queries (count, kv_rank + rope) = [Wk^T q_nope | q_rope] of one head. */
static void absorb_queries(const struct attention_call *call, uint32_t head, uint32_t row,
                           uint32_t count, float *weights, float *queries) {
    const struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    size_t width = (size_t)s->kv_rank + s->rope_dim;
    struct head_weights keys = expand_key_weights(call, head, weights);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, keys.transposed ? CblasTrans : CblasNoTrans,
                (int)count, (int)s->kv_rank, (int)s->nope_dim, 1.0f, query_at(attention, row, head),
                (int)(s->heads * key_width(s)), keys.values, keys.stride, 0.0f, queries,
                (int)width);
    for (uint32_t i = 0; i < count; i++)
        memcpy(queries + i * width + s->kv_rank, query_at(attention, row + i, head) + s->nope_dim,
               s->rope_dim * sizeof(float));
}

/* mixed (count rows, this head) = sums (count, kv_rank) Wv^T. */
static void apply_values(const struct attention_call *call, uint32_t head, uint32_t row,
                         uint32_t count, const float *sums, float *scratch) {
    const struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    uint32_t first;
    const struct matrix *values = find_value_weights(call, head, &first);
    float *mixed = attention->mixed + ((size_t)row * s->heads + head) * s->v_dim;
    const struct matmul_input input = {.x = sums, .x_stride = s->kv_rank, .batch = count};
    for (uint32_t at = 0; at < s->v_dim; at += MATMUL_TILE_ROWS) {
        uint32_t left = s->v_dim - at;
        matmul_tile(values, first + at, left < MATMUL_TILE_ROWS ? left : MATMUL_TILE_ROWS, &input,
                    mixed + at, (size_t)s->heads * s->v_dim, scratch);
    }
}

/* Heads [head, head + heads) over rows [first, first + count) of the segment, in one attend(). */
static void absorbed_block(const struct attention_call *call, const struct attention_share *share,
                           uint32_t head, uint32_t heads, uint32_t first, uint32_t count) {
    const struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    const struct batch_segment *segment = share->segment;
    uint32_t width = s->kv_rank + s->rope_dim, row = segment->row + first;
    float *queries = share->scratch + weight_floats(s);
    float *sums = queries + (size_t)ATTEND_QUERIES_MAX * width;
    float *scores = sums + (size_t)ATTEND_QUERIES_MAX * s->kv_rank;
    uint32_t limits[ATTEND_QUERIES_MAX];
    for (uint32_t h = 0; h < heads; h++) {
        absorb_queries(call, head + h, row, count, share->scratch,
                       queries + (size_t)h * count * width);
        for (uint32_t i = 0; i < count; i++)
            limits[h * count + i] = segment->position + first + i + 1;
    }
    struct attend_source source = {
        .cache = attention->cache,
        .layer = call->layer,
        .sequence = segment->sequence,
        .stride = width,
        .key_width = width,
        .value_width = s->kv_rank,
    };
    attend(&source, queries, heads * count, limits, attention->scale, scores, sums);
    for (uint32_t h = 0; h < heads; h++)
        apply_values(call, head + h, row, count, sums + (size_t)h * count * s->kv_rank,
                     share->scratch);
}

void attention_latent_absorbed(const struct attention_call *call,
                               const struct attention_share *share) {
    uint32_t rows = share->segment->rows;
    if (rows <= JOINT_ROWS_MAX) {
        absorbed_block(call, share, share->head, share->heads, 0, rows);
        return;
    }
    for (uint32_t h = 0; h < share->heads; h++)
        for (uint32_t first = 0; first < rows; first += ATTEND_QUERIES_MAX) {
            uint32_t left = rows - first;
            absorbed_block(call, share, share->head + h, 1, first,
                           left < ATTEND_QUERIES_MAX ? left : ATTEND_QUERIES_MAX);
        }
}

/* out (positions, rows) = c (positions, kv_rank) W^T for the whole past, `stride` floats apart; W
 * is (rows, kv_rank) or transposed. */
static void expand_part(const struct attention_call *call, const struct attention_share *share,
                        const struct head_weights *weights, uint32_t rows, float *out,
                        size_t stride) {
    const struct model_shape *s = call->attention->shape;
    uint32_t end = share->segment->position + share->segment->rows, run;
    struct attend_source cached = {.cache = call->attention->cache,
                                   .layer = call->layer,
                                   .sequence = share->segment->sequence};
    for (uint32_t position = 0; position < end; position += run) {
        const float *past = attend_run(&cached, position, end, &run);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, weights->transposed ? CblasNoTrans : CblasTrans,
                    (int)run, (int)rows, (int)s->kv_rank, 1.0f, past,
                    (int)(s->kv_rank + s->rope_dim), weights->values, weights->stride, 0.0f,
                    out + position * stride, (int)stride);
    }
}

/* kv (positions, nope + rope + v) = [Wk c | k_rope | Wv c] of one head for the whole past. */
static void expand_past(const struct attention_call *call, const struct attention_share *share,
                        uint32_t head, float *kv) {
    const struct model_shape *s = call->attention->shape;
    size_t stride = key_width(s) + s->v_dim;
    struct head_weights keys = expand_key_weights(call, head, share->scratch);
    expand_part(call, share, &keys, s->nope_dim, kv, stride);
    uint32_t first;
    const struct matrix *matrix = find_value_weights(call, head, &first);
    matmul_expand(matrix, first, s->v_dim, 0, s->kv_rank, share->scratch, s->kv_rank);
    struct head_weights values = {share->scratch, (int)s->kv_rank, false};
    expand_part(call, share, &values, s->v_dim, kv + key_width(s), stride);
    uint32_t end = share->segment->position + share->segment->rows;
    for (uint32_t position = 0; position < end; position++)
        memcpy(
            kv + position * stride + s->nope_dim,
            kv_cache_row(call->attention->cache, call->layer, share->segment->sequence, position) +
                s->kv_rank,
            s->rope_dim * sizeof(float));
}

static void expanded_block(const struct attention_call *call, const struct attention_share *share,
                           uint32_t head, uint32_t first, uint32_t count, const float *kv) {
    const struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    const struct batch_segment *segment = share->segment;
    size_t key = key_width(s);
    float *queries = share->scratch + weight_floats(s);
    float *sums = queries + ATTEND_QUERIES_MAX * key;
    float *scores = sums + (size_t)ATTEND_QUERIES_MAX * s->v_dim +
                    (size_t)kv_cache_positions_max(attention->cache) * (key + s->v_dim);
    uint32_t limits[ATTEND_QUERIES_MAX];
    for (uint32_t i = 0; i < count; i++) {
        memcpy(queries + i * key, query_at(attention, segment->row + first + i, head),
               key * sizeof(float));
        limits[i] = segment->position + first + i + 1;
    }
    struct attend_source source = {
        .flat = kv,
        .stride = key + s->v_dim,
        .key_width = (uint32_t)key,
        .value_offset = (uint32_t)key,
        .value_width = s->v_dim,
    };
    attend(&source, queries, count, limits, attention->scale, scores, sums);
    for (uint32_t i = 0; i < count; i++)
        memcpy(attention->mixed + ((size_t)(segment->row + first + i) * s->heads + head) * s->v_dim,
               sums + (size_t)i * s->v_dim, s->v_dim * sizeof(float));
}

void attention_latent_expanded(const struct attention_call *call,
                               const struct attention_share *share) {
    const struct model_shape *s = call->attention->shape;
    float *kv = share->scratch + weight_floats(s) + ATTEND_QUERIES_MAX * (key_width(s) + s->v_dim);
    for (uint32_t h = 0; h < share->heads; h++) {
        expand_past(call, share, share->head + h, kv);
        for (uint32_t first = 0; first < share->segment->rows; first += ATTEND_QUERIES_MAX) {
            uint32_t left = share->segment->rows - first;
            expanded_block(call, share, share->head + h, first,
                           left < ATTEND_QUERIES_MAX ? left : ATTEND_QUERIES_MAX, kv);
        }
    }
}

/* Multiplications of one head in either form: `rows` new rows, `positions` in all. */
static bool is_absorbed_cheaper(const struct model_shape *s, double rows, double positions) {
    double rank = s->kv_rank, nope = s->nope_dim, rope = s->rope_dim, v = s->v_dim;
    double absorbed = rows * rank * (nope + v) + rows * positions * (2 * rank + rope);
    double expanded = positions * rank * (nope + v) + rows * positions * (nope + rope + v);
    return absorbed <= expanded;
}

static void attend_share(void *context, size_t task, unsigned thread) {
    const struct attention_call *call = context;
    struct attention_share share = attention_find_share(call, task, thread);
    const struct batch_segment *segment = share.segment;
    if (is_absorbed_cheaper(call->attention->shape, segment->rows,
                            segment->position + segment->rows))
        attention_latent_absorbed(call, &share);
    else
        attention_latent_expanded(call, &share);
}

void attention_latent_forward(const struct attention_call *call, const float *x) {
    struct attention *attention = call->attention;
    uint32_t rows = call->batch->rows;
    project_query(call, x);
    attention_project(attention, &call->weights->kv_a, x, rows, attention->kv);
    threads_run(attention->threads, rows, finish_row, (void *)call);
    threads_run(attention->threads,
                (size_t)call->batch->segment_count * attention->tasks_per_segment, attend_share,
                (void *)call);
}
