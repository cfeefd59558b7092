/* Greedy, expert by expert in the order of layers. A range that was lost goes to one holder where
 * it fits, since the experts of one token spread over holders anyway; it is cut only where no
 * holder has room for the whole. A copy is laid out on a list first and added to the placement only
 * when it is complete. */
#include "coordinator/repair.h"

#include <stdlib.h>

#include "common/cluster_limits.h"
#include "common/log.h"

/* Pieces of one copy: each holder at most PARTS_PER_HOLDER_MAX times. */
#define PIECES_MAX (HOLDERS_MAX * PARTS_PER_HOLDER_MAX)

struct repair {
    struct placement *placement;
    const struct repair_input *input;
    uint64_t *free_bytes;  /* (holders) */
    uint32_t *free_slots;  /* (holders) */
    uint64_t *added_bytes; /* (holders) */
    uint32_t *parts;       /* (holders) of the copy at hand */
    struct placed_shard pieces[PIECES_MAX];
    uint32_t piece_count;
};

static bool copy_is_held(const struct repair *repair, const struct expert_places *places,
                         uint32_t first) {
    for (uint32_t i = first; i < placement_copy_end(places, first); i++)
        if (!repair->input->can_hold[places->parts[i].holder])
            return false;
    return true;
}

static bool is_held(const struct repair *repair, const struct expert_places *places) {
    for (uint32_t first = 0; first < places->count; first = placement_copy_end(places, first))
        if (copy_is_held(repair, places, first))
            return true;
    return false;
}

/* The copy of which most is left. */
static uint32_t best_copy(const struct repair *repair, const struct expert_places *places) {
    uint32_t best = 0, most = 0;
    for (uint32_t first = 0; first < places->count; first = placement_copy_end(places, first)) {
        uint32_t left = 0;
        for (uint32_t i = first; i < placement_copy_end(places, first); i++)
            if (repair->input->can_hold[places->parts[i].holder])
                left += places->parts[i].end - places->parts[i].begin;
        if (left > most) {
            most = left;
            best = first;
        }
    }
    return best;
}

/* The widest range from `begin` on, up to `end`, that fits `bytes`; 0: none. */
static uint32_t width_that_fits(const struct shard_layout *layout, uint32_t begin, uint32_t end,
                                uint64_t bytes) {
    struct shard shard = {.begin = begin, .end = end};
    if (shard_bytes(layout, &shard) <= bytes)
        return end - begin;
    uint32_t quantum = shard_quantum(layout);
    uint32_t width = (end - begin) / quantum * quantum;
    for (; width > 0; width -= quantum) {
        shard.end = begin + width;
        if (shard_bytes(layout, &shard) <= bytes)
            break;
    }
    return width;
}

/* Who takes [begin, *end): the one that got least so far among those that can take all of it, or
 * else the one that can take most, with *end lowered. UINT32_MAX: nobody can take anything. */
static uint32_t choose_holder(const struct repair *repair, const struct shard_layout *layout,
                              uint32_t begin, uint32_t *end) {
    uint32_t chosen = UINT32_MAX, widest = 0;
    for (uint32_t h = 0; h < repair->placement->holders; h++) {
        if (!repair->input->can_hold[h] || repair->parts[h] == PARTS_PER_HOLDER_MAX ||
            repair->free_slots[h] == 0)
            continue;
        uint32_t width = width_that_fits(layout, begin, *end, repair->free_bytes[h]);
        if (width == 0 || width < widest)
            continue;
        if (width == widest && repair->added_bytes[h] >= repair->added_bytes[chosen])
            continue;
        chosen = h;
        widest = width;
    }
    if (chosen != UINT32_MAX)
        *end = begin + widest;
    return chosen;
}

static void add_piece(struct repair *repair, const struct shard_layout *layout,
                      struct placed_shard piece, bool is_new) {
    const struct shard shard = {.begin = piece.begin, .end = piece.end};
    if (is_new) {
        repair->free_slots[piece.holder]--;
        repair->free_bytes[piece.holder] -= shard_bytes(layout, &shard);
        repair->added_bytes[piece.holder] += shard_bytes(layout, &shard);
    }
    repair->parts[piece.holder]++;
    repair->pieces[repair->piece_count++] = piece;
}

/* Lays out a copy; returns the bytes that found no place. Then nothing was taken. */
static uint64_t lay_out(struct repair *repair, const struct expert_places *places,
                        const struct shard_layout *layout) {
    uint32_t first = best_copy(repair, places), homeless_from = 0, homeless_to = 0;
    for (uint32_t h = 0; h < repair->placement->holders; h++)
        repair->parts[h] = 0;
    repair->piece_count = 0;
    for (uint32_t i = first; i < placement_copy_end(places, first); i++) {
        struct placed_shard part = places->parts[i];
        if (repair->input->can_hold[part.holder]) {
            add_piece(repair, layout, part, false);
            continue;
        }
        for (uint32_t begin = part.begin, end; begin < part.end; begin = end) {
            end = part.end;
            uint32_t holder = choose_holder(repair, layout, begin, &end);
            if (holder == UINT32_MAX) {
                homeless_from = begin;
                homeless_to = part.end;
                break;
            }
            const struct placed_shard piece = {
                .begin = begin, .end = end, .holder = holder, .slot = UINT32_MAX};
            add_piece(repair, layout, piece, true);
        }
        if (homeless_to)
            break;
    }
    if (!homeless_to)
        return 0;
    for (uint32_t i = 0; i < repair->piece_count; i++) {
        const struct placed_shard *piece = &repair->pieces[i];
        const struct shard shard = {.begin = piece->begin, .end = piece->end};
        if (piece->slot != UINT32_MAX)
            continue;
        repair->free_slots[piece->holder]++;
        repair->free_bytes[piece->holder] += shard_bytes(layout, &shard);
        repair->added_bytes[piece->holder] -= shard_bytes(layout, &shard);
    }
    const struct shard homeless = {.begin = homeless_from, .end = homeless_to};
    return shard_bytes(layout, &homeless);
}

