/* The frame around the kinds: memory, the split of work into tasks, projections. Products with the
 * same input share a loop, because a decode step is short enough for each loop's barrier to show.
 */
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

static bool take_scratch(struct arena *arena, const struct attention_sizes *sizes,
                         struct attention_scratch *out) {
    *out = (struct attention_scratch){
        .weights = arena_take(arena, sizes->weights, sizeof(float)),
        .tile = arena_take(arena, sizes->tile, sizeof(float)),
        .expanded = arena_take(arena, sizes->expanded, sizeof(float)),
        .scores = arena_take(arena, ATTEND_SCORES_FLOATS, sizeof(float)),
        .queries = arena_take(arena, sizes->queries, sizeof(float)),
        .sums = arena_take(arena, sizes->sums, sizeof(float)),
        .largest = arena_take(arena, sizes->query_rows, sizeof(float)),
        .totals = arena_take(arena, sizes->query_rows, sizeof(float)),
        .prepared = arena_take(arena, sizes->prepared_bytes, 1),
        .products = arena_take(arena, matmul_scratch_floats(), sizeof(float)),
    };
    return out->weights && out->tile && out->expanded && out->scores && out->queries && out->sums &&
           out->largest && out->totals && out->prepared && out->products;
}

static bool take_threads_scratch(struct attention *attention, uint32_t rows_max) {
    unsigned threads = threads_count(attention->threads);
    struct attention_sizes sizes =
        attention->shape->attention == ATTENTION_LATENT
            ? attention_latent_sizes(attention->shape, attention->cache, rows_max)
            : attention_multi_head_sizes(attention->shape, attention->cache, rows_max);
    attention->scratch = arena_take(attention->arena, threads, sizeof *attention->scratch);
    if (!attention->scratch)
        return false;
    for (unsigned t = 0; t < threads; t++)
        if (!take_scratch(attention->arena, &sizes, &attention->scratch[t]))
            return false;
    return true;
}

static bool take_split(struct attention *attention) {
    const struct model_shape *shape = attention->shape;
    struct arena *arena = attention->arena;
    struct attention_split *split = &attention->split;
    size_t threads = threads_count(attention->threads);
    split->tasks_max = (uint32_t)threads * ATTENTION_SPLIT_TASKS_PER_THREAD;
    size_t partial = (size_t)split->tasks_max * ATTEND_QUERIES;
    split->queries = arena_take(arena, threads * ATTEND_QUERIES,
                                (shape->kv_rank + shape->rope_dim) * sizeof(float));
    split->sums = arena_take(arena, partial, shape->kv_rank * sizeof(float));
    split->largest = arena_take(arena, partial, sizeof(float));
    split->totals = arena_take(arena, partial, sizeof(float));
    return split->queries && split->sums && split->largest && split->totals;
}

