/* How long a step takes on given machines with a given placement: the planner's arithmetic. Pure:
 * no clock, no sockets, the same answer for the same figures.
 *
 * A layer's time is the coordinator's attention, router and sending, then the longer one of two
 * things that go on at once, then adding up. The one is what the coordinator computes itself
 * (shared experts and routed ones of its own). The other is, for the slowest worker, the round
 * trip, the bytes to it, its reading of weights or multiplying with them, whichever takes longer,
 * or, if that takes longer still, reading of those that lie on its disk, and the bytes back; all
 * bytes together also have to pass the coordinator's own link.
 *
 * One row is reckoned as the mean over drawn tokens, since what counts is the busiest of the
 * machines that a token needs. Batches are reckoned from how many of their rows each expert is
 * expected to get.
 *
 * n micro-batches, each of an n-th of the rows, take turns in each layer, so it takes n times what
 * the coordinator does for one of them, or n times what the busiest worker or link has of one,
 * whichever is longer; but no less than one of them takes from its attention to its sums. Weights
 * are read n times. */
#pragma once

#include <stdint.h>

#include "common/cluster_limits.h"
#include "common/machine.h"
#include "common/status.h"
#include "coordinator/outline.h"
#include "coordinator/placement.h"
#include "coordinator/routing.h"
#include "coordinator/shape.h"
#include "proto/wire.h"

struct cost_input {
    const struct model_shape *shape;
    const struct outline *outline;
    const struct routing *routing;
    uint32_t layers;           /* of placements; only shape->layers of them take time */
    uint32_t holders, workers; /* holders [0, workers) are remote */
    const struct machine_figures *machines; /* (holders) */
    const struct link_figures *links;       /* (workers) */
    const struct machine_figures *coordinator;
    double link_bytes_per_s; /* of the coordinator, in each direction; 0: no limit of its own */
    double kv_bytes;         /* of one position of one layer */
};

struct cost_step {
    uint32_t rows;          /* tokens, of one prompt or of as many sequences */
    uint32_t context;       /* positions that attention looks back at */
    uint32_t micro_batches; /* parts of the step, of which one's attention hides others' experts, at
                               most TICKETS_MAX */
};

/* Seconds of one step, summed over its layers. */
struct cost_parts {
    double dense; /* layers without experts, all of them */
    double attention, router;
    double shared, experts; /* shared experts, and routed ones of the coordinator */
    double send, combine;
    double wait; /* for workers, behind the coordinator's own part */
    double head; /* logits of one row */
    /* Of the slowest worker of each layer; each is hidden by the coordinator's experts or part
     * of `wait`. */
    double round_trip, out, compute, in;
    double disk;     /* of `compute`, what reading from its disk takes beyond computing */
    double own_link; /* of `out` and `in`, where the coordinator's own link takes longest */
};

/* What one holder has of one step. */
struct cost_holder {
    double busy_s;
    double disk_s; /* of these, that it reads from its disk, computing or not */
    double rows;
    double out_bytes, in_bytes; /* to it and back */
    double slowest;             /* of all expert layers, the part in which others wait for it */
    double waited_s;            /* that the coordinator waits for it as the slowest */
};

struct cost_prediction {
    double step_s;      /* without the head */
    double undivided_s; /* the same as one micro-batch; only of cost_model_predict_best */
    double fanout;      /* holders that a row visits in a layer */
    struct cost_parts parts;
    double layer_s[LAYERS_MAX];
    struct cost_holder holders[HOLDERS_MAX];
};

struct cost_model;

/* Keeps `input`, whose pointers must outlive the model. The caller destroys it. Errors:
 * STATUS_NO_MEMORY. */
enum status cost_model_create(const struct cost_input *input, struct cost_model **out);
void cost_model_destroy(struct cost_model *model);

/* Rows travel as this from now on; at first f32. */
void cost_model_set_wire(struct cost_model *model, enum wire_format wire);

void cost_model_predict(struct cost_model *model, const struct placement *placement,
                        const struct cost_step *step, struct cost_prediction *out);

/* The same for a step as one, two or four micro-batches, whichever takes least (more only where
 * they save 2 %); returns their number. */
uint32_t cost_model_predict_best(struct cost_model *model, const struct placement *placement,
                                 struct cost_step step, struct cost_prediction *out);

/* How fast holders get through work, for dividing it among them: with rows of which each asks for
 * `load` experts of a holder, its part of a layer takes about fixed_s + load * load_s seconds.
 * `visits`: the part of all rows that a holder sees, as far as it does not depend on its load. */
void cost_model_profile(const struct cost_model *model, uint32_t rows, double visits,
                        double *fixed_s, double *load_s);

/* The same for the feed-forward that all rows of a layer meet, beside what the placement has of the
 * layer's routed experts: how long after they were sent the workers would be done with `rows` rows,
 * ready_s (workers), and how much longer each takes for one column of the inner dimension,
 * column_s; both with the coordinator behind the workers. */
void cost_model_profile_ffn(struct cost_model *model, const struct placement *placement,
                            uint32_t layer, double rows, double *ready_s, double *column_s);

/* The same for the output head and one row of logits; a column is one row of the head. */
void cost_model_profile_head(const struct cost_model *model, double *ready_s, double *column_s);
