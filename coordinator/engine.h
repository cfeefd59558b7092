/* The engine: a batch of tokens through all layers. What happens to a token between its id and its
 * logits is engine_forward, top to bottom. Used by one thread, which also owns the thread pool. */
#pragma once

#include "common/status.h"
#include "common/threads.h"
#include "coordinator/batch.h"
#include "coordinator/dispatch.h"
#include "coordinator/kv_cache.h"
#include "coordinator/model.h"
#include "coordinator/node_limit.h"

struct engine;

/* Told what the router decided, after each expert layer: experts and weights are (rows, k). */
typedef void (*engine_route_observer)(void *context, uint32_t layer, const struct batch *batch,
                                      const uint32_t *experts, const float *weights);

struct engine_options {
    const struct model *model;
    struct threads *threads;
    struct kv_cache *cache;
    struct dispatch *dispatch;
    struct trace *trace;                 /* NULL: none */
    const struct node_limit *node_limit; /* NULL: none */
    uint32_t rows_max;
    struct batch_division division; /* of batches; zero: none is divided */
};

/* Takes all memory that steps will need; owns nothing of the options. Errors: STATUS_NO_MEMORY. */
enum status engine_create(const struct engine_options *options, struct engine **out);
void engine_destroy(struct engine *engine);

const struct model *engine_model(const struct engine *engine);
struct kv_cache *engine_cache(const struct engine *engine);
uint32_t engine_rows_max(const struct engine *engine);

/* NULL ends observation. */
void engine_observe_routes(struct engine *engine, engine_route_observer observer, void *context);

/* Runs the batch, whose positions the KV cache has room for. *hidden: (rows, hidden) after the
 * final norm, the engine's, valid until the next call. Allocates nothing. Errors: those of
 * dispatch_send and combine_await. */
enum status engine_forward(struct engine *engine, const struct batch *batch, const float **hidden);

/* logits (rows, vocabulary) of normalised hidden rows (rows, hidden). */
void engine_logits(struct engine *engine, const float *hidden, uint32_t rows, float *logits);

/* The draft module: `batch` holds the *next* tokens of the positions whose final hidden rows are
 * `hidden` (rows, hidden; not the engine's own buffer). *drafted as in engine_forward: its logits
 * predict the token after the next. The model has a draft module. */
enum status engine_forward_draft(struct engine *engine, const struct batch *batch,
                                 const float *hidden, const float **drafted);
