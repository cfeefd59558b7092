/* A layer is filled in two steps: units go to teams, the most chosen ones first, each to the team
 * that is then expected to be done first; then each team cuts its experts in quanta, which go one
 * by one to the member that is then done first. Fast machines so get more, and near ones get more
 * than far ones.
 *
 * Memory is spread over the layers: a holder gives to each layer the part of its remaining memory
 * that the layer is of all remaining layers, because a machine that is full early slows down every
 * layer behind. Where units are too coarse for that, what is left over goes wherever there is room.
 */
#include "coordinator/scheme.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/cluster_limits.h"

/* Loads that differ by less are equal: which of them is rounded up must not decide. */
#define EQUAL 1e-9

struct unit {
    uint32_t first; /* expert */
    double load;    /* of all its experts: how many of them a row chooses */
};

struct filling {
    const struct scheme_input *input;
    struct placement *plan;
    double left_bytes; /* of the layers that are still to be placed */
    double room_bytes[HOLDERS_MAX];
    /* Of the layer at hand. */
    uint32_t layer;
    const struct scheme *scheme;
    double allowed_bytes[HOLDERS_MAX];
    uint32_t *team_of; /* (experts) */
    struct unit *units;
    /* Of its teams. */
    uint32_t members[HOLDERS_MAX]; /* holders, one team behind the other */
    uint32_t team_first[HOLDERS_MAX + 1];
    double load[HOLDERS_MAX];
    double team_allowed[HOLDERS_MAX], team_room[HOLDERS_MAX], team_held[HOLDERS_MAX];
};

static uint64_t range_bytes(const struct scheme_input *input, uint32_t layer, uint32_t begin,
                            uint32_t end) {
    const struct shard shard = {layer, 0, begin, end};
    return shard_bytes(&input->layouts[layer], &shard);
}

uint64_t scheme_layer_bytes(const struct scheme_input *input, uint32_t layer) {
    return input->is_expert_layer[layer]
               ? input->experts * range_bytes(input, layer, 0, input->layouts[layer].inner)
               : 0;
}

/* ---- Units to teams. */

static void open_layer(struct filling *filling, uint32_t layer) {
    const struct scheme_input *input = filling->input;
    const struct scheme *scheme = filling->scheme = input->by_layer[layer];
    filling->layer = layer;
    double part = (double)scheme_layer_bytes(input, layer) / filling->left_bytes;
    for (uint32_t t = 0, members = 0; t < scheme->teams; t++) {
        filling->team_first[t] = members;
        filling->load[t] = 0;
        filling->team_allowed[t] = filling->team_room[t] = filling->team_held[t] = 0;
        for (uint32_t h = 0; h < input->holders; h++) {
            if (scheme->team_of[h] != t)
                continue;
            filling->members[members++] = h;
            filling->allowed_bytes[h] = filling->room_bytes[h] * fmin(part, 1);
            filling->team_allowed[t] += filling->allowed_bytes[h];
            filling->team_room[t] += filling->room_bytes[h];
            filling->team_held[t] += (double)filling->plan->held[h].bytes;
        }
        filling->team_first[t + 1] = members;
    }
}

/* When a team is done that divides `load` so that all its members that take part are done at once:
 * those that would begin later than that take none. */
static double team_done_s(const struct filling *filling, uint32_t team, double load) {
    const struct scheme_speeds *speeds = filling->input->speeds;
    double done_s = INFINITY;
    for (bool changed = true; changed;) {
        double rate = 0, before = 0;
        for (uint32_t i = filling->team_first[team]; i < filling->team_first[team + 1]; i++) {
            uint32_t h = filling->members[i];
            if (speeds->fixed_s[h] >= done_s)
                continue;
            rate += 1 / speeds->load_s[h];
            before += speeds->fixed_s[h] / speeds->load_s[h];
        }
        double next_s = (load + before) / rate;
        changed = next_s < done_s * (1 - EQUAL);
        done_s = next_s;
    }
    return done_s;
}

/* The team with room in `room` that is done first with the additional load, of several the one that
 * holds least; `teams` if there is none. */
static uint32_t choose_team(const struct filling *filling, const double *room, double bytes,
                            double load) {
    uint32_t best = filling->scheme->teams;
    double least = INFINITY;
    for (uint32_t t = 0; t < filling->scheme->teams; t++) {
        if (room[t] < bytes)
            continue;
        double done_s = team_done_s(filling, t, filling->load[t] + load);
        bool equal = best < filling->scheme->teams && fabs(done_s - least) <= EQUAL * least;
        if (equal ? filling->team_held[t] >= filling->team_held[best] : done_s >= least)
            continue;
        least = done_s;
        best = t;
    }
    return best;
}

