/* The search is a list of tries, each a scheme with the speeds by which work is divided: fill a
 * placement, predict it, keep the best. First all holders, in every number of teams and with units
 * from groups to single experts; then only the holders that are worth it; then, from the best,
 * shares moved between holders, layers mixed with the second best, and replicas. The order is fixed
 * and bounded by a number of tries, so the same figures give the same plan. */
#include "coordinator/planner.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cluster_limits.h"
#include "common/log.h"
#include "coordinator/offload.h"
#include "coordinator/spilling.h"

#define MIB 1048576.0

/* A balanced workload: an answer of one token for so many of the prompt. */
#define PROMPT_TOKENS_PER_ANSWER_TOKEN 4

/* Steps in which shares are moved between holders, by this factor. */
#define MOVES_MAX       24
#define MOVES_START_MAX 8 /* where the search starts from a plan */
#define MOVE            1.2

/* Ways of an earlier plan that are worth starting from. */
#define START_WAYS_MAX 3

/* Further copies cost memory and time to load, and a mixture of layers is harder to understand:
 * they have to gain so much. */
#define REPLICAS_GAIN 0.01
#define OFFLOAD_GAIN  0.01
#define MIXTURE_GAIN  0.01

/* A way to place all layers. */
struct try {
    struct plan_option option;
    struct scheme schemes[2];
    bool second[LAYERS_MAX]; /* layers that take schemes[1] */
    struct scheme_speeds speeds;
    double spilled_part; /* of what holders may spill, that counts as room */
    bool spills;
    double layer_seconds[LAYERS_MAX]; /* of the workload, predicted */
    uint32_t fastest, slowest;        /* holders, by how long others wait for them */
};

struct search {
    const struct planner_input *input;
    struct plan *plan;
    struct try *best;    /* (PLAN_OPTIONS_MAX) those of plan->options, in the same order */
    struct try *next;    /* being tried */
    double spilled_part; /* of new tries */
    struct cost_prediction decode, prefill;
    /* Of the best way: the part of spare memory that copies took before anything was offloaded, and
     * what is offloaded (rows 0: nothing). */
    double copies_part;
    struct offload_input offload;
    uint64_t unplaced_bytes; /* the least that did not fit */
};

/* ---- What is asked for. */

static struct spilling spilling_of(const struct planner_input *input) {
    return (struct spilling){
        .layouts = input->layouts,
        .is_expert_layer = input->is_expert_layer,
        .layers = input->layers,
        .experts = input->experts,
        .memory_bytes = input->memory_bytes,
        .spill_bytes = input->spill_bytes,
        .disk_rates = input->disk_rates,
        .holders = input->holders,
        .routing = input->routing,
    };
}

/* What each holder can take: capacity (HOLDERS_MAX). */
static void find_capacity(const struct planner_input *input, double spilled_part,
                          uint64_t *capacity) {
    const struct spilling spilling = spilling_of(input);
    spilling_find_capacity(&spilling, spilled_part, capacity);
}

/* Holders that can take anything. Others are machines that are not there, which no plan counts on.
 */
static uint32_t count_able(const struct planner_input *input) {
    uint32_t able = 0;
    for (uint32_t h = 0; h < input->holders; h++)
        able += input->memory_bytes[h] > 0;
    return able ? able : input->holders;
}

static struct scheme_input scheme_input_of(const struct planner_input *input,
                                           const struct scheme *const *by_layer,
                                           const struct scheme_speeds *speeds) {
    return (struct scheme_input){
        .layouts = input->layouts,
        .is_expert_layer = input->is_expert_layer,
        .layers = input->layers,
        .experts = input->experts,
        .memory_bytes = input->memory_bytes,
        .holders = input->holders,
        .routing = input->routing,
        .by_layer = by_layer,
        .speeds = speeds,
    };
}

static uint64_t total_bytes(const struct planner_input *input) {
    const struct scheme_input scheme = scheme_input_of(input, NULL, NULL);
    uint64_t sum = 0;
    for (uint32_t layer = 0; layer < input->layers; layer++)
        sum += scheme_layer_bytes(&scheme, layer);
    return sum;
}

