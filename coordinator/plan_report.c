/* Everything is gathered first, so that tables and JSON say the same. What limits a step is the
 * largest of what cannot be hidden: the coordinator's own part, or, where it waits for longer than
 * that, the largest part of the slowest worker's time. */
#include "coordinator/plan_report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "common/log.h"

/* What is less of a step is not listed. */
#define SHARE_MIN 0.02
/* Nor is waiting that would be 0 %. */
#define WAIT_MIN 0.005

/* What one machine is given. */
struct held {
    uint32_t experts, slices, replicas; /* shards: whole, parts, and of copies beyond the first */
    uint64_t bytes, spilled_bytes;      /* of these, on its disk */
};

enum limit_kind {
    LIMIT_COORDINATOR,
    LIMIT_WEIGHTS,
    LIMIT_LINK,
    LIMIT_OWN_LINK, /* the coordinator's, which all workers' bytes pass */
    LIMIT_ROUND_TRIP,
    LIMIT_DISK
};

struct limit {
    enum limit_kind kind;
    uint32_t holder; /* the worker that is waited for longest */
    double part;     /* of the step */
    double rate_max; /* tokens/s if routed experts took no time at all */
};

struct forecast {
    const char *name;
    const struct cost_step *step;
    struct cost_prediction prediction;
    double head_s; /* 0 where no logits are needed */
    double tokens_per_s;
    struct limit limit;
};

struct gathered {
    const struct plan_report *report;
    const struct plan *plan;
    struct held *held; /* (holders) */
    uint32_t expert_layers;
    uint64_t spilled_bytes;
    struct forecast decode, prefill;
};

/* ---- Gathering. */

static void count_held(const struct plan_report *report, const struct placement *placement,
                       struct held *held) {
    for (uint32_t layer = 0; layer < report->layers; layer++)
        for (uint32_t e = 0; e < placement->experts; e++) {
            const struct expert_places *places = placement_find(placement, layer, e);
            uint32_t copy = 0;
            for (uint32_t i = 0; i < places->count; i++) {
                const struct placed_shard *part = &places->parts[i];
                copy += part->begin == 0;
                struct held *holder = &held[part->holder];
                if (copy > 1)
                    holder->replicas++;
                else if (part->end - part->begin == placement->layouts[layer].inner)
                    holder->experts++;
                else
                    holder->slices++;
            }
        }
    for (uint32_t h = 0; h < placement->holders; h++) {
        held[h].bytes = placement->held[h].bytes;
        held[h].spilled_bytes = placement->held[h].spilled_bytes;
    }
}

/* What the coordinator does itself wherever experts are, and all that it does. */
static double fixed_seconds(const struct cost_parts *parts, double head_s) {
    return parts->dense + parts->attention + parts->router + parts->shared + head_s;
}

static double own_seconds(const struct cost_parts *parts, double head_s) {
    return fixed_seconds(parts, head_s) + parts->experts + parts->send + parts->combine;
}

static struct limit find_limit(const struct plan_report *report, const struct forecast *workload) {
    const struct cost_parts *parts = &workload->prediction.parts;
    double own_s = own_seconds(parts, workload->head_s), step_s = own_s + parts->wait;
    struct limit limit = {LIMIT_COORDINATOR, 0, own_s / step_s,
                          workload->step->rows / fixed_seconds(parts, workload->head_s)};
    for (uint32_t h = 1; h < report->workers; h++)
        if (workload->prediction.holders[h].waited_s >
            workload->prediction.holders[limit.holder].waited_s)
            limit.holder = h;
    if (parts->wait <= own_s)
        return limit;
    double largest = fmax(parts->compute, fmax(parts->out + parts->in, parts->round_trip));
    limit.kind = largest == parts->compute      ? LIMIT_WEIGHTS
                 : largest == parts->round_trip ? LIMIT_ROUND_TRIP
                                                : LIMIT_LINK;
    if (limit.kind == LIMIT_WEIGHTS && parts->disk > parts->compute / 2)
        limit.kind = LIMIT_DISK;
    if (limit.kind == LIMIT_LINK && parts->own_link > (parts->out + parts->in) / 2)
        limit.kind = LIMIT_OWN_LINK;
    limit.part = parts->wait / step_s;
    return limit;
}

