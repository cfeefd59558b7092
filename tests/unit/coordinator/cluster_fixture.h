/* A coordinator's cluster and its workers in one process, over real sockets, with placements by
 * hand: every expert of layers 1 to 3, dealt out in turn. */
#pragma once

#include "tests/unit/worker/fixture.h"

#include <fcntl.h>

#include "coordinator/cluster.h"

static struct model model;

#define SHARDS           ((FIXTURE_LAYERS - 1) * FIXTURE_EXPERTS)
#define PLAN_HOLDERS_MAX 3u

struct plan_table {
    struct placement placement;
    struct shard shards[PLAN_HOLDERS_MAX][SHARDS];
    struct holder_shards held[PLAN_HOLDERS_MAX];
    struct shard_layout layouts[SHARD_LAYOUTS(FIXTURE_LAYERS)];
};

static inline void deal(struct plan_table *table, uint32_t holders) {
    *table = (struct plan_table){0};
    for (uint32_t i = 0; i < SHARDS; i++) {
        uint32_t holder = i % holders;
        struct shard shard = {1 + i / FIXTURE_EXPERTS, i % FIXTURE_EXPERTS, 0, FIXTURE_INNER};
        struct holder_shards *held = &table->held[holder];
        held->shards = table->shards[holder];
        held->shards[held->count++] = shard;
        held->bytes += shard_bytes(&FIXTURE_LAYOUT, &shard);
    }
    for (uint32_t i = 1; i < FIXTURE_LAYERS; i++)
        table->layouts[i] = FIXTURE_LAYOUT;
    table->placement = (struct placement){.layouts = table->layouts,
                                          .layers = FIXTURE_LAYERS,
                                          .experts = FIXTURE_EXPERTS,
                                          .holders = holders,
                                          .held = table->held};
}

struct progress {
    uint64_t done, given, total;
    bool went_back;
    uint64_t of_workers[WORKERS_MAX]; /* bytes done */
};

static inline void on_progress(void *context, const struct cluster_loading *loading) {
    struct progress *progress = context;
    progress->went_back |= loading->bytes_done < progress->done;
    progress->done = loading->bytes_done;
    progress->given = loading->bytes_given;
    progress->total = loading->bytes_total;
    assert_true(loading->worker_bytes_done <= loading->worker_bytes_total);
    progress->of_workers[loading->worker] = loading->worker_bytes_done;
}

static inline enum status load(struct cluster *cluster, struct plan_table *table,
                               struct progress *progress) {
    const struct cluster_load_options options = {.placement = &table->placement,
                                                 .weights = model.weights,
                                                 .fingerprint = model.fingerprint,
                                                 .batch_rows = 8,
                                                 .hidden = FIXTURE_HIDDEN,
                                                 .entries_per_row = FIXTURE_TOP_K,
                                                 .progress = progress ? on_progress : NULL,
                                                 .context = progress};
    return cluster_load(cluster, &options);
}

/* Takes over the worker's new data connection. */
static inline int take_data_fd(struct cluster *cluster, uint32_t worker) {
    struct cluster_look look;
    cluster_look(cluster, worker, &look);
    assert_true(look.serves);
    assert_true(look.data_fd >= 0);
    fcntl(look.data_fd, F_SETFL, 0);
    return look.data_fd;
}

/* Sends rows through `slot` and the one behind it, which must hold the two shards; closes `fd`. */
static inline void expect_slots(int fd, const struct shard shards[2], uint32_t slot) {
    struct expert experts[2];
    uint8_t *storage[2];
    for (uint32_t i = 0; i < 2; i++) {
        storage[i] = model_read(&model, &shards[i]);
        experts[i] = shard_view(&FIXTURE_LAYOUT, &shards[i], storage[i]);
    }
    data_expect_sums(fd, experts, slot);
    free(storage[0]);
    free(storage[1]);
    close(fd);
}

/* The same for the first two slots of `worker` (layer 1). */
static inline void expect_sums(struct cluster *cluster, const struct plan_table *table,
                               uint32_t worker) {
    expect_slots(take_data_fd(cluster, worker), table->shards[worker], 0);
}

/* Waits until the worker serves `slots` shards in `session`; returns its data connection where that
 * is new, else -1. */
static inline int wait_serving(struct cluster *cluster, uint32_t worker, uint32_t session,
                               uint32_t slots) {
    uint64_t started_ns = clock_now_ns();
    for (int fd = -1;;) {
        uint32_t seen = cluster_changes(cluster);
        struct cluster_look look;
        cluster_look(cluster, worker, &look);
        if (look.data_fd >= 0)
            fd = look.data_fd;
        if (look.serves && look.session == session && look.served == slots) {
            if (fd >= 0)
                fcntl(fd, F_SETFL, 0);
            return fd;
        }
        assert_true(clock_elapsed_s(started_ns) < 20);
        cluster_wait(cluster, seen, 1000);
    }
}

static inline int start(void **state) {
    (void)state;
    model_open(&model);
    return 0;
}

static inline int stop(void **state) {
    (void)state;
    model_close(&model);
    return 0;
}
