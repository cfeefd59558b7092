/* Prefill and decode take turns, so that a busy moment of the machine touches both alike. The
 * context that stands in the cache already is noise and no real text: attention takes as long
 * whatever it reads, and computing tens of thousands of positions would take minutes. */
#include "coordinator/measure.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/limits.h"

struct measuring {
    struct engine *engine;
    const struct measure_options *options;
    uint32_t sequences[SEQUENCES_MAX]; /* the first `open` are */
    uint32_t open;
    uint32_t *tokens; /* (token_count) of the prompt and, its first, of the answers */
    uint32_t token_count;
    float *logits; /* (sequences, vocabulary) */
};

static void choose_tokens(struct measuring *measuring) {
    uint32_t vocabulary = engine_model(measuring->engine)->shape.vocabulary;
    unsigned short state[3] = {1, 2, 3};
    for (uint32_t i = 0; i < measuring->token_count; i++)
        measuring->tokens[i] = (uint32_t)nrand48(state) % vocabulary;
}

/* Rows within [-1, 1], about what normalised keys and values are. */
static enum status fill_context(struct measuring *measuring, uint32_t sequence) {
    struct kv_cache *cache = engine_cache(measuring->engine);
    uint32_t layers = engine_model(measuring->engine)->shape.layers;
    uint32_t depth = measuring->options->depth, width = kv_cache_width(cache);
    enum status status = kv_cache_extend(cache, sequence, depth);
    if (status)
        return status;
    float *row = malloc(width * sizeof *row);
    if (!row)
        return STATUS_NO_MEMORY;
    unsigned short state[3] = {4, 5, 6};
    for (uint32_t layer = 0; layer < layers; layer++)
        for (uint32_t position = 0; position < depth; position++) {
            for (uint32_t i = 0; i < width; i++)
                row[i] = (float)jrand48(state) * 0x1p-31f;
            kv_cache_write(cache, layer, sequence, position, row);
        }
    free(row);
    return STATUS_OK;
}

static enum status open_sequences(struct measuring *measuring) {
    struct kv_cache *cache = engine_cache(measuring->engine);
    enum status status;
    while (measuring->open < measuring->options->sequences) {
        uint32_t *sequence = &measuring->sequences[measuring->open];
        if ((status = kv_cache_open(cache, sequence)))
            return status;
        measuring->open++;
        if ((status = fill_context(measuring, *sequence)))
            return status;
    }
    return STATUS_OK;
}

static void close_sequences(struct measuring *measuring) {
    while (measuring->open)
        kv_cache_close(engine_cache(measuring->engine), measuring->sequences[--measuring->open]);
}

/* The next `rows` tokens, from `first` on, of each of the first `sequences`; logits of each one's
 * last. */
static enum status step(struct measuring *measuring, uint32_t first, uint32_t sequences,
                        uint32_t rows, bool want_logits) {
    struct engine *engine = measuring->engine;
    struct kv_cache *cache = engine_cache(engine);
    struct batch_segment segments[SEQUENCES_MAX];
    struct batch batch = {measuring->tokens + first, sequences * rows, segments, sequences, 0};
    enum status status;
    for (uint32_t i = 0; i < sequences; i++) {
        uint32_t sequence = measuring->sequences[i], position = kv_cache_length(cache, sequence);
        segments[i] = (struct batch_segment){sequence, position, i * rows, rows};
        if ((status = kv_cache_extend(cache, sequence, rows)))
            return status;
    }
    const float *hidden;
    if ((status = engine_forward(engine, &batch, &hidden)))
        return status;
    if (want_logits)
        engine_logits(engine, hidden + (size_t)(rows - 1) * engine_model(engine)->shape.hidden,
                      sequences, measuring->logits);
    return STATUS_OK;
}

static void truncate_sequences(struct measuring *measuring) {
    for (uint32_t i = 0; i < measuring->open; i++)
        kv_cache_truncate(engine_cache(measuring->engine), measuring->sequences[i],
                          measuring->options->depth);
}

/* A prompt behind the context of the first sequence, with the logits of its last token. */
static enum status time_prefill(struct measuring *measuring, double *tokens_per_s) {
    uint32_t tokens = measuring->options->prefill_tokens;
    uint32_t rows_max = engine_rows_max(measuring->engine);
    truncate_sequences(measuring);
    uint64_t started_ns = clock_now_ns();
    for (uint32_t done = 0, rows; done < tokens; done += rows) {
        rows = tokens - done < rows_max ? tokens - done : rows_max;
        enum status status = step(measuring, done, 1, rows, done + rows == tokens);
        if (status)
            return status;
    }
    *tokens_per_s = tokens / clock_elapsed_s(started_ns);
    return STATUS_OK;
}

/* `tokens` behind the context of every sequence, each with its logits; steps_s (tokens) may be
 * NULL. */
static enum status time_decode(struct measuring *measuring, uint32_t tokens, double *steps_s,
                               double *tokens_per_s) {
    uint32_t sequences = measuring->options->sequences;
    truncate_sequences(measuring);
    uint64_t started_ns = clock_now_ns();
    for (uint32_t done = 0; done < tokens; done++) {
        uint64_t step_ns = clock_now_ns();
        enum status status = step(measuring, done, sequences, 1, true);
        if (status)
            return status;
        if (steps_s)
            steps_s[done] = clock_elapsed_s(step_ns);
    }
    *tokens_per_s = (double)tokens * sequences / clock_elapsed_s(started_ns);
    return STATUS_OK;
}

static enum status time_kind(struct measuring *measuring, enum measure_kind kind,
                             uint32_t repetition, double *tokens_per_s) {
    const struct measure_options *options = measuring->options;
    enum status status;
    if (options->before && (status = options->before(options->context, kind, repetition)))
        return status;
    if (kind == MEASURE_PREFILL)
        return time_prefill(measuring, tokens_per_s);
    uint32_t tokens = options->decode_tokens;
    double *steps_s = options->steps_s ? options->steps_s + (size_t)repetition * tokens : NULL;
    return time_decode(measuring, tokens, steps_s, tokens_per_s);
}

static enum status repeat(struct measuring *measuring, double *const rates[MEASURE_KIND_COUNT]) {
    double unused;
    enum status status;
    if ((status = time_prefill(measuring, &unused)) ||
        (status = time_decode(measuring, 1, NULL, &unused)))
        return status;
    for (uint32_t i = 0; i < measuring->options->repetitions; i++)
        for (int kind = 0; kind < MEASURE_KIND_COUNT; kind++)
            if ((status = time_kind(measuring, (enum measure_kind)kind, i, &rates[kind][i])))
                return status;
    return STATUS_OK;
}

enum status measure_model(struct engine *engine, const struct measure_options *options,
                          double *const rates[MEASURE_KIND_COUNT]) {
    uint32_t prefill = options->prefill_tokens;
    uint32_t decode = options->decode_tokens + options->sequences;
    struct measuring measuring = {.engine = engine, .options = options};
    measuring.token_count = prefill > decode ? prefill : decode;
    measuring.tokens = malloc(measuring.token_count * sizeof *measuring.tokens);
    measuring.logits = malloc((size_t)options->sequences * engine_model(engine)->shape.vocabulary *
                              sizeof *measuring.logits);
    enum status status = STATUS_NO_MEMORY;
    if (!measuring.tokens || !measuring.logits)
        goto err_memory;
    choose_tokens(&measuring);
    if (!(status = open_sequences(&measuring)))
        status = repeat(&measuring, rates);
    close_sequences(&measuring);
err_memory:
    free(measuring.logits);
    free(measuring.tokens);
    return status;
}
