/* The cache row of a position is [c | k_rope]: kv_rank values after the norm, and the rotated
 * shared key. Which form attention takes is decided by counting multiplications for the segment at
 * hand. */
#include "coordinator/attention_latent.h"

#include "common/kernel/kernel.h"
#include "coordinator/attention_absorbed.h"
#include "coordinator/attention_expanded.h"
#include "coordinator/latent_weights.h"

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t key_width(const struct model_shape *s) {
    return (size_t)s->nope_dim + s->rope_dim;
}

struct attention_sizes attention_latent_sizes(const struct model_shape *s,
                                              const struct kv_cache *cache, uint32_t rows_max) {
    size_t queries = ATTEND_QUERIES, positions = ATTEND_POSITIONS_MAX;
    size_t head = (size_t)s->kv_rank * (s->nope_dim + s->v_dim);
    return (struct attention_sizes){
        .weights = larger(larger(head, latent_absorb_floats(s)), matmul_scratch_floats()),
        .tile = positions * kv_cache_part_floats(cache),
        .expanded = positions * (key_width(s) + s->v_dim),
        .queries = larger(queries * (s->kv_rank + s->rope_dim), rows_max * key_width(s)),
        .sums = larger(queries * s->kv_rank, (size_t)rows_max * s->v_dim),
        .query_rows = larger(queries, rows_max),
        .prepared_bytes = larger(queries, positions) * matmul_row_bytes(s->kv_rank),
    };
}

/* Queries and the compressed vector; the two products with x share a loop. */
static void project(const struct attention_call *call, const float *x) {
    struct attention *attention = call->attention;
    const struct attention_weights *w = call->weights;
    uint32_t rows = call->batch->rows, rank = attention->shape->q_rank;
    struct attention_product query = {&w->q, attention->q, w->q.rows};
    if (rank)
        query = (struct attention_product){&w->q_a, attention->q_low, rank};
    const struct attention_product products[] = {query, {&w->kv_a, attention->kv, w->kv_a.rows}};
    attention_project(attention, products, 2, x, rows);
    if (rank == 0)
        return;
    for (uint32_t r = 0; r < rows; r++) {
        float *low = attention->q_low + (size_t)r * rank;
        kernel_get()->rms_norm(low, w->q_a_norm, rank, attention->shape->norm_epsilon, low);
    }
    query = (struct attention_product){&w->q_b, attention->q, w->q_b.rows};
    attention_project(attention, &query, 1, attention->q_low, rows);
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
        rope_rotate(attention->rope, call->batch->first_row + row,
                    q + h * key_width(s) + s->nope_dim);
    float *kv = attention->kv + (size_t)row * (s->kv_rank + s->rope_dim);
    kernel_get()->rms_norm(kv, call->weights->kv_a_norm, s->kv_rank, s->norm_epsilon, kv);
    rope_rotate(attention->rope, call->batch->first_row + row, kv + s->kv_rank);
    attention_write_cache(call, row, kv);
}

/* Multiplications of one head in either form: `rows` new rows, `positions` in all. */
static bool is_absorbed_cheaper(const struct model_shape *s, double rows, double positions) {
    double rank = s->kv_rank, nope = s->nope_dim, rope = s->rope_dim, v = s->v_dim;
    double absorbed = rows * rank * (nope + v) + rows * positions * (2 * rank + rope);
    double expanded = positions * rank * (nope + v) + rows * positions * (nope + rope + v);
    return absorbed <= expanded;
}

/* The loop over blocks of heads. */
struct head_loop {
    const struct attention_call *call;
    uint32_t heads_per_task;
};

static void attend_share(void *context, size_t task, unsigned thread) {
    const struct head_loop *loop = context;
    const struct attention_call *call = loop->call;
    struct attention_share share = attention_find_share(call, loop->heads_per_task, task, thread);
    const struct batch_segment *segment = share.segment;
    if (is_absorbed_cheaper(call->attention->shape, segment->rows,
                            segment->position + segment->rows))
        attention_latent_absorbed(call, &share);
    else
        attention_latent_expanded(call, &share);
}

/* Whether all segments are so short that their heads share blocks of queries. */
static bool is_joint(const struct attention_call *call) {
    for (uint32_t i = 0; i < call->batch->segment_count; i++) {
        const struct batch_segment *segment = &call->batch->segments[i];
        if (segment->rows > ABSORBED_JOINT_ROWS_MAX ||
            !is_absorbed_cheaper(call->attention->shape, segment->rows,
                                 segment->position + segment->rows))
            return false;
    }
    return true;
}

void attention_latent_forward(const struct attention_call *call, const float *x) {
    struct attention *attention = call->attention;
    project(call, x);
    threads_run(attention->threads, call->batch->rows, finish_row, (void *)call);
    struct absorbed_plan plan = {.heads = 1, .splits = 1, .segments = 1};
    if (is_joint(call))
        plan = attention_absorbed_plan(call);
    struct head_loop loop = {call, plan.heads};
    if (plan.splits > 1)
        attention_absorbed_split(call, &plan);
    else if (plan.segments > 1)
        attention_absorbed_joint(call, &plan);
    else
        threads_run(attention->threads, attention_count_tasks(call, plan.heads), attend_share,
                    &loop);
}
