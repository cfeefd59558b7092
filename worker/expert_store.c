/* A new assignment is first checked as a whole, then takes over from the old one what it can: a
 * worker that goes from one coordinator to the next with the same model starts at once.
 *
 * The table of slots never moves, so that some can be filled while others are served. It has room
 * for SHARDS_MAX, of which the system backs with memory only what is touched. A slot that holds
 * nothing is all zeros.
 *
 * Releasing is in two steps: nobody may look a slot up any more, and then whoever looked it up
 * before has to be through with it. The service counts when it begins and ends a frame, so it never
 * waits; the release does, for the frame at hand. */
#include "worker/expert_store.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "common/arena.h"
#include "common/cluster_limits.h"
#include "common/kernel/panel.h"
#include "common/log.h"
#include "worker/store_slots.h"

/* How often a release looks whether the frame at hand is over. */
#define RELEASE_INTERVAL_NS 1000000

/* Frees the assignment; the limit stays. */
static void clear(struct expert_store *store) {
    for (uint32_t i = 0; i < store->count; i++)
        slot_drop_storage(&store->slots[i]);
    arena_destroy(store->tables);
    store->tables = NULL;
    store->slots = NULL;
    store->served = NULL;
    store->layouts = NULL;
    store->count = store->held = store->layer_count = 0;
    store->bytes = store->spilled_bytes = 0;
    atomic_store(&store->served_end, 0);
}

enum status expert_store_create(uint64_t memory_bytes, struct expert_store **out) {
    struct expert_store *store = calloc(1, sizeof *store);
    if (!store) {
        log_error("no memory for an expert store; end other programs");
        return STATUS_NO_MEMORY;
    }
    store->memory_bytes = memory_bytes;
    atomic_init(&store->served_end, 0);
    atomic_init(&store->passages, 0);
    atomic_init(&store->cancelled, false);
    *out = store;
    return STATUS_OK;
}

void expert_store_allow_spill(struct expert_store *store, uint64_t bytes) {
    store->spill_bytes = bytes;
}

void expert_store_destroy(struct expert_store *store) {
    if (!store)
        return;
    clear(store);
    free(store);
}

/* A known format whose blocks fill rows of `columns` values. */
static bool format_is_valid(enum weight_format format, uint32_t columns) {
    return (unsigned)format < WEIGHT_FORMAT_COUNT &&
           (!weight_is_blocked(format) || columns % weight_block(format) == 0);
}

static bool layout_is_valid(const struct shard_layout *layout) {
    return layout->hidden >= 1 && layout->hidden <= HIDDEN_MAX && layout->inner >= 1 &&
           layout->inner <= INNER_MAX && format_is_valid(layout->gate, layout->hidden) &&
           format_is_valid(layout->up, layout->hidden) &&
           format_is_valid(layout->down, layout->inner);
}

static bool shard_is_valid(const struct shard_layout *layouts, uint32_t layer_count,
                           const struct shard *shard) {
    if (shard->layer >= layer_count || (shard->expert >= EXPERTS_MAX && shard->expert < SHARD_HEAD))
        return false;
    const struct shard_layout *layout = shard_layout(layouts, layer_count, shard);
    if (!layout_is_valid(layout) || shard->begin >= shard->end || shard->end > layout->inner)
        return false;
    uint32_t quantum = shard_quantum(layout);
    return shard->begin % quantum == 0 &&
           (shard->end % quantum == 0 || shard->end == layout->inner);
}

/* What an assignment takes. */
struct demand {
    uint64_t bytes, spilled_bytes; /* in memory, on the disk */
    uint64_t buffers_bytes;        /* of memory, to read what is on the disk */
};

static void add_demand(struct demand *demand, uint64_t bytes, bool spilled) {
    uint64_t buffers_bytes = SPILL_BUFFERS_MIN * SPILL_BUFFER_BYTES(bytes);
    if (!spilled) {
        demand->bytes += bytes;
        return;
    }
    demand->spilled_bytes += bytes;
    if (buffers_bytes > demand->buffers_bytes)
        demand->buffers_bytes = buffers_bytes;
}