/* Says what is missing; the bytes that found no place where the sum would suffice. */
static enum status refuse(const struct search *search) {
    const struct planner_input *input = search->input;
    if (input->quiet)
        return STATUS_NO_MEMORY;
    uint64_t total = total_bytes(input), offered = 0;
    uint64_t capacity[HOLDERS_MAX];
    find_capacity(input, 1, capacity);
    for (uint32_t h = 0; h < input->holders; h++)
        if (__builtin_add_overflow(offered, capacity[h], &offered))
            offered = UINT64_MAX;
    uint32_t able = count_able(input);
    uint64_t missing = total > offered ? total - offered : search->unplaced_bytes;
    log_error("the routed experts take %.1f MiB and the %u machine%s offer%s %.1f MiB: %.1f MiB "
              "missing; raise --memory or workers' --spill, or add workers",
              (double)total / MIB, able, able == 1 ? "" : "s", able == 1 ? "s" : "",
              (double)offered / MIB, (double)missing / MIB);
    return STATUS_NO_MEMORY;
}

double planner_decode_rate(const struct cost_step *step, const struct cost_prediction *prediction) {
    return step->rows / (prediction->step_s + prediction->parts.head);
}

double planner_prefill_rate(const struct cost_step *step,
                            const struct cost_prediction *prediction) {
    return step->rows / prediction->step_s;
}

/* Seconds of the objective for seconds of one decode step and one prefill step. */
static double weigh(const struct planner_input *input, double decode_s, double prefill_s) {
    double token_s = prefill_s / input->prefill.rows;
    switch (input->objective) {
    case OPTIMIZE_DECODE:
        return decode_s;
    case OPTIMIZE_PREFILL:
        return token_s;
    default:
        return decode_s + PROMPT_TOKENS_PER_ANSWER_TOKEN * token_s;
    }
}

/* ---- Names for people. */

static void name_unit(const struct planner_input *input, uint32_t unit, char *out, size_t bytes) {
    uint32_t group = input->experts / input->groups;
    if (unit == 1)
        snprintf(out, bytes, "single experts");
    else if (unit == group)
        snprintf(out, bytes, "whole groups of %u experts", unit);
    else
        snprintf(out, bytes, "parts of groups of %u experts", unit);
}

/* Holders that have any of a layer's experts, and the most parts that one of them is cut into. */
static void count_layer(const struct planner_input *input, const struct placement *placement,
                        uint32_t layer, uint32_t *machines, uint32_t *slices) {
    bool used[HOLDERS_MAX] = {false};
    *machines = *slices = 0;
    for (uint32_t e = 0; e < input->experts; e++) {
        const struct expert_places *places = placement_find(placement, layer, e);
        uint32_t end = placement_copy_end(places, 0);
        *slices = end > *slices ? end : *slices;
        for (uint32_t i = 0; i < end; i++) {
            *machines += !used[places->parts[i].holder];
            used[places->parts[i].holder] = true;
        }
    }
}

static void name_way(const struct planner_input *input, const struct placement *placement,
                     uint32_t layer, uint32_t unit, char *out, size_t bytes) {
    char units[48];
    uint32_t machines, slices;
    count_layer(input, placement, layer, &machines, &slices);
    name_unit(input, unit, units, sizeof units);
    if (machines == 1)
        snprintf(out, bytes, "all experts on one machine");
    else if (slices == machines)
        snprintf(out, bytes, "every expert sliced over %u machines", machines);
    else if (slices == 1)
        snprintf(out, bytes, "%s on %u machines", units, machines);
    else
        snprintf(out, bytes, "%s in up to %u slices on %u machines", units, slices, machines);
}

/* Names the ways of the layers, each after the first layer that goes by it. */
static void name_ways(const struct planner_input *input, const struct placement *placement,
                      const struct try *try, char ways[2][PLAN_NAME_BYTES], uint32_t counts[2]) {
    counts[0] = counts[1] = 0;
    ways[0][0] = ways[1][0] = '\0';
    for (uint32_t layer = 0; layer < input->layers; layer++) {
        uint32_t which = try->second[layer];
        if (!input->is_expert_layer[layer])
            continue;
        if (counts[which]++ == 0)
            name_way(input, placement, layer, try->schemes[which].unit, ways[which],
                     PLAN_NAME_BYTES);
    }
}

