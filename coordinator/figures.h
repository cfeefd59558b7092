/* The figures of an answer: rates, and what each holder of experts did; as lines for people or as
 * the "stats" of `run --json`. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "coordinator/dispatch.h"
#include "coordinator/planning.h"
#include "coordinator/scheduler.h"
#include "coordinator/statistics.h"

struct figures {
    struct request_result result;
    const struct holder_stats *holders; /* (holder_count), not owned */
    size_t holder_count;
    const struct statistics *statistics; /* of these holders */
    const char *placement;               /* how experts are placed; NULL: nothing was predicted */
    struct planning_rates predicted;     /* with that placement */
    bool by_layer;                       /* print a table by layer, too */
};

/* Prompt tokens that were computed, not taken from the cache, for each second; 0 if none were. */
double figures_prompt_rate(const struct request_result *result);

/* Answer tokens for each second after the first one, which the prompt's time covers; 0 below two.
 */
double figures_decode_rate(const struct request_result *result);

/* One line of rates, one of what was predicted, then one of the fan-out and one for each holder;
 * last, where wanted, the table by layer. */
void figures_print(const struct figures *figures, FILE *stream);

/* A line for each layer and each of `count` holders that had rows of it. */
void figures_print_layers(const struct holder_stats *holders, size_t count,
                          const struct statistics *statistics, FILE *stream);

/* A new list with an object for each of `count` holders, with its loads by layer; NULL when memory
 * is out. */
json_t *figures_holders_to_json(const struct holder_stats *holders, size_t count,
                                const struct statistics *statistics);

/* A new object; NULL when memory is out. */
json_t *figures_to_json(const struct figures *figures);
