/* How well the model predicts a text: the mean negative log-likelihood of its tokens. The text is
 * cut into windows, each of which starts from an empty context, so that texts of any length can be
 * compared. Used by `perplexity`, on the thread that owns the pool. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "common/threads.h"
#include "coordinator/engine.h"

struct perplexity {
    size_t tokens;           /* predicted: all but the first of each window */
    double value;            /* exp of the mean negative log-likelihood */
    double standard_error;   /* of `value`, from the spread over tokens; 0 for a single one */
    double likelihood_total; /* sum of the logarithms (natural) of all likelihoods, below 0 */
};

/* Told after each step: ids consumed so far and the figures up to there. */
typedef void (*perplexity_observer)(void *context, size_t ids_done, const struct perplexity *now);

struct perplexity_options {
    const uint32_t *ids; /* (count), each below the model's vocabulary */
    size_t count;        /* at least 2 */
    uint32_t window;     /* ids of one window, at least 2; the KV cache has room for them */
    struct threads *threads;
    perplexity_observer observer; /* may be NULL */
    void *context;
};

/* Sums are in double precision. A last window of one id predicts nothing and is left out. Errors:
 * STATUS_NO_MEMORY, those of engine_forward. */
enum status perplexity_measure(struct engine *engine, const struct perplexity_options *options,
                               struct perplexity *out);