static void name_try(const struct planner_input *input, const struct placement *placement,
                     struct try *try) {
    char ways[2][PLAN_NAME_BYTES];
    uint32_t counts[2];
    name_ways(input, placement, try, ways, counts);
    uint32_t mostly = counts[1] > counts[0];
    memcpy(try->option.name, ways[mostly], PLAN_NAME_BYTES);
    size_t used = strlen(try->option.name);
    if (counts[!mostly])
        used += (size_t)snprintf(try->option.name + used, PLAN_NAME_BYTES - used,
                                 " (%u of %u layers)", counts[mostly], counts[0] + counts[1]);
    uint64_t spilled_bytes = 0;
    for (uint32_t h = 0; h < input->holders; h++)
        spilled_bytes += placement->held[h].spilled_bytes;
    try->spills = spilled_bytes > 0;
    if (try->spills && used < PLAN_NAME_BYTES)
        snprintf(try->option.name + used, PLAN_NAME_BYTES - used, ", %.0f %% on disks",
                 100 * (double)spilled_bytes / (double)placement_bytes(placement));
}

/* Tries that differ in little but numbers, or in a machine that got nothing: only the best of them
 * is worth showing, and worth more tries. */
static bool same_kind(const struct try *a, const struct try *b) {
    const struct scheme *left = &a->schemes[0], *right = &b->schemes[0];
    if (strcmp(a->option.name, b->option.name) == 0)
        return true;
    return a->spills == b->spills && (a->schemes[1].teams > 0) == (b->schemes[1].teams > 0) &&
           left->unit == right->unit && (left->teams == 1) == (right->teams == 1) &&
           (left->members == 1) == (right->members == 1) &&
           (left->teams == left->members) == (right->teams == right->members);
}

/* ---- Trying. */

/* Where micro-batches hide the workers' time altogether, the one with less of it to hide is better
 * by so much. */
#define TIE 5e-4

static void predict(struct search *search, const struct placement *placement, struct try *try) {
    const struct planner_input *input = search->input;
    struct cost_prediction *decode = &search->decode, *prefill = &search->prefill;
    if (!input->costs)
        return;
    cost_model_predict(input->costs, placement, &input->decode, decode);
    cost_model_predict_best(input->costs, placement, input->prefill, prefill);
    double prefill_s = TIE * prefill->undivided_s + (1 - TIE) * prefill->step_s;
    try->option.decode_tokens_per_s = planner_decode_rate(&input->decode, decode);
    try->option.prefill_tokens_per_s = planner_prefill_rate(&input->prefill, prefill);
    try->option.seconds = weigh(input, decode->step_s + decode->parts.head, prefill_s);
    for (uint32_t layer = 0; layer < input->layers; layer++)
        try->layer_seconds[layer] = weigh(input, decode->layer_s[layer], prefill->layer_s[layer]);
    const struct cost_prediction *which = input->objective == OPTIMIZE_PREFILL ? prefill : decode;
    try->fastest = try->slowest = 0;
    for (uint32_t h = 1; h < input->holders; h++) {
        if (which->holders[h].slowest > which->holders[try->slowest].slowest)
            try->slowest = h;
        if (which->holders[h].slowest < which->holders[try->fastest].slowest)
            try->fastest = h;
    }
}

/* Puts search->next among the best. Of several of one kind only the best is kept. Takes over the
 * placement. */
