/* Lists that grow by doubling: planning a model of 100,000 shards takes milliseconds, and a holder
 * that is lost or comes back changes a few lists and leaves the others alone. Two copies share a
 * slot only if they are of one expert, so the lists of that say whether a slot is used. */
#include "coordinator/placement.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/cluster_limits.h"

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
        free(placement->held[h].orders);
        free(placement->held[h].vacant);
        free(placement->held[h].released);
        free(placement->held[h].spilled);
    }
    free(placement->experts_at);
    free(placement->held);
    free(placement);
}

/* Makes room for `more` items. */
static bool grow(void **list, uint32_t count, uint32_t more, uint32_t *capacity,
                 size_t item_bytes) {
    uint32_t wanted = *capacity ? *capacity : 2;
    if (count + more <= *capacity)
        return true;
    while (wanted < count + more)
        wanted *= 2;
    void *larger = realloc(*list, wanted * item_bytes);
    if (!larger)
        return false;
    *list = larger;
    *capacity = wanted;
    return true;
}

/* Makes room for one more slot. */
static bool grow_slots(struct holder_shards *held) {
    uint32_t capacity = held->capacity;
    return grow((void **)&held->orders, held->count, 1, &capacity, sizeof *held->orders) &&
           grow((void **)&held->shards, held->count, 1, &held->capacity, sizeof *held->shards);
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

/* Puts the shard into a vacant slot of the holder, for which there has to be room. */
static uint32_t take_slot(struct placement *placement, const struct shard *shard, uint32_t holder) {
    struct holder_shards *held = &placement->held[holder];
    uint32_t slot = held->vacant_count ? held->vacant[--held->vacant_count] : held->count++;
    held->shards[slot] = *shard;
    held->orders[slot] = held->placed++;
    held->bytes += placement_shard_bytes(placement, shard);
    return slot;
}

enum status placement_add_more(struct placement *placement, const struct shard *shard,
                               uint32_t holder, enum copy_origin origin) {
    assert(holder < placement->holders && shard->begin < shard->end);
    struct expert_places *places = places_of(placement, shard->layer, shard->expert);
    struct holder_shards *held = &placement->held[holder];
    assert(shard->begin == 0 || (shard->expert >= SHARD_HEAD && places->count == 0) ||
           (places->count > 0 && places->parts[places->count - 1].end == shard->begin));
    if (!grow((void **)&places->parts, places->count, 1, &places->capacity,
              sizeof *places->parts) ||
        !grow_slots(held))
        return STATUS_NO_MEMORY;
    uint32_t slot = find_slot(places, shard, holder);
    if (slot == UINT32_MAX)
        slot = take_slot(placement, shard, holder);
    places->parts[places->count++] = (struct placed_shard){
        .begin = shard->begin,
        .end = shard->end,
        .holder = holder,
        .slot = slot,
        .order = held->orders[slot],
        .origin = (uint8_t)origin,
    };
    return STATUS_OK;
}

enum status placement_add(struct placement *placement, const struct shard *shard, uint32_t holder) {
    return placement_add_more(placement, shard, holder, COPY_PLANNED);
}

static void release_slot(struct placement *placement, uint32_t holder, uint32_t slot) {
    struct holder_shards *held = &placement->held[holder];
    assert(!placement_is_spilled(placement, holder, slot));
    held->bytes -= placement_shard_bytes(placement, &held->shards[slot]);
    held->shards[slot] = (struct shard){0};
    held->vacant[held->vacant_count++] = slot;
    held->released[held->released_count++] = slot;
}

enum status placement_remove(struct placement *placement, uint32_t layer, uint32_t expert,
                             uint32_t first) {
    struct expert_places *places = places_of(placement, layer, expert);
    uint32_t end = placement_copy_end(places, first), count = end - first;
    for (uint32_t i = first; i < end; i++) {
        struct holder_shards *held = &placement->held[places->parts[i].holder];
        if (!grow((void **)&held->vacant, held->vacant_count, count, &held->vacant_capacity,
                  sizeof *held->vacant) ||
            !grow((void **)&held->released, held->released_count, count, &held->released_capacity,
                  sizeof *held->released))
            return STATUS_NO_MEMORY;
    }
    for (; count > 0; count--) {
        const struct placed_shard part = places->parts[first];
        const struct shard shard = {layer, expert, part.begin, part.end};
        places->count--;
        memmove(&places->parts[first], &places->parts[first + 1],
                (places->count - first) * sizeof *places->parts);
        if (find_slot(places, &shard, part.holder) == UINT32_MAX)
            release_slot(placement, part.holder, part.slot);
    }
    return STATUS_OK;
}

void placement_note_use(struct placement *placement, uint32_t layer, uint32_t expert,
                        uint32_t first) {
    places_of(placement, layer, expert)->parts[first].idle = 0;
}

uint32_t placement_slots_left(const struct placement *placement, uint32_t holder) {
    return SHARDS_MAX - placement_shards(placement, holder);
}

uint32_t placement_shards(const struct placement *placement, uint32_t holder) {
    const struct holder_shards *held = &placement->held[holder];
    return held->count - held->vacant_count;
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

void placement_unspill(struct placement *placement, uint32_t holder) {
    struct holder_shards *held = &placement->held[holder];
    free(held->spilled);
    held->spilled = NULL;
    held->spilled_slots = 0;
    held->spilled_bytes = 0;
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
                              const uint32_t *served) {
    for (uint32_t i = first; i < placement_copy_end(places, first); i++)
        if (places->parts[i].order >= served[places->parts[i].holder])
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