static enum status check_demand(const struct expert_store *store, const struct demand *demand) {
    if (demand->bytes > store->memory_bytes) {
        log_error("the assignment takes %" PRIu64 " bytes, %" PRIu64
                  " more than this worker's limit of %" PRIu64 "; raise --memory or add workers",
                  demand->bytes, demand->bytes - store->memory_bytes, store->memory_bytes);
        return STATUS_NO_MEMORY;
    }
    if (demand->spilled_bytes > store->spill_bytes) {
        log_error("the assignment keeps %" PRIu64 " bytes on the disk, this worker allows %" PRIu64
                  "; raise --spill or add workers",
                  demand->spilled_bytes, store->spill_bytes);
        return STATUS_REFUSED;
    }
    if (demand->buffers_bytes > store->memory_bytes - demand->bytes) {
        log_error("the assignment leaves %" PRIu64 " bytes of this worker's memory to read shards "
                  "from the disk, which need %" PRIu64 "; raise --memory or add workers",
                  store->memory_bytes - demand->bytes, demand->buffers_bytes);
        return STATUS_REFUSED;
    }
    return STATUS_OK;
}

static uint32_t slot_of(const struct assignment *assignment, uint32_t index) {
    return assignment->slots ? assignment->slots[index] : index;
}

/* The assignment's slots have to be vacant ones of `store`. */
static enum status check_slots(const struct expert_store *store,
                               const struct assignment *assignment) {
    for (uint32_t i = 0; i < assignment->shard_count; i++) {
        uint32_t slot = slot_of(assignment, i);
        if (slot < SHARDS_MAX && (i == 0 || slot > slot_of(assignment, i - 1)) &&
            (slot >= store->count || store->slots[slot].bytes == 0))
            continue;
        log_error("slot %" PRIu32 " of the assignment is out of bounds, out of order or not "
                  "vacant; is the coordinator of the same release?",
                  slot);
        return STATUS_PROTOCOL;
    }
    return STATUS_OK;
}

/* Beside `held_bytes` that stay. */
static enum status check_shards(const struct expert_store *store,
                                const struct assignment *assignment, uint64_t held_bytes) {
    if (assignment->layer_count > LAYERS_MAX || assignment->shard_count > SHARDS_MAX) {
        log_error("assignment of %" PRIu32 " shards in %" PRIu32
                  " layers, at most %u in %u are allowed; is the coordinator of the same release?",
                  assignment->shard_count, assignment->layer_count, SHARDS_MAX, LAYERS_MAX);
        return STATUS_PROTOCOL;
    }
    struct demand demand = {.bytes = held_bytes};
    for (uint32_t i = 0; i < assignment->shard_count; i++) {
        const struct shard *shard = &assignment->shards[i];
        if (!shard_is_valid(assignment->layouts, assignment->layer_count, shard)) {
            log_error("slot %" PRIu32 " of the assignment is out of bounds (layer %" PRIu32
                      ", expert %" PRIu32 ", range [%" PRIu32 ", %" PRIu32
                      ")); is the coordinator of the same release?",
                      slot_of(assignment, i), shard->layer, shard->expert, shard->begin,
                      shard->end);
            return STATUS_PROTOCOL;
        }
        add_demand(
            &demand,
            shard_bytes(shard_layout(assignment->layouts, assignment->layer_count, shard), shard),
            assignment->spilled && assignment->spilled[i]);
    }
    return check_demand(store, &demand);
}

static int compare_shards(const struct shard *a, const struct shard *b) {
    if (a->layer != b->layer)
        return a->layer < b->layer ? -1 : 1;
    if (a->expert != b->expert)
        return a->expert < b->expert ? -1 : 1;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return a->end < b->end ? -1 : a->end > b->end;
}

static int compare_slots(const void *a, const void *b) {
    return compare_shards(&((const struct slot *)a)->shard, &((const struct slot *)b)->shard);
}