static enum status repair_expert(struct repair *repair, uint32_t layer, uint32_t expert,
                                 struct repair_result *result) {
    struct placement *placement = repair->placement;
    const struct expert_places *places = placement_find(placement, layer, expert);
    const struct shard_layout *layout = &placement->layouts[layer];
    if (places->count == 0 || is_held(repair, places))
        return STATUS_OK;
    uint64_t missing = lay_out(repair, places, layout);
    if (missing) {
        result->bytes_missing += missing;
        result->homeless++;
        return STATUS_OK;
    }
    for (uint32_t i = 0; i < repair->piece_count; i++) {
        const struct placed_shard *piece = &repair->pieces[i];
        const struct shard shard = {layer, expert, piece->begin, piece->end};
        if (piece->slot == UINT32_MAX)
            result->bytes_added += shard_bytes(layout, &shard);
        enum status status = placement_add_more(placement, &shard, piece->holder, COPY_REPAIR);
        if (status)
            return status;
    }
    return STATUS_OK;
}

/* One pass over all experts, with room for `capacity` (holders) bytes of shards. */
static enum status repair_within(struct repair *repair, const uint64_t *capacity,
                                 struct repair_result *result) {
    const struct placement *placement = repair->placement;
    enum status status = STATUS_OK;
    result->bytes_missing = result->homeless = 0;
    for (uint32_t h = 0; h < placement->holders; h++) {
        uint64_t held = placement->held[h].bytes;
        repair->free_slots[h] = placement_slots_left(placement, h);
        repair->free_bytes[h] = capacity[h] > held ? capacity[h] - held : 0;
    }
    for (uint32_t layer = 0; !status && layer < placement->layers; layer++)
        for (uint32_t expert = 0; !status && expert < placement->experts; expert++)
            status = repair_expert(repair, layer, expert, result);
    return status;
}

/* Of holders that can hold. */
struct disks {
    struct spilling spilling;
    uint64_t memory_bytes[HOLDERS_MAX], spill_bytes[HOLDERS_MAX], held_bytes[HOLDERS_MAX];
    uint64_t total_bytes; /* that they have */
};

static void list_disks(const struct repair *repair, struct disks *out) {
    const struct repair_input *input = repair->input;
    *out = (struct disks){.spilling = *input->disks};
    out->spilling.memory_bytes = out->memory_bytes;
    out->spilling.spill_bytes = out->spill_bytes;
    for (uint32_t h = 0; h < repair->placement->holders; h++) {
        if (!input->can_hold[h])
            continue;
        out->memory_bytes[h] = input->memory_bytes[h];
        out->spill_bytes[h] = input->disks->spill_bytes[h];
        out->held_bytes[h] = repair->placement->held[h].bytes;
        out->total_bytes += out->held_bytes[h];
    }
}

/* Puts what found no room in memory where disks have some: as much on each as the plan would, or
 * all that they may take where that is not enough. */
static enum status repair_on_disks(struct repair *repair, struct repair_result *result) {
    struct disks disks;
    uint64_t capacity[HOLDERS_MAX];
    enum status status = STATUS_OK;
    list_disks(repair, &disks);
    if (!spilling_is_allowed(&disks.spilling))
        return STATUS_OK;
    const double parts[] = {
        spilling_find_part(&disks.spilling, disks.total_bytes + result->bytes_missing), 1};
    for (int i = 0; i < 2 && !status && result->homeless > 0; i++) {
        spilling_find_capacity(&disks.spilling, parts[i], capacity);
        status = repair_within(repair, capacity, result);
    }
    for (uint32_t h = 0; h < repair->placement->holders && !status; h++) {
        uint64_t bytes = repair->placement->held[h].bytes;
        result->respilled[h] = repair->input->can_hold[h] && bytes > disks.held_bytes[h] &&
                               bytes > disks.memory_bytes[h];
        if (result->respilled[h])
            status = spilling_mark_holder(&disks.spilling, repair->placement, h);
    }
    return status;
}

enum status repair_placement(struct placement *placement, const struct repair_input *input,
                             struct repair_result *out) {
    uint32_t holders = placement->holders;
    struct repair *repair = calloc(1, sizeof *repair);
    uint64_t *bytes = calloc(2 * (size_t)holders, sizeof *bytes);
    uint32_t *parts = calloc(2 * (size_t)holders, sizeof *parts);
    enum status status = repair && bytes && parts ? STATUS_OK : STATUS_NO_MEMORY;
    struct repair_result result = {0};
    if (!status) {
        *repair = (struct repair){.placement = placement,
                                  .input = input,
                                  .free_bytes = bytes,
                                  .added_bytes = bytes + holders,
                                  .parts = parts,
                                  .free_slots = parts + holders};
        status = repair_within(repair, input->memory_bytes, &result);
    }
    if (!status && result.homeless > 0 && input->disks)
        status = repair_on_disks(repair, &result);
    if (status)
        log_error("no memory to find new homes for experts; end other programs");
    else
        *out = result;
    free(parts);
    free(bytes);
    free(repair);
    return status;
}