/* Gives the experts [unit->first, + count) to a team; false if none has room. */
static bool give_unit(struct filling *filling, const struct unit *unit, uint32_t count,
                      double expert_bytes) {
    double bytes = count * expert_bytes;
    uint32_t teams = filling->scheme->teams;
    uint32_t team = choose_team(filling, filling->team_allowed, bytes, unit->load);
    if (team == teams)
        team = choose_team(filling, filling->team_room, bytes, unit->load);
    if (team == teams)
        return false;
    filling->load[team] += unit->load;
    filling->team_allowed[team] -= bytes;
    filling->team_room[team] -= bytes;
    filling->team_held[team] += bytes;
    for (uint32_t e = 0; e < count; e++)
        filling->team_of[unit->first + e] = team;
    return true;
}

static double load_of(const struct scheme_input *input, uint32_t layer, uint32_t expert) {
    return input->routing ? (double)routing_probabilities(input->routing, layer)[expert]
                          : 1.0 / input->experts;
}

static int compare_units(const void *a, const void *b) {
    const struct unit *left = a, *right = b;
    if (left->load > right->load * (1 + EQUAL) || right->load > left->load * (1 + EQUAL))
        return left->load > right->load ? -1 : 1;
    return left->first < right->first ? -1 : 1;
}

/* Sorted by falling load. */
static void list_units(const struct scheme_input *input, uint32_t layer, uint32_t unit,
                       struct unit *units) {
    for (uint32_t u = 0; u < input->experts / unit; u++) {
        units[u] = (struct unit){u * unit, 0};
        for (uint32_t e = 0; e < unit; e++)
            units[u].load += load_of(input, layer, u * unit + e);
    }
    qsort(units, input->experts / unit, sizeof *units, compare_units);
}

/* Returns the bytes that found no place. */
static uint64_t give_units(struct filling *filling) {
    const struct scheme_input *input = filling->input;
    uint32_t unit = filling->scheme->unit, layer = filling->layer;
    uint64_t expert_bytes = range_bytes(input, layer, 0, input->layouts[layer].inner);
    list_units(input, layer, unit, filling->units);
    for (uint32_t u = 0; u < input->experts / unit; u++) {
        const struct unit *whole = &filling->units[u];
        if (give_unit(filling, whole, unit, (double)expert_bytes))
            continue;
        for (uint32_t e = 0; e < unit; e++) { /* no team has room for all of it */
            const struct unit single = {whole->first + e, whole->load / unit};
            if (!give_unit(filling, &single, 1, (double)expert_bytes))
                return ((uint64_t)(input->experts / unit - u) * unit - e) * expert_bytes;
        }
    }
    return 0;
}

/* ---- Experts to members. */

/* Bytes that `units` quanta of `experts` experts take (the last one may be cut short). */
static double quanta_bytes(const struct filling *filling, uint32_t experts, uint32_t units) {
    const struct shard_layout *layout = &filling->input->layouts[filling->layer];
    uint64_t end = (uint64_t)units * shard_quantum(layout);
    uint32_t width = end < layout->inner ? (uint32_t)end : layout->inner;
    return width ? experts * (double)range_bytes(filling->input, filling->layer, 0, width) : 0;
}

/* The member with room in `room` that is done first with one more quantum; holders if none. */
static uint32_t choose_member(const struct filling *filling, uint32_t team, const double *room,
                              uint32_t experts, uint32_t all, const uint32_t *units) {
    const struct scheme_speeds *speeds = filling->input->speeds;
    uint32_t holders = filling->input->holders, best = holders;
    double least = INFINITY;
    for (uint32_t h = 0; h < holders; h++) {
        if (filling->scheme->team_of[h] != team ||
            quanta_bytes(filling, experts, units[h] + 1) > room[h])
            continue;
        double done_s =
            speeds->fixed_s[h] + (units[h] + 1) * filling->load[team] / all * speeds->load_s[h];
        bool equal = best < holders && fabs(done_s - least) <= EQUAL * least;
        if (equal ? filling->plan->held[h].bytes >= filling->plan->held[best].bytes
                  : done_s >= least)
            continue;
        least = done_s;
        best = h;
    }
    return best;
}

/* Divides the quanta of the inner dimension among a team's members: units (holders). Returns bytes
 * that found no place. */
static uint64_t cut_experts(const struct filling *filling, uint32_t team, uint32_t experts,
                            uint32_t *units) {
    const struct shard_layout *layout = &filling->input->layouts[filling->layer];
    uint32_t quantum = shard_quantum(layout), all = (layout->inner + quantum - 1) / quantum;
    memset(units, 0, filling->input->holders * sizeof *units);
    for (uint32_t given = 0; given < all; given++) {
        uint32_t h = choose_member(filling, team, filling->allowed_bytes, experts, all, units);
        if (h == filling->input->holders)
            h = choose_member(filling, team, filling->room_bytes, experts, all, units);
        if (h == filling->input->holders)
            return (uint64_t)quanta_bytes(filling, experts, all - given);
        units[h]++;
    }
    return 0;
}