static void gather_workload(const struct plan_report *report, const char *name,
                            const struct cost_step *step, bool head, struct forecast *out) {
    out->name = name;
    out->step = step;
    planning_predict(report->planning, step, &out->prediction);
    out->head_s = head ? out->prediction.parts.head : 0;
    out->tokens_per_s = step->rows / (out->prediction.step_s + out->head_s);
    out->limit = find_limit(report, out);
}

/* NULL when memory is out. */
static struct gathered *gather(const struct plan_report *report) {
    struct gathered *gathered = calloc(1, sizeof *gathered);
    struct held *held = calloc(report->holders, sizeof *held);
    if (!gathered || !held) {
        free(gathered);
        free(held);
        return NULL;
    }
    gathered->report = report;
    gathered->plan = planning_plan(report->planning);
    gathered->held = held;
    const struct placement *placement = gathered->plan->placement;
    count_held(report, placement, held);
    for (uint32_t h = 0; h < report->holders; h++)
        gathered->spilled_bytes += held[h].spilled_bytes;
    for (uint32_t layer = 0; layer < report->shape->layers; layer++)
        gathered->expert_layers += report->shape->is_expert_layer[layer];
    gather_workload(report, "decode", &report->decode, true, &gathered->decode);
    gather_workload(report, "prefill", &report->prefill, false, &gathered->prefill);
    return gathered;
}

static void free_gathered(struct gathered *gathered) {
    if (gathered)
        free(gathered->held);
    free(gathered);
}

/* ---- Parts of a layer, the same for both outputs. */

struct part {
    const char *key, *label;
    double decode_s, prefill_s; /* of a layer with experts */
};

#define PARTS 12

static uint32_t list_parts(const struct gathered *gathered, struct part out[PARTS]) {
    const struct cost_parts *d = &gathered->decode.prediction.parts;
    const struct cost_parts *p = &gathered->prefill.prediction.parts;
    const struct part parts[PARTS] = {
        {"attention_s", "attention", d->attention, p->attention},
        {"router_s", "router", d->router, p->router},
        {"dispatch_s", "dispatch", d->send, p->send},
        {"shared_s", "shared experts", d->shared, p->shared},
        {"own_experts_s", "routed experts of its own", d->experts, p->experts},
        {"wait_s", "wait for workers", d->wait, p->wait},
        {"combine_s", "combine", d->combine, p->combine},
        {"round_trip_s", "  slowest worker: round trip", d->round_trip, p->round_trip},
        {"out_s", "  bytes to it", d->out, p->out},
        {"compute_s", "  its experts", d->compute, p->compute},
        {"disk_s", "    of that, for its disk", d->disk, p->disk},
        {"in_s", "  bytes back", d->in, p->in},
    };
    for (uint32_t i = 0; i < PARTS; i++) {
        out[i] = parts[i];
        out[i].decode_s /= gathered->expert_layers;
        out[i].prefill_s /= gathered->expert_layers;
    }
    return PARTS;
}

/* ---- As tables. */

static void print_model(const struct gathered *gathered, FILE *stream) {
    const struct plan_report *report = gathered->report;
    char experts[CONFIG_SIZE_TEXT], own[CONFIG_SIZE_TEXT], cache[CONFIG_SIZE_TEXT];
    char memory[CONFIG_SIZE_TEXT];
    fprintf(stream,
            "model        %s, %u layers; experts %s, all else %s, KV cache of %u positions %s\n",
            family_name(report->shape->family), report->shape->layers,
            config_format_size(report->expert_bytes, experts),
            config_format_size(report->outline->own_bytes, own), report->context,
            config_format_size(report->cache_bytes, cache));
    uint64_t offered = 0;
    for (uint32_t h = 0; h < report->workers; h++)
        offered += report->memory_bytes[h];
    fprintf(stream, "machines     %u worker%s with %s", report->workers,
            report->workers == 1 ? "" : "s", config_format_size(offered, memory));
    fprintf(stream, "; coordinator with %s", config_format_size(report->coordinator_bytes, memory));
    if (report->holders > report->workers)
        fprintf(stream, ", of which %s for experts",
                config_format_size(report->memory_bytes[report->workers], memory));
    fprintf(stream, "\n");
}

