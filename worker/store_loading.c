/* The pool's threads take one slot after the other. From the cache each has many files under way.
 */
#include "worker/store_loading.h"

#include <stdlib.h>

#include "common/cluster_limits.h"
#include "worker/shard_file.h"
#include "worker/store_slots.h"

/* One store_load or store_load_kept, shared by the threads of the pool. */
struct load {
    struct expert_store *store;
    struct threads *threads;           /* NULL: the calling thread alone */
    atomic_uint_least64_t *bytes_done; /* may be NULL */
    atomic_int status;                 /* the first error */
    const struct weights *weights;     /* of store_load */
    /* Of store_load_kept. */
    const struct shard_cache *cache;
    struct shard_file *files;  /* of the slots */
    struct shard_ring **rings; /* of the threads; NULL: it waits for each file */
};

static unsigned thread_count(const struct load *load) {
    return load->threads ? threads_count(load->threads) : 1;
}

static void run_load(struct load *load, size_t tasks, threads_task function) {
    if (load->threads)
        threads_run(load->threads, tasks, function, load);
    for (size_t task = 0; !load->threads && task < tasks; task++)
        function(load, task, 0);
}

static void stop_load(struct load *load, enum status status) {
    atomic_compare_exchange_strong(&load->status, &(int){STATUS_OK}, (int)status);
}

/* Whether the slot is to be loaded, and its first byte may be written. */
static bool begin_slot(struct load *load, struct slot *slot) {
    if (slot->spilled || slot->filled == slot->bytes || atomic_load(&load->status))
        return false;
    slot->filled = 0;
    if (atomic_load(&load->store->cancelled)) {
        stop_load(load, STATUS_CANCELLED);
        return false;
    }
    slot_place(slot);
    return true;
}

static void end_slot(struct load *load, struct slot *slot) {
    slot->filled = slot->bytes;
    if (load->bytes_done)
        atomic_fetch_add(load->bytes_done, slot->bytes);
}

static enum status read_slot(const struct expert_store *store, const struct weights *weights,
                             struct slot *slot) {
    enum status status = shard_read(weights, slot_layout(store, slot), &slot->shard, slot->storage);
    return status ? status : slot_pack(store, slot);
}

static void load_slot(void *context, size_t index, unsigned thread) {
    (void)thread;
    struct load *load = context;
    struct slot *slot = &load->store->slots[index];
    if (!begin_slot(load, slot))
        return;
    enum status status = read_slot(load->store, load->weights, slot);
    if (status)
        stop_load(load, status);
    else
        end_slot(load, slot);
}

enum status store_load(struct expert_store *store, const struct weights *weights,
                       struct threads *threads, atomic_uint_least64_t *bytes_done) {
    struct load load = {
        .store = store, .threads = threads, .bytes_done = bytes_done, .weights = weights};
    run_load(&load, store->count, load_slot);
    return (enum status)atomic_load(&load.status);
}

/* The file was read, or never will be. */
static void end_kept(struct load *load, const struct shard_file *file) {
    struct slot *slot = &load->store->slots[file - load->files];
    if (!shard_cache_end_read(load->cache, &slot->shard, file))
        return;
    slot_adopt_expert(load->store, &slot->expert);
    end_slot(load, slot);
}

/* Has the slot's file read by the thread's ring, and takes what that has read by now. */
static void load_kept_slot(void *context, size_t index, unsigned thread) {
    struct load *load = context;
    struct slot *slot = &load->store->slots[index];
    struct shard_ring *ring = load->rings[thread];
    struct shard_file *file = &load->files[index];
    *file = (struct shard_file){slot->storage, .room_bytes = slot_room_bytes(slot),
                                .bytes = slot->bytes};
    if (!begin_slot(load, slot) || !shard_cache_begin_read(load->cache, &slot->shard, file))
        return;
    if (!ring) {
        shard_file_read(file);
        end_kept(load, file);
        return;
    }
    shard_ring_queue(ring, file);
    shard_ring_submit(ring);
    while ((file = shard_ring_take(ring, shard_ring_is_full(ring))))
        end_kept(load, file);
}

/* Takes what a ring is still reading. */
static void drain_ring(void *context, size_t index, unsigned thread) {
    (void)thread;
    struct load *load = context;
    const struct shard_file *file;
    while (load->rings[index] && (file = shard_ring_take(load->rings[index], true)))
        end_kept(load, file);
    shard_ring_close(load->rings[index]);
}

