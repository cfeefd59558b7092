/* The cache row of a position is [c | k_rope]: its key is the row, its value is c. Heads differ in
 * their queries only, so a task expands a tile of the cache to f32 once for all its heads.
 *
 * A step over a short past is one loop: each task absorbs, attends and multiplies with Wv for its
 * heads. Of sequences that decode side by side a task takes several, so that it reads Wk and Wv of
 * its heads once for all of them; each attends to its own past. Over a long past that would read
 * and expand the cache once for each block of heads, and with few heads leave threads idle; so
 * there queries are absorbed first, runs of positions are spread over the threads with as many
 * heads as fit, and their results are merged. */
#include "coordinator/attention_absorbed.h"

#include <string.h>

#include "common/kernel/kernel.h"
#include "coordinator/latent_weights.h"

/* Over a shorter past two more loops cost more than they save, and a run is worth its merging. */
#define SPLIT_POSITIONS_MIN 1024u
#define RUN_POSITIONS_MIN   256u

/* Queries of heads [head, head + heads) over rows [first, first + rows) of a segment, or of `rows`
 * consecutive segments of one row each. */
struct block {
    const struct batch_segment *segment;
    uint32_t head, heads, first, rows;
};

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

static uint32_t width_of(const struct model_shape *s) {
    return s->kv_rank + s->rope_dim;
}

/* queries (heads * rows, kv_rank + rope) = [Wk^T q_nope | q_rope] */
static void absorb(const struct attention_call *call, const struct block *block, float *scratch,
                   float *queries) {
    const struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    size_t width = width_of(s), key = (size_t)s->nope_dim + s->rope_dim, stride = s->heads * key;
    for (uint32_t h = 0; h < block->heads; h++) {
        struct head_weights keys = latent_find_keys(call->weights, s, block->head + h);
        const float *q =
            attention->q + (block->segment->row + block->first) * stride + (block->head + h) * key;
        latent_absorb(&keys, q, stride, block->rows, scratch, queries, width);
        for (uint32_t i = 0; i < block->rows; i++, q += stride, queries += width)
            memcpy(queries + s->kv_rank, q + s->nope_dim, s->rope_dim * sizeof(float));
    }
}

static struct attend_queries queries_of(const struct attention_call *call,
                                        const struct block *block, const float *values, float *sums,
                                        float *largest, float *totals) {
    const struct model_shape *s = call->attention->shape;
    return (struct attend_queries){
        .values = values,
        .stride = width_of(s),
        .count = block->heads * block->rows,
        .rows = block->rows,
        .position = block->segment->position + block->first,
        .scale = call->attention->scale,
        .largest = largest,
        .totals = totals,
        .out = sums,
        .out_stride = s->kv_rank,
        .value_width = s->kv_rank,
    };
}

/* The positions [begin, end) of the past, which may end after the block's own. */
static void attend_past(const struct attention_call *call, const struct block *block,
                        const struct attend_queries *queries, uint32_t begin, uint32_t end,
                        const struct attention_scratch *scratch) {
    const struct kv_cache *cache = call->attention->cache;
    size_t stride = kv_cache_part_floats(cache);
    struct kv_run run = {call->layer, block->segment->sequence, begin, 0};
    end = smaller(end, queries->position + queries->rows);
    attend_begin(queries);
    for (; run.position < end; run.position += run.count) {
        run.count = smaller(end - run.position, ATTEND_POSITIONS_MAX);
        kv_cache_read(cache, &run, 0, scratch->tile, stride);
        struct attend_tile tile = {scratch->tile, scratch->tile,
                                   stride,        width_of(call->attention->shape),
                                   run.position,  run.count};
        attend_add_tile(queries, &tile, scratch->scores);
    }
}

/* mixed (the block's rows, one head) = sums (rows, kv_rank) Wv^T */
static void apply_values(const struct attention_call *call, const struct block *block,
                         uint32_t head, const float *sums,
                         const struct attention_scratch *scratch) {
    const struct attention *attention = call->attention;
    const struct model_shape *s = attention->shape;
    struct head_weights values = latent_find_values(call->weights, s, head);
    const struct matmul_input input = {
        .x = sums,
        .x_stride = s->kv_rank,
        .form = matmul_form(values.matrix, block->rows),
        .prepared = scratch->prepared,
        .prepared_stride = matmul_row_blocks(s->kv_rank),
        .batch = block->rows,
    };
    for (uint32_t i = 0; i < block->rows; i++)
        matmul_prepare(&input, i, 0, s->kv_rank);
    size_t row = block->segment->row + block->first;
    float *mixed = attention->mixed + (row * s->heads + head) * s->v_dim;
    for (uint32_t at = 0; at < s->v_dim; at += MATMUL_TILE_ROWS)
        matmul_tile(values.matrix, values.first + at, smaller(s->v_dim - at, MATMUL_TILE_ROWS),
                    &input, mixed + at, (size_t)s->heads * s->v_dim, scratch->weights);
}

