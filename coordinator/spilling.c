/* What a shard costs on a disk for each of its bytes is how often it is read, so the order is by
 * probability alone. Where several are as likely, those that are spilled are spread over the
 * layers: a layer's reads go on beside its computing. */
#include "coordinator/spilling.h"

#include <stdlib.h>

#include "common/cluster_limits.h"

/* Of the memory of a holder that spills, for reading into: what stays there need not be read again,
 * but less is there for good. */
#define ROOM_PART 8
/* Units of experts leave holes: so much more than all experts is tried first. */
#define SLACK 1.01
/* Until a part is exact to a millionth. */
#define HALVINGS 20

/* The largest expert, as a worker's buffers take it. */
static uint64_t largest_bytes(const struct spilling *spilling) {
    uint64_t largest = 0;
    for (uint32_t layer = 0; layer < spilling->layers; layer++) {
        const struct shard whole = {.end = spilling->layouts[layer].inner};
        uint64_t bytes = spilling->is_expert_layer[layer]
                             ? SPILL_BUFFER_BYTES(shard_bytes(&spilling->layouts[layer], &whole))
                             : 0;
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}

/* What stays in memory on a holder that spills; 0: it cannot. */
static uint64_t resident_bytes(const struct spilling *spilling, uint32_t holder, uint64_t largest) {
    uint64_t memory = spilling->memory_bytes[holder], room = memory / ROOM_PART;
    if (!spilling->spill_bytes || spilling->spill_bytes[holder] == 0)
        return 0;
    room = room < SPILL_BUFFERS_MIN * largest ? SPILL_BUFFERS_MIN * largest : room;
    return room < memory ? memory - room : 0;
}

bool spilling_is_allowed(const struct spilling *spilling) {
    uint64_t largest = largest_bytes(spilling);
    for (uint32_t h = 0; h < spilling->holders; h++)
        if (resident_bytes(spilling, h, largest) > 0)
            return true;
    return false;
}

static double disk_rate(const struct spilling *spilling, uint32_t holder) {
    double rate = spilling->disk_rates ? spilling->disk_rates[holder] : 0;
    return rate > 0 ? rate : 1;
}

/* How long the slowest disk would be read for all that it may have. */
static double longest_read(const struct spilling *spilling) {
    double longest = 0;
    for (uint32_t h = 0; spilling->spill_bytes && h < spilling->holders; h++) {
        double seconds = (double)spilling->spill_bytes[h] / disk_rate(spilling, h);
        longest = seconds > longest ? seconds : longest;
    }
    return longest;
}

void spilling_find_capacity(const struct spilling *spilling, double part, uint64_t *capacity) {
    uint64_t largest = largest_bytes(spilling);
    double seconds = part * longest_read(spilling);
    for (uint32_t h = 0; h < spilling->holders; h++) {
        uint64_t resident = resident_bytes(spilling, h, largest);
        capacity[h] = spilling->memory_bytes[h];
        if (seconds <= 0 || resident == 0)
            continue;
        double spill = seconds * disk_rate(spilling, h);
        if (spill > (double)spilling->spill_bytes[h])
            spill = (double)spilling->spill_bytes[h];
        /* The last shard that is spilled may be one too many by nearly its size. */
        double with_disk = (double)resident + spill - (double)largest;
        if (with_disk > (double)capacity[h])
            capacity[h] = (uint64_t)with_disk;
    }
}

/* What all holders can take together. */
static double sum_capacity(const struct spilling *spilling, double part) {
    uint64_t capacity[HOLDERS_MAX];
    double sum = 0;
    spilling_find_capacity(spilling, part, capacity);
    for (uint32_t h = 0; h < spilling->holders; h++)
        sum += (double)capacity[h];
    return sum;
}

double spilling_find_part(const struct spilling *spilling, uint64_t total_bytes) {
    double wanted = (double)total_bytes * SLACK, low = 0, high = 1;
    if (sum_capacity(spilling, 0) >= (double)total_bytes)
        return 0;
    for (int i = 0; i < HALVINGS; i++) {
        double middle = (low + high) / 2;
        if (sum_capacity(spilling, middle) >= wanted)
            high = middle;
        else
            low = middle;
    }
    return high;
}

/* A shard of the holder at hand. */
struct candidate {
    double load;
    uint32_t layer, slot;
    uint32_t rank; /* among those of its layer, the coldest first */
};

static int by_layer(const void *a, const void *b) {
    const struct candidate *left = a, *right = b;
    if (left->layer != right->layer)
        return left->layer < right->layer ? -1 : 1;
    if (left->load != right->load)
        return left->load < right->load ? -1 : 1;
    return left->slot > right->slot ? -1 : left->slot < right->slot;
}

static int by_load(const void *a, const void *b) {
    const struct candidate *left = a, *right = b;
    if (left->load != right->load)
        return left->load < right->load ? -1 : 1;
    if (left->rank != right->rank)
        return left->rank < right->rank ? -1 : 1;
    return left->layer < right->layer ? -1 : left->layer > right->layer;
}

/* How often a row asks for the shard. */
static double load_of(const struct spilling *spilling, const struct shard *shard) {
    if (shard->expert >= SHARD_HEAD) /* what all rows meet */
        return 1;
    return spilling->routing
               ? (double)routing_probabilities(spilling->routing, shard->layer)[shard->expert]
               : 1.0 / spilling->experts;
}

/* The holder's shards, the coldest first; how many there are. */
static uint32_t list_candidates(const struct spilling *spilling, const struct holder_shards *held,
                                struct candidate *out) {
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < held->count; slot++) {
        const struct shard *shard = &held->shards[slot];
        if (shard->end > 0)
            out[count++] = (struct candidate){load_of(spilling, shard), shard->layer, slot, 0};
    }
    qsort(out, count, sizeof *out, by_layer);
    for (uint32_t i = 1; i < count; i++)
        out[i].rank = out[i].layer == out[i - 1].layer ? out[i - 1].rank + 1 : 0;
    qsort(out, count, sizeof *out, by_load);
    return count;
}

enum status spilling_mark_holder(const struct spilling *spilling, struct placement *placement,
                                 uint32_t holder) {
    const struct holder_shards *held = &placement->held[holder];
    placement_unspill(placement, holder);
    if (held->bytes <= spilling->memory_bytes[holder])
        return STATUS_OK;
    uint64_t resident = resident_bytes(spilling, holder, largest_bytes(spilling));
    struct candidate *candidates = calloc(held->count, sizeof *candidates);
    enum status status = candidates ? STATUS_OK : STATUS_NO_MEMORY;
    uint32_t count = status ? 0 : list_candidates(spilling, held, candidates);
    for (uint32_t i = 0; i < count && !status && held->bytes - held->spilled_bytes > resident; i++)
        status = placement_spill(placement, holder, candidates[i].slot);
    free(candidates);
    return status;
}

enum status spilling_mark(const struct spilling *spilling, struct placement *placement) {
    enum status status = STATUS_OK;
    for (uint32_t h = 0; h < placement->holders && !status; h++)
        status = spilling_mark_holder(spilling, placement, h);
    return status;
}