/* "layers 3-40, 42" of those for which second[layer] is `which`. */
static void print_layers(const struct gathered *gathered, bool which, FILE *stream) {
    const struct plan_report *report = gathered->report;
    const char *separator = " layers ";
    for (uint32_t layer = 0; layer < report->layers; layer++) {
        uint32_t first = layer;
        while (layer < report->layers && report->shape->is_expert_layer[layer] &&
               gathered->plan->second[layer] == which)
            layer++;
        if (layer == first)
            continue;
        fprintf(stream, layer - first > 1 ? "%s%u-%u" : "%s%u", separator, first, layer - 1);
        separator = ", ";
    }
}

static void print_plan(const struct gathered *gathered, FILE *stream) {
    const struct plan *plan = gathered->plan;
    char size[CONFIG_SIZE_TEXT];
    bool mixed = false;
    for (uint32_t layer = 0; layer < gathered->report->layers; layer++)
        mixed |= plan->second[layer];
    fprintf(stream, "placement    %s:", plan->way[0]);
    print_layers(gathered, false, stream);
    if (mixed) {
        fprintf(stream, "\n             %s:", plan->way[1]);
        print_layers(gathered, true, stream);
    }
    char bytes[CONFIG_SIZE_TEXT];
    if (gathered->spilled_bytes)
        fprintf(stream, "\n             of which %s on disks, the experts that are chosen least",
                config_format_size(gathered->spilled_bytes, bytes));
    if (plan->replicas)
        fprintf(stream, "\n             and %u further copies of experts in spare memory",
                plan->replicas);
    if (plan->offloaded_bytes)
        fprintf(stream,
                "\n             and %s of shared experts, dense layers and output head on workers",
                config_format_size(plan->offloaded_bytes, size));
    fprintf(
        stream,
        "\nfan-out      %.2f machines for each token and layer in decode, %.2f in prefill; rows "
        "travel as %s\n",
        gathered->decode.prediction.fanout, gathered->prefill.prediction.fanout,
        wire_format_name(planning_wire(gathered->report->planning)));
}

/* What of a machine's experts lies on its disk. */
static void print_disk(const struct gathered *gathered, uint32_t h, FILE *stream) {
    const struct held *held = &gathered->held[h];
    char bytes[CONFIG_SIZE_TEXT];
    if (held->spilled_bytes == 0)
        return;
    fprintf(
        stream,
        "%-22s %10s %10s of its experts on its disk, which reads %.0f %% of the time in decode, "
        "%.0f %% in prefill\n",
        gathered->report->names[h], "", config_format_size(held->spilled_bytes, bytes),
        100 * gathered->decode.prediction.holders[h].disk_s / gathered->decode.prediction.step_s,
        100 * gathered->prefill.prediction.holders[h].disk_s / gathered->prefill.prediction.step_s);
}

static void print_machines(const struct gathered *gathered, FILE *stream) {
    const struct plan_report *report = gathered->report;
    fprintf(stream, "\n%-22s %10s %10s %8s %7s %9s %12s %13s\n", "machine", "memory", "experts",
            "whole", "slices", "replicas", "decode busy", "prefill busy");
    for (uint32_t h = 0; h < report->holders; h++) {
        const struct held *held = &gathered->held[h];
        char memory[CONFIG_SIZE_TEXT], bytes[CONFIG_SIZE_TEXT];
        fprintf(stream, "%-22s %10s %10s %8u %7u %9u %10.0f %% %11.0f %%\n", report->names[h],
                config_format_size(report->memory_bytes[h], memory),
                config_format_size(held->bytes, bytes), held->experts, held->slices, held->replicas,
                100 * gathered->decode.prediction.holders[h].busy_s /
                    gathered->decode.prediction.step_s,
                100 * gathered->prefill.prediction.holders[h].busy_s /
                    gathered->prefill.prediction.step_s);
    }
    for (uint32_t h = 0; h < report->holders; h++)
        print_disk(gathered, h, stream);
}

