/* The thread beside the generation reads alone: the pool's other threads belong to the engine. */
#include "coordinator/own_shards.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/log.h"
#include "worker/store_loading.h"

struct own_shards {
    struct expert_store *store;
    const struct weights *weights;
    struct threads *threads;
    pthread_t thread;
    bool is_loading;     /* the thread is to be joined */
    atomic_bool is_over; /* its last word */
    enum status status;  /* of the last loading; the thread's until it is over */
};

enum status own_shards_create(struct expert_store *store, const struct weights *weights,
                              struct threads *threads, struct own_shards **out) {
    struct own_shards *own = calloc(1, sizeof *own);
    if (!own)
        return STATUS_NO_MEMORY;
    own->store = store;
    own->weights = weights;
    own->threads = threads;
    *out = own;
    return STATUS_OK;
}

void own_shards_destroy(struct own_shards *own) {
    if (!own)
        return;
    if (own->is_loading)
        expert_store_cancel_load(own->store);
    own_shards_wait(own);
    free(own);
}

static void *load_beside(void *argument) {
    struct own_shards *own = argument;
    own->status = store_load(own->store, own->weights, NULL, NULL);
    if (own->status && own->status != STATUS_CANCELLED)
        log_warning("this machine goes on without the shards that it was to take over");
    atomic_store(&own->is_over, true);
    return NULL;
}

void own_shards_wait(struct own_shards *own) {
    if (own->is_loading)
        pthread_join(own->thread, NULL);
    own->is_loading = false;
}

enum status own_shards_extend(struct own_shards *own, const uint32_t *slots,
                              const struct shard *shards, uint32_t count, bool beside) {
    own_shards_wait(own);
    enum status status = expert_store_extend(own->store, slots, shards, count);
    if (status)
        return status;
    atomic_store(&own->is_over, false);
    own->is_loading = beside && pthread_create(&own->thread, NULL, load_beside, own) == 0;
    if (own->is_loading)
        return STATUS_OK;
    return own->status = store_load(own->store, own->weights, own->threads, NULL);
}

bool own_shards_serve(struct own_shards *own) {
    if (own->is_loading && !atomic_load(&own->is_over))
        return false;
    own_shards_wait(own);
    if (own->status)
        return false;
    expert_store_serve(own->store);
    return true;
}