static void keep(struct search *search, struct placement *placement) {
    struct plan *plan = search->plan;
    struct try *best = search->best;
    uint32_t place = 0, end = 0;
    while (place < plan->option_count && best[place].option.seconds <= search->next->option.seconds)
        place++;
    for (uint32_t i = 0; i < place; i++)
        if (same_kind(&best[i], search->next))
            place = PLAN_OPTIONS_MAX;
    if (place >= PLAN_OPTIONS_MAX) {
        placement_destroy(placement);
        return;
    }
    /* What stands from here on moves down by one, over the one of its kind or the last. */
    for (end = place; end < plan->option_count; end++)
        if (same_kind(&best[end], search->next))
            break;
    if (end == plan->option_count && end < PLAN_OPTIONS_MAX)
        plan->option_count++;
    else if (end == PLAN_OPTIONS_MAX)
        end--;
    memmove(best + place + 1, best + place, (end - place) * sizeof *best);
    best[place] = *search->next;
    if (place > 0) {
        placement_destroy(placement);
        return;
    }
    placement_destroy(plan->placement);
    plan->placement = placement;
}

/* Fills a placement as search->next says and keeps it if it is good. Errors: STATUS_NO_MEMORY only
 * where this process is out of memory; what does not fit is passed over. */
static enum status try_next(struct search *search) {
    const struct planner_input *input = search->input;
    const struct scheme *by_layer[LAYERS_MAX];
    struct try *try = search->next;
    for (uint32_t layer = 0; layer < input->layers; layer++)
        by_layer[layer] = &try->schemes[try->second[layer] ? 1 : 0];
    struct scheme_input scheme = scheme_input_of(input, by_layer, &try->speeds);
    const struct spilling spilling = spilling_of(input);
    struct placement *placement;
    uint64_t unplaced_bytes, capacity[HOLDERS_MAX];
    spilling_find_capacity(&spilling, try->spilled_part, capacity);
    scheme.memory_bytes = capacity;
    enum status status = scheme_fill(&scheme, &placement, &unplaced_bytes);
    search->plan->tried++;
    if (status) {
        if (unplaced_bytes && (!search->unplaced_bytes || unplaced_bytes < search->unplaced_bytes))
            search->unplaced_bytes = unplaced_bytes;
        return unplaced_bytes ? STATUS_OK : status;
    }
    if ((status = spilling_mark(&spilling, placement))) {
        placement_destroy(placement);
        return status;
    }
    name_try(input, placement, try);
    try->option.teams = try->schemes[0].teams;
    try->option.members = try->schemes[0].members;
    try->option.unit = try->schemes[0].unit;
    predict(search, placement, try);
    keep(search, placement);
    return STATUS_OK;
}

/* ---- Teams. */

struct ranked {
    uint32_t holder;
    double capability;
};

static int compare_ranks(const void *a, const void *b) {
    const struct ranked *left = a, *right = b;
    if (left->capability != right->capability)
        return left->capability > right->capability ? -1 : 1;
    return left->holder < right->holder ? -1 : 1;
}

/* The part of a layer that each holder could well take: what its speed is of all speeds, or what
 * its memory allows. Best first. */
static void rank_holders(const struct planner_input *input, const struct scheme_speeds *speeds,
                         double spilled_part, struct ranked *out) {
    double total = (double)total_bytes(input), sum = 0;
    uint64_t capacity[HOLDERS_MAX];
    find_capacity(input, spilled_part, capacity);
    for (uint32_t h = 0; h < input->holders; h++)
        if (input->memory_bytes[h] > 0)
            sum += 1 / (speeds->fixed_s[h] + speeds->load_s[h]);
    for (uint32_t h = 0; h < input->holders; h++)
        out[h] = (struct ranked){h, fmin(1 / (speeds->fixed_s[h] + speeds->load_s[h]) / sum,
                                         (double)capacity[h] / total)};
    qsort(out, input->holders, sizeof *out, compare_ranks);
}

/* Deals the first `members` of the ranking to teams that are as equal as can be. */
static void make_teams(const struct planner_input *input, const struct ranked *ranking,
                       uint32_t members, uint32_t teams, uint32_t unit, struct scheme *out) {
    double capability[HOLDERS_MAX] = {0};
    out->teams = teams;
    out->members = members;
    out->unit = unit;
    for (uint32_t h = 0; h < input->holders; h++)
        out->team_of[h] = SCHEME_NO_TEAM;
    for (uint32_t i = 0; i < members; i++) {
        uint32_t weakest = 0;
        for (uint32_t t = 1; t < teams; t++)
            if (capability[t] < capability[weakest])
                weakest = t;
        out->team_of[ranking[i].holder] = i < teams ? i : weakest;
        capability[i < teams ? i : weakest] += ranking[i].capability;
    }
}