static void apply_all_values(const struct attention_call *call, const struct block *block,
                             const struct attention_scratch *scratch) {
    uint32_t rank = call->attention->shape->kv_rank;
    for (uint32_t h = 0; h < block->heads; h++)
        apply_values(call, block, block->head + h, scratch->sums + (size_t)h * block->rows * rank,
                     scratch);
}

static void run_block(const struct attention_call *call, const struct block *block,
                      const struct attention_scratch *scratch) {
    struct attend_queries queries =
        queries_of(call, block, scratch->queries, scratch->sums, scratch->largest, scratch->totals);
    absorb(call, block, scratch->weights, scratch->queries);
    attend_past(call, block, &queries, 0, UINT32_MAX, scratch);
    attend_end(&queries);
    apply_all_values(call, block, scratch);
}

/* A block of several segments: the queries of one are every `rows`-th. */
static void run_joint_block(const struct attention_call *call, const struct block *block,
                            const struct attention_scratch *scratch) {
    const struct model_shape *s = call->attention->shape;
    absorb(call, block, scratch->weights, scratch->queries);
    for (uint32_t i = 0; i < block->rows; i++) {
        struct block one = {block->segment + i, block->head, block->heads, 0, 1};
        struct attend_queries queries =
            queries_of(call, &one, scratch->queries + (size_t)i * width_of(s),
                       scratch->sums + (size_t)i * s->kv_rank, scratch->largest, scratch->totals);
        queries.stride *= block->rows;
        queries.out_stride *= block->rows;
        attend_past(call, &one, &queries, 0, UINT32_MAX, scratch);
        attend_end(&queries);
    }
    apply_all_values(call, block, scratch);
}

void attention_latent_absorbed(const struct attention_call *call,
                               const struct attention_share *share) {
    struct block block = {share->segment, share->head, 1, 0, share->segment->rows};
    uint32_t end = share->head + share->heads;
    if (block.rows <= ABSORBED_JOINT_ROWS_MAX) {
        for (; block.head < end; block.head += block.heads) {
            block.heads = smaller(end - block.head, ATTEND_QUERIES / block.rows);
            run_block(call, &block, share->scratch);
        }
        return;
    }
    for (; block.head < end; block.head++)
        for (block.first = 0; block.first < share->segment->rows; block.first += block.rows) {
            block.rows = smaller(share->segment->rows - block.first, ATTEND_QUERIES);
            run_block(call, &block, share->scratch);
        }
}

static uint32_t divide_up(uint32_t a, uint32_t b) {
    return (a + b - 1) / b;
}

/* Blocks of heads of as many sequences, so that each thread has a task. */
static struct absorbed_plan one_loop_plan(const struct attention_call *call, uint32_t rows,
                                          uint32_t segments) {
    uint32_t heads = call->attention->shape->heads;
    uint32_t groups = divide_up(call->batch->segment_count, segments);
    uint32_t even = divide_up(heads * groups, threads_count(call->attention->threads));
    uint32_t heads_max = smaller(heads, ATTEND_QUERIES / (rows * segments));
    return (struct absorbed_plan){smaller(even, heads_max), 1, UINT32_MAX, segments};
}

/* Values that a plan of one loop expands to f32 for a sequence: its past once for each block of
 * heads, and its part of Wk, which the sequences of a task share. */
static double count_expanded(const struct model_shape *s, const struct absorbed_plan *plan,
                             double positions) {
    double blocks = divide_up(s->heads, plan->heads), keys = (double)s->heads * s->nope_dim;
    return blocks * positions * width_of(s) + keys * s->kv_rank / plan->segments;
}

struct absorbed_plan attention_absorbed_plan(const struct attention_call *call) {
    const struct batch *batch = call->batch;
    uint32_t heads = call->attention->shape->heads, rows = 1, longest = 0;
    uint32_t threads = threads_count(call->attention->threads);
    for (uint32_t i = 0; i < batch->segment_count; i++) {
        const struct batch_segment *segment = &batch->segments[i];
        rows = segment->rows > rows ? segment->rows : rows;
        uint32_t end = segment->position + segment->rows;
        longest = end > longest ? end : longest;
    }
    uint32_t heads_max = smaller(heads, ATTEND_QUERIES / rows);
    uint32_t tasks = batch->segment_count * divide_up(heads, heads_max);
    if (longest >= SPLIT_POSITIONS_MIN && tasks < threads) {
        /* Two runs for each thread, so that one that is held up leaves work to the others. */
        uint32_t splits =
            smaller(2 * divide_up(threads, tasks), divide_up(longest, RUN_POSITIONS_MIN));
        uint32_t positions = divide_up(longest, splits);
        positions = divide_up(positions, ATTEND_POSITIONS_MAX) * ATTEND_POSITIONS_MAX;
        return (struct absorbed_plan){heads_max, divide_up(longest, positions), positions, 1};
    }
    struct absorbed_plan best = one_loop_plan(call, rows, 1);
    for (uint32_t together = 2; rows == 1 && together < 2 * batch->segment_count; together *= 2) {
        uint32_t segments = smaller(together, smaller(batch->segment_count, ATTEND_QUERIES));
        struct absorbed_plan plan = one_loop_plan(call, rows, segments);
        tasks = divide_up(batch->segment_count, segments) * divide_up(heads, plan.heads);
        if (tasks >= threads && count_expanded(call->attention->shape, &plan, longest) <
                                    count_expanded(call->attention->shape, &best, longest))
            best = plan;
    }
    return best;
}

