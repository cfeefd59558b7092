/* Decides which holder gets which shard. Pure planning: no sockets, no files, no clock; the same
 * answer for the same figures.
 *
 * The planner is given what the routed experts of each layer take, what each holder can take, and
 * what a step costs (cost_model). It searches the ways of coordinator/scheme for the placement that
 * is predicted to serve the workload fastest. Without costs, shares are equal except where memory
 * is the limit. Called before anything is loaded. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/weights/shard.h"
#include "coordinator/cost_model.h"
#include "coordinator/placement.h"
#include "coordinator/routing.h"
#include "coordinator/scheme.h"

enum placement_kind {
    PLACEMENT_AUTO,    /* whatever is predicted to be fastest */
    PLACEMENT_EXPERTS, /* whole experts on all holders; those of one routing group stay together
                          where they fit */
    PLACEMENT_SLICES,  /* every expert sliced over all holders */
};

/* What time counts. */
enum planner_objective {
    OPTIMIZE_BALANCED, /* answers of a quarter of their prompt's length */
    OPTIMIZE_DECODE,
    OPTIMIZE_PREFILL,
};

/* When spare memory takes further copies of experts. */
enum planner_replicas {
    REPLICAS_AUTO, /* where they make steps faster */
    REPLICAS_NONE,
    REPLICAS_SPARE, /* wherever there is room, so that a lost holder's shards are there still */
};

/* When workers get slices of what all rows meet: shared experts, dense layers and output head. */
enum planner_offload {
    OFFLOAD_AUTO, /* where it makes steps faster */
    OFFLOAD_NONE,
    OFFLOAD_ALWAYS,
};

struct planner_input {
    const struct shard_layout *layouts; /* SHARD_LAYOUTS(layers) */
    const bool *is_expert_layer;        /* (layers) */
    uint32_t layers;
    uint32_t experts, groups;     /* per layer; groups is at least 1 and divides experts */
    const uint64_t *memory_bytes; /* (holders) */
    const uint64_t *spill_bytes;  /* (holders) that may lie on its disk beyond; NULL: none */
    const double *disk_rates;     /* (holders) bytes/s of these; NULL: all are as fast */
    uint32_t holders, workers;    /* holders [0, workers) are not the coordinator */
    enum placement_kind kind;
    enum planner_objective objective;
    enum planner_replicas replicas;
    enum planner_offload offload;
    struct cost_model *costs;         /* NULL: figures are not known; then AUTO is EXPERTS */
    const struct routing *routing;    /* NULL: every expert is as likely */
    struct cost_step decode, prefill; /* the steps that the workload consists of */
    const struct plan *start;         /* AUTO tries its ways alone; NULL: searches all */
    bool quiet;                       /* no line where experts do not fit */
};

#define PLAN_NAME_BYTES 112
/* Ways that are kept for the user to compare. */
#define PLAN_OPTIONS_MAX 6

/* One way that was tried. */
struct plan_option {
    char name[PLAN_NAME_BYTES];                       /* "every expert sliced over 5 machines" */
    double decode_tokens_per_s, prefill_tokens_per_s; /* 0 without costs */
    double seconds;                                   /* that the workload takes, for comparing */
    uint32_t teams, members, unit;                    /* of its scheme */
};

struct plan {
    struct placement *placement;
    struct plan_option options[PLAN_OPTIONS_MAX]; /* (option_count) by rising seconds; the first
                                                     was taken */
    uint32_t option_count;
    char way[2][PLAN_NAME_BYTES]; /* what layers are placed by */
    bool second[LAYERS_MAX];      /* layers that are placed by way[1] */
    uint32_t tried;               /* placements that were filled and predicted */
    uint32_t replicas;            /* copies beyond the first */
    uint64_t offloaded_bytes;     /* of what all rows meet, on workers */
};

/* Plans. The caller frees with planner_destroy. Errors: STATUS_NO_MEMORY with one line that says
 * how many bytes the experts take, what the holders offer and how much is missing. */
enum status planner_plan(const struct planner_input *input, struct plan *out);
void planner_destroy(struct plan *plan);

/* Tokens for each second of a decode step (with its logits) and of a prompt's steps. */
double planner_decode_rate(const struct cost_step *step, const struct cost_prediction *prediction);
double planner_prefill_rate(const struct cost_step *step, const struct cost_prediction *prediction);