/* Adds the slices of one expert, in the order of holders. */
static enum status add_expert(struct filling *filling, uint32_t expert, const uint32_t *units) {
    const struct shard_layout *layout = &filling->input->layouts[filling->layer];
    uint32_t inner = layout->inner, quantum = shard_quantum(layout), begin = 0;
    enum status status = STATUS_OK;
    for (uint32_t h = 0; status == STATUS_OK && h < filling->input->holders; h++) {
        uint32_t end =
            units[h] * (uint64_t)quantum < inner - begin ? begin + units[h] * quantum : inner;
        if (units[h] == 0)
            continue;
        const struct shard shard = {filling->layer, expert, begin, end};
        status = placement_add(filling->plan, &shard, h);
        begin = end;
    }
    return status;
}

static enum status place_team(struct filling *filling, uint32_t team, uint64_t *unplaced_bytes) {
    const struct scheme_input *input = filling->input;
    uint32_t units[HOLDERS_MAX], experts = 0;
    for (uint32_t e = 0; e < input->experts; e++)
        experts += filling->team_of[e] == team;
    if (experts == 0)
        return STATUS_OK;
    if ((*unplaced_bytes = cut_experts(filling, team, experts, units)))
        return STATUS_NO_MEMORY;
    for (uint32_t e = 0; e < input->experts; e++) {
        enum status status =
            filling->team_of[e] == team ? add_expert(filling, e, units) : STATUS_OK;
        if (status)
            return status;
    }
    return STATUS_OK;
}

static enum status place_layer(struct filling *filling, uint32_t layer, uint64_t *unplaced_bytes) {
    const struct scheme_input *input = filling->input;
    if (!input->is_expert_layer[layer])
        return STATUS_OK;
    open_layer(filling, layer);
    if ((*unplaced_bytes = give_units(filling)))
        return STATUS_NO_MEMORY;
    for (uint32_t team = 0; team < filling->scheme->teams; team++) {
        enum status status = place_team(filling, team, unplaced_bytes);
        if (status)
            return status;
    }
    for (uint32_t h = 0; h < input->holders; h++)
        filling->room_bytes[h] =
            (double)input->memory_bytes[h] - (double)filling->plan->held[h].bytes;
    filling->left_bytes -= (double)scheme_layer_bytes(input, layer);
    return STATUS_OK;
}

enum status scheme_fill(const struct scheme_input *input, struct placement **out,
                        uint64_t *unplaced_bytes) {
    struct filling *filling = calloc(1, sizeof *filling);
    enum status status = STATUS_NO_MEMORY;
    *unplaced_bytes = 0;
    if (!filling)
        return status;
    filling->input = input;
    filling->team_of = calloc(input->experts, sizeof *filling->team_of);
    filling->units = calloc(input->experts, sizeof *filling->units);
    if (!filling->team_of || !filling->units ||
        placement_create(input->layouts, input->layers, input->experts, input->holders,
                         &filling->plan))
        goto err_memory;
    for (uint32_t layer = 0; layer < input->layers; layer++)
        filling->left_bytes += (double)scheme_layer_bytes(input, layer);
    for (uint32_t h = 0; h < input->holders; h++)
        filling->room_bytes[h] = (double)input->memory_bytes[h];
    status = STATUS_OK;
    for (uint32_t layer = 0; status == STATUS_OK && layer < input->layers; layer++)
        status = place_layer(filling, layer, unplaced_bytes);
    if (status)
        placement_destroy(filling->plan);
    else
        *out = filling->plan;
err_memory:
    free(filling->units);
    free(filling->team_of);
    free(filling);
    return status;
}

/* ---- Further copies. */

struct replication {
    const struct scheme_input *input;
    struct placement *plan;
    double spare_bytes[HOLDERS_MAX]; /* for the layer at hand */
    double load[HOLDERS_MAX];
};

static bool is_holder(const struct expert_places *places, uint32_t holder) {
    for (uint32_t i = 0; i < places->count; i++)
        if (places->parts[i].holder == holder)
            return true;
    return false;
}

static double done_s(const struct replication *replication, uint32_t holder, double more) {
    const struct scheme_speeds *speeds = replication->input->speeds;
    return speeds->fixed_s[holder] + (replication->load[holder] + more) * speeds->load_s[holder];
}

