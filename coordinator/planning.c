/* Holders are the workers in their order, then the coordinator where it holds experts. Figures are
 * copied into lists of holders, since the workers' come from different places. */
#include "coordinator/planning.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/kv_cache.h"
#include "coordinator/popularity.h"

/* What rounded rows must be predicted to take at most, to be worth it. */
#define ROUNDING_GAIN 0.98

/* What auto rounds rows to: quantised experts meet activations of 8 bits in blocks of 32 anyway. */
#define ROUNDED_WIRE WIRE_Q8

struct planning {
    struct planning_input input;
    uint32_t holders;
    uint64_t *memory_bytes;           /* (holders) */
    uint64_t *spill_bytes;            /* (holders) */
    double *disk_rates;               /* (holders) */
    struct machine_figures *machines; /* (holders) */
    struct link_figures *links;       /* (worker_count) */
    struct routing *routing;
    struct cost_model *costs; /* NULL: figures are missing */
    struct plan plan;
    enum wire_format wire;
};

struct planning_worker planning_worker_of(const struct worker_info *info,
                                          const struct cluster_machine *described) {
    struct planning_worker worker = {0};
    if (described && described->described) {
        worker.memory_bytes = described->figures.memory_bytes;
        worker.figures = &described->figures;
        worker.link = &described->link;
        worker.spill_bytes = described->figures.spill_bytes;
    }
    if (info && (!worker.figures || info->memory_bytes < worker.memory_bytes))
        worker.memory_bytes = info->memory_bytes;
    if (info && info->is_measured && !worker.figures) {
        worker.figures = &info->figures;
        worker.link = &info->link;
        worker.spill_bytes = info->figures.disk_bytes_per_s > 0 ? info->spill_bytes : 0;
    }
    if (info && info->spill_bytes < worker.spill_bytes)
        worker.spill_bytes = info->spill_bytes;
    return worker;
}

static bool copy_figures(struct planning *planning) {
    const struct planning_input *input = &planning->input;
    bool known = input->coordinator != NULL;
    for (uint32_t h = 0; h < planning->holders; h++) {
        if (h == input->worker_count) {
            planning->memory_bytes[h] = input->worker_count ? input->local_bytes : UINT64_MAX;
            if (input->coordinator)
                planning->machines[h] = *input->coordinator;
            continue;
        }
        const struct planning_worker *worker = &input->workers[h];
        planning->memory_bytes[h] = worker->memory_bytes;
        planning->spill_bytes[h] = worker->spill_bytes;
        known &= (worker->figures && worker->link) || worker->memory_bytes == 0;
        if (!worker->figures || !worker->link)
            continue;
        planning->machines[h] = *worker->figures;
        planning->disk_rates[h] = worker->figures->disk_bytes_per_s;
        planning->links[h] = *worker->link;
    }
    return known;
}

/* The coordinator's own link is no slower than the fastest that was measured through it. */
static double own_link(const struct planning *planning) {
    double fastest = planning->input.link_bytes_per_s;
    for (uint32_t h = 0; planning->input.link_bytes_per_s <= 0 && h < planning->input.worker_count;
         h++)
        fastest = fmax(fastest, planning->links[h].to_bytes_per_s);
    return fastest;
}

static enum status create_costs(struct planning *planning) {
    const struct planning_input *input = &planning->input;
    const struct cost_input cost = {
        .shape = input->shape,
        .outline = input->outline,
        .routing = planning->routing,
        .layers = input->layers,
        .holders = planning->holders,
        .workers = input->worker_count,
        .machines = planning->machines,
        .links = planning->links,
        .coordinator = input->coordinator,
        .link_bytes_per_s = own_link(planning),
        .kv_bytes = (double)kv_cache_position_bytes(input->shape, input->kv_format),
    };
    return cost_model_create(&cost, &planning->costs);
}

static enum status create_routing(struct planning *planning) {
    const struct planning_input *input = &planning->input;
    struct popularity popularity = {NULL};
    enum status status = STATUS_OK;
    if (input->popularity)
        status = popularity_read(input->popularity, input->shape, &popularity);
    if (status == STATUS_OK)
        status = routing_create(input->shape, input->popularity ? &popularity : NULL,
                                &planning->routing);
    popularity_cleanup(&popularity);
    return status;
}

