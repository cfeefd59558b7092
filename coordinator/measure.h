/* How fast the model runs here: a prompt and an answer of given lengths, again and again. Token ids
 * are pseudo-random, so experts are chosen as evenly as the router makes it. Used by `bench`, on
 * the main thread. */
#pragma once

#include "common/status.h"
#include "coordinator/engine.h"

enum measure_kind { MEASURE_PREFILL, MEASURE_DECODE, MEASURE_KIND_COUNT };

struct measure_options {
    uint32_t prefill_tokens; /* at least 1 */
    uint32_t decode_tokens;  /* at least 1 */
    uint32_t depth;          /* positions that the KV cache holds before either begins */
    uint32_t sequences;      /* that decode side by side: 1 to SEQUENCES_MAX and rows_max */
    uint32_t repetitions;    /* 1 to BENCH_REPETITIONS_MAX */
    double *steps_s; /* where the time of each decode step goes: (repetitions, decode_tokens); NULL:
                        nowhere */
    /* Called right before each timing; an error ends everything. NULL: nothing. */
    enum status (*before)(void *context, enum measure_kind kind, uint32_t repetition);
    void *context; /* for `before` */
};

/* Runs both once untimed, then `repetitions` times each in alternation: the prompt in one sequence,
 * the answers in all of them, one token of each in a step. Tokens for each second go to
 * rates[kind] (repetitions). The KV cache has as many free sequences and room for their depth and
 * answers, or for the prompt. Errors: STATUS_NO_MEMORY, those of engine_forward and of `before`. */
enum status measure_model(struct engine *engine, const struct measure_options *options,
                          double *const rates[MEASURE_KIND_COUNT]);