static double latest_s(const struct replication *replication, const struct expert_places *places) {
    double latest = 0;
    for (uint32_t i = 0; i < places->count; i++)
        latest = fmax(latest, done_s(replication, places->parts[i].holder, 0));
    return latest;
}

/* The holder without any of the expert that has room for it and is done first with half of its
 * rows; holders if none. */
static uint32_t choose_replica(const struct replication *replication,
                               const struct expert_places *places, double bytes, double load) {
    uint32_t best = replication->input->holders;
    for (uint32_t h = 0; h < replication->input->holders; h++)
        if (replication->spare_bytes[h] >= bytes && !is_holder(places, h) &&
            (best == replication->input->holders ||
             done_s(replication, h, load / 2) < done_s(replication, best, load / 2)))
            best = h;
    return best;
}

/* A copy with the slices of the first one, each on the holder of the next. */
static enum status turn_slices(struct replication *replication, uint32_t layer, uint32_t expert) {
    const struct expert_places *places = placement_find(replication->plan, layer, expert);
    uint32_t count = places->count;
    for (uint32_t i = 0; i < count; i++) {
        const struct placed_shard *part = &places->parts[i];
        if (replication->spare_bytes[places->parts[(i + 1) % count].holder] <
            (double)range_bytes(replication->input, layer, part->begin, part->end))
            return STATUS_OK;
    }
    for (uint32_t i = 0; count > 1 && i < count; i++) {
        const struct placed_shard part = places->parts[i];
        uint32_t holder = places->parts[(i + 1) % count].holder;
        const struct shard shard = {layer, expert, part.begin, part.end};
        replication->spare_bytes[holder] -=
            (double)range_bytes(replication->input, layer, part.begin, part.end);
        enum status status = placement_add(replication->plan, &shard, holder);
        if (status)
            return status;
    }
    return STATUS_OK;
}

static enum status replicate_expert(struct replication *replication, uint32_t layer,
                                    const struct unit *unit, bool always) {
    const struct expert_places *places = placement_find(replication->plan, layer, unit->first);
    uint32_t inner = replication->input->layouts[layer].inner;
    double bytes = (double)range_bytes(replication->input, layer, 0, inner);
    uint32_t holder = choose_replica(replication, places, bytes, unit->load);
    if (holder == replication->input->holders)
        return always ? turn_slices(replication, layer, unit->first) : STATUS_OK;
    /* A holder that is busier anyhow would hardly ever be the one to choose. */
    if (!always && done_s(replication, holder, -unit->load) > latest_s(replication, places))
        return STATUS_OK;
    for (uint32_t i = 0; i < places->count; i++)
        replication->load[places->parts[i].holder] -=
            unit->load / 2 * (places->parts[i].end - places->parts[i].begin) / inner;
    replication->load[holder] += unit->load / 2;
    replication->spare_bytes[holder] -= bytes;
    return placement_add(replication->plan, &(struct shard){layer, unit->first, 0, inner}, holder);
}

static void open_replication(struct replication *replication, uint32_t layer, double part) {
    const struct scheme_input *input = replication->input;
    uint32_t inner = input->layouts[layer].inner;
    for (uint32_t h = 0; h < input->holders; h++) {
        double left = (double)input->memory_bytes[h] - (double)replication->plan->held[h].bytes;
        replication->spare_bytes[h] = left * fmin(part, 1);
        replication->load[h] = 0;
    }
    for (uint32_t e = 0; e < input->experts; e++) {
        const struct expert_places *places = placement_find(replication->plan, layer, e);
        for (uint32_t i = 0; i < places->count; i++)
            replication->load[places->parts[i].holder] +=
                load_of(input, layer, e) * (places->parts[i].end - places->parts[i].begin) / inner;
    }
}

enum status scheme_replicate(const struct scheme_input *input, double part, bool always,
                             struct placement *placement) {
    struct replication replication = {.input = input, .plan = placement};
    struct unit *experts = calloc(input->experts, sizeof *experts);
    enum status status = experts ? STATUS_OK : STATUS_NO_MEMORY;
    double left_bytes = 0;
    for (uint32_t layer = 0; layer < input->layers; layer++)
        left_bytes += (double)scheme_layer_bytes(input, layer);
    for (uint32_t layer = 0; status == STATUS_OK && layer < input->layers; layer++) {
        double bytes = (double)scheme_layer_bytes(input, layer);
        if (bytes == 0)
            continue;
        open_replication(&replication, layer, part * bytes / left_bytes);
        left_bytes -= bytes;
        list_units(input, layer, 1, experts);
        for (uint32_t e = 0; status == STATUS_OK && e < input->experts; e++)
            status = replicate_expert(&replication, layer, &experts[e], always);
    }
    free(experts);
    return status;
}