static enum status plan(struct planning *planning) {
    const struct planning_input *input = &planning->input;
    const struct planner_input planner = {
        .layouts = input->layouts,
        .is_expert_layer = input->shape->is_expert_layer,
        .layers = input->layers,
        .experts = input->shape->experts,
        .groups = input->shape->groups,
        .memory_bytes = planning->memory_bytes,
        .spill_bytes = planning->spill_bytes,
        .disk_rates = planning->disk_rates,
        .holders = planning->holders,
        .workers = input->worker_count,
        .kind = input->kind,
        .objective = input->objective,
        .replicas = input->replicas,
        .offload = input->offload,
        .costs = planning->costs,
        .routing = planning->routing,
        .decode = input->decode,
        .prefill = input->prefill,
        .start = input->start,
        .quiet = input->quiet,
    };
    return planner_plan(&planner, &planning->plan);
}

/* From now on predictions are for rows that travel so. */
static void set_wire(struct planning *planning, enum wire_format wire) {
    planning->wire = wire;
    if (planning->costs)
        cost_model_set_wire(planning->costs, wire);
}

/* Whether a step of the plan, which is for ROUNDED_WIRE, gains by that. */
static bool rounding_gains(struct planning *planning) {
    const struct planning_input *input = &planning->input;
    const struct placement *placement = planning->plan.placement;
    const enum wire_format wires[] = {WIRE_F32, ROUNDED_WIRE};
    struct cost_prediction decode[2], prefill[2];
    for (int i = 0; i < 2; i++) {
        set_wire(planning, wires[i]);
        cost_model_predict(planning->costs, placement, &input->decode, &decode[i]);
        cost_model_predict_best(planning->costs, placement, input->prefill, &prefill[i]);
    }
    return decode[1].step_s < ROUNDING_GAIN * decode[0].step_s ||
           prefill[1].step_s < ROUNDING_GAIN * prefill[0].step_s;
}

static enum wire_format find_wire(const char *name) {
    enum wire_format wire = WIRE_F32;
    while (wire + 1 < WIRE_FORMAT_COUNT && strcmp(name, wire_format_name(wire)) != 0)
        wire++;
    return wire;
}

/* The plan, and what rows travel as. */
static enum status plan_with_wire(struct planning *planning) {
    const char *name = planning->input.wire;
    bool is_auto = !name || strcmp(name, "auto") == 0;
    bool tries = is_auto && planning->input.may_round && planning->costs;
    set_wire(planning, tries ? ROUNDED_WIRE : is_auto ? WIRE_F32 : find_wire(name));
    enum status status = plan(planning);
    if (status || !tries || rounding_gains(planning))
        return status;
    planner_destroy(&planning->plan);
    set_wire(planning, WIRE_F32);
    return plan(planning);
}

enum status planning_create(const struct planning_input *input, struct planning **out) {
    struct planning *planning = calloc(1, sizeof *planning);
    enum status status = STATUS_NO_MEMORY;
    if (!planning)
        return status;
    planning->input = *input;
    planning->holders = input->worker_count + (input->local_bytes || !input->worker_count ? 1 : 0);
    planning->memory_bytes = calloc(planning->holders, sizeof *planning->memory_bytes);
    planning->spill_bytes = calloc(planning->holders, sizeof *planning->spill_bytes);
    planning->disk_rates = calloc(planning->holders, sizeof *planning->disk_rates);
    planning->machines = calloc(planning->holders, sizeof *planning->machines);
    planning->links = calloc(input->worker_count + 1u, sizeof *planning->links);
    if (planning->memory_bytes && planning->spill_bytes && planning->disk_rates &&
        planning->machines && planning->links && !(status = create_routing(planning)) &&
        copy_figures(planning))
        status = create_costs(planning);
    planning->input.workers = NULL;
    if (!status)
        status = plan_with_wire(planning);
    if (status)
        planning_destroy(planning);
    else
        *out = planning;
    return status;
}

void planning_destroy(struct planning *planning) {
    if (!planning)
        return;
    planner_destroy(&planning->plan);
    cost_model_destroy(planning->costs);
    routing_destroy(planning->routing);
    free(planning->links);
    free(planning->machines);
    free(planning->disk_rates);
    free(planning->spill_bytes);
    free(planning->memory_bytes);
    free(planning);
}

enum wire_format planning_wire(const struct planning *planning) {
    return planning->wire;
}

const struct plan *planning_plan(const struct planning *planning) {
    return &planning->plan;
}

const struct routing *planning_routing(const struct planning *planning) {
    return planning->routing;
}

double planning_read_rate(const struct planning *planning, uint32_t holder) {
    for (uint32_t layer = 0; planning->costs && layer < planning->input.layers; layer++)
        if (planning->input.shape->is_expert_layer[layer])
            return planning->machines[holder]
                .formats[planning->input.layouts[layer].gate]
                .decode_bytes_per_s;
    return 1;
}

