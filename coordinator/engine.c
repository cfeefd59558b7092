/* The layer loop. Dispatch goes out before the shared experts are computed and combine comes after,
 * so the workers' time hides behind the coordinator's own.
 *
 * A batch that is large enough runs as micro-batches that take turns: while the experts of some are
 * with the workers, or on their way, attention and router of another run here. All are parts of the
 * same buffers. One may go on with the sequence that the one before it ends in, because its
 * attention in a layer comes after the other's, which has then written the cache. */
#include "coordinator/engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/kernel/kernel.h"
#include "common/kernel/matmul.h"
#include "common/log.h"
#include "coordinator/attention.h"
#include "coordinator/combine.h"
#include "coordinator/head.h"
#include "coordinator/router.h"

/* A part of the rows, or all of them, on their way through the layers. */
struct micro_batch {
    struct batch batch;
    struct batch_segment *segments; /* (rows_max) */
    struct ticket *ticket;          /* of the feed-forward that is under way; NULL: none */
};

struct engine {
    const struct model *model;
    struct threads *threads;
    struct kv_cache *cache;
    struct dispatch *dispatch;
    struct attention *attention;
    struct router *router;
    struct arena *arena;
    uint32_t rows_max;
    engine_route_observer observer;
    void *observer_context;
    float *x;          /* (rows_max, hidden) the residual stream */
    float *normed;     /* (rows_max, hidden) */
    float *mixed;      /* (rows_max, 2 hidden) attention's output; the draft module's input */
    uint32_t *experts; /* (rows_max, k) */
    float *weights;    /* (rows_max, k) */
    struct matmul_workspace matmul;
    struct batch_division division;
    struct trace *trace;
    struct micro_batch micro_batches[TICKETS_MAX];
};

enum status engine_create(const struct engine_options *options, struct engine **out) {
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine || !(engine->arena = arena_create(0)))
        goto err_memory;
    const struct model_shape *shape = &options->model->shape;
    uint32_t rows = options->rows_max;
    engine->model = options->model;
    engine->threads = options->threads;
    engine->cache = options->cache;
    engine->dispatch = options->dispatch;
    engine->rows_max = rows;
    engine->division = options->division;
    engine->trace = options->trace;
    if (attention_create(shape, options->threads, options->cache, rows, &engine->attention) ||
        router_create(shape, options->threads, rows, options->node_limit, &engine->router))
        goto err_memory;
    struct arena *arena = engine->arena;
    engine->x = arena_take(arena, (size_t)rows * shape->hidden, sizeof(float));
    engine->normed = arena_take(arena, (size_t)rows * shape->hidden, sizeof(float));
    engine->mixed = arena_take(arena, (size_t)rows * shape->hidden * 2, sizeof(float));
    engine->experts = arena_take(arena, (size_t)rows * shape->experts_per_token, sizeof(uint32_t));
    engine->weights = arena_take(arena, (size_t)rows * shape->experts_per_token, sizeof(float));
    float *scratch =
        arena_take(arena, threads_count(options->threads) * matmul_scratch_floats(), sizeof(float));
    void *prepared = arena_take(arena, rows, matmul_row_bytes(2 * shape->hidden));
    engine->matmul =
        (struct matmul_workspace){options->threads, scratch, matmul_scratch_floats(), prepared};
    if (!engine->x || !engine->normed || !engine->mixed || !engine->experts || !engine->weights ||
        !scratch || !prepared)
        goto err_memory;
    for (uint32_t m = 0; m < TICKETS_MAX; m++)
        if (!(engine->micro_batches[m].segments =
                  arena_take(arena, rows, sizeof *engine->micro_batches[m].segments)))
            goto err_memory;
    *out = engine;
    return STATUS_OK;
err_memory:
    log_error("not enough memory for batches of %u rows; lower --batch-tokens", options->rows_max);
    engine_destroy(engine);
    return STATUS_NO_MEMORY;
}

void engine_destroy(struct engine *engine) {
    if (!engine)
        return;
    attention_destroy(engine->attention);
    router_destroy(engine->router);
    arena_destroy(engine->arena);
    free(engine);
}

const struct model *engine_model(const struct engine *engine) {
    return engine->model;
}

struct kv_cache *engine_cache(const struct engine *engine) {
    return engine->cache;
}

uint32_t engine_rows_max(const struct engine *engine) {
    return engine->rows_max;
}