static bool take_rows(struct attention *attention, uint32_t rows_max) {
    const struct model_shape *shape = attention->shape;
    struct widths widths = row_widths(shape);
    struct arena *arena = attention->arena;
    attention->q_low = arena_take(arena, (size_t)rows_max * shape->q_rank, sizeof(float));
    attention->q = arena_take(arena, rows_max * widths.q, sizeof(float));
    attention->kv = arena_take(arena, rows_max * widths.kv, sizeof(float));
    attention->mixed = arena_take(arena, rows_max * widths.mixed, sizeof(float));
    float *scratch = arena_take(arena, threads_count(attention->threads) * matmul_scratch_floats(),
                                sizeof(float));
    size_t inputs = larger(larger(shape->hidden, shape->q_rank), widths.mixed);
    void *prepared = arena_take(arena, rows_max, matmul_row_bytes((uint32_t)inputs));
    attention->matmul =
        (struct matmul_workspace){attention->threads, scratch, matmul_scratch_floats(), prepared};
    return attention->q_low && attention->q && attention->kv && attention->mixed && scratch &&
           prepared;
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
    if (!take_rows(attention, rows_max) || !take_threads_scratch(attention, rows_max) ||
        !take_split(attention))
        goto err_memory;
    *out = attention;
    return STATUS_OK;
err_memory:
    log_error("not enough memory for attention over %u rows; lower --batch-tokens", rows_max);
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

static uint32_t tasks_per_segment(const struct attention_call *call, uint32_t heads_per_task) {
    return (call->attention->shape->heads + heads_per_task - 1) / heads_per_task;
}

size_t attention_count_tasks(const struct attention_call *call, uint32_t heads_per_task) {
    return (size_t)call->batch->segment_count * tasks_per_segment(call, heads_per_task);
}

struct attention_share attention_find_share(const struct attention_call *call,
                                            uint32_t heads_per_task, size_t task, unsigned thread) {
    uint32_t tasks = tasks_per_segment(call, heads_per_task);
    uint32_t head = (uint32_t)(task % tasks) * heads_per_task;
    uint32_t left = call->attention->shape->heads - head;
    return (struct attention_share){
        .segment = &call->batch->segments[task / tasks],
        .head = head,
        .heads = left < heads_per_task ? left : heads_per_task,
        .scratch = &call->attention->scratch[thread],
    };
}

void attention_write_cache(const struct attention_call *call, uint32_t row, const float *values) {
    const struct batch_segment *segment = call->batch->segments;
    while (row >= segment->row + segment->rows)
        segment++;
    kv_cache_write(call->attention->cache, call->layer, segment->sequence,
                   segment->position + row - segment->row, values);
}

/* The loop over all tasks of some products. */
struct projection {
    const struct attention *attention;
    const struct attention_product *products;
    struct matmul_input input;
    uint32_t columns, task_rows;
};

static void prepare_row(void *context, size_t row, unsigned thread) {
    (void)thread;
    const struct projection *loop = context;
    matmul_prepare(&loop->input, row, 0, loop->columns);
}

static uint32_t tasks_of(const struct projection *loop, const struct matrix *w) {
    return (w->rows + loop->task_rows - 1) / loop->task_rows;
}

static void project_task(void *context, size_t task, unsigned thread) {
    const struct projection *loop = context;
    const struct matmul_workspace *workspace = &loop->attention->matmul;
    const struct attention_product *product = loop->products;
    for (; task >= tasks_of(loop, product->w); product++)
        task -= tasks_of(loop, product->w);
    uint32_t row = (uint32_t)task * loop->task_rows, left = product->w->rows - row;
    matmul_tile(product->w, row, left < loop->task_rows ? left : loop->task_rows, &loop->input,
                product->y + row, product->y_stride,
                workspace->scratch + thread * workspace->scratch_stride);
}

void attention_project(const struct attention *attention, const struct attention_product *products,
                       size_t count, const float *x, uint32_t rows) {
    uint32_t columns = products->w->columns;
    struct projection loop = {attention, products, {.x = x, .x_stride = columns}, columns, 0};
    loop.input.batch = rows;
    loop.input.prepared = attention->matmul.prepared;
    loop.input.prepared_stride = matmul_row_blocks(columns);
    size_t outputs = 0, tasks = 0;
    for (size_t i = 0; i < count; i++)
        outputs += products[i].w->rows;
    loop.task_rows = matmul_task_rows(outputs, rows, attention->threads);
    for (size_t i = 0; i < count; i++) {
        enum activation_form form = matmul_form(products[i].w, rows);
        tasks += tasks_of(&loop, products[i].w);
        loop.input.form = form > loop.input.form ? form : loop.input.form;
    }
    if (loop.input.form != ACTIVATION_F32)
        threads_run(attention->threads, rows, prepare_row, &loop);
    threads_run(attention->threads, tasks, project_task, &loop);
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
    const struct attention_product output = {&weights->o, out, weights->o.rows};
    attention_project(attention, &output, 1, attention->mixed, batch->rows);
}