/* Units to try with so many teams; returns how many (at most 3). */
static uint32_t list_units(const struct planner_input *input, uint32_t teams, uint32_t units[3]) {
    uint32_t count = 0, group = input->experts / input->groups;
    if (teams == 1 || input->groups == 1) {
        units[count++] = 1;
        return count;
    }
    units[count++] = group;
    uint32_t parts = (teams + input->groups - 1) / input->groups;
    if (parts > 1 && parts < group && group % parts == 0)
        units[count++] = group / parts;
    if (group > 1)
        units[count++] = 1;
    return count;
}

/* ---- The stages of the search. */

static void set_speeds(const struct planner_input *input, uint32_t rows, uint32_t teams,
                       struct scheme_speeds *out) {
    if (input->costs) {
        cost_model_profile(input->costs, rows, teams == 1 ? 1 : 0, out->fixed_s, out->load_s);
        return;
    }
    for (uint32_t h = 0; h < input->holders; h++) {
        out->fixed_s[h] = 0;
        out->load_s[h] = 1;
    }
}

static void open_try(struct search *search) {
    memset(search->next, 0, sizeof *search->next);
    search->next->spilled_part = search->spilled_part;
}

/* One scheme, with work divided for decoding and for prefill, whatever is optimised: what a
 * division reckons with is not all that the prediction does, micro-batches for one. */
static enum status try_scheme(struct search *search, uint32_t members, uint32_t teams,
                              uint32_t unit) {
    const struct planner_input *input = search->input;
    const uint32_t rows[] = {input->decode.rows, input->prefill.rows};
    struct ranked ranking[HOLDERS_MAX];
    enum status status = STATUS_OK;
    for (int i = 0; i < 2 && status == STATUS_OK; i++) {
        open_try(search);
        set_speeds(input, rows[i], teams, &search->next->speeds);
        rank_holders(input, &search->next->speeds, search->spilled_part, ranking);
        make_teams(input, ranking, members, teams, unit, &search->next->schemes[0]);
        status = try_next(search);
    }
    return status;
}

/* In every number of teams that is worth a try. */
static enum status try_members(struct search *search, uint32_t members) {
    const struct planner_input *input = search->input;
    const uint32_t counts[] = {1, 2, 3, 4, 6, 8, 12, 16, 32, 64, input->groups, members};
    enum status status = STATUS_OK;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        uint32_t units[3], teams = counts[i];
        bool seen = teams > members;
        for (size_t j = 0; j < i; j++)
            seen |= counts[j] == teams;
        uint32_t unit_count = seen ? 0 : list_units(input, teams, units);
        for (uint32_t u = 0; status == STATUS_OK && u < unit_count; u++)
            status = try_scheme(search, members, teams, units[u]);
    }
    return status;
}

/* Fewer holders: the best ones, as long as their memory may suffice. */
static enum status try_fewer(struct search *search) {
    uint32_t holders = count_able(search->input), step = (holders + 7) / 8;
    enum status status = STATUS_OK;
    for (uint32_t members = holders; status == STATUS_OK && members > step;) {
        members -= step;
        status = try_members(search, members);
    }
    return status;
}

/* Moves work away from the holder that others wait for, to the one that is waited for least, as
 * long as that helps. */
static enum status move_shares(struct search *search) {
    enum status status = STATUS_OK;
    bool blocked = false;
    uint32_t moves_max = search->input->start ? MOVES_START_MAX : MOVES_MAX;
    for (uint32_t move = 0; move < moves_max && status == STATUS_OK && !blocked; move++) {
        const struct try *best = &search->best[0];
        double before = best->option.seconds;
        *search->next = *best;
        if (move % 2)
            search->next->speeds.load_s[best->fastest] /= MOVE;
        else
            search->next->speeds.load_s[best->slowest] *= MOVE;
        status = try_next(search);
        blocked = move % 2 && search->best[0].option.seconds >= before;
    }
    return status;
}