static bool same_layout(const struct shard_layout *a, const struct shard_layout *b) {
    return a->hidden == b->hidden && a->inner == b->inner && a->gate == b->gate && a->up == b->up &&
           a->down == b->down;
}

/* Moves the storage of complete shards that `next` wants as well out of `store`, whose slots are
 * sorted by this; the rest of `store` is freed, so that old and new weights never exceed the limit
 * together. */
static void take_over(struct expert_store *store, struct expert_store *next) {
    if (store->count > 0)
        qsort(store->slots, store->count, sizeof *store->slots, compare_slots);
    bool same = store->fingerprint == next->fingerprint && store->exact == next->exact;
    for (uint32_t i = 0; i < next->count && same; i++) {
        struct slot *slot = &next->slots[i];
        struct slot *old = store->count == 0 ? NULL
                                             : bsearch(slot, store->slots, store->count,
                                                       sizeof *slot, compare_slots);
        if (slot->spilled || !old || !old->storage || old->filled != old->bytes ||
            !same_layout(slot_layout(store, old), slot_layout(next, slot)))
            continue;
        slot->storage = old->storage;
        slot->expert = old->expert;
        slot->filled = old->filled;
        old->storage = NULL;
    }
    clear(store);
}

/* Puts the assignment's shards into their slots, which are vacant. */
static void occupy_slots(struct expert_store *store, const struct assignment *assignment) {
    for (uint32_t i = 0; i < assignment->shard_count; i++) {
        uint32_t index = slot_of(assignment, i);
        struct slot *slot = &store->slots[index];
        *slot = (struct slot){.shard = assignment->shards[i],
                              .spilled = assignment->spilled && assignment->spilled[i]};
        slot->bytes = shard_bytes(slot_layout(store, slot), &slot->shard);
        store->bytes += slot->bytes;
        store->spilled_bytes += slot->spilled ? slot->bytes : 0;
        store->held++;
        store->count = index < store->count ? store->count : index + 1;
    }
}

/* Copies the assignment's lists to the empty store `out`. */
static enum status copy_assignment(const struct assignment *assignment, struct expert_store *out) {
    size_t layouts = SHARD_LAYOUTS(assignment->layer_count);
    out->tables = arena_create(0);
    if (out->tables) {
        out->slots = arena_take(out->tables, SHARDS_MAX, sizeof *out->slots);
        out->served = arena_take(out->tables, SHARDS_MAX, sizeof *out->served);
        out->layouts = arena_take(out->tables, layouts, sizeof *out->layouts);
    }
    if (!out->layouts || !out->slots || !out->served) {
        log_error("no memory for a table of %" PRIu32 " shards; lower --memory",
                  assignment->shard_count);
        return STATUS_NO_MEMORY;
    }
    out->fingerprint = assignment->fingerprint;
    out->layer_count = assignment->layer_count;
    out->exact = assignment->exact;
    memcpy(out->layouts, assignment->layouts, layouts * sizeof *out->layouts);
    occupy_slots(out, assignment);
    return STATUS_OK;
}

/* For the slots that have none yet and need one. */
static enum status take_storage(struct expert_store *store) {
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < store->count && !status; i++)
        if (store->slots[i].bytes > 0 && !store->slots[i].storage && !store->slots[i].spilled)
            status = slot_take_storage(store, &store->slots[i]);
    return status;
}

enum status expert_store_assign(struct expert_store *store, const struct assignment *assignment) {
    struct expert_store next = {0};
    enum status status = check_shards(store, assignment, 0);
    if (!status)
        status = check_slots(&next, assignment);
    if (!status)
        status = copy_assignment(assignment, &next);
    if (!status) {
        take_over(store, &next);
        status = take_storage(&next);
    }
    if (status) {
        clear(&next);
        clear(store);
        return status;
    }
    store->fingerprint = next.fingerprint;
    store->tables = next.tables;
    store->layouts = next.layouts;
    store->layer_count = next.layer_count;
    store->exact = next.exact;
    store->slots = next.slots;
    store->served = next.served;
    store->count = next.count;
    store->held = next.held;
    store->bytes = next.bytes;
    store->spilled_bytes = next.spilled_bytes;
    atomic_store(&store->cancelled, false);
    return STATUS_OK;
}

