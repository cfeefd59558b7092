/* Each change is a planning input with other figures. Planning searches little of what it usually
 * does: the ways that won are unlikely to be others with one machine more. Where that finds nothing
 * better, what there is stays as it is, so a change is never slower. */
#include "coordinator/what_if.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/cluster_limits.h"

/* Figures of two machines of one kind differ by no more than measurements do. */
#define SAME_FIGURE 0.1
/* A gain that is worth saying. */
#define GAIN_MIN 0.005
/* Experts do not divide evenly: so many more machines than the sum of bytes asks for are tried. */
#define FIT_TRIES_MAX 8

/* ---- Kinds of machines. */

static bool is_close(double a, double b) {
    return fabs(a - b) <= SAME_FIGURE * fmax(a, b);
}

static bool is_same_kind(const struct planning_worker *a, const struct planning_worker *b) {
    bool same = is_close((double)a->memory_bytes, (double)b->memory_bytes) &&
                is_close((double)a->spill_bytes, (double)b->spill_bytes) &&
                is_close(a->figures->disk_bytes_per_s, b->figures->disk_bytes_per_s) &&
                is_close(a->figures->read_bytes_per_s, b->figures->read_bytes_per_s) &&
                is_close(a->link->round_trip_s, b->link->round_trip_s) &&
                is_close(a->link->to_bytes_per_s, b->link->to_bytes_per_s) &&
                is_close(a->link->from_bytes_per_s, b->link->from_bytes_per_s);
    for (size_t f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        same &= is_close(a->figures->formats[f].batch_macs_per_s,
                         b->figures->formats[f].batch_macs_per_s);
    return same;
}

/* Numbers of the workers that are the first of their kind; returns how many. */
static uint32_t list_kinds(const struct planning_input *input, uint32_t out[WHAT_IF_KINDS_MAX]) {
    uint32_t count = 0;
    for (uint32_t w = 0; w < input->worker_count && count < WHAT_IF_KINDS_MAX; w++) {
        bool known = !input->workers[w].figures || !input->workers[w].link;
        for (uint32_t i = 0; i < count && !known; i++)
            known = is_same_kind(&input->workers[out[i]], &input->workers[w]);
        if (!known)
            out[count++] = w;
    }
    return count;
}

/* ---- Changed inputs. */

struct changed {
    struct planning_input input;
    struct planning_worker workers[WORKERS_MAX];
    struct link_figures links[WORKERS_MAX];
    struct machine_figures coordinator;
};

static void add_workers(struct changed *changed, uint32_t like, uint32_t more) {
    for (uint32_t i = 0; i < more; i++)
        changed->workers[changed->input.worker_count++] = changed->workers[like];
}

static void speed_up_coordinator(struct changed *changed) {
    struct machine_figures *figures = &changed->coordinator;
    *figures = *changed->input.coordinator;
    figures->read_bytes_per_s *= 2;
    for (size_t f = 0; f < WEIGHT_FORMAT_COUNT; f++) {
        figures->formats[f].decode_bytes_per_s *= 2;
        figures->formats[f].batch_macs_per_s *= 2;
    }
    changed->input.coordinator = figures;
}

static void speed_up_links(struct changed *changed) {
    changed->input.link_bytes_per_s *= 2;
    for (uint32_t w = 0; w < changed->input.worker_count; w++) {
        const struct link_figures *link = changed->workers[w].link;
        if (!link)
            continue;
        changed->links[w] = (struct link_figures){link->round_trip_s / 2, 2 * link->to_bytes_per_s,
                                                  2 * link->from_bytes_per_s};
        changed->workers[w].link = &changed->links[w];
    }
}

/* `input` as it is, with workers that may be changed. The caller frees it. */
static struct changed *copy_input(const struct planning_input *input) {
    struct changed *changed = calloc(1, sizeof *changed);
    if (!changed)
        return NULL;
    changed->input = *input;
    changed->input.quiet = true;
    changed->input.workers = changed->workers;
    memcpy(changed->workers, input->workers, input->worker_count * sizeof *changed->workers);
    return changed;
}

/* ---- Trying. */

static bool find_rates(const struct planning *planning, const struct planning_input *input,
                       struct what_if *out) {
    struct cost_prediction prediction;
    const struct cost_step prefill = planning_prefill(planning);
    if (!planning_predict(planning, &input->decode, &prediction))
        return false;
    out->decode_tokens_per_s = planner_decode_rate(&input->decode, &prediction);
    planning_predict(planning, &prefill, &prediction);
    out->prefill_tokens_per_s = planner_prefill_rate(&prefill, &prediction);
    return true;
}

static double workload_seconds(const struct planning *planning) {
    return planning_plan(planning)->options[0].seconds;
}

/* Plans for what was changed and adds what comes of it to the list. */
static enum status add_change(const struct planning_input *input, const struct planning *planning,
                              struct changed *changed, struct what_if what, struct what_ifs *out) {
    struct planning *other = NULL;
    changed->input.start = planning_plan(planning);
    changed->input.wire = wire_format_name(planning_wire(planning));
    enum status status = planning_create(&changed->input, &other);
    if (status)
        return status;
    what.fits = true;
    what.gain = 1 - workload_seconds(other) / workload_seconds(planning);
    if (what.gain < GAIN_MIN) {
        what.gain = 0;
        find_rates(planning, input, &what);
    } else {
        find_rates(other, &changed->input, &what);
    }
    planning_destroy(other);
    uint32_t place = out->count++;
    for (; what.change == WHAT_IF_MACHINES && place && out->list[place - 1].gain < what.gain;
         place--)
        out->list[place] = out->list[place - 1];
    out->list[place] = what;
    return STATUS_OK;
}

enum status what_if_find(const struct planning_input *input, const struct planning *planning,
                         const char *const *kinds, struct what_ifs *out) {
    uint32_t firsts[WHAT_IF_KINDS_MAX];
    uint32_t machines = input->worker_count < WORKERS_MAX ? list_kinds(input, firsts) : 0;
    struct what_if now;
    enum status status = STATUS_OK;
    memset(out, 0, sizeof *out);
    if (!find_rates(planning, input, &now))
        return STATUS_OK;
    for (uint32_t i = 0; !status && i < machines + 2; i++) {
        struct what_if what = {.change = WHAT_IF_MACHINES};
        struct changed *changed = copy_input(input);
        if (!changed)
            return STATUS_NO_MEMORY;
        if (i < machines) {
            what.like = kinds[firsts[i]];
            what.more = 1;
            add_workers(changed, firsts[i], what.more);
        } else if (i == machines) {
            what.change = WHAT_IF_COORDINATOR;
            speed_up_coordinator(changed);
        } else {
            what.change = WHAT_IF_LINKS;
            speed_up_links(changed);
        }
        status = add_change(input, planning, changed, what, out);
        free(changed);
    }
    return status;
}

/* ---- Fitting. */

static double bytes_taken(const struct planning_worker *worker) {
    return (double)worker->memory_bytes + (double)worker->spill_bytes;
}

/* How many more like worker `like` the sum of bytes asks for, at least 1. */
static double find_least(const struct planning_input *input, uint32_t like) {
    double missing = (double)planning_expert_bytes(input) - (double)input->local_bytes;
    for (uint32_t w = 0; w < input->worker_count; w++)
        missing -= bytes_taken(&input->workers[w]);
    return fmax(1, ceil(missing / bytes_taken(&input->workers[like])));
}

/* Whole groups, every expert sliced, and single experts, on all holders: one of them fits if
 * anything does. */
static void list_plain_ways(const struct planning_input *input, struct plan *out) {
    uint32_t holders = input->worker_count + (input->local_bytes ? 1 : 0);
    uint32_t groups = input->shape->groups;
    const struct plan_option ways[] = {
        {.teams = 1, .members = holders, .unit = 1},
        {.teams = holders, .members = holders, .unit = 1},
        {.teams = groups, .members = holders, .unit = input->shape->experts / groups},
    };
    memset(out, 0, sizeof *out);
    out->option_count = groups > 1 && groups <= holders ? 3 : 2;
    memcpy(out->options, ways, sizeof ways);
}

enum status what_if_fit(const struct planning_input *input, const char *const *kinds,
                        struct what_ifs *out) {
    struct plan ways;
    uint32_t like = 0;
    memset(out, 0, sizeof *out);
    for (uint32_t w = 1; w < input->worker_count; w++)
        if (bytes_taken(&input->workers[w]) > bytes_taken(&input->workers[like]))
            like = w;
    struct what_if *what = &out->list[out->count++];
    *what = (struct what_if){.change = WHAT_IF_MACHINES, .like = kinds[like], .more = 1};
    double least = find_least(input, like);
    for (uint32_t i = 0; i < FIT_TRIES_MAX && !what->fits; i++) {
        struct planning *planning = NULL;
        if (least + i > WORKERS_MAX - input->worker_count)
            return STATUS_OK;
        struct changed *changed = copy_input(input);
        if (!changed)
            return STATUS_NO_MEMORY;
        what->more = (uint32_t)least + i;
        add_workers(changed, like, what->more);
        list_plain_ways(&changed->input, &ways);
        changed->input.start = &ways;
        if (planning_create(&changed->input, &planning) == STATUS_OK) {
            what->fits = true;
            find_rates(planning, &changed->input, what);
        }
        planning_destroy(planning);
        free(changed);
    }
    return STATUS_OK;
}
