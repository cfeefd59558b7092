/* A plan as people and programs read it: what each machine gets, how long each part of a layer
 * takes, what limits, and what the alternatives would give. Used by `plan`. */
#pragma once

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "coordinator/planning.h"
#include "coordinator/what_if.h"

struct plan_report {
    const struct model_shape *shape;
    const struct outline *outline;
    const struct planning *planning;
    uint32_t layers;
    const char *const *names;     /* (holders) */
    const uint64_t *memory_bytes; /* (holders) for routed experts */
    uint32_t holders, workers;    /* holders [0, workers) are remote */
    uint64_t coordinator_bytes;   /* its memory */
    uint64_t expert_bytes;        /* one copy of all routed experts */
    uint64_t cache_bytes;         /* its KV cache */
    uint32_t context;             /* positions of that */
    struct cost_step decode, prefill;
    const struct what_ifs *what_ifs;
};

/* As tables. */
void plan_report_print(const struct plan_report *report, FILE *stream);

/* A new object; NULL when memory is out. */
json_t *plan_report_to_json(const struct plan_report *report);

/* The same where there is no plan because experts do not fit: with how many more machines they
 * would, as a warning in the log and as a new object. */
void plan_report_warn_unfit(const struct what_ifs *what_ifs);
json_t *plan_report_unfit_to_json(const struct what_ifs *what_ifs);
