/* The scheduler: admits requests, forms the batch of each step (prompt chunks, then one row per
 * answer token), samples and hands out tokens. Keeps the KV cache of the last request, so that a
 * conversation only pays for what is new. Used by the engine thread. */
#pragma once

#include <stdbool.h>

#include "coordinator/engine.h"
#include "coordinator/sampler.h"

struct scheduler;

struct request_options {
    const uint32_t *prompt; /* (prompt_count), at least one token */
    size_t prompt_count;
    struct sampler_options sampling;
    uint32_t tokens_max; /* of the answer */
    uint32_t eos_id;     /* ends the answer; UINT32_MAX: none, or ignored */
    /* Called for each token of the answer (not for EOS), as soon as it is known; false ends the
     * answer after it. */
    bool (*on_token)(void *context, uint32_t id);
    /* Asked between steps whether the user wants to stop; may be NULL. */
    bool (*is_cancelled)(void *context);
    void *context;
};

enum finish_reason { FINISH_EOS, FINISH_LENGTH, FINISH_STOPPED };

struct request_result {
    size_t prompt_tokens, reused_tokens, answer_tokens;
    double prompt_s, decode_s; /* until the first token is known; after it */
    enum finish_reason finish;
};

/* Errors: STATUS_NO_MEMORY. */
enum status scheduler_create(struct engine *engine, struct scheduler **out);
void scheduler_destroy(struct scheduler *scheduler);

/* Runs one request to its end. An answer also ends (FINISH_LENGTH) where the context is full.
 * Errors: STATUS_USAGE (empty prompt), STATUS_NO_MEMORY (the prompt does not fit the context),
 * those of engine_forward. */
enum status scheduler_run(struct scheduler *scheduler, const struct request_options *options,
                          struct request_result *out);
