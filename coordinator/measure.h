/* How fast the model runs here: a prompt and an answer of given lengths, again and again. Token ids
 * are pseudo-random, so experts are chosen as evenly as the router makes it. Used by `bench`, on
 * the main thread. */
#pragma once

#include "common/status.h"
#include "coordinator/engine.h"

struct measure_options {
    uint32_t prefill_tokens; /* at least 1 */
    uint32_t decode_tokens;  /* at least 1 */
    uint32_t depth;          /* positions that the KV cache holds before either begins */
    uint32_t sequences;      /* that decode side by side: 1 to SEQUENCES_MAX and rows_max */
    uint32_t repetitions;    /* 1 to BENCH_REPETITIONS_MAX */
};

/* Of one kind of work over the repetitions. */
struct measure_rate {
    double median, min, max; /* tokens for each second */
};

struct measure_result {
    struct measure_rate prefill, decode;
};

/* Runs both once untimed, then `repetitions` times each in alternation: the prompt in one sequence,
 * the answers in all of them, one token of each in a step. The KV cache has as many free sequences
 * and room for their depth and answers, or for the prompt. Errors: STATUS_NO_MEMORY, those of
 * engine_forward. */
enum status measure_model(struct engine *engine, const struct measure_options *options,
                          struct measure_result *out);
