/* A plan as people and programs read it: what each machine gets, how long each part of a layer
 * takes, what limits, and what the alternatives would give. Used by `plan`. */
#pragma once

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "coordinator/planning.h"

struct plan_report {
    const struct model_shape *shape;
    const struct outline *outline;
    const struct planning *planning;
    uint32_t layers;
    const char *const *names;     /* (holders) */
    const uint64_t *memory_bytes; /* (holders) for routed experts */
    uint32_t holders, workers;    /* holders [0, workers) are remote */
    uint64_t coordinator_bytes;   /* its memory */
    uint64_t cache_bytes;         /* its KV cache */
    uint32_t context;             /* positions of that */
    struct cost_step decode, prefill;
};

/* As tables. */
void plan_report_print(const struct plan_report *report, FILE *stream);

/* A new object; NULL when memory is out. */
json_t *plan_report_to_json(const struct plan_report *report);
