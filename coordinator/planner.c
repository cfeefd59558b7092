/* Shares come first: every holder gets the same, except that one whose memory is smaller gets that
 * and the others divide the rest (water-filling). Then each layer is cut to those shares.
 *
 * Whole experts: units (routing groups, or single experts where groups do not fit) go to the holder
 * that is furthest behind its share, so that each layer is spread as evenly as the units allow.
 * Slices: the inner dimension of every expert is cut in proportion to the shares, rounded to the
 * format's quantum with the rounding error carried from layer to layer. */
#include "coordinator/planner.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

#define MIB 1048576.0

/* Planning state; the lists it fills become the placement. */
struct planner {
    const struct planner_input *input;
    struct placement *plan;
    double share[HOLDERS_MAX]; /* of all bytes */
    uint64_t total_bytes;
    uint64_t seen_bytes; /* of the layers planned so far */
};

static uint64_t range_bytes(const struct planner_input *input, uint32_t layer, uint32_t begin,
                            uint32_t end) {
    struct shard shard = {layer, 0, begin, end};
    return shard_bytes(&input->layouts[layer], &shard);
}

static uint64_t layer_bytes(const struct planner_input *input, uint32_t layer) {
    return input->is_expert_layer[layer]
               ? input->experts * range_bytes(input, layer, 0, input->layouts[layer].inner)
               : 0;
}

static uint64_t offered_bytes(const struct planner_input *input) {
    uint64_t sum = 0;
    for (uint32_t h = 0; h < input->holders; h++)
        if (__builtin_add_overflow(sum, input->memory_bytes[h], &sum))
            return UINT64_MAX;
    return sum;
}

/* Says what is missing; `unplaced` bytes found no place although the sum might suffice. */
static enum status refuse(const struct planner *planner, uint64_t unplaced) {
    const struct planner_input *input = planner->input;
    uint64_t offered = offered_bytes(input);
    uint64_t missing = planner->total_bytes > offered ? planner->total_bytes - offered : unplaced;
    log_error(
        "the routed experts take %.1f MiB and the %u worker%s offer %.1f MiB: %.1f MiB missing; "
        "raise --memory or add workers",
        (double)planner->total_bytes / MIB, input->holders, input->holders == 1 ? "" : "s",
        (double)offered / MIB, (double)missing / MIB);
    return STATUS_NO_MEMORY;
}

/* share[h]: equal parts of all bytes, but never more than a holder's memory. */
static enum status fill_shares(struct planner *planner) {
    const struct planner_input *input = planner->input;
    double left = (double)planner->total_bytes;
    uint32_t open = input->holders;
    bool full[HOLDERS_MAX] = {false};
    for (bool changed = true; changed && open;) {
        changed = false;
        double level = left / open;
        for (uint32_t h = 0; h < input->holders; h++) {
            if (full[h] || (double)input->memory_bytes[h] >= level)
                continue;
            planner->share[h] = (double)input->memory_bytes[h] / (double)planner->total_bytes;
            left -= (double)input->memory_bytes[h];
            full[h] = changed = true;
            open--;
        }
    }
    if (open == 0 && left > 0.5)
        return refuse(planner, 0);
    for (uint32_t h = 0; h < input->holders; h++)
        if (!full[h])
            planner->share[h] = left / open / (double)planner->total_bytes;
    return STATUS_OK;
}

/* The holder that is furthest behind its share of `target` bytes and still has room; holders if
 * none. */
static uint32_t most_behind(const struct planner *planner, double target, uint64_t bytes) {
    const struct planner_input *input = planner->input;
    uint32_t best = input->holders;
    double most = 0;
    for (uint32_t h = 0; h < input->holders; h++) {
        if (planner->plan->held[h].bytes + bytes > input->memory_bytes[h])
            continue;
        double behind = planner->share[h] * target - (double)planner->plan->held[h].bytes;
        if (best == input->holders || behind > most) {
            best = h;
            most = behind;
        }
    }
    return best;
}

/* Experts that stay together: a routing group, so that a token visits few holders. Without groups
 * each on its own, so that every layer is spread over all holders and their bandwidths add up. */
static uint32_t unit_experts(const struct planner_input *input) {
    return input->groups > 1 ? input->experts / input->groups : 1;
}

