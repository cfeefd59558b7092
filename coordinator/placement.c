/* Lists that grow by doubling: planning a model of 100,000 shards takes milliseconds, and a holder
 * that is lost or comes back changes a few lists and leaves the others alone. */
#include "coordinator/placement.h"

#include <assert.h>
#include <stdlib.h>

enum status placement_create(const struct shard_layout *layouts, uint32_t layers, uint32_t experts,
                             uint32_t holders, struct placement **out) {
    struct placement *placement = calloc(1, sizeof *placement);
    if (!placement)
        return STATUS_NO_MEMORY;
    placement->layouts = layouts;
    placement->layers = layers;
    placement->experts = experts;
    placement->holders = holders;
    placement->experts_at =
        calloc((size_t)layers * (experts + 1u) + 1, sizeof *placement->experts_at);
    placement->held = calloc(holders, sizeof *placement->held);
    if (!placement->experts_at || !placement->held) {
        placement_destroy(placement);
        return STATUS_NO_MEMORY;
    }
    *out = placement;
    return STATUS_OK;
}

void placement_destroy(struct placement *placement) {
    if (!placement)
        return;
    size_t lists = (size_t)placement->layers * (placement->experts + 1u) + 1;
    for (size_t i = 0; placement->experts_at && i < lists; i++)
        free(placement->experts_at[i].parts);
    for (uint32_t h = 0; placement->held && h < placement->holders; h++) {
        free(placement->held[h].shards);
        free(placement->held[h].spilled);
    }
    free(placement->experts_at);
    free(placement->held);
    free(placement);
}

/* Makes room for one more item. */
static bool grow(void **list, uint32_t count, uint32_t *capacity, size_t item_bytes) {
    if (count < *capacity)
        return true;
    uint32_t wanted = *capacity ? *capacity * 2 : 2;
    void *larger = realloc(*list, wanted * item_bytes);
    if (!larger)
        return false;
    *list = larger;
    *capacity = wanted;
    return true;
}

/* The slot in which the holder has just this shard; UINT32_MAX if none. */
static uint32_t find_slot(const struct expert_places *places, const struct shard *shard,
                          uint32_t holder) {
    for (uint32_t i = 0; i < places->count; i++) {
        const struct placed_shard *part = &places->parts[i];
        if (part->holder == holder && part->begin == shard->begin && part->end == shard->end)
            return part->slot;
    }
    return UINT32_MAX;
}

static struct expert_places *places_of(const struct placement *placement, uint32_t layer,
                                       uint32_t expert) {
    size_t by_layer = placement->experts + 1u;
    if (expert == SHARD_HEAD)
        return &placement->experts_at[placement->layers * by_layer];
    return &placement->experts_at[layer * by_layer +
                                  (expert == SHARD_FFN ? placement->experts : expert)];
}

enum status placement_add(struct placement *placement, const struct shard *shard, uint32_t holder) {
    assert(holder < placement->holders && shard->begin < shard->end);
    struct expert_places *places = places_of(placement, shard->layer, shard->expert);
    struct holder_shards *held = &placement->held[holder];
    assert(shard->begin == 0 || (shard->expert >= SHARD_HEAD && places->count == 0) ||
           (places->count > 0 && places->parts[places->count - 1].end == shard->begin));
    if (!grow((void **)&places->parts, places->count, &places->capacity, sizeof *places->parts) ||
        !grow((void **)&held->shards, held->count, &held->capacity, sizeof *held->shards))
        return STATUS_NO_MEMORY;
    uint32_t slot = find_slot(places, shard, holder);
    if (slot == UINT32_MAX) {
        slot = held->count++;
        held->shards[slot] = *shard;
        held->bytes += placement_shard_bytes(placement, shard);
    }
    places->parts[places->count++] = (struct placed_shard){shard->begin, shard->end, holder, slot};
    return STATUS_OK;
}

enum status placement_spill(struct placement *placement, uint32_t holder, uint32_t slot) {
    struct holder_shards *held = &placement->held[holder];
    const struct shard *shard = &held->shards[slot];
    if (!held->spilled) {
        held->spilled = calloc(held->count, sizeof *held->spilled);
        if (!held->spilled)
            return STATUS_NO_MEMORY;
        held->spilled_slots = held->count;
    }
    assert(slot < held->spilled_slots && !held->spilled[slot]);
    held->spilled[slot] = true;
    held->spilled_bytes += shard_bytes(&placement->layouts[shard->layer], shard);
    return STATUS_OK;
}

bool placement_is_spilled(const struct placement *placement, uint32_t holder, uint32_t slot) {
    const struct holder_shards *held = &placement->held[holder];
    return slot < held->spilled_slots && held->spilled[slot];
}

const struct expert_places *placement_find(const struct placement *placement, uint32_t layer,
                                           uint32_t expert) {
    return places_of(placement, layer, expert);
}

uint32_t placement_copy_end(const struct expert_places *places, uint32_t first) {
    uint32_t end = first + 1;
    while (end < places->count && places->parts[end].begin != 0)
        end++;
    return end;
}

bool placement_copy_is_served(const struct expert_places *places, uint32_t first,
                              const uint32_t *slots) {
    for (uint32_t i = first; i < placement_copy_end(places, first); i++)
        if (places->parts[i].slot >= slots[places->parts[i].holder])
            return false;
    return true;
}

size_t placement_shard_bytes(const struct placement *placement, const struct shard *shard) {
    return shard_bytes(shard_layout(placement->layouts, placement->layers, shard), shard);
}

uint64_t placement_bytes(const struct placement *placement) {
    uint64_t bytes = 0;
    for (uint32_t h = 0; h < placement->holders; h++)
        bytes += placement->held[h].bytes;
    return bytes;
}