/* The loops of a step by a plan. */
struct plan_loop {
    const struct attention_call *call;
    const struct absorbed_plan *plan;
};

/* Where the queries of a block start, in blocks of all heads of each segment. */
static float *split_queries(const struct attention_call *call, const struct block *block) {
    const struct model_shape *s = call->attention->shape;
    size_t first = (size_t)block->segment->row * s->heads + block->head * block->segment->rows;
    return call->attention->split.queries + first * width_of(s);
}

/* What a task of the loop over runs has gathered. */
static struct attend_queries partial_of(const struct attention_call *call,
                                        const struct block *block, size_t task) {
    const struct attention_split *split = &call->attention->split;
    size_t at = task * ATTEND_QUERIES;
    return queries_of(call, block, split_queries(call, block),
                      split->sums + at * call->attention->shape->kv_rank, split->largest + at,
                      split->totals + at);
}

static void absorb_task(void *context, size_t task, unsigned thread) {
    const struct attention_call *call = ((const struct plan_loop *)context)->call;
    struct attention_share share = attention_find_share(call, 1, task, thread);
    struct block block = {share.segment, share.head, 1, 0, share.segment->rows};
    absorb(call, &block, share.scratch->weights, split_queries(call, &block));
}

static void attend_task(void *context, size_t task, unsigned thread) {
    const struct plan_loop *loop = context;
    const struct attention_call *call = loop->call;
    struct attention_share share =
        attention_find_share(call, loop->plan->heads, task / loop->plan->splits, thread);
    struct block block = {share.segment, share.head, share.heads, 0, share.segment->rows};
    struct attend_queries queries = partial_of(call, &block, task);
    uint32_t begin = (uint32_t)(task % loop->plan->splits) * loop->plan->positions;
    attend_past(call, &block, &queries, begin, begin + loop->plan->positions, share.scratch);
}

/* One head: its queries are in the middle of those of its task. */
static void merge_task(void *context, size_t task, unsigned thread) {
    const struct plan_loop *loop = context;
    const struct attention_call *call = loop->call;
    const struct model_shape *s = call->attention->shape;
    struct attention_share share = attention_find_share(call, 1, task, thread);
    struct block block = {share.segment, share.head, 1, 0, share.segment->rows};
    size_t blocks = divide_up(s->heads, loop->plan->heads);
    size_t segment = (size_t)(share.segment - call->batch->segments);
    size_t first = (segment * blocks + share.head / loop->plan->heads) * loop->plan->splits;
    size_t skip = (size_t)(share.head % loop->plan->heads) * block.rows;
    struct attend_queries merged = queries_of(call, &block, NULL, share.scratch->sums,
                                              share.scratch->largest, share.scratch->totals);
    attend_begin(&merged);
    for (size_t i = 0; i < loop->plan->splits; i++) {
        struct attend_queries partial = partial_of(call, &block, first + i);
        partial.out += skip * s->kv_rank;
        partial.largest += skip;
        partial.totals += skip;
        attend_merge(&merged, &partial);
    }
    attend_end(&merged);
    apply_values(call, &block, share.head, share.scratch->sums, share.scratch);
}

void attention_absorbed_split(const struct attention_call *call, const struct absorbed_plan *plan) {
    struct plan_loop loop = {call, plan};
    struct threads *threads = call->attention->threads;
    size_t heads = attention_count_tasks(call, 1);
    threads_run(threads, heads, absorb_task, &loop);
    threads_run(threads, attention_count_tasks(call, plan->heads) * plan->splits, attend_task,
                &loop);
    threads_run(threads, heads, merge_task, &loop);
}

static void joint_task(void *context, size_t task, unsigned thread) {
    const struct plan_loop *loop = context;
    const struct attention_call *call = loop->call;
    uint32_t blocks = divide_up(call->attention->shape->heads, loop->plan->heads);
    uint32_t first = (uint32_t)(task / blocks) * loop->plan->segments;
    uint32_t head = (uint32_t)(task % blocks) * loop->plan->heads;
    struct block block = {
        .segment = call->batch->segments + first,
        .head = head,
        .heads = smaller(call->attention->shape->heads - head, loop->plan->heads),
        .rows = smaller(call->batch->segment_count - first, loop->plan->segments),
    };
    run_joint_block(call, &block, &call->attention->scratch[thread]);
}

void attention_absorbed_joint(const struct attention_call *call, const struct absorbed_plan *plan) {
    struct plan_loop loop = {call, plan};
    uint32_t blocks = divide_up(call->attention->shape->heads, plan->heads);
    threads_run(call->attention->threads,
                (size_t)blocks * divide_up(call->batch->segment_count, plan->segments), joint_task,
                &loop);
}