static bool same_scheme(const struct planner_input *input, const struct scheme *a,
                        const struct scheme *b) {
    return a->teams == b->teams && a->unit == b->unit &&
           memcmp(a->team_of, b->team_of, input->holders * sizeof *a->team_of) == 0;
}

/* Whether the best of both for each layer is predicted to be worth it. */
static bool mixture_gains(const struct search *search, const struct try *second) {
    const struct try *first = &search->best[0];
    double gain = 0;
    for (uint32_t layer = 0; layer < search->input->layers; layer++)
        gain += fmax(0, first->layer_seconds[layer] - second->layer_seconds[layer]);
    return gain > MIXTURE_GAIN * first->option.seconds;
}

/* The better way for each layer out of the best one and each other: layers differ in formats and
 * popularity. */
static enum status mix_layers(struct search *search) {
    const struct planner_input *input = search->input;
    enum status status = STATUS_OK;
    for (uint32_t other = 1; status == STATUS_OK && other < search->plan->option_count; other++) {
        const struct try *first = &search->best[0], *second = &search->best[other];
        uint32_t better = 0;
        if (same_scheme(input, &first->schemes[0], &second->schemes[0]))
            continue;
        *search->next = *first;
        search->next->schemes[1] = second->schemes[0];
        for (uint32_t layer = 0; layer < input->layers; layer++) {
            bool take = input->is_expert_layer[layer] &&
                        second->layer_seconds[layer] < first->layer_seconds[layer];
            search->next->second[layer] = take;
            better += take;
        }
        if (better && mixture_gains(search, second))
            status = try_next(search);
    }
    return status;
}

/* ---- What all rows meet. */

/* The best way again; `by_layer` is filled for it. */
static struct scheme_input best_scheme(const struct search *search,
                                       const struct scheme *by_layer[LAYERS_MAX]) {
    const struct try *best = &search->best[0];
    for (uint32_t layer = 0; layer < search->input->layers; layer++)
        by_layer[layer] = &best->schemes[best->second[layer] ? 1 : 0];
    return scheme_input_of(search->input, by_layer, &best->speeds);
}

/* Fills it, with copies and what was chosen to be offloaded, which go to memory only. */
static enum status fill_best(struct search *search, struct placement **out) {
    const struct scheme *by_layer[LAYERS_MAX];
    struct scheme_input scheme = best_scheme(search, by_layer);
    const struct spilling spilling = spilling_of(search->input);
    uint64_t unplaced_bytes, capacity[HOLDERS_MAX];
    spilling_find_capacity(&spilling, search->best[0].spilled_part, capacity);
    scheme.memory_bytes = capacity;
    enum status status = scheme_fill(&scheme, out, &unplaced_bytes);
    if (status)
        return status;
    status = spilling_mark(&spilling, *out);
    scheme.memory_bytes = search->input->memory_bytes;
    if (!status && search->copies_part > 0)
        status = scheme_replicate(&scheme, search->copies_part, true, *out);
    if (!status && search->offload.rows > 0)
        status = offload_fill(&search->offload, *out);
    if (status)
        placement_destroy(*out);
    return status;
}

/* Takes the placement, which goes the best way with more to it, in place of that. */
static void replace_best(struct search *search, struct placement *placement) {
    search->best[0] = *search->next;
    placement_destroy(search->plan->placement);
    search->plan->placement = placement;
}

/* The best way with what is offloaded so; stays if it gains or where that is wanted. */
static enum status try_offload(struct search *search, const struct offload_input *offload) {
    const struct offload_input before = search->offload;
    struct placement *placement;
    search->offload = *offload;
    enum status status = fill_best(search, &placement);
    if (status)
        return status;
    search->plan->tried++;
    *search->next = search->best[0];
    predict(search, placement, search->next);
    double needed = search->best[0].option.seconds * (before.rows > 0 ? 1 : 1 - OFFLOAD_GAIN);
    if (offload->regardless || search->next->option.seconds < needed) {
        replace_best(search, placement);
    } else {
        search->offload = before;
        placement_destroy(placement);
    }
    return STATUS_OK;
}

