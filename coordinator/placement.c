/* Shares come first: every holder gets the same, except that one whose memory is smaller gets that
 * and the others divide the rest (water-filling). Then each layer is cut to those shares.
 *
 * Whole experts: units (routing groups, or single experts where groups do not fit) go to the holder
 * that is furthest behind its share, so that each layer is spread as evenly as the units allow.
 * Slices: the inner dimension of every expert is cut in proportion to the shares, rounded to the
 * format's quantum with the rounding error carried from layer to layer. */
#include "coordinator/placement.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

#define MIB 1048576.0

/* Planning state; the lists it fills become the placement. */
struct planner {
    const struct placement_input *input;
    struct placement *plan;
    double share[WORKERS_MAX]; /* of all bytes */
    uint64_t total_bytes;
    uint64_t seen_bytes; /* of the layers planned so far */
    uint32_t placed_count, placed_capacity;
    uint32_t capacity[WORKERS_MAX]; /* of plan->shards[holder] */
};

void placement_destroy(struct placement *placement) {
    if (!placement)
        return;
    for (uint32_t h = 0; placement->shards && h < placement->holders; h++)
        free(placement->shards[h]);
    free(placement->shards);
    free(placement->slots);
    free(placement->bytes);
    free(placement->first);
    free(placement->placed);
    free(placement);
}

static struct placement *create_empty(const struct placement_input *input) {
    struct placement *plan = calloc(1, sizeof *plan);
    if (!plan)
        return NULL;
    plan->layers = input->layers;
    plan->experts = input->experts;
    plan->holders = input->holders;
    plan->first = calloc((size_t)input->layers * input->experts + 1, sizeof *plan->first);
    plan->shards = calloc(input->holders, sizeof *plan->shards);
    plan->slots = calloc(input->holders, sizeof *plan->slots);
    plan->bytes = calloc(input->holders, sizeof *plan->bytes);
    if (plan->first && plan->shards && plan->slots && plan->bytes)
        return plan;
    placement_destroy(plan);
    return NULL;
}

static uint64_t range_bytes(const struct placement_input *input, uint32_t layer, uint32_t begin,
                            uint32_t end) {
    struct shard shard = {layer, 0, begin, end};
    return shard_bytes(&input->layouts[layer], &shard);
}

static uint64_t layer_bytes(const struct placement_input *input, uint32_t layer) {
    return input->is_expert_layer[layer]
               ? input->experts * range_bytes(input, layer, 0, input->layouts[layer].inner)
               : 0;
}

/* Makes room for one more item in a list that doubles. */
static bool grow(void **list, uint32_t count, uint32_t *capacity, size_t item_bytes) {
    if (count < *capacity)
        return true;
    uint32_t wanted = *capacity ? *capacity * 2 : 64;
    void *larger = realloc(*list, wanted * item_bytes);
    if (!larger)
        return false;
    *list = larger;
    *capacity = wanted;
    return true;
}

/* Gives [begin, end) of the expert to `holder`. Called in order of layer, expert, begin. */
static enum status add_shard(struct planner *planner, uint32_t layer, uint32_t expert,
                             uint32_t begin, uint32_t end, uint32_t holder) {
    struct placement *plan = planner->plan;
    uint32_t slot = plan->slots[holder];
    if (!grow((void **)&plan->placed, planner->placed_count, &planner->placed_capacity,
              sizeof *plan->placed) ||
        !grow((void **)&plan->shards[holder], slot, &planner->capacity[holder],
              sizeof **plan->shards))
        return STATUS_NO_MEMORY;
    plan->placed[planner->placed_count++] = (struct placed_shard){begin, end, holder, slot};
    plan->shards[holder][slot] = (struct shard){layer, expert, begin, end};
    plan->slots[holder]++;
    plan->bytes[holder] += range_bytes(planner->input, layer, begin, end);
    plan->first[(size_t)layer * plan->experts + expert + 1] = planner->placed_count;
    return STATUS_OK;
}

static uint64_t offered_bytes(const struct placement_input *input) {
    uint64_t sum = 0;
    for (uint32_t h = 0; h < input->holders; h++)
        if (__builtin_add_overflow(sum, input->memory_bytes[h], &sum))
            return UINT64_MAX;
    return sum;
}