/* As many as the system allows: whoever is without waits for each file. */
static void open_rings(struct load *load) {
    unsigned count = thread_count(load), reads_max = DISK_READS_MAX / count + 1;
    for (unsigned i = 0; i < count; i++)
        if (!(load->rings[i] = shard_ring_open(reads_max)))
            return;
}

enum status store_load_kept(struct expert_store *store, const struct shard_cache *cache,
                            struct threads *threads, bool uses_uring,
                            atomic_uint_least64_t *bytes_done) {
    struct load load = {
        .store = store, .threads = threads, .bytes_done = bytes_done, .cache = cache};
    unsigned ring_count = thread_count(&load);
    load.files = calloc(store->count + 1u, sizeof *load.files);
    load.rings = calloc(ring_count, sizeof *load.rings);
    if (load.files && load.rings) {
        if (uses_uring)
            open_rings(&load);
        run_load(&load, store->count, load_kept_slot);
        run_load(&load, ring_count, drain_ring);
    }
    free(load.files);
    free(load.rings);
    return (enum status)atomic_load(&load.status);
}

bool store_keep(const struct expert_store *store, uint32_t slot, struct shard_cache *cache) {
    const struct slot *kept = &store->slots[slot];
    return !kept->spilled && kept->storage &&
           shard_cache_write(cache, &kept->shard, kept->storage, kept->bytes);
}

/* One store_load_spilled. */
struct spilling {
    struct expert_store *store;
    struct shard_cache *cache;
    const struct weights *weights; /* NULL: there are none, or they cannot be read */
    bool verifies;
};

/* Whether the slot's file is there. */
static enum status find_spilled(const struct spilling *spilling, struct slot *slot, bool *found) {
    *found = shard_cache_find(spilling->cache, &slot->shard, slot->bytes, &slot->hash);
    if (!*found || !spilling->verifies)
        return STATUS_OK;
    enum status status = slot_take_storage(spilling->store, slot);
    struct shard_file file = {slot->storage, .room_bytes = slot_room_bytes(slot),
                              .bytes = slot->bytes};
    *found = !status && shard_cache_begin_read(spilling->cache, &slot->shard, &file);
    if (*found) {
        shard_file_read(&file);
        *found = shard_cache_end_read(spilling->cache, &slot->shard, &file);
    }
    slot_drop_storage(slot);
    return status;
}

/* From the worker's own copy to a file. */
static enum status copy_to_disk(struct spilling *spilling, uint32_t index) {
    struct slot *slot = &spilling->store->slots[index];
    enum status status = slot_take_storage(spilling->store, slot);
    if (status)
        return status;
    slot_place(slot);
    if (!read_slot(spilling->store, spilling->weights, slot))
        return store_spill(spilling->store, index, spilling->cache);
    slot_drop_storage(slot); /* which was logged; nor will the next ones */
    spilling->weights = NULL;
    return STATUS_OK;
}

static enum status load_spilled(struct spilling *spilling, uint32_t index) {
    struct slot *slot = &spilling->store->slots[index];
    bool found;
    if (atomic_load(&spilling->store->cancelled))
        return STATUS_CANCELLED;
    enum status status = find_spilled(spilling, slot, &found);
    if (found && !status)
        slot->filled = slot->bytes;
    else if (spilling->weights && !status)
        status = copy_to_disk(spilling, index);
    return status;
}

enum status store_load_spilled(struct expert_store *store, struct shard_cache *cache,
                               const struct weights *weights, bool verifies,
                               atomic_uint_least64_t *bytes_done) {
    struct spilling spilling = {store, cache, weights, verifies};
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < store->count && !status; i++) {
        if (!store->slots[i].spilled || expert_store_is_filled(store, i))
            continue;
        status = load_spilled(&spilling, i);
        if (expert_store_is_filled(store, i))
            atomic_fetch_add(bytes_done, store->slots[i].bytes);
    }
    return status;
}

enum status store_spill(struct expert_store *store, uint32_t index, struct shard_cache *cache) {
    struct slot *slot = &store->slots[index];
    enum status status =
        shard_cache_spill(cache, &slot->shard, slot->storage, slot->bytes, &slot->hash);
    slot_drop_storage(slot);
    slot->filled = status ? 0 : slot->bytes;
    return status;
}
