/* Each job has a list of slots of its own and looks at nothing else, so that others may be filled
 * and added meanwhile. */
#include "worker/keeper.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "common/cluster_limits.h"
#include "worker/store_loading.h"

/* Slots that one job writes: some seconds of work on a slow disk. */
#define SLOTS_MAX 64

struct keeper {
    uv_loop_t *loop;
    const struct expert_store *store;
    void (*paused)(void *context);
    void *context;
    bool *is_offered; /* (SHARDS_MAX) slots that the cache was given; NULL before the first */
    uint32_t begin;   /* slots before it are among them */
    uv_work_t work;
    struct shard_cache *cache; /* of the job */
    uint32_t slots[SLOTS_MAX]; /* (count) that it writes */
    uint32_t count, written;   /* the latter were given to the cache */
    bool is_writing;
    atomic_bool stopped;
};

enum status keeper_create(uv_loop_t *loop, const struct expert_store *store,
                          void (*paused)(void *context), void *context, struct keeper **out) {
    struct keeper *keeper = calloc(1, sizeof *keeper);
    if (!keeper)
        return STATUS_NO_MEMORY;
    keeper->loop = loop;
    keeper->store = store;
    keeper->paused = paused;
    keeper->context = context;
    atomic_init(&keeper->stopped, false);
    *out = keeper;
    return STATUS_OK;
}

void keeper_destroy(struct keeper *keeper) {
    if (!keeper)
        return;
    free(keeper->is_offered);
    free(keeper);
}

static void run_job(uv_work_t *work) {
    struct keeper *keeper = work->data;
    for (; keeper->written < keeper->count && !atomic_load(&keeper->stopped); keeper->written++)
        store_keep(keeper->store, keeper->slots[keeper->written], keeper->cache);
}

static void on_done(uv_work_t *work, int error) {
    (void)error;
    struct keeper *keeper = work->data;
    keeper->is_writing = false;
    keeper_renew(keeper, keeper->slots + keeper->written, keeper->count - keeper->written);
    keeper->paused(keeper->context);
}

void keeper_continue(struct keeper *keeper, struct shard_cache *cache) {
    uint32_t end = expert_store_count(keeper->store);
    if (keeper->is_writing)
        return;
    if (!keeper->is_offered && !(keeper->is_offered = calloc(SHARDS_MAX, sizeof(bool))))
        return;
    keeper->count = keeper->written = 0;
    for (uint32_t slot = keeper->begin; slot < end && keeper->count < SLOTS_MAX; slot++) {
        if (!keeper->is_offered[slot] && expert_store_is_filled(keeper->store, slot)) {
            keeper->is_offered[slot] = true;
            if (expert_store_slot_bytes(keeper->store, slot) > 0)
                keeper->slots[keeper->count++] = slot;
        }
        keeper->begin += slot == keeper->begin && keeper->is_offered[slot];
    }
    if (keeper->count == 0)
        return;
    keeper->cache = cache;
    keeper->work.data = keeper;
    atomic_store(&keeper->stopped, false);
    keeper->is_writing = true;
    uv_queue_work(keeper->loop, &keeper->work, run_job, on_done);
}

bool keeper_is_writing(const struct keeper *keeper) {
    return keeper->is_writing;
}

void keeper_stop(struct keeper *keeper) {
    atomic_store(&keeper->stopped, true);
}

bool keeper_was_stopped(const struct keeper *keeper) {
    return atomic_load(&keeper->stopped);
}

void keeper_renew(struct keeper *keeper, const uint32_t *slots, uint32_t count) {
    for (uint32_t i = 0; i < count && keeper->is_offered; i++) {
        keeper->is_offered[slots[i]] = false;
        keeper->begin = slots[i] < keeper->begin ? slots[i] : keeper->begin;
    }
}

void keeper_reset(struct keeper *keeper) {
    free(keeper->is_offered);
    keeper->is_offered = NULL;
    keeper->begin = 0;
}