/* Makes the slots (count) vacant. */
static void vacate_slots(struct expert_store *store, const uint32_t *slots, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        struct slot *slot = &store->slots[slots[i]];
        slot_drop_storage(slot);
        store->bytes -= slot->bytes;
        store->held--;
        *slot = (struct slot){0};
    }
    while (store->count > 0 && store->slots[store->count - 1].bytes == 0)
        store->count--;
}

enum status expert_store_extend(struct expert_store *store, const uint32_t *slots,
                                const struct shard *shards, uint32_t count) {
    const struct assignment more = {.layouts = store->layouts,
                                    .layer_count = store->layer_count,
                                    .shards = shards,
                                    .shard_count = count,
                                    .slots = slots};
    /* Buffers have what spilled shards leave. */
    enum status status =
        check_shards(store, &more, store->spilled_bytes ? store->memory_bytes : store->bytes);
    if (status || (status = check_slots(store, &more)))
        return status;
    occupy_slots(store, &more);
    if ((status = take_storage(store)))
        vacate_slots(store, slots, count);
    return status;
}

void expert_store_serve(struct expert_store *store) {
    for (uint32_t slot = 0; slot < store->count; slot++)
        atomic_store(&store->served[slot], store->slots[slot].bytes > 0);
    atomic_store(&store->served_end, store->count);
}

bool expert_store_is_served(const struct expert_store *store, uint32_t slot) {
    return slot < atomic_load(&store->served_end) && atomic_load(&store->served[slot]);
}

uint32_t expert_store_served_end(const struct expert_store *store) {
    return atomic_load(&store->served_end);
}

void expert_store_enter(struct expert_store *store) {
    atomic_fetch_add(&store->passages, 1);
}

void expert_store_leave(struct expert_store *store) {
    atomic_fetch_add(&store->passages, 1);
}

bool expert_store_may_release(const struct expert_store *store, uint32_t slot) {
    return expert_store_is_served(store, slot) && !store->slots[slot].spilled;
}

void expert_store_withdraw(struct expert_store *store, const uint32_t *slots, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        atomic_store(&store->served[slots[i]], false);
}

/* Waits until the service has left what it looked up before. */
static enum status await_leave(const struct expert_store *store) {
    unsigned passages = atomic_load(&store->passages);
    while (passages % 2 == 1 && atomic_load(&store->passages) == passages) {
        if (atomic_load(&store->cancelled))
            return STATUS_CANCELLED;
        nanosleep(&(struct timespec){.tv_nsec = RELEASE_INTERVAL_NS}, NULL);
    }
    return STATUS_OK;
}

enum status expert_store_release(struct expert_store *store, const uint32_t *slots,
                                 uint32_t count) {
    enum status status = count > 0 ? await_leave(store) : STATUS_OK;
    if (status || count == 0)
        return status;
    vacate_slots(store, slots, count);
    malloc_trim(0); /* the heap, where small ones come from, keeps what is freed */
    return STATUS_OK;
}

uint32_t expert_store_count(const struct expert_store *store) {
    return store->count;
}

uint32_t expert_store_held(const struct expert_store *store) {
    return store->held;
}

size_t expert_store_slot_bytes(const struct expert_store *store, uint32_t slot) {
    return store->slots[slot].bytes;
}

bool expert_store_is_filled(const struct expert_store *store, uint32_t slot) {
    return store->slots[slot].filled == store->slots[slot].bytes;
}

uint64_t expert_store_bytes(const struct expert_store *store) {
    return store->bytes;
}

uint64_t expert_store_bytes_filled(const struct expert_store *store) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < store->count; i++)
        if (expert_store_is_filled(store, i))
            bytes += store->slots[i].bytes;
    return bytes;
}

