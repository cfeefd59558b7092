/* The layer loop. Dispatch goes out before the shared experts are computed and combine comes after,
 * so the workers' time hides behind the coordinator's own. */
#include "coordinator/engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/kernel/kernel.h"
#include "common/kernel/matmul.h"
#include "common/log.h"
#include "coordinator/attention.h"
#include "coordinator/combine.h"
#include "coordinator/router.h"

struct engine {
    const struct model *model;
    struct threads *threads;
    struct kv_cache *cache;
    struct dispatch *dispatch;
    struct expert_workspace *workspace;
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
    struct expert_task *tasks; /* (rows_max) every row through one feed-forward */
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
    engine->workspace = options->workspace;
    engine->rows_max = rows;
    if (attention_create(shape, options->threads, options->cache, rows, &engine->attention) ||
        router_create(shape, options->threads, rows, &engine->router))
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
    engine->tasks = arena_take(arena, rows, sizeof *engine->tasks);
    if (!engine->x || !engine->normed || !engine->mixed || !engine->experts || !engine->weights ||
        !scratch || !prepared || !engine->tasks)
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

/* out += the layer's dense feed-forward, each row with weight one. */
static void add_dense_ffn(struct engine *engine, const struct layer *layer, uint32_t rows,
                          float *out) {
    for (uint32_t r = 0; r < rows; r++)
        engine->tasks[r] = (struct expert_task){&layer->local_ffn, r, 1.0f};
    expert_forward(engine->workspace, engine->normed, engine->tasks, rows, out);
}

static enum status add_ffn(struct engine *engine, uint32_t index, const struct batch *batch) {
    const struct layer *layer = &engine->model->layers[index];
    uint32_t rows = batch->rows;
    norm_rows(engine, engine->x, layer->ffn_norm, rows, engine->normed,
              engine->model->shape.hidden);
    if (!engine->model->shape.is_expert_layer[index]) {
        add_dense_ffn(engine, layer, rows, engine->x);
        return STATUS_OK;
    }
    router_forward(engine->router, layer, engine->normed, rows, engine->experts, engine->weights);
    if (engine->observer)
        engine->observer(engine->observer_context, index, batch, engine->experts, engine->weights);
    const struct dispatch_work work = {
        .layer = index,
        .rows = rows,
        .x = engine->normed,
        .experts = engine->experts,
        .weights = engine->weights,
        .local_ffn = layer->has_local_ffn ? &layer->local_ffn : NULL,
    };
    struct ticket *ticket;
    enum status status = dispatch_send(engine->dispatch, &work, &ticket);
    return status ? status : combine_await(engine->dispatch, ticket, engine->x);
}

static void add_attention(struct engine *engine, uint32_t index, const struct batch *batch) {
    const struct layer *layer = &engine->model->layers[index];
    size_t hidden = engine->model->shape.hidden;
    norm_rows(engine, engine->x, layer->attention_norm, batch->rows, engine->normed, hidden);
    attention_forward(engine->attention, &layer->attention, index, batch, engine->normed,
                      engine->mixed);
    kernel_get()->add_scaled(1.0f, engine->mixed, batch->rows * hidden, engine->x);
}

enum status engine_forward(struct engine *engine, const struct batch *batch, const float **hidden) {
    const struct model *model = engine->model;
    assert(batch->rows <= engine->rows_max);
    attention_begin(engine->attention, batch);
    embed(engine, batch, engine->x);
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        add_attention(engine, layer, batch);
        enum status status = add_ffn(engine, layer, batch);
        if (status)
            return status;
    }
    norm_rows(engine, engine->x, model->norm, batch->rows, engine->normed, model->shape.hidden);
    *hidden = engine->normed;
    return STATUS_OK;
}

void engine_logits(struct engine *engine, const float *hidden, uint32_t rows, float *logits) {
    matmul(&engine->matmul, &engine->model->head, hidden, rows, logits);
}

enum status engine_forward_draft(struct engine *engine, const struct batch *batch,
                                 const float *hidden, const float **drafted) {
    const struct model *model = engine->model;
    uint32_t layer = model->shape.layers, width = model->shape.hidden;
    assert(model->has_draft && batch->rows <= engine->rows_max);
    attention_begin(engine->attention, batch);
    /* mixed (rows, 2 hidden) = [norm(embedding of the next token) | norm(hidden)] */
    embed(engine, batch, engine->x);
    norm_rows(engine, engine->x, model->draft.embedding_norm, batch->rows, engine->mixed,
              2 * width);
    norm_rows(engine, hidden, model->draft.hidden_norm, batch->rows, engine->mixed + width,
              2 * width);
    matmul(&engine->matmul, &model->draft.projection, engine->mixed, batch->rows, engine->x);
    add_attention(engine, layer, batch);
    enum status status = add_ffn(engine, layer, batch);
    if (status)
        return status;
    norm_rows(engine, engine->x, model->draft.head_norm, batch->rows, engine->normed, width);
    *drafted = engine->normed;
    return STATUS_OK;
}