/* Divided for either step, among all workers, half of them and so on for each layer; no further
 * than that where the search starts from a plan. */
static enum status offload(struct search *search) {
    const struct planner_input *input = search->input;
    const uint32_t rows[] = {input->decode.rows, input->prefill.rows};
    struct offload_input offload = {.workers = input->workers,
                                    .memory_bytes = input->memory_bytes,
                                    .costs = input->costs,
                                    .rows = rows[0],
                                    .members_max = input->workers,
                                    .regardless = input->offload == OFFLOAD_ALWAYS};
    uint32_t members_min = input->start && input->workers > 1 ? input->workers / 2 : 1;
    enum status status = STATUS_OK;
    if (input->workers == 0 || input->offload == OFFLOAD_NONE)
        return STATUS_OK;
    if (offload.regardless)
        status = try_offload(search, &offload);
    for (int i = 0; i < 2 && input->costs && !offload.regardless; i++)
        for (offload.members_max = input->workers; offload.members_max >= members_min && !status;
             offload.members_max /= 2) {
            offload.rows = rows[i];
            status = try_offload(search, &offload);
        }
    if (!status)
        search->plan->offloaded_bytes = offload_bytes(search->plan->placement);
    return status;
}

/* ---- Replicas. */

static uint32_t count_replicas(const struct planner_input *input,
                               const struct placement *placement) {
    uint32_t replicas = 0;
    for (uint32_t layer = 0; layer < input->layers; layer++)
        for (uint32_t e = 0; e < input->experts; e++) {
            const struct expert_places *places = placement_find(placement, layer, e);
            for (uint32_t i = 1; i < places->count; i++)
                replicas += places->parts[i].begin == 0;
        }
    return replicas;
}

/* Fills the best way once more with further copies in `part` of the spare memory, and takes that if
 * it gains or where copies are wanted. */
static enum status replicate(struct search *search, double part, bool always) {
    const struct planner_input *input = search->input;
    struct try *best = &search->best[0];
    const struct scheme *by_layer[LAYERS_MAX];
    const struct scheme_input scheme = best_scheme(search, by_layer); /* no copies on disks */
    struct placement *placement;
    enum status status = fill_best(search, &placement);
    if (status)
        return status;
    status = scheme_replicate(&scheme, part, always, placement);
    search->plan->tried++;
    *search->next = *best;
    if (status == STATUS_OK)
        predict(search, placement, search->next);
    if (status ||
        (!always && search->next->option.seconds > best->option.seconds * (1 - REPLICAS_GAIN))) {
        placement_destroy(placement);
        return status;
    }
    replace_best(search, placement);
    search->plan->replicas = count_replicas(input, placement);
    return STATUS_OK;
}

static enum status add_replicas(struct search *search) {
    enum planner_replicas replicas = search->input->replicas;
    if (replicas == REPLICAS_SPARE) {
        enum status status = replicate(search, 1, true);
        search->copies_part = 1;
        return status;
    }
    if (replicas == REPLICAS_NONE || !search->input->costs)
        return STATUS_OK;
    enum status status = replicate(search, 1, false);
    return status || search->plan->replicas ? status : replicate(search, 0.25, false);
}

/* ---- All together. */

/* All holders take part by their speed, whatever that costs. */
static enum status plan_kind(struct search *search, enum placement_kind kind) {
    const struct planner_input *input = search->input;
    struct ranked ranking[HOLDERS_MAX];
    bool slices = kind == PLACEMENT_SLICES;
    open_try(search);
    set_speeds(input, input->decode.rows, 1, &search->next->speeds);
    memset(search->next->speeds.fixed_s, 0, sizeof search->next->speeds.fixed_s);
    rank_holders(input, &search->next->speeds, search->spilled_part, ranking);
    uint32_t able = count_able(input);
    make_teams(input, ranking, able, slices ? 1 : able,
               slices || input->groups == 1 ? 1 : input->experts / input->groups,
               &search->next->schemes[0]);
    return try_next(search);
}