static enum status place_experts(struct planner *planner, uint32_t layer, uint32_t unit) {
    const struct planner_input *input = planner->input;
    uint32_t inner = input->layouts[layer].inner;
    uint64_t expert_bytes = range_bytes(input, layer, 0, inner);
    double target = (double)(planner->seen_bytes + layer_bytes(input, layer));
    for (uint32_t expert = 0; expert < input->experts; expert += unit) {
        uint32_t holder = most_behind(planner, target, expert_bytes * unit);
        for (uint32_t e = expert; e < expert + unit; e++) {
            uint32_t to =
                holder < input->holders ? holder : most_behind(planner, target, expert_bytes);
            if (to == input->holders)
                return refuse(planner,
                              planner->total_bytes - planner->seen_bytes - expert_bytes * e);
            enum status status =
                placement_add(planner->plan, &(struct shard){layer, e, 0, inner}, to);
            if (status)
                return status;
        }
    }
    return STATUS_OK;
}

/* Bytes that `units` quanta of every expert of the layer take (the last one may be cut short). */
static uint64_t units_bytes(const struct planner_input *input, uint32_t layer, uint32_t units) {
    const struct shard_layout *layout = &input->layouts[layer];
    uint64_t end = (uint64_t)units * shard_quantum(layout);
    uint32_t width = end < layout->inner ? (uint32_t)end : layout->inner;
    return width ? input->experts * range_bytes(input, layer, 0, width) : 0;
}

/* Divides the quanta of the inner dimension among the holders, one by one to whoever lacks most of
 * its share after this layer, so that rounding does not add up over layers. */
static enum status cut_units(struct planner *planner, uint32_t layer, uint32_t *units) {
    const struct planner_input *input = planner->input;
    uint32_t quantum = shard_quantum(&input->layouts[layer]);
    uint32_t left = (input->layouts[layer].inner + quantum - 1) / quantum;
    double target = (double)(planner->seen_bytes + layer_bytes(input, layer));
    memset(units, 0, input->holders * sizeof *units);
    for (; left; left--) {
        uint32_t best = input->holders;
        double most = 0;
        for (uint32_t h = 0; h < input->holders; h++) {
            uint64_t held = planner->plan->held[h].bytes;
            if (held + units_bytes(input, layer, units[h] + 1) > input->memory_bytes[h])
                continue;
            double behind = planner->share[h] * target - (double)held -
                            (double)units_bytes(input, layer, units[h]);
            if (best == input->holders || behind > most) {
                best = h;
                most = behind;
            }
        }
        if (best == input->holders)
            return refuse(planner, planner->total_bytes - planner->seen_bytes);
        units[best]++;
    }
    return STATUS_OK;
}

static enum status place_slices(struct planner *planner, uint32_t layer) {
    const struct planner_input *input = planner->input;
    uint32_t inner = input->layouts[layer].inner, quantum = shard_quantum(&input->layouts[layer]);
    uint32_t units[HOLDERS_MAX];
    enum status status = cut_units(planner, layer, units);
    for (uint32_t expert = 0; status == STATUS_OK && expert < input->experts; expert++) {
        uint32_t begin = 0;
        for (uint32_t h = 0; status == STATUS_OK && h < input->holders; h++) {
            uint32_t end = units[h] * quantum < inner - begin ? begin + units[h] * quantum : inner;
            if (end > begin)
                status =
                    placement_add(planner->plan, &(struct shard){layer, expert, begin, end}, h);
            begin = end;
        }
    }
    return status;
}

static enum status place_layer(struct planner *planner, uint32_t layer) {
    const struct planner_input *input = planner->input;
    if (!input->is_expert_layer[layer])
        return STATUS_OK;
    enum status status = input->kind == PLACEMENT_SLICES
                             ? place_slices(planner, layer)
                             : place_experts(planner, layer, unit_experts(input));
    planner->seen_bytes += layer_bytes(input, layer);
    return status;
}

enum status planner_plan(const struct planner_input *input, struct placement **out) {
    struct planner planner = {.input = input};
    enum status status = placement_create(input->layouts, input->layers, input->experts,
                                          input->holders, &planner.plan);
    if (status)
        return status;
    for (uint32_t layer = 0; layer < input->layers; layer++)
        planner.total_bytes += layer_bytes(input, layer);
    status = fill_shares(&planner);
    for (uint32_t layer = 0; status == STATUS_OK && layer < input->layers; layer++)
        status = place_layer(&planner, layer);
    if (status) {
        placement_destroy(planner.plan);
        return status;
    }
    *out = planner.plan;
    return STATUS_OK;
}