void engine_observe_routes(struct engine *engine, engine_route_observer observer, void *context) {
    engine->observer = observer;
    engine->observer_context = context;
}

/* One call of a loop over rows: out = norm(x). */
struct norm_call {
    const float *x, *weight;
    size_t x_stride, out_stride;
    uint32_t hidden;
    float epsilon;
    float *out;
};

static void norm_row(void *context, size_t row, unsigned thread) {
    (void)thread;
    const struct norm_call *call = context;
    kernel_get()->rms_norm(call->x + row * call->x_stride, call->weight, call->hidden,
                           call->epsilon, call->out + row * call->out_stride);
}

static void norm_rows(struct engine *engine, const float *x, const float *weight, uint32_t rows,
                      float *out, size_t out_stride) {
    const struct model_shape *shape = &engine->model->shape;
    struct norm_call call = {
        x, weight, shape->hidden, out_stride, shape->hidden, shape->norm_epsilon, out};
    threads_run(engine->threads, rows, norm_row, &call);
}

/* One row of the embedding for each token. */
static void embed(const struct engine *engine, const struct batch *batch, float *out) {
    uint32_t hidden = engine->model->shape.hidden;
    for (uint32_t r = 0; r < batch->rows; r++)
        matmul_expand(&engine->model->embedding, batch->tokens[r], 1, 0, hidden,
                      out + (size_t)r * hidden, hidden);
}

/* The rows of a (rows, width) buffer that a micro-batch has. */
static float *rows_of(const struct micro_batch *micro, float *buffer, size_t width) {
    return buffer + micro->batch.first_row * width;
}

static void norm_part(struct engine *engine, const struct micro_batch *micro, const float *weight) {
    size_t hidden = engine->model->shape.hidden;
    norm_rows(engine, rows_of(micro, engine->x, hidden), weight, micro->batch.rows,
              rows_of(micro, engine->normed, hidden), hidden);
}

static void add_attention(struct engine *engine, uint32_t index, const struct micro_batch *micro) {
    const struct layer *layer = &engine->model->layers[index];
    size_t hidden = engine->model->shape.hidden;
    uint64_t started_ns = clock_now_ns();
    norm_part(engine, micro, layer->attention_norm);
    attention_forward(engine->attention, &layer->attention, index, &micro->batch,
                      rows_of(micro, engine->normed, hidden), engine->mixed);
    kernel_get()->add_scaled(1.0f, engine->mixed, micro->batch.rows * hidden,
                             rows_of(micro, engine->x, hidden));
    trace_work(engine->trace, "attention", index, started_ns);
}

static void route(struct engine *engine, uint32_t index, const struct micro_batch *micro,
                  struct dispatch_work *work) {
    const struct batch *batch = &micro->batch;
    size_t first = (size_t)batch->first_row * engine->model->shape.experts_per_token;
    uint64_t started_ns = clock_now_ns();
    router_forward(engine->router, &engine->model->layers[index], index, work->x, batch->rows,
                   engine->experts + first, engine->weights + first);
    work->experts = engine->experts + first;
    work->weights = engine->weights + first;
    trace_work(engine->trace, "router", index, started_ns);
    if (engine->observer)
        engine->observer(engine->observer_context, index, batch, work->experts, work->weights);
}

/* Sends the rows to the layer's feed-forward: the experts they are routed to, if it has any, and
 * what all rows meet. */
static enum status send_ffn(struct engine *engine, uint32_t index, struct micro_batch *micro) {
    const struct layer *layer = &engine->model->layers[index];
    const struct model_shape *shape = &engine->model->shape;
    struct dispatch_work work = {
        .layer = index,
        .rows = micro->batch.rows,
        .x = rows_of(micro, engine->normed, shape->hidden),
        .ffn = layer->ffn,
        .ffn_count = layer->ffn_count,
    };
    if (shape->is_expert_layer[index])
        route(engine, index, micro, &work);
    return dispatch_send(engine->dispatch, &work, &micro->ticket);
}

/* Waits for the feed-forward that is under way, if any, and adds what it gives. */
static enum status finish_ffn(struct engine *engine, struct micro_batch *micro) {
    struct ticket *ticket = micro->ticket;
    micro->ticket = NULL;
    if (!ticket)
        return STATUS_OK;
    return combine_await(engine->dispatch, ticket,
                         rows_of(micro, engine->x, engine->model->shape.hidden));
}

