/* A window goes through the engine in steps like any prompt. The logits of a step would take
 * hundreds of megabytes with a large vocabulary, so they are made and used up a few rows at a
 * time; the rows' exponentials are computed over all threads. */
#include "coordinator/perplexity.h"

#include <math.h>
#include <stdlib.h>

/* Rows of logits at a time: the head is read once for them, and they take 16 MiB at 130,000
 * entries. */
#define LOGIT_ROWS 32u

struct scoring {
    struct engine *engine;
    const struct perplexity_options *options;
    uint32_t vocabulary;
    float *logits; /* (LOGIT_ROWS, vocabulary) */
    /* What the rows at hand are scored by, and the result. */
    const uint32_t *targets;     /* (LOGIT_ROWS) */
    double surprise[LOGIT_ROWS]; /* negative log-likelihood of each target */
    size_t tokens;
    double total, squares; /* of the surprise of all tokens */
};

static void score_row(void *context, size_t row, unsigned thread) {
    (void)thread;
    struct scoring *scoring = context;
    const float *logits = scoring->logits + row * scoring->vocabulary;
    float best = logits[0];
    for (uint32_t i = 1; i < scoring->vocabulary; i++)
        best = logits[i] > best ? logits[i] : best;
    double sum = 0;
    for (uint32_t i = 0; i < scoring->vocabulary; i++)
        sum += exp((double)logits[i] - (double)best);
    scoring->surprise[row] = log(sum) + (double)best - (double)logits[scoring->targets[row]];
}

/* hidden (rows, hidden) predict targets (rows). */
static void score_rows(struct scoring *scoring, const float *hidden, const uint32_t *targets,
                       uint32_t rows) {
    size_t width = engine_model(scoring->engine)->shape.hidden;
    for (uint32_t first = 0, count; first < rows; first += count) {
        count = rows - first < LOGIT_ROWS ? rows - first : LOGIT_ROWS;
        engine_logits(scoring->engine, hidden + first * width, count, scoring->logits);
        scoring->targets = targets + first;
        threads_run(scoring->options->threads, count, score_row, scoring);
        for (uint32_t row = 0; row < count; row++) {
            scoring->total += scoring->surprise[row];
            scoring->squares += scoring->surprise[row] * scoring->surprise[row];
        }
        scoring->tokens += count;
    }
}

/* The error of a mean is deviation / sqrt(n); through exp() it is multiplied by the derivative,
 * which is the perplexity itself. */
static struct perplexity summarise(const struct scoring *scoring) {
    double n = (double)scoring->tokens, mean = scoring->total / n;
    double variance = n > 1 ? fmax(0, (scoring->squares - n * mean * mean) / (n - 1)) : 0;
    return (struct perplexity){
        .tokens = scoring->tokens,
        .value = exp(mean),
        .standard_error = exp(mean) * sqrt(variance / n),
        .likelihood_total = -scoring->total,
    };
}

/* Ids [first, first + rows) of the text, at `position` of their window; the last id of a window
 * has nothing to predict. */
static enum status score_step(struct scoring *scoring, uint32_t sequence, size_t first,
                              uint32_t position, uint32_t rows, bool ends_window) {
    const struct perplexity_options *options = scoring->options;
    enum status status = kv_cache_extend(engine_cache(scoring->engine), sequence, rows);
    if (status)
        return status;
    struct batch_segment segment = {sequence, position, 0, rows};
    struct batch batch = {options->ids + first, rows, &segment, 1, 0};
    const float *hidden;
    if ((status = engine_forward(scoring->engine, &batch, &hidden)))
        return status;
    score_rows(scoring, hidden, options->ids + first + 1, rows - ends_window);
    if (options->observer && scoring->tokens) {
        struct perplexity now = summarise(scoring);
        options->observer(options->context, first + rows, &now);
    }
    return STATUS_OK;
}

static enum status score_window(struct scoring *scoring, uint32_t sequence, size_t first,
                                uint32_t ids) {
    uint32_t rows_max = engine_rows_max(scoring->engine);
    kv_cache_truncate(engine_cache(scoring->engine), sequence, 0);
    for (uint32_t done = 0, rows; done < ids; done += rows) {
        rows = ids - done < rows_max ? ids - done : rows_max;
        enum status status =
            score_step(scoring, sequence, first + done, done, rows, done + rows == ids);
        if (status)
            return status;
    }
    return STATUS_OK;
}

enum status perplexity_measure(struct engine *engine, const struct perplexity_options *options,
                               struct perplexity *out) {
    struct scoring scoring = {.engine = engine, .options = options};
    uint32_t sequence;
    scoring.vocabulary = engine_model(engine)->shape.vocabulary;
    scoring.logits = malloc((size_t)LOGIT_ROWS * scoring.vocabulary * sizeof(float));
    if (!scoring.logits)
        return STATUS_NO_MEMORY;
    enum status status = kv_cache_open(engine_cache(engine), &sequence);
    if (status)
        goto err_logits;
    for (size_t first = 0; status == STATUS_OK && first + 1 < options->count;) {
        size_t left = options->count - first;
        uint32_t ids = left < options->window ? (uint32_t)left : options->window;
        status = score_window(&scoring, sequence, first, ids);
        first += ids;
    }
    if (status == STATUS_OK)
        *out = summarise(&scoring);
    kv_cache_close(engine_cache(engine), sequence);
err_logits:
    free(scoring.logits);
    return status;
}