static void print_parts(const struct gathered *gathered, FILE *stream) {
    struct part parts[PARTS];
    uint32_t count = list_parts(gathered, parts);
    fprintf(stream, "\n%-30s %14s %14s\n", "a layer with experts", "decode", "prefill");
    fprintf(stream, "%-30s %9u rows %9u rows\n", "", gathered->decode.step->rows,
            gathered->prefill.step->rows);
    if (gathered->prefill.step->micro_batches > 1)
        fprintf(stream, "%-30s %14s %8u parts\n", "", "", gathered->prefill.step->micro_batches);
    for (uint32_t i = 0; i < count; i++)
        if (gathered->spilled_bytes > 0 || strcmp(parts[i].key, "disk_s") != 0)
            fprintf(stream, "%-30s %11.3f ms %11.3f ms\n", parts[i].label, 1e3 * parts[i].decode_s,
                    1e3 * parts[i].prefill_s);
    fprintf(stream, "%-30s %11.3f ms %11.3f ms\n", "all layers",
            1e3 * gathered->decode.prediction.step_s, 1e3 * gathered->prefill.prediction.step_s);
    fprintf(stream, "%-30s %11.3f ms\n", "head", 1e3 * gathered->decode.prediction.parts.head);
}

struct share {
    const char *label;
    double seconds;
};

/* "attention 24 %, router 3 %" of `whole_s`, the largest first, without those that are hardly
 * anything. */
static void print_shares(struct share *shares, uint32_t count, double whole_s, FILE *stream) {
    const char *separator = "";
    for (uint32_t left = count; left > 0; left--) {
        uint32_t largest = 0;
        for (uint32_t i = 1; i < count; i++)
            if (shares[i].seconds > shares[largest].seconds)
                largest = i;
        if (shares[largest].seconds < SHARE_MIN * whole_s)
            return;
        fprintf(stream, "%s%s %.0f %%", separator, shares[largest].label,
                100 * shares[largest].seconds / whole_s);
        shares[largest].seconds = 0;
        separator = ", ";
    }
}

static void print_limit(const struct gathered *gathered, const struct forecast *workload,
                        FILE *stream) {
    const char *name = gathered->report->names[workload->limit.holder];
    switch (workload->limit.kind) {
    case LIMIT_COORDINATOR:
        fprintf(stream, "the coordinator's own work");
        break;
    case LIMIT_WEIGHTS:
        fprintf(stream, "how fast workers %s, mostly %s",
                workload->step->rows > 1 ? "compute" : "read weights", name);
        break;
    case LIMIT_LINK:
        fprintf(stream, "bytes on workers' links, mostly that of %s", name);
        break;
    case LIMIT_OWN_LINK:
        fprintf(stream, "bytes of all workers on the coordinator's own link");
        break;
    case LIMIT_ROUND_TRIP:
        fprintf(stream, "round trips, mostly to %s", name);
        break;
    case LIMIT_DISK:
        fprintf(stream, "how fast disks read experts, mostly that of %s", name);
        break;
    }
}

/* What limits, and what the time of a step goes into. */
static void print_workload(const struct gathered *gathered, const struct forecast *workload,
                           FILE *stream) {
    const struct cost_parts *parts = &workload->prediction.parts;
    double own_s = own_seconds(parts, workload->head_s), step_s = own_s + parts->wait;
    struct share own[] = {
        {"attention", parts->attention},
        {"router", parts->router},
        {"shared experts", parts->shared},
        {"its routed experts", parts->experts},
        {"dense layers", parts->dense},
        {"output head", workload->head_s},
        {"sending and adding up", parts->send + parts->combine},
    };
    struct share worker[] = {
        {"round trips", parts->round_trip},
        {"bytes on links", parts->out + parts->in},
        {"reading its disk", parts->disk},
        {"its experts", parts->compute - parts->disk},
    };
    double worker_s = parts->round_trip + parts->out + parts->in + parts->compute;
    fprintf(stream, "%-12s %.2f tokens/s, at most %.2f with any workers; limited by ",
            workload->name, workload->tokens_per_s, workload->limit.rate_max);
    print_limit(gathered, workload, stream);
    fprintf(stream, "\n%-12s the coordinator works %.0f %% of the time: ", "",
            100 * own_s / step_s);
    print_shares(own, sizeof own / sizeof *own, step_s, stream);
    if (parts->wait >= WAIT_MIN * step_s) {
        fprintf(stream,
                "\n%-12s it waits %.0f %% for workers, mostly for %s, whose own time is: ", "",
                100 * parts->wait / step_s, gathered->report->names[workload->limit.holder]);
        print_shares(worker, sizeof worker / sizeof *worker, worker_s, stream);
    }
    fprintf(stream, "\n");
}