/* Takes in what is under way; then attention of a layer and its feed-forward, which is under way on
 * return. */
static enum status begin_layer(struct engine *engine, uint32_t index, struct micro_batch *micro) {
    const struct layer *layer = &engine->model->layers[index];
    enum status status = finish_ffn(engine, micro);
    if (status)
        return status;
    add_attention(engine, index, micro);
    norm_part(engine, micro, layer->ffn_norm);
    return send_ffn(engine, index, micro);
}

/* The rows [first, end) of the batch. */
static void take_rows(struct micro_batch *micro, const struct batch *batch, uint32_t first,
                      uint32_t end) {
    micro->batch =
        (struct batch){batch->tokens + first, end - first, micro->segments, 0, .first_row = first};
    for (uint32_t s = 0; s < batch->segment_count; s++) {
        struct batch_segment segment = batch->segments[s];
        uint32_t segment_end = segment.row + segment.rows;
        uint32_t from = segment.row > first ? segment.row : first;
        uint32_t to = segment_end < end ? segment_end : end;
        if (from >= to)
            continue;
        segment.position += from - segment.row;
        segment.row = from - first;
        segment.rows = to - from;
        micro->segments[micro->batch.segment_count++] = segment;
    }
}

/* Returns the number of micro-batches. */
static uint32_t divide(struct engine *engine, const struct batch *batch) {
    uint32_t parts = engine->division.parts[31 - __builtin_clz(batch->rows)];
    parts = parts ? parts : 1;
    assert(parts <= TICKETS_MAX && parts <= batch->rows);
    for (uint32_t m = 0; m < parts; m++)
        take_rows(&engine->micro_batches[m], batch, batch->rows * m / parts,
                  batch->rows * (m + 1) / parts);
    return parts;
}

/* The layers [first, end) for all parts, in turn. */
static enum status run_layers(struct engine *engine, const struct batch *batch, uint32_t first,
                              uint32_t end) {
    uint32_t parts = divide(engine, batch);
    enum status status = STATUS_OK;
    for (uint32_t layer = first; layer < end; layer++)
        for (uint32_t m = 0; m < parts && !status; m++)
            status = begin_layer(engine, layer, &engine->micro_batches[m]);
    for (uint32_t m = 0; m < parts; m++) {
        if (!status)
            status = finish_ffn(engine, &engine->micro_batches[m]);
        engine->micro_batches[m].ticket = NULL;
    }
    return status;
}

enum status engine_forward(struct engine *engine, const struct batch *batch, const float **hidden) {
    const struct model *model = engine->model;
    assert(batch->rows <= engine->rows_max);
    trace_step(engine->trace);
    attention_begin(engine->attention, batch);
    embed(engine, batch, engine->x);
    enum status status = run_layers(engine, batch, 0, model->shape.layers);
    if (status)
        return status;
    norm_rows(engine, engine->x, model->norm, batch->rows, engine->normed, model->shape.hidden);
    *hidden = engine->normed;
    return STATUS_OK;
}

void engine_logits(struct engine *engine, const float *hidden, uint32_t rows, float *logits) {
    const struct head head = {engine->dispatch, &engine->matmul, &engine->model->head};
    head_logits(&head, hidden, rows, logits);
}

enum status engine_forward_draft(struct engine *engine, const struct batch *batch,
                                 const float *hidden, const float **drafted) {
    const struct model *model = engine->model;
    uint32_t layer = model->shape.layers, width = model->shape.hidden;
    assert(model->has_draft && batch->rows <= engine->rows_max);
    trace_step(engine->trace);
    attention_begin(engine->attention, batch);
    /* mixed (rows, 2 hidden) = [norm(embedding of the next token) | norm(hidden)] */
    embed(engine, batch, engine->x);
    norm_rows(engine, engine->x, model->draft.embedding_norm, batch->rows, engine->mixed,
              2 * width);
    norm_rows(engine, hidden, model->draft.hidden_norm, batch->rows, engine->mixed + width,
              2 * width);
    matmul(&engine->matmul, &model->draft.projection, engine->mixed, batch->rows, engine->x);
    enum status status = run_layers(engine, batch, layer, layer + 1);
    if (status)
        return status;
    norm_rows(engine, engine->x, model->draft.head_norm, batch->rows, engine->normed, width);
    *drafted = engine->normed;
    return STATUS_OK;
}