void expert_store_cancel_load(struct expert_store *store) {
    atomic_store(&store->cancelled, true);
}

enum status expert_store_fill(struct expert_store *store, uint32_t slot, uint64_t offset,
                              const void *bytes, size_t count) {
    if (slot >= store->count || offset != store->slots[slot].filled || count == 0 ||
        count > store->slots[slot].bytes - store->slots[slot].filled) {
        log_error("%zu shipped bytes at offset %" PRIu64 " of slot %" PRIu32 " (of %" PRIu32
                  ") do not follow what came before; is the coordinator of the same "
                  "release?",
                  count, offset, slot, store->count);
        return STATUS_PROTOCOL;
    }
    if (store->slots[slot].spilled && offset == 0 && slot_take_storage(store, &store->slots[slot]))
        return STATUS_NO_MEMORY;
    if (offset == 0)
        slot_place(&store->slots[slot]);
    memcpy(store->slots[slot].storage + offset, bytes, count);
    store->slots[slot].filled += count;
    return expert_store_is_filled(store, slot) ? slot_pack(store, &store->slots[slot]) : STATUS_OK;
}

struct packed_name expert_store_name(const struct expert_store *store, uint32_t slot) {
    return (struct packed_name){store->fingerprint, SHARD_PACKING_VERSION, store->exact,
                                store->slots[slot].shard};
}

uint32_t expert_store_find(const struct expert_store *store, const struct packed_name *name,
                           uint32_t first, uint32_t count, bool served) {
    if (name->fingerprint != store->fingerprint || name->version != SHARD_PACKING_VERSION ||
        name->exact != store->exact)
        return count;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = (first + i) % count;
        if ((!served || expert_store_is_served(store, slot)) && store->slots[slot].storage &&
            compare_shards(&store->slots[slot].shard, &name->shard) == 0)
            return slot;
    }
    return count;
}

const uint8_t *expert_store_packed(const struct expert_store *store, uint32_t slot) {
    return store->slots[slot].storage;
}

bool expert_store_receive(struct expert_store *store, uint32_t slot, uint64_t offset,
                          const void *bytes, size_t count) {
    if (slot >= store->count)
        return false;
    struct slot *there = &store->slots[slot];
    if (there->spilled || there->filled > 0 || offset > there->bytes ||
        count > there->bytes - offset)
        return false;
    if (offset == 0)
        slot_place(there);
    memcpy(there->storage + offset, bytes, count);
    return true;
}

bool expert_store_adopt(struct expert_store *store, uint32_t slot, uint64_t hash) {
    struct slot *there = &store->slots[slot];
    if (there->spilled || there->filled > 0 || XXH3_64bits(there->storage, there->bytes) != hash)
        return false;
    slot_adopt_expert(store, &there->expert);
    there->filled = there->bytes;
    return true;
}

const struct expert *expert_store_get(const struct expert_store *store, uint32_t slot) {
    return &store->slots[slot].expert;
}

const struct shard *expert_store_shard(const struct expert_store *store, uint32_t slot) {
    return &store->slots[slot].shard;
}

bool expert_store_is_spilled(const struct expert_store *store, uint32_t slot) {
    return store->slots[slot].spilled;
}

uint64_t expert_store_hash(const struct expert_store *store, uint32_t slot) {
    return store->slots[slot].hash;
}

uint64_t expert_store_spilled_bytes(const struct expert_store *store) {
    return store->spilled_bytes;
}

uint64_t expert_store_room_bytes(const struct expert_store *store) {
    return store->memory_bytes - (store->bytes - store->spilled_bytes);
}

struct expert expert_store_view(const struct expert_store *store, uint32_t slot,
                                const void *storage) {
    const struct shard *shard = &store->slots[slot].shard;
    struct expert expert = shard_view(&store->layouts[shard->layer], shard, storage);
    slot_adopt_expert(store, &expert);
    return expert;
}