static enum status plan_experts(struct search *search) {
    return plan_kind(search, PLACEMENT_EXPERTS);
}

static enum status plan_slices(struct search *search) {
    return plan_kind(search, PLACEMENT_SLICES);
}

static enum status try_all(struct search *search) {
    enum status status = try_members(search, count_able(search->input));
    return status ? status : try_fewer(search);
}

/* The best ways of an earlier plan, on as many holders and on one more; teams of one stay so. */
static enum status try_start(struct search *search) {
    const struct plan *start = search->input->start;
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < start->option_count && i < START_WAYS_MAX; i++) {
        const struct plan_option *way = &start->options[i];
        for (uint32_t more = 0; more < 2 && !status; more++)
            if (way->members + more <= search->input->holders)
                status =
                    try_scheme(search, way->members + more,
                               way->teams + (way->teams == way->members ? more : 0), way->unit);
    }
    return status;
}

/* With memory alone, then with disks: with so much of them as is needed, and with all of it; or
 * only as far as that until something fits. */
static enum status try_disks(struct search *search, enum status (*stage)(struct search *),
                             bool until_it_fits) {
    const struct spilling spilling = spilling_of(search->input);
    const double parts[] = {0, spilling_find_part(&spilling, total_bytes(search->input)), 1};
    enum status status = stage(search);
    for (int i = 1; i < 3 && !status && spilling_is_allowed(&spilling); i++) {
        if (parts[i] <= parts[i - 1] || (until_it_fits && search->plan->option_count > 0))
            continue;
        search->spilled_part = parts[i];
        status = stage(search);
    }
    return status;
}

static enum status search_all(struct search *search) {
    enum status status = try_disks(search, search->input->start ? try_start : try_all, false);
    if (status || search->plan->option_count == 0 || (status = move_shares(search)))
        return status;
    return mix_layers(search);
}

/* What the user is told. */
static void describe_plan(struct search *search) {
    struct plan *plan = search->plan;
    const struct try *best = &search->best[0];
    for (uint32_t i = 0; i < plan->option_count; i++)
        plan->options[i] = search->best[i].option;
    uint32_t counts[2];
    name_ways(search->input, plan->placement, best, plan->way, counts);
    memcpy(plan->second, best->second, sizeof plan->second);
}

enum status planner_plan(const struct planner_input *input, struct plan *out) {
    assert(input->holders > 0 && input->holders <= HOLDERS_MAX && input->layers <= LAYERS_MAX);
    struct plan plan = {.placement = NULL};
    struct search *search = calloc(1, sizeof *search);
    enum status status = STATUS_NO_MEMORY;
    if (!search)
        return status;
    search->input = input;
    search->plan = &plan;
    search->best = calloc(PLAN_OPTIONS_MAX, sizeof *search->best);
    search->next = calloc(1, sizeof *search->next);
    if (!search->best || !search->next)
        goto err_memory;
    if (input->kind == PLACEMENT_AUTO && input->costs)
        status = search_all(search);
    else
        status =
            try_disks(search, input->kind == PLACEMENT_SLICES ? plan_slices : plan_experts, true);
    if (status == STATUS_OK && plan.option_count == 0)
        status = refuse(search);
    /* Copies that are wanted go before what is only faster, others behind. */
    bool copies_first = input->replicas == REPLICAS_SPARE;
    if (status == STATUS_OK && copies_first)
        status = add_replicas(search);
    if (status == STATUS_OK)
        status = offload(search);
    if (status == STATUS_OK && !copies_first)
        status = add_replicas(search);
    if (status == STATUS_OK) {
        describe_plan(search);
        *out = plan;
    } else {
        placement_destroy(plan.placement);
    }
err_memory:
    free(search->best);
    free(search->next);
    free(search);
    return status;
}

void planner_destroy(struct plan *plan) {
    placement_destroy(plan->placement);
    plan->placement = NULL;
}