bool planning_predict(const struct planning *planning, const struct cost_step *step,
                      struct cost_prediction *out) {
    if (planning->costs)
        cost_model_predict(planning->costs, planning->plan.placement, step, out);
    return planning->costs != NULL;
}

/* How many micro-batches steps of 2^size and more rows are to have. */
static uint32_t micro_batches(const struct planning *planning, uint32_t size) {
    struct cost_prediction prediction;
    const struct cost_step step = {1u << size, planning->input.prefill.context, 1};
    if (!planning->costs)
        return 1;
    return cost_model_predict_best(planning->costs, planning->plan.placement, step, &prediction);
}

struct batch_division planning_divide(const struct planning *planning, uint32_t rows_max) {
    struct batch_division division = {{0}};
    for (uint32_t size = 0; size < BATCH_SIZES && 1u << size <= rows_max; size++)
        division.parts[size] = (uint8_t)micro_batches(planning, size);
    return division;
}

/* A step of the prompt, divided as the engine would. */
static struct cost_step divided_step(const struct planning *planning, uint32_t rows,
                                     uint32_t context) {
    return (struct cost_step){rows, context,
                              micro_batches(planning, 31u - (uint32_t)__builtin_clz(rows))};
}

struct cost_step planning_prefill(const struct planning *planning) {
    return divided_step(planning, planning->input.prefill.rows, planning->input.prefill.context);
}

/* Seconds of a prompt's steps without the head, with its mean context for each of them. */
static double prompt_seconds(const struct planning *planning,
                             const struct planning_request *request,
                             struct cost_prediction *prediction) {
    uint32_t full = request->prompt_tokens / request->batch_rows;
    uint32_t rest = request->prompt_tokens % request->batch_rows;
    uint32_t context = request->before + request->prompt_tokens / 2;
    double seconds = 0;
    if (full) {
        struct cost_step step = divided_step(planning, request->batch_rows, context);
        planning_predict(planning, &step, prediction);
        seconds += full * prediction->step_s;
    }
    if (rest) {
        struct cost_step step = divided_step(planning, rest, context);
        planning_predict(planning, &step, prediction);
        seconds += prediction->step_s;
    }
    return seconds;
}

bool planning_rate(const struct planning *planning, const struct planning_request *request,
                   struct planning_rates *out) {
    struct cost_prediction prediction;
    struct cost_step step = {request->sequences, request->decode_context, 1};
    if (!planning_predict(planning, &step, &prediction))
        return false;
    out->decode_tokens_per_s = planner_decode_rate(&step, &prediction);
    out->prompt_tokens_per_s =
        request->prompt_tokens /
        (prompt_seconds(planning, request, &prediction) + prediction.parts.head);
    return true;
}

uint64_t planning_expert_bytes(const struct planning_input *input) {
    uint64_t bytes = 0;
    for (uint32_t layer = 0; layer < input->layers; layer++)
        if (input->shape->is_expert_layer[layer])
            bytes += input->shape->experts *
                     shard_bytes(&input->layouts[layer],
                                 &(struct shard){.end = input->layouts[layer].inner});
    return bytes;
}

uint64_t planning_cache_bytes(const struct planning_input *input, uint64_t positions) {
    return positions * input->layers * kv_cache_position_bytes(input->shape, input->kv_format);
}

uint64_t planning_spare_bytes(const struct planning_input *input, uint64_t available_bytes,
                              uint64_t positions) {
    uint64_t own = input->outline->own_bytes + planning_cache_bytes(input, positions);
    uint64_t offered = available_bytes / 10 * 9;
    return offered > own ? offered - own : 0;
}

static size_t find_name(const char *name, const char *const *names, size_t count) {
    for (size_t i = 0; name && i < count; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    return 0;
}

enum placement_kind planning_kind(const char *name) {
    static const char *const NAMES[] = {"auto", "experts", "slices"};
    return (enum placement_kind)find_name(name, NAMES, 3);
}

enum planner_objective planning_objective(const char *name) {
    static const char *const NAMES[] = {"balanced", "decode", "prefill"};
    return (enum planner_objective)find_name(name, NAMES, 3);
}

enum planner_offload planning_offload(const char *name) {
    static const char *const NAMES[] = {"auto", "off", "on"};
    return (enum planner_offload)find_name(name, NAMES, 3);
}

enum planner_replicas planning_replicas(const char *name) {
    static const char *const NAMES[] = {"auto", "off", "spare"};
    return (enum planner_replicas)find_name(name, NAMES, 3);
}
