/* A plan together with what it was made from, so that it can be asked what it predicts. Brings
 * outline, machines and options into the form that the planner and the cost model want. Used by
 * runtime, before anything is loaded and for comparing afterwards, and by `plan`. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/machine.h"
#include "common/status.h"
#include "coordinator/batch.h"
#include "coordinator/cluster.h"
#include "coordinator/cluster_file.h"
#include "coordinator/outline.h"
#include "coordinator/planner.h"
#include "coordinator/shape.h"
#include "proto/wire.h"

/* A worker as far as it is known. */
struct planning_worker {
    uint64_t memory_bytes;                 /* that it offers */
    const struct machine_figures *figures; /* NULL: not known, nor is the link */
    const struct link_figures *link;
    uint64_t spill_bytes; /* that it may keep on its disk beyond memory; 0 without figures */
};

/* What is known of a worker that answered (`info`, or NULL) and that a cluster file may describe
 * (`described`, or NULL): what the file says goes before what was measured. Points into both. */
struct planning_worker planning_worker_of(const struct worker_info *info,
                                          const struct cluster_machine *described);

struct planning_input {
    const struct model_shape *shape;
    const struct outline *outline;
    const struct shard_layout *layouts;    /* SHARD_LAYOUTS(layers) */
    uint32_t layers;                       /* the draft layer counts where it is loaded */
    const struct planning_worker *workers; /* (worker_count) */
    uint32_t worker_count;
    const struct machine_figures *coordinator; /* NULL: not known */
    uint64_t local_bytes;    /* for routed experts of the coordinator, the last holder; 0: none */
    double link_bytes_per_s; /* of the coordinator; 0: as fast as the fastest worker's */
    enum weight_format kv_format;
    const char *wire;       /* one of PLANNING_WIRES, or NULL for "auto" */
    bool may_round;         /* auto may round rows: the experts round activations as coarsely */
    const char *popularity; /* path of statistics; NULL: all experts are as likely */
    enum placement_kind kind;
    enum planner_objective objective;
    enum planner_replicas replicas;
    enum planner_offload offload;
    struct cost_step decode, prefill; /* the workload */
    const struct plan *start;         /* its ways alone are tried; NULL: all are searched */
    bool quiet;                       /* no line where experts do not fit */
};

struct planning;

/* Plans. What the pointers of `input` point to must outlive *out, the workers' list excepted. The
 * caller destroys it. Errors: those of planner_plan and popularity_read. */
enum status planning_create(const struct planning_input *input, struct planning **out);
void planning_destroy(struct planning *planning);

const struct plan *planning_plan(const struct planning *planning);

/* How likely each expert is. */
const struct routing *planning_routing(const struct planning *planning);

/* How fast a holder reads the weights of experts; 1 where figures are not known. */
double planning_read_rate(const struct planning *planning, uint32_t holder);

/* False, and nothing is predicted, where figures of a machine are not known. */
bool planning_predict(const struct planning *planning, const struct cost_step *step,
                      struct cost_prediction *out);

/* What rows are to travel as. By itself rounded only where that is allowed and predicted to save 2
 * % of a decode or prefill step. */
enum wire_format planning_wire(const struct planning *planning);

/* In how many micro-batches steps of up to `rows_max` rows are predicted to be fastest: 1, 2 or 4,
 * and 1 where nothing is predicted. */
struct batch_division planning_divide(const struct planning *planning, uint32_t rows_max);

/* The planned prefill step, divided so. */
struct cost_step planning_prefill(const struct planning *planning);

/* A prompt behind `before` positions, in steps of at most `batch_rows`, and decode steps of
 * `sequences` rows behind `decode_context` positions. */
struct planning_request {
    uint32_t prompt_tokens, before, batch_rows;
    uint32_t sequences, decode_context;
};

struct planning_rates {
    double prompt_tokens_per_s, decode_tokens_per_s; /* as measured: with the logits they need */
};

/* False, and nothing is predicted, where figures of a machine are not known. */
bool planning_rate(const struct planning *planning, const struct planning_request *request,
                   struct planning_rates *out);

/* Bytes of one copy of all routed experts. */
uint64_t planning_expert_bytes(const struct planning_input *input);

/* Bytes of a KV cache of `positions`. */
uint64_t planning_cache_bytes(const struct planning_input *input, uint64_t positions);

/* What a coordinator with `available_bytes` of memory can give to routed experts: nine tenths of
 * that, without its own weights and a KV cache of `positions`. */
uint64_t planning_spare_bytes(const struct planning_input *input, uint64_t available_bytes,
                              uint64_t positions);

/* A value of --memory: as much as can be spared. */
#define PLANNING_MEMORY_AUTO UINT64_MAX

/* The values of --placement, --optimize, --replicas and --offload; NULL is the first. */
enum placement_kind planning_kind(const char *name);
enum planner_objective planning_objective(const char *name);
enum planner_replicas planning_replicas(const char *name);
enum planner_offload planning_offload(const char *name);
#define PLANNING_KINDS      "auto|experts|slices"
#define PLANNING_OBJECTIVES "balanced|decode|prefill"
#define PLANNING_WIRES      "auto|f32|bf16|q8"
#define PLANNING_REPLICAS   "auto|off|spare"
#define PLANNING_OFFLOADS   "auto|off|on"
