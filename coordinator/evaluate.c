/* Each step's rows go through the head at once. The draft module runs right after the main step:
 * row t needs hidden row t and token t + 1, and both are known then, except for the last position.
 */
#include "coordinator/evaluate.h"

#include <stdlib.h>
#include <string.h>

void route_log_cleanup(struct route_log *log) {
    free(log->layer_index);
    free(log->ids);
    free(log->weights);
    *log = (struct route_log){0};
}

static enum status route_log_init(const struct model_shape *shape, size_t rows,
                                  struct route_log *log) {
    *log = (struct route_log){.rows = (uint32_t)rows, .k = shape->experts_per_token};
    log->layer_index = calloc(shape->layers, sizeof *log->layer_index);
    if (!log->layer_index)
        return STATUS_NO_MEMORY;
    for (uint32_t layer = 0; layer < shape->layers; layer++)
        if (shape->is_expert_layer[layer])
            log->layer_index[log->layers++] = layer;
    log->ids = calloc((size_t)log->layers * rows * log->k, sizeof *log->ids);
    log->weights = calloc((size_t)log->layers * rows * log->k, sizeof *log->weights);
    if (log->ids && log->weights)
        return STATUS_OK;
    route_log_cleanup(log);
    return STATUS_NO_MEMORY;
}

static void record_routes(void *context, uint32_t layer, const struct batch *batch,
                          const uint32_t *experts, const float *weights) {
    struct route_log *log = context;
    for (uint32_t l = 0; l < log->layers; l++) {
        if (log->layer_index[l] != layer)
            continue;
        size_t at = ((size_t)l * log->rows + batch->segments[0].position) * log->k;
        memcpy(log->ids + at, experts, (size_t)batch->rows * log->k * sizeof *experts);
        memcpy(log->weights + at, weights, (size_t)batch->rows * log->k * sizeof *weights);
    }
}

struct evaluation {
    struct engine *engine;
    const uint32_t *ids;
    size_t count;
    uint32_t sequence, batch_rows;
    float *logits, *draft_logits;
    float *hidden; /* (batch_rows, hidden) a copy for the draft module */
};

static enum status run_draft(struct evaluation *e, uint32_t position, uint32_t rows,
                             const float *hidden) {
    if (position + rows == e->count)
        rows--;
    if (rows == 0)
        return STATUS_OK;
    const struct model_shape *shape = &engine_model(e->engine)->shape;
    memcpy(e->hidden, hidden, (size_t)rows * shape->hidden * sizeof(float));
    struct batch_segment segment = {e->sequence, position, 0, rows};
    struct batch batch = {e->ids + position + 1, rows, &segment, 1, 0};
    const float *drafted;
    enum status status = engine_forward_draft(e->engine, &batch, e->hidden, &drafted);
    if (status == STATUS_OK)
        engine_logits(e->engine, drafted, rows,
                      e->draft_logits + (size_t)position * shape->vocabulary);
    return status;
}

static enum status run_step(struct evaluation *e, uint32_t position, uint32_t rows) {
    const struct model_shape *shape = &engine_model(e->engine)->shape;
    enum status status = kv_cache_extend(engine_cache(e->engine), e->sequence, rows);
    if (status)
        return status;
    struct batch_segment segment = {e->sequence, position, 0, rows};
    struct batch batch = {e->ids + position, rows, &segment, 1, 0};
    const float *hidden;
    if ((status = engine_forward(e->engine, &batch, &hidden)))
        return status;
    engine_logits(e->engine, hidden, rows, e->logits + (size_t)position * shape->vocabulary);
    return e->draft_logits ? run_draft(e, position, rows, hidden) : STATUS_OK;
}

static enum status run_all(struct evaluation *e) {
    enum status status = STATUS_OK;
    for (size_t position = 0; status == STATUS_OK && position < e->count;) {
        size_t left = e->count - position;
        uint32_t rows = left < e->batch_rows ? (uint32_t)left : e->batch_rows;
        status = run_step(e, (uint32_t)position, rows);
        position += rows;
    }
    return status;
}

enum status evaluate_logits(struct engine *engine, const uint32_t *ids, size_t count,
                            uint32_t batch_rows, float *logits, struct route_log *routes,
                            float *draft_logits) {
    const struct model_shape *shape = &engine_model(engine)->shape;
    if (batch_rows > engine_rows_max(engine))
        batch_rows = engine_rows_max(engine);
    struct evaluation evaluation = {engine, ids, count, 0, batch_rows, logits, draft_logits, NULL};
    evaluation.hidden = malloc((size_t)batch_rows * shape->hidden * sizeof(float));
    enum status status = evaluation.hidden ? STATUS_OK : STATUS_NO_MEMORY;
    if (status || (status = kv_cache_open(engine_cache(engine), &evaluation.sequence)))
        goto err_hidden;
    if (routes) {
        if ((status = route_log_init(shape, count, routes)))
            goto err_sequence;
        engine_observe_routes(engine, record_routes, routes);
    }
    status = run_all(&evaluation);
    engine_observe_routes(engine, NULL, NULL);
    if (status && routes)
        route_log_cleanup(routes);
err_sequence:
    kv_cache_close(engine_cache(engine), evaluation.sequence);
err_hidden:
    free(evaluation.hidden);
    return status;
}
