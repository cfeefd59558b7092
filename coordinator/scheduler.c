/* One sequence so far, so admission is a prefix comparison: what the cache already holds of the
 * prompt is kept, the rest is cut off and fed in chunks. At least the prompt's last token is always
 * computed, because its logits choose the answer's first. */
#include "coordinator/scheduler.h"

#include <stdlib.h>

#include "common/clock.h"
#include "common/log.h"

struct scheduler {
    struct engine *engine;
    uint32_t sequence;
    uint32_t *tokens; /* (positions_max) what the cache holds */
    uint32_t count;
    float *logits; /* (vocabulary) of the last row */
};

enum status scheduler_create(struct engine *engine, struct scheduler **out) {
    struct scheduler *scheduler = calloc(1, sizeof *scheduler);
    if (!scheduler)
        return STATUS_NO_MEMORY;
    scheduler->engine = engine;
    enum status status = kv_cache_open(engine_cache(engine), &scheduler->sequence);
    if (status) {
        free(scheduler);
        return status;
    }
    scheduler->tokens = malloc(kv_cache_positions_max(engine_cache(engine)) * sizeof(uint32_t));
    scheduler->logits = malloc(engine_model(engine)->shape.vocabulary * sizeof(float));
    if (!scheduler->tokens || !scheduler->logits) {
        scheduler_destroy(scheduler);
        return STATUS_NO_MEMORY;
    }
    *out = scheduler;
    return STATUS_OK;
}

void scheduler_destroy(struct scheduler *scheduler) {
    if (!scheduler)
        return;
    kv_cache_close(engine_cache(scheduler->engine), scheduler->sequence);
    free(scheduler->tokens);
    free(scheduler->logits);
    free(scheduler);
}

/* Cuts the cache back to what it shares with the prompt. */
static void reuse_prefix(struct scheduler *scheduler, const struct request_options *options) {
    uint32_t shared = 0;
    while (shared < scheduler->count && shared + 1 < options->prompt_count &&
           scheduler->tokens[shared] == options->prompt[shared])
        shared++;
    kv_cache_truncate(engine_cache(scheduler->engine), scheduler->sequence, shared);
    scheduler->count = shared;
}

/* One engine step over `rows` new tokens; afterwards `logits` are those of the last row. */
static enum status step(struct scheduler *scheduler, const uint32_t *tokens, uint32_t rows,
                        bool want_logits) {
    struct engine *engine = scheduler->engine;
    enum status status = kv_cache_extend(engine_cache(engine), scheduler->sequence, rows);
    if (status)
        return status;
    struct batch_segment segment = {scheduler->sequence, scheduler->count, 0, rows};
    struct batch batch = {tokens, rows, &segment, 1, 0};
    const float *hidden;
    if ((status = engine_forward(engine, &batch, &hidden))) {
        kv_cache_truncate(engine_cache(engine), scheduler->sequence, scheduler->count);
        return status;
    }
    for (uint32_t r = 0; r < rows; r++)
        scheduler->tokens[scheduler->count++] = tokens[r];
    if (want_logits)
        engine_logits(engine, hidden + (size_t)(rows - 1) * engine_model(engine)->shape.hidden, 1,
                      scheduler->logits);
    return STATUS_OK;
}

static bool is_cancelled(const struct request_options *options) {
    return options->is_cancelled && options->is_cancelled(options->context);
}

static enum status feed_prompt(struct scheduler *scheduler, const struct request_options *options) {
    uint32_t rows_max = engine_rows_max(scheduler->engine);
    while (scheduler->count < options->prompt_count) {
        size_t left = options->prompt_count - scheduler->count;
        uint32_t rows = left < rows_max ? (uint32_t)left : rows_max;
        enum status status =
            step(scheduler, options->prompt + scheduler->count, rows, rows == left);
        if (status)
            return status;
        if (is_cancelled(options))
            return STATUS_CANCELLED;
    }
    return STATUS_OK;
}

/* Samples and feeds back until the answer ends. */
static enum status decode(struct scheduler *scheduler, struct sampler *sampler,
                          const struct request_options *options, struct request_result *result) {
    uint32_t positions_max = kv_cache_positions_max(engine_cache(scheduler->engine));
    result->finish = FINISH_LENGTH;
    while (result->answer_tokens < options->tokens_max) {
        uint32_t id = sampler_choose(sampler, scheduler->logits);
        if (id == options->eos_id) {
            result->finish = FINISH_EOS;
            return STATUS_OK;
        }
        result->answer_tokens++;
        sampler_accept(sampler, id);
        if (!options->on_token(options->context, id) || is_cancelled(options)) {
            result->finish = FINISH_STOPPED;
            return STATUS_OK;
        }
        if (result->answer_tokens == options->tokens_max)
            return STATUS_OK;
        if (scheduler->count == positions_max) {
            log_warning(
                "the answer ends here: the context of %u positions is full; raise --context",
                positions_max);
            return STATUS_OK;
        }
        enum status status = step(scheduler, &id, 1, true);
        if (status)
            return status;
    }
    return STATUS_OK;
}

static enum status run(struct scheduler *scheduler, struct sampler *sampler,
                       const struct request_options *options, struct request_result *result) {
    for (size_t i = 0; i < options->prompt_count; i++)
        sampler_accept(sampler, options->prompt[i]);
    reuse_prefix(scheduler, options);
    result->prompt_tokens = options->prompt_count;
    result->reused_tokens = scheduler->count;
    uint64_t started_ns = clock_now_ns();
    enum status status = feed_prompt(scheduler, options);
    result->prompt_s = clock_elapsed_s(started_ns);
    if (status == STATUS_CANCELLED) {
        result->finish = FINISH_STOPPED;
        return STATUS_OK;
    }
    if (status)
        return status;
    started_ns = clock_now_ns();
    status = decode(scheduler, sampler, options, result);
    result->decode_s = clock_elapsed_s(started_ns);
    return status;
}

enum status scheduler_run(struct scheduler *scheduler, const struct request_options *options,
                          struct request_result *out) {
    if (options->prompt_count == 0) {
        log_error("the prompt is empty; give at least one token");
        return STATUS_USAGE;
    }
    uint32_t positions_max = kv_cache_positions_max(engine_cache(scheduler->engine));
    if (options->prompt_count > positions_max) {
        log_error(
            "the prompt has %zu tokens, the context %u; raise --context or shorten the prompt",
            options->prompt_count, positions_max);
        return STATUS_NO_MEMORY;
    }
    struct sampler *sampler;
    enum status status = sampler_create(
        &options->sampling, engine_model(scheduler->engine)->shape.vocabulary, &sampler);
    if (status)
        return status;
    struct request_result result = {0};
    status = run(scheduler, sampler, options, &result);
    sampler_destroy(sampler);
    if (status == STATUS_OK)
        *out = result;
    return status;
}