/* ---- What more would give. */

static json_t *name_change(const struct what_if *what) {
    switch (what->change) {
    case WHAT_IF_COORDINATOR:
        return json_string("a coordinator twice as fast");
    case WHAT_IF_LINKS:
        return json_string("links twice as fast");
    default:
        return what->more == 1 ? json_sprintf("one more machine like %s", what->like)
                               : json_sprintf("%u more machines like %s", what->more, what->like);
    }
}

/* The best of further machines, then what else would help. */
static void print_what_ifs(const struct gathered *gathered, FILE *stream) {
    const struct what_ifs *what_ifs = gathered->report->what_ifs;
    const char *heading = "with more";
    for (uint32_t i = 0; i < what_ifs->count; i++) {
        const struct what_if *what = &what_ifs->list[i];
        if (i > 0 && what->change == WHAT_IF_MACHINES)
            continue;
        json_t *name = name_change(what);
        fprintf(stream, "%-12s %s: ", heading, name ? json_string_value(name) : "");
        heading = "";
        json_decref(name);
        if (what->gain > 0)
            fprintf(stream, "decode %.2f -> %.2f tokens/s, prefill %.2f -> %.2f\n",
                    gathered->decode.tokens_per_s, what->decode_tokens_per_s,
                    gathered->prefill.tokens_per_s, what->prefill_tokens_per_s);
        else
            fprintf(stream, "no faster\n");
    }
}

static void print_options(const struct gathered *gathered, FILE *stream) {
    const struct plan *plan = gathered->plan;
    if (plan->option_count < 2)
        return;
    fprintf(stream, "\n%-78s %9s %9s\n", "other ways, in tokens/s", "decode", "prefill");
    for (uint32_t i = 1; i < plan->option_count; i++)
        fprintf(stream, "%-78s %9.2f %9.2f\n", plan->options[i].name,
                plan->options[i].decode_tokens_per_s, plan->options[i].prefill_tokens_per_s);
}

void plan_report_warn_unfit(const struct what_ifs *what_ifs) {
    const struct what_if *what = &what_ifs->list[0];
    if (what->fits)
        log_warning("the model fits with %u more machine%s like %s: decode %.2f tokens/s, prefill "
                    "%.2f",
                    what->more, what->more == 1 ? "" : "s", what->like, what->decode_tokens_per_s,
                    what->prefill_tokens_per_s);
    else
        log_warning("no number of machines like %s makes the model fit", what->like);
}

void plan_report_print(const struct plan_report *report, FILE *stream) {
    struct gathered *gathered = gather(report);
    if (!gathered)
        return;
    print_model(gathered, stream);
    print_plan(gathered, stream);
    print_workload(gathered, &gathered->decode, stream);
    print_workload(gathered, &gathered->prefill, stream);
    print_what_ifs(gathered, stream);
    print_machines(gathered, stream);
    print_parts(gathered, stream);
    print_options(gathered, stream);
    free_gathered(gathered);
}

/* ---- As JSON. */

static json_t *machine_to_json(const struct gathered *gathered, uint32_t h) {
    const struct plan_report *report = gathered->report;
    const struct held *held = &gathered->held[h];
    json_t *machine = json_pack(
        "{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I}", "name", report->names[h], "coordinator",
        h >= report->workers, "memory_bytes", (json_int_t)report->memory_bytes[h], "experts_bytes",
        (json_int_t)held->bytes, "spilled_bytes", (json_int_t)held->spilled_bytes, "experts",
        (json_int_t)held->experts, "slices", (json_int_t)held->slices, "replicas",
        (json_int_t)held->replicas);
    const struct forecast *workloads[] = {&gathered->decode, &gathered->prefill};
    for (int i = 0; machine && i < 2; i++) {
        const struct cost_holder *holder = &workloads[i]->prediction.holders[h];
        json_object_set_new(machine, workloads[i]->name,
                            json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "busy_s", holder->busy_s,
                                      "disk_s", holder->disk_s, "rows", holder->rows, "bytes_out",
                                      holder->out_bytes, "bytes_in", holder->in_bytes, "slowest",
                                      holder->slowest));
    }
    return machine;
}