/* Says what is missing; `unplaced` bytes found no place although the sum might suffice. */
static enum status refuse(const struct planner *planner, uint64_t unplaced) {
    const struct placement_input *input = planner->input;
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
    const struct placement_input *input = planner->input;
    double left = (double)planner->total_bytes;
    uint32_t open = input->holders;
    bool full[WORKERS_MAX] = {false};
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
    const struct placement_input *input = planner->input;
    uint32_t best = input->holders;
    double most = 0;
    for (uint32_t h = 0; h < input->holders; h++) {
        if (planner->plan->bytes[h] + bytes > input->memory_bytes[h])
            continue;
        double behind = planner->share[h] * target - (double)planner->plan->bytes[h];
        if (best == input->holders || behind > most) {
            best = h;
            most = behind;
        }
    }
    return best;
}

/* Experts that stay together: a routing group, so that a token visits few holders. Without groups
 * each on its own, so that every layer is spread over all holders and their bandwidths add up. */
static uint32_t unit_experts(const struct placement_input *input) {
    return input->groups > 1 ? input->experts / input->groups : 1;
}

static enum status place_experts(struct planner *planner, uint32_t layer, uint32_t unit) {
    const struct placement_input *input = planner->input;
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
            enum status status = add_shard(planner, layer, e, 0, inner, to);
            if (status)
                return status;
        }
    }
    return STATUS_OK;
}

/* Bytes that `units` quanta of every expert of the layer take (the last one may be cut short). */
static uint64_t units_bytes(const struct placement_input *input, uint32_t layer, uint32_t units) {
    const struct shard_layout *layout = &input->layouts[layer];
    uint64_t end = (uint64_t)units * shard_quantum(layout);
    uint32_t width = end < layout->inner ? (uint32_t)end : layout->inner;
    return width ? input->experts * range_bytes(input, layer, 0, width) : 0;
}

/* Divides the quanta of the inner dimension among the holders, one by one to whoever lacks most of
 * its share after this layer, so that rounding does not add up over layers. */
static enum status cut_units(struct planner *planner, uint32_t layer, uint32_t *units) {
    const struct placement_input *input = planner->input;
    uint32_t quantum = shard_quantum(&input->layouts[layer]);
    uint32_t left = (input->layouts[layer].inner + quantum - 1) / quantum;
    double target = (double)(planner->seen_bytes + layer_bytes(input, layer));
    memset(units, 0, input->holders * sizeof *units);
    for (; left; left--) {
        uint32_t best = input->holders;
        double most = 0;
        for (uint32_t h = 0; h < input->holders; h++) {
            uint64_t held = planner->plan->bytes[h];
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
    const struct placement_input *input = planner->input;
    uint32_t inner = input->layouts[layer].inner, quantum = shard_quantum(&input->layouts[layer]);
    uint32_t units[WORKERS_MAX];
    enum status status = cut_units(planner, layer, units);
    for (uint32_t expert = 0; status == STATUS_OK && expert < input->experts; expert++) {
        uint32_t begin = 0;
        for (uint32_t h = 0; status == STATUS_OK && h < input->holders; h++) {
            uint32_t end = units[h] * quantum < inner - begin ? begin + units[h] * quantum : inner;
            if (end > begin)
                status = add_shard(planner, layer, expert, begin, end, h);
            begin = end;
        }
    }
    return status;
}

static enum status place_layer(struct planner *planner, uint32_t layer) {
    const struct placement_input *input = planner->input;
    enum status status = STATUS_OK;
    uint32_t *first = planner->plan->first + (size_t)layer * input->experts;
    first[0] = planner->placed_count;
    if (!input->is_expert_layer[layer])
        for (uint32_t e = 0; e < input->experts; e++)
            first[e + 1] = planner->placed_count;
    else if (input->kind == PLACEMENT_SLICES)
        status = place_slices(planner, layer);
    else
        status = place_experts(planner, layer, unit_experts(input));
    planner->seen_bytes += layer_bytes(input, layer);
    return status;
}

enum status placement_create(const struct placement_input *input, struct placement **out) {
    struct planner planner = {.input = input, .plan = create_empty(input)};
    if (!planner.plan)
        return STATUS_NO_MEMORY;
    for (uint32_t layer = 0; layer < input->layers; layer++)
        planner.total_bytes += layer_bytes(input, layer);
    enum status status = fill_shares(&planner);
    for (uint32_t layer = 0; status == STATUS_OK && layer < input->layers; layer++)
        status = place_layer(&planner, layer);
    if (status) {
        placement_destroy(planner.plan);
        return status;
    }
    *out = planner.plan;
    return STATUS_OK;
}