static json_t *workload_to_json(const struct gathered *gathered, const struct forecast *workload) {
    static const char *const LIMITS[] = {"coordinator", "weights",    "link",
                                         "own link",    "round trip", "disk"};
    const struct limit *limit = &workload->limit;
    struct part parts[PARTS];
    uint32_t count = list_parts(gathered, parts);
    json_t *layer = json_object();
    for (uint32_t i = 0; i < count; i++)
        json_object_set_new(
            layer, parts[i].key,
            json_real(workload == &gathered->decode ? parts[i].decode_s : parts[i].prefill_s));
    bool of_worker = limit->kind != LIMIT_COORDINATOR && limit->kind != LIMIT_OWN_LINK;
    const char *machine = of_worker ? gathered->report->names[limit->holder] : NULL;
    return json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:o, s:{s:s, s:s?, s:f, s:f}}", "rows",
                     (json_int_t)workload->step->rows, "parts",
                     (json_int_t)workload->step->micro_batches, "tokens_per_s",
                     workload->tokens_per_s, "step_s", workload->prediction.step_s, "head_s",
                     workload->prediction.parts.head, "fanout", workload->prediction.fanout,
                     "layer", layer, "limit", "what", LIMITS[limit->kind], "machine", machine,
                     "part", limit->part, "at_most_tokens_per_s", limit->rate_max);
}

static json_t *options_to_json(const struct plan *plan) {
    json_t *list = json_array();
    for (uint32_t i = 1; i < plan->option_count; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:f, s:f}", "placement", plan->options[i].name,
                            "decode_tokens_per_s", plan->options[i].decode_tokens_per_s,
                            "prefill_tokens_per_s", plan->options[i].prefill_tokens_per_s));
    return list;
}

static json_t *what_ifs_to_json(const struct what_ifs *what_ifs) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < what_ifs->count; i++) {
        const struct what_if *what = &what_ifs->list[i];
        json_array_append_new(list, json_pack("{s:o, s:f, s:f, s:b}", "what", name_change(what),
                                              "decode_tokens_per_s", what->decode_tokens_per_s,
                                              "prefill_tokens_per_s", what->prefill_tokens_per_s,
                                              "fits", what->fits));
    }
    return list;
}

json_t *plan_report_unfit_to_json(const struct what_ifs *what_ifs) {
    return json_pack("{s:b, s:o}", "fits", 0, "with_one_more", what_ifs_to_json(what_ifs));
}

/* The way of each layer: an index into "ways", null where it has no experts. */
static json_t *layers_to_json(const struct gathered *gathered) {
    json_t *list = json_array();
    for (uint32_t layer = 0; layer < gathered->report->layers; layer++)
        json_array_append_new(list, gathered->report->shape->is_expert_layer[layer]
                                        ? json_integer(gathered->plan->second[layer])
                                        : json_null());
    return list;
}

json_t *plan_report_to_json(const struct plan_report *report) {
    struct gathered *gathered = gather(report);
    if (!gathered)
        return NULL;
    const struct plan *plan = gathered->plan;
    json_t *machines = json_array();
    for (uint32_t h = 0; h < report->holders; h++)
        json_array_append_new(machines, machine_to_json(gathered, h));
    json_t *memory = json_pack(
        "{s:I, s:I, s:I, s:I}", "experts_bytes", (json_int_t)report->expert_bytes, "own_bytes",
        (json_int_t)report->outline->own_bytes, "cache_bytes", (json_int_t)report->cache_bytes,
        "coordinator_bytes", (json_int_t)report->coordinator_bytes);
    json_t *ways = json_pack("[s]", plan->way[0]);
    if (plan->way[1][0])
        json_array_append_new(ways, json_string(plan->way[1]));
    json_t *object = json_pack(
        "{s:b, s:s, s:o, s:o, s:o, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "fits", 1, "placement",
        plan->options[0].name, "ways", ways, "layers", layers_to_json(gathered), "memory", memory,
        "replicas", (json_int_t)plan->replicas, "offloaded_bytes",
        (json_int_t)plan->offloaded_bytes, "tried", (json_int_t)plan->tried, "machines", machines,
        "decode", workload_to_json(gathered, &gathered->decode), "prefill",
        workload_to_json(gathered, &gathered->prefill), "alternatives", options_to_json(plan),
        "with_one_more", what_ifs_to_json(report->what_ifs));
    free_gathered(gathered);
    return object;
}
