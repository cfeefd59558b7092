/* Coordinator and workers in one process, over real sockets: connecting, loading from the workers'
 * copies and from ours, health, and every way in which a worker can disappoint. Workers that
 * misbehave are played by a script in a thread. */
#include "tests/unit/coordinator/cluster_fixture.h"

#include <fcntl.h>
#include <math.h>

#include "coordinator/cluster.h"
#include "tests/unit/random.h"

/* ---- Good workers. */

/* Workers with and without a copy, twice: the second time nothing needs loading. */
static void test_loads_and_serves(void **state) {
    (void)state;
    struct worker workers[PLAN_HOLDERS_MAX];
    const char *addresses[PLAN_HOLDERS_MAX];
    struct plan_table table;
    deal(&table, PLAN_HOLDERS_MAX);
    for (uint32_t i = 0; i < PLAN_HOLDERS_MAX; i++) {
        worker_start(&workers[i], i == 0 ? FIXTURE_MODEL : NULL, (uint64_t)(8 + i) << 20);
        addresses[i] = daemon_address(workers[i].daemon);
    }
    for (int round = 0; round < 2; round++) {
        struct cluster *cluster;
        struct progress progress = {0};
        assert_int_equal(
            cluster_connect(addresses, PLAN_HOLDERS_MAX, model.fingerprint, false, &cluster),
            STATUS_OK);
        assert_int_equal(cluster_size(cluster), PLAN_HOLDERS_MAX);
        for (uint32_t i = 0; i < PLAN_HOLDERS_MAX; i++) {
            const struct worker_info *info = cluster_worker(cluster, i);
            assert_string_equal(info->address, addresses[i]);
            assert_int_equal(info->memory_bytes, (8 + i) << 20);
            assert_int_equal(info->cores, 2);
            assert_int_equal(info->has_model, i == 0);
            assert_true(info->name[0] && info->isa[0]);
        }
        log_file_mark();
        assert_int_equal(load(cluster, &table, &progress), STATUS_OK);
        assert_int_equal(progress.done, progress.total);
        assert_int_equal(progress.total, placement_bytes(&table.placement));
        assert_false(progress.went_back);
        assert_int_equal(log_file_count("loading -> receiving"), round == 0 ? 2 : 0);
        for (uint32_t i = 0; i < PLAN_HOLDERS_MAX; i++) {
            assert_true(cluster_is_alive(cluster, i));
            expect_sums(cluster, &table, i);
        }
        cluster_destroy(cluster);
    }
    for (uint32_t i = 0; i < PLAN_HOLDERS_MAX; i++)
        worker_stop(&workers[i]);
}

/* The coordinator may plan and load its own weights for long between the two calls, and generate
 * for long afterwards: workers must not take it for dead. */
static void test_stays_connected(void **state) {
    (void)state;
    struct worker worker;
    struct cluster *cluster;
    struct plan_table table;
    deal(&table, 1);
    worker_start(&worker, FIXTURE_MODEL, 8 << 20);
    const char *addresses[] = {daemon_address(worker.daemon)};
    assert_int_equal(cluster_connect(addresses, 1, model.fingerprint, false, &cluster), STATUS_OK);
    nanosleep(&(struct timespec){.tv_sec = 5}, NULL);
    assert_true(cluster_is_alive(cluster, 0));
    assert_int_equal(load(cluster, &table, NULL), STATUS_OK);
    nanosleep(&(struct timespec){.tv_sec = 5}, NULL);
    assert_true(cluster_is_alive(cluster, 0));
    expect_sums(cluster, &table, 0);
    cluster_destroy(cluster);
    worker_stop(&worker);
}

#define LARGE_DIM   1024u
#define LARGE_BYTES (LARGE_DIM * LARGE_DIM * 4u)

/* Two experts of 12 MiB each in F32, in a file that the caller unlinks. */
static void write_large_model(const char *path) {
    struct random random = {11};
    FILE *file = fopen(path, "w");
    char header[2048] = "{";
    static const char *const projections[] = {"gate", "up", "down"};
    for (unsigned i = 0; i < 6; i++)
        snprintf(header + strlen(header), sizeof header - strlen(header),
                 "%s\"model.layers.0.mlp.experts.%u.%s_proj.weight\":{\"dtype\":\"F32\","
                 "\"shape\":[1024,1024],\"data_offsets\":[%u,%u]}",
                 i ? "," : "", i / 3, projections[i % 3], i * LARGE_BYTES, (i + 1) * LARGE_BYTES);
    strcat(header, "}");
    uint64_t bytes = strlen(header);
    fwrite(&bytes, sizeof bytes, 1, file);
    fwrite(header, 1, bytes, file);
    float *row = malloc(LARGE_DIM * sizeof *row);
    for (unsigned i = 0; i < 6 * LARGE_DIM; i++) {
        random_fill(&random, 0.05f, LARGE_DIM, row);
        fwrite(row, sizeof *row, LARGE_DIM, file);
    }
    free(row);
    assert_int_equal(fclose(file), 0);
}

/* One row of ones through slot 1, there and here. */
static void expect_large_sums(int fd, const struct weights *weights,
                              const struct shard_layout *layout, const struct shard *shard) {
    const struct wire_entry entry = {0, 1, 1.0f};
    const struct wire_header header = {.rows = 1, .entries = 1, .hidden = LARGE_DIM};
    size_t bytes, reply_bytes = wire_combine_bytes(1, LARGE_DIM, WIRE_F32, 0);
    uint8_t *frame = frame_create(header, &entry, &bytes);
    uint8_t *reply = aligned_alloc(64, reply_bytes);
    fcntl(fd, F_SETFL, 0);
    assert_int_equal(send(fd, frame, bytes, MSG_NOSIGNAL), bytes);
    assert_true(read_all(fd, reply, reply_bytes));
    struct threads *threads;
    struct expert_workspace *workspace;
    uint8_t *storage = aligned_alloc(64, shard_bytes(layout, shard));
    assert_int_equal(shard_read(weights, layout, shard, storage), STATUS_OK);
    struct expert expert = shard_view(layout, shard, storage);
    const struct expert_task task = {&expert, 0, 1.0f};
    float *sums = calloc(LARGE_DIM, sizeof *sums);
    assert_int_equal(threads_create(1, &threads), STATUS_OK);
    assert_int_equal(expert_workspace_create(threads, LARGE_DIM, LARGE_DIM, 1, &workspace),
                     STATUS_OK);
    expert_forward(workspace, wire_dispatch_rows(frame), &task, 1, sums);
    for (uint32_t i = 0; i < LARGE_DIM; i++)
        assert_float_equal(((float *)wire_combine_rows(reply))[i], sums[i], 1e-4);
    expert_workspace_destroy(workspace);
    threads_destroy(threads);
    free(storage);
    free(sums);
    free(reply);
    free(frame);
}

/* Shards of many chunks go through the window whole and in order, one of them a slice. */
static void test_ships_large_shards(void **state) {
    (void)state;
    char path[] = "/tmp/cluster_test_XXXXXX.safetensors";
    close(mkstemps(path, 12));
    write_large_model(path);
    struct weights *weights;
    struct worker worker;
    struct cluster *cluster;
    uint64_t fingerprint;
    assert_int_equal(weights_open(path, &weights), STATUS_OK);
    assert_int_equal(weights_fingerprint(weights, &fingerprint), STATUS_OK);
    const struct shard_layout layouts[SHARD_LAYOUTS(1)] = {
        {LARGE_DIM, LARGE_DIM, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32}};
    struct shard shards[] = {{0, 0, 0, LARGE_DIM}, {0, 1, 8, LARGE_DIM - 8}};
    struct holder_shards held = {.shards = shards,
                                 .count = 2,
                                 .bytes = shard_bytes(layouts, &shards[0]) +
                                          shard_bytes(layouts, &shards[1])};
    const struct placement placement = {
        .layouts = layouts, .layers = 1, .experts = 2, .holders = 1, .held = &held};
    struct progress progress = {0};
    const struct cluster_load_options options = {.placement = &placement,
                                                 .weights = weights,
                                                 .fingerprint = fingerprint,
                                                 .batch_rows = 1,
                                                 .hidden = LARGE_DIM,
                                                 .entries_per_row = 2,
                                                 .progress = on_progress,
                                                 .context = &progress};
    worker_start(&worker, NULL, 64 << 20);
    const char *addresses[] = {daemon_address(worker.daemon)};
    assert_int_equal(cluster_connect(addresses, 1, fingerprint, false, &cluster), STATUS_OK);
    assert_int_equal(cluster_load(cluster, &options), STATUS_OK);
    assert_int_equal(progress.done, held.bytes);
    int fd = take_data_fd(cluster, 0);
    expect_large_sums(fd, weights, layouts, &shards[1]);
    close(fd);
    cluster_destroy(cluster);

    /* The file is cut while shards are shipped: the line names the file. */
    assert_int_equal(truncate(path, LARGE_BYTES), 0);
    shards[1].begin = 16;
    assert_int_equal(cluster_connect(addresses, 1, fingerprint, false, &cluster), STATUS_OK);
    log_file_mark();
    assert_int_not_equal(cluster_load(cluster, &options), STATUS_OK);
    log_file_expect(path);
    assert_int_equal(log_file_count("error: "), 1);
    cluster_destroy(cluster);
    worker_stop(&worker);
    weights_close(weights);
    unlink(path);
}

/* Two workers that lack the same large shards: each is sent one of them, and gives it to the other.
 */
static void test_workers_give_each_other(void **state) {
    (void)state;
    char path[] = "/tmp/cluster_test_XXXXXX.safetensors";
    close(mkstemps(path, 12));
    write_large_model(path);
    struct weights *weights;
    struct worker workers[2];
    const char *addresses[2];
    struct cluster *cluster;
    struct progress progress = {0};
    uint64_t fingerprint;
    assert_int_equal(weights_open(path, &weights), STATUS_OK);
    assert_int_equal(weights_fingerprint(weights, &fingerprint), STATUS_OK);
    const struct shard_layout layouts[SHARD_LAYOUTS(1)] = {
        {LARGE_DIM, LARGE_DIM, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32}};
    struct shard shards[] = {{0, 0, 0, LARGE_DIM}, {0, 1, 0, LARGE_DIM}};
    struct holder_shards held[2] = {{.shards = shards, .count = 2, .bytes = 6 * LARGE_BYTES}};
    held[1] = held[0];
    const struct placement placement = {
        .layouts = layouts, .layers = 1, .experts = 2, .holders = 2, .held = held};
    const struct cluster_load_options options = {.placement = &placement,
                                                 .weights = weights,
                                                 .fingerprint = fingerprint,
                                                 .batch_rows = 1,
                                                 .hidden = LARGE_DIM,
                                                 .entries_per_row = 2,
                                                 .progress = on_progress,
                                                 .context = &progress};
    for (int i = 0; i < 2; i++) {
        worker_start(&workers[i], NULL, 64 << 20);
        addresses[i] = daemon_address(workers[i].daemon);
    }
    assert_int_equal(cluster_connect(addresses, 2, fingerprint, false, &cluster), STATUS_OK);
    log_file_mark();
    assert_int_equal(cluster_load(cluster, &options), STATUS_OK);
    assert_int_equal(progress.done, 12 * LARGE_BYTES);
    assert_int_equal(progress.given, 6 * LARGE_BYTES);
    for (int i = 0; i < 2; i++)
        assert_int_equal(progress.of_workers[i], 6 * LARGE_BYTES);
    assert_int_equal(log_file_count("got 1 of its 2 shards from other workers"), 2);
    for (uint32_t i = 0; i < 2; i++) {
        int fd = take_data_fd(cluster, i);
        expect_large_sums(fd, weights, layouts, &shards[1]);
        close(fd);
    }
    cluster_destroy(cluster);
    for (int i = 0; i < 2; i++)
        worker_stop(&workers[i]);
    weights_close(weights);
    unlink(path);
}

static void wait_lost(const struct cluster *cluster, uint32_t worker) {
    for (int i = 0; i < 1000 && cluster_is_alive(cluster, worker); i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_false(cluster_is_alive(cluster, worker));
}

static void test_notices_lost_worker(void **state) {
    (void)state;
    struct worker workers[2];
    const char *addresses[2];
    struct cluster *cluster;
    struct plan_table table;
    deal(&table, 2);
    for (uint32_t i = 0; i < 2; i++) {
        worker_start(&workers[i], FIXTURE_MODEL, 8 << 20);
        addresses[i] = strdup(daemon_address(workers[i].daemon));
    }
    assert_int_equal(cluster_connect(addresses, 2, model.fingerprint, false, &cluster), STATUS_OK);
    assert_int_equal(load(cluster, &table, NULL), STATUS_OK);
    log_file_mark();
    worker_stop(&workers[1]);
    wait_lost(cluster, 1);
    log_file_expect("connection lost");
    log_file_expect(addresses[1]);
    assert_int_equal(log_file_count("error: "), 1);
    cluster_lose(cluster, 1, 1, "said twice");
    assert_int_equal(log_file_count("error: "), 1);

    /* Whoever sees it on the data connection first logs it, and nobody after that. */
    assert_true(cluster_is_alive(cluster, 0));
    log_file_mark();
    cluster_lose(cluster, 0, 1, "seen on the data connection");
    assert_false(cluster_is_alive(cluster, 0));
    log_file_expect("seen on the data connection");
    worker_stop(&workers[0]);
    log_file_expect("serving -> lost");
    assert_int_equal(log_file_count("error: "), 1);
    cluster_destroy(cluster);
    free((char *)addresses[0]);
    free((char *)addresses[1]);
}

/* Puts the shards (count) into slots of the worker from `first` on, and has it load them. */
static void extend(struct cluster *cluster, struct plan_table *table, uint32_t worker,
                   uint32_t first, const struct shard *shards, uint32_t count) {
    uint32_t slots[2];
    for (uint32_t i = 0; i < count; i++) {
        slots[i] = first + i;
        table->held[worker].shards = table->shards[worker];
        table->held[worker].shards[slots[i]] = shards[i];
    }
    assert_int_equal(cluster_extend(cluster, worker, slots, count), STATUS_OK);
}

/* A worker that was lost is called back and gets what it had, and what was added since; one that
 * serves takes more beside that. */
static void test_takes_workers_back_and_extends(void **state) {
    (void)state;
    const struct shard more[] = {{1, 1, 0, FIXTURE_INNER}, {1, 3, 8, FIXTURE_INNER}};
    struct worker workers[2];
    char addresses[2][64];
    struct cluster *cluster;
    struct plan_table table;
    deal(&table, 2);
    for (uint32_t i = 0; i < 2; i++) {
        worker_start(&workers[i], i == 0 ? FIXTURE_MODEL : NULL, 8 << 20);
        snprintf(addresses[i], sizeof addresses[i], "%s", daemon_address(workers[i].daemon));
    }
    const char *const list[] = {addresses[0], addresses[1]};
    assert_int_equal(cluster_connect(list, 2, model.fingerprint, false, &cluster), STATUS_OK);
    assert_int_equal(load(cluster, &table, NULL), STATUS_OK);
    uint32_t slots = table.held[0].count;
    for (uint32_t i = 0; i < 2; i++) {
        int fd = wait_serving(cluster, i, 1, slots);
        extend(cluster, &table, i, slots, more, 2);
        assert_int_equal(wait_serving(cluster, i, 1, slots + 2), -1);
        expect_slots(fd, more, slots);
    }
    worker_stop(&workers[1]);
    wait_lost(cluster, 1);
    extend(cluster, &table, 1, slots + 2, more, 1);
    worker_start_at(&workers[1], addresses[1], NULL, 8 << 20);
    expect_slots(wait_serving(cluster, 1, 2, slots + 3), more, slots);
    assert_true(cluster_is_alive(cluster, 1));

    /* Dismissed, it comes back all the same. */
    cluster_dismiss(cluster, 0);
    expect_slots(wait_serving(cluster, 0, 2, slots + 2), more, slots);
    cluster_destroy(cluster);
    for (uint32_t i = 0; i < 2; i++)
        worker_stop(&workers[i]);
}

/* A worker gives back what it is not to hold any more, takes something else into the same slots,
 * and after its return is given what it is to hold then. */
static void test_releases_and_takes_slots_again(void **state) {
    (void)state;
    const struct shard more[] = {{1, 1, 0, FIXTURE_INNER}, {1, 3, 8, FIXTURE_INNER}};
    const uint32_t released[] = {0, 1, 5};
    struct worker workers[2];
    char addresses[2][64], text[64];
    struct cluster *cluster;
    struct plan_table table;
    deal(&table, 2);
    for (uint32_t i = 0; i < 2; i++) {
        worker_start(&workers[i], i == 0 ? FIXTURE_MODEL : NULL, 8 << 20);
        snprintf(addresses[i], sizeof addresses[i], "%s", daemon_address(workers[i].daemon));
    }
    const char *const list[] = {addresses[0], addresses[1]};
    assert_int_equal(cluster_connect(list, 2, model.fingerprint, false, &cluster), STATUS_OK);
    assert_int_equal(load(cluster, &table, NULL), STATUS_OK);
    uint32_t slots = table.held[0].count;
    for (uint32_t i = 0; i < 2; i++) {
        int fd = wait_serving(cluster, i, 1, slots);
        log_file_mark();
        cluster_release(cluster, i, released, 3);
        snprintf(text, sizeof text, "ready with %u shards", slots - 3);
        log_file_expect(text);
        extend(cluster, &table, i, 0, more, 2);
        assert_int_equal(wait_serving(cluster, i, 1, slots + 2), -1);
        expect_slots(fd, more, 0);
    }
    /* While it is lost it is told nothing; what was given and released meanwhile, never. */
    worker_stop(&workers[1]);
    wait_lost(cluster, 1);
    extend(cluster, &table, 1, 5, &table.held[0].shards[7], 1);
    cluster_release(cluster, 1, released + 2, 1);
    cluster_release(cluster, 1, released, 2);
    extend(cluster, &table, 1, 0, (const struct shard[]){more[1], more[0]}, 2);
    log_file_mark();
    worker_start_at(&workers[1], addresses[1], NULL, 8 << 20);
    int fd = wait_serving(cluster, 1, 2, slots + 5);
    snprintf(text, sizeof text, "is back with %u shards", slots - 1);
    log_file_expect(text);
    expect_slots(fd, (const struct shard[]){more[1], more[0]}, 0);
    cluster_destroy(cluster);
    for (uint32_t i = 0; i < 2; i++)
        worker_stop(&workers[i]);
}

/* In a new session a worker has what is placed on it then, whatever it had before. */
static void test_reassigns(void **state) {
    (void)state;
    const struct shard more[] = {{1, 1, 0, FIXTURE_INNER}, {1, 3, 8, FIXTURE_INNER}};
    struct worker worker;
    char address[64], text[64];
    struct cluster *cluster;
    struct plan_table table;
    deal(&table, 1);
    worker_start(&worker, NULL, 8 << 20);
    snprintf(address, sizeof address, "%s", daemon_address(worker.daemon));
    const char *const list[] = {address};
    assert_int_equal(cluster_connect(list, 1, model.fingerprint, false, &cluster), STATUS_OK);
    assert_int_equal(load(cluster, &table, NULL), STATUS_OK);
    struct holder_shards *held = &table.held[0];
    uint32_t slots = held->count;
    expect_slots(wait_serving(cluster, 0, 1, slots), table.shards[0], 0);
    held->shards[0] = more[0];
    held->shards[1] = more[1];
    held->shards[5] = (struct shard){0};
    held->placed = slots + 2;
    log_file_mark();
    assert_int_equal(cluster_reassign(cluster, 0), STATUS_OK);
    int fd = wait_serving(cluster, 0, 2, slots + 2);
    snprintf(text, sizeof text, "is back with %u shards", slots - 1);
    log_file_expect(text);
    assert_int_equal(log_file_count("error: "), 0);
    expect_slots(fd, more, 0);
    cluster_destroy(cluster);
    worker_stop(&worker);
}

/* Of two workers one is wanted; what it says of itself and what we find is complete, and both load
 * and serve afterwards. */
static void test_measures(void **state) {
    (void)state;
    const struct machine_work work = {1u << WEIGHT_BF16, false};
    const bool wanted[] = {false, true};
    struct worker workers[2];
    const char *addresses[2];
    struct cluster *cluster;
    struct plan_table table;
    deal(&table, 2);
    for (uint32_t i = 0; i < 2; i++) {
        worker_start(&workers[i], FIXTURE_MODEL, 8 << 20);
        addresses[i] = daemon_address(workers[i].daemon);
    }
    assert_int_equal(cluster_connect(addresses, 2, model.fingerprint, false, &cluster), STATUS_OK);
    assert_int_equal(cluster_measure(cluster, &work, wanted, NULL, NULL), STATUS_OK);
    assert_false(cluster_worker(cluster, 0)->is_measured);
    const struct worker_info *info = cluster_worker(cluster, 1);
    assert_true(info->is_measured);
    assert_true(machine_has_figures(&info->figures, &work));
    assert_int_equal(info->figures.memory_bytes, 8 << 20);
    assert_int_equal(info->figures.threads, 2);
    assert_string_equal(info->figures.isa, info->isa);
    assert_true(info->link.round_trip_s > 0 && info->link.round_trip_s < 1);
    assert_true(machine_rate_is_plausible(info->link.to_bytes_per_s));
    assert_true(machine_rate_is_plausible(info->link.from_bytes_per_s));
    assert_int_equal(load(cluster, &table, NULL), STATUS_OK);
    for (uint32_t i = 0; i < 2; i++)
        expect_sums(cluster, &table, i);
    cluster_destroy(cluster);
    for (uint32_t i = 0; i < 2; i++)
        worker_stop(&workers[i]);
}

static void test_lost_before_loading(void **state) {
    (void)state;
    struct worker worker;
    struct cluster *cluster;
    struct plan_table table;
    deal(&table, 1);
    worker_start(&worker, FIXTURE_MODEL, 8 << 20);
    const char *addresses[] = {daemon_address(worker.daemon)};
    assert_int_equal(cluster_connect(addresses, 1, model.fingerprint, false, &cluster), STATUS_OK);
    log_file_mark();
    worker_stop(&worker);
    wait_lost(cluster, 0);
    log_file_expect("connection lost");
    log_file_mark();
    assert_int_equal(load(cluster, &table, NULL), STATUS_CONNECTION);
    assert_int_equal(log_file_count("error: "), 0); /* it was logged when it happened */
    cluster_destroy(cluster);
}

static void test_memory_and_busy(void **state) {
    (void)state;
    struct worker worker;
    struct cluster *first, *second;
    struct plan_table table;
    deal(&table, 1);
    worker_start(&worker, FIXTURE_MODEL, 1 << 20);
    const char *addresses[] = {daemon_address(worker.daemon)};
    assert_int_equal(cluster_connect(addresses, 1, model.fingerprint, false, &first), STATUS_OK);
    log_file_mark();
    assert_int_equal(cluster_connect(addresses, 1, model.fingerprint, false, &second),
                     STATUS_REFUSED);
    log_file_expect("busy with coordinator");
    assert_int_equal(log_file_count("error: "), 1);
    log_file_mark();
    assert_int_equal(load(first, &table, NULL), STATUS_REFUSED);
    log_file_expect("raise its --memory");
    cluster_destroy(first);
    assert_int_equal(cluster_connect(addresses, 1, model.fingerprint, false, &second), STATUS_OK);
    cluster_destroy(second);
    worker_stop(&worker);
}

/* ---- Workers that misbehave. */

enum script {
    SCRIPT_CLOSE,         /* closes when it has read the Hello */
    SCRIPT_HTTP,          /* answers in another protocol */
    SCRIPT_SILENT,        /* accepts and says nothing */
    SCRIPT_HEALTH_ONLY,   /* is alive and never answers the Hello */
    SCRIPT_VERSION,       /* a Welcome of a later version */
    SCRIPT_EARLY_READY,   /* Ready instead of Welcome */
    SCRIPT_GREET_CLOSE,   /* closes when the assignment comes */
    SCRIPT_GREET_SILENT,  /* never speaks again after the Welcome */
    SCRIPT_BAD_NEED,      /* asks for slots that do not exist */
    SCRIPT_EMPTY_NEED,    /* asks for nothing */
    SCRIPT_TRUNCATED,     /* a message that cannot be read */
    SCRIPT_CLOSE_LOADING, /* closes while shards are shipped */
    SCRIPT_CLOSE_DATA,    /* is gone when the data connection is to be opened */
    SCRIPT_OTHER_SHARDS,  /* is ready with others than it was given */
    SCRIPT_MEASURE_CLOSE, /* closes when it is to measure */
    SCRIPT_MEASURE_NAN,   /* measures a rate that is no number */
    SCRIPT_MEASURE_TWICE, /* answers twice */
    SCRIPT_NO_LINK,       /* is gone when the link is to be measured */
};

struct impostor {
    enum script script;
    int listener;
    char address[32];
    pthread_t thread;
};

static void say(struct client *client, Control__Message__KindCase kind, void *body) {
    Control__Message message = CONTROL__MESSAGE__INIT;
    message.kind_case = kind;
    message.hello = body; /* all kinds share the pointer's place */
    client_send(client, &message);
}

/* Reads until the other side closes. */
static void drain(struct client *client) {
    uint8_t bytes[4096];
    while (recv(client->fd, bytes, sizeof bytes, 0) > 0) {
    }
}

static void greet(struct impostor *impostor, struct client *client) {
    Control__Welcome welcome = CONTROL__WELCOME__INIT;
    welcome.protocol_version = CONTROL_VERSION + (impostor->script == SCRIPT_VERSION);
    welcome.software_version = "7.7";
    say(client, CONTROL__MESSAGE__KIND_WELCOME, &welcome);
}

static void play_loading(struct impostor *impostor, struct client *client) {
    Control__Need need = CONTROL__NEED__INIT;
    Control__Ready ready = CONTROL__READY__INIT;
    uint32_t begin[] = {0}, end[] = {impostor->script == SCRIPT_BAD_NEED ? SHARDS + 1 : SHARDS};
    control_message_free(client_receive(client)); /* the assignment */
    need.begin = begin;
    need.end = end;
    need.n_begin = need.n_end = impostor->script != SCRIPT_EMPTY_NEED;
    switch (impostor->script) {
    case SCRIPT_BAD_NEED:
    case SCRIPT_EMPTY_NEED:
        say(client, CONTROL__MESSAGE__KIND_NEED, &need);
        drain(client);
        break;
    case SCRIPT_CLOSE_LOADING:
        say(client, CONTROL__MESSAGE__KIND_NEED, &need);
        control_message_free(client_receive(client)); /* the first chunk */
        break;
    case SCRIPT_TRUNCATED:
        send(client->fd, (uint8_t[]){3, 0, 0, 0, 0x2a, 0x7f, 1}, 7, MSG_NOSIGNAL);
        drain(client);
        break;
    case SCRIPT_CLOSE_DATA:
        close(impostor->listener);
        impostor->listener = -1;
        ready.slots = SHARDS;
        say(client, CONTROL__MESSAGE__KIND_READY, &ready);
        drain(client);
        break;
    case SCRIPT_OTHER_SHARDS:
        ready.slots = SHARDS + 1;
        say(client, CONTROL__MESSAGE__KIND_READY, &ready);
        drain(client);
        break;
    case SCRIPT_GREET_SILENT:
        drain(client);
        break;
    default:
        break;
    }
}

static void play_measuring(struct impostor *impostor, struct client *client) {
    Control__Figures figures = CONTROL__FIGURES__INIT;
    double rate = impostor->script == SCRIPT_MEASURE_NAN ? NAN : 1e9;
    control_message_free(client_receive(client)); /* the wish to measure */
    if (impostor->script == SCRIPT_MEASURE_CLOSE)
        return;
    if (impostor->script == SCRIPT_NO_LINK) {
        close(impostor->listener);
        impostor->listener = -1;
    }
    figures.read_bytes_per_s = 1e10;
    figures.n_format = figures.n_decode_bytes_per_s = figures.n_batch_macs_per_s = 1;
    figures.format = (uint32_t[]){WEIGHT_BF16};
    figures.decode_bytes_per_s = figures.batch_macs_per_s = &rate;
    say(client, CONTROL__MESSAGE__KIND_FIGURES, &figures);
    if (impostor->script == SCRIPT_MEASURE_TWICE)
        say(client, CONTROL__MESSAGE__KIND_FIGURES, &figures);
    drain(client);
}

static void *impostor_main(void *argument) {
    struct impostor *impostor = argument;
    struct client client = {.fd = accept(impostor->listener, NULL, NULL)};
    Control__Ready ready = CONTROL__READY__INIT;
    Control__Health health = CONTROL__HEALTH__INIT;
    control_reader_init(&client.reader, CONTROL_MESSAGE_BYTES_MAX);
    control_message_free(client_receive(&client)); /* the Hello */
    switch (impostor->script) {
    case SCRIPT_CLOSE:
        break;
    case SCRIPT_HTTP:
        send(client.fd, "HTTP/1.1 400 Bad Request\r\n\r\n", 28, MSG_NOSIGNAL);
        drain(&client);
        break;
    case SCRIPT_SILENT:
        drain(&client);
        break;
    case SCRIPT_HEALTH_ONLY:
        for (int i = 0; i < 12; i++) {
            say(&client, CONTROL__MESSAGE__KIND_HEALTH, &health);
            nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
        }
        break;
    case SCRIPT_EARLY_READY:
        say(&client, CONTROL__MESSAGE__KIND_READY, &ready);
        drain(&client);
        break;
    case SCRIPT_VERSION:
        greet(impostor, &client);
        drain(&client);
        break;
    case SCRIPT_MEASURE_CLOSE:
    case SCRIPT_MEASURE_NAN:
    case SCRIPT_MEASURE_TWICE:
    case SCRIPT_NO_LINK:
        greet(impostor, &client);
        play_measuring(impostor, &client);
        break;
    default:
        greet(impostor, &client);
        play_loading(impostor, &client);
    }
    client_close(&client);
    return NULL;
}

static void impostor_start(struct impostor *impostor, enum script script) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof name;
    impostor->script = script;
    impostor->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(impostor->listener, (struct sockaddr *)&name, sizeof name), 0);
    assert_int_equal(listen(impostor->listener, 1), 0);
    getsockname(impostor->listener, (struct sockaddr *)&name, &length);
    snprintf(impostor->address, sizeof impostor->address, "127.0.0.1:%u", ntohs(name.sin_port));
    pthread_create(&impostor->thread, NULL, impostor_main, impostor);
}

static void impostor_stop(struct impostor *impostor) {
    pthread_join(impostor->thread, NULL);
    if (impostor->listener >= 0)
        close(impostor->listener);
}

/* Connects, has some scripts measure, and loads, as far as it goes; requires one error line that
 * names the worker and says `part`. */
static void expect_failure(enum script script, enum status wanted, const char *part) {
    struct impostor impostor;
    struct cluster *cluster = NULL;
    struct plan_table table;
    deal(&table, 1);
    log_file_mark();
    impostor_start(&impostor, script);
    const char *addresses[] = {impostor.address};
    enum status status = cluster_connect(addresses, 1, model.fingerprint, false, &cluster);
    if (!status && script >= SCRIPT_MEASURE_CLOSE)
        status = cluster_measure(cluster, &(struct machine_work){1u << WEIGHT_BF16, false}, NULL,
                                 NULL, NULL);
    if (!status)
        status = load(cluster, &table, NULL);
    assert_int_equal(status, wanted);
    cluster_destroy(cluster);
    impostor_stop(&impostor);
    log_file_expect(part);
    log_file_expect(impostor.address);
    if (log_file_count("error: ") != 1)
        fail_msg("not one error line: %s", log_file_text());
}

static void test_impostors_at_greeting(void **state) {
    (void)state;
    expect_failure(SCRIPT_CLOSE, STATUS_CONNECTION, "is it a skein-worker?");
    expect_failure(SCRIPT_HTTP, STATUS_PROTOCOL, "does not speak skein's control protocol");
    expect_failure(SCRIPT_SILENT, STATUS_CONNECTION, "no sign of life");
    expect_failure(SCRIPT_HEALTH_ONLY, STATUS_CONNECTION, "no answer within 5 s");
    expect_failure(SCRIPT_VERSION, STATUS_PROTOCOL, "upgrade the coordinator");
    expect_failure(SCRIPT_EARLY_READY, STATUS_PROTOCOL, "sent Ready while it was greeting");
}

static void test_impostors_at_measuring(void **state) {
    (void)state;
    expect_failure(SCRIPT_MEASURE_CLOSE, STATUS_CONNECTION, "lost while it was measuring");
    expect_failure(SCRIPT_MEASURE_NAN, STATUS_PROTOCOL, "or that no machine has");
    expect_failure(SCRIPT_MEASURE_TWICE, STATUS_PROTOCOL, "sent Figures while it was");
    expect_failure(SCRIPT_NO_LINK, STATUS_CONNECTION, "no data connection: connection refused");
}

static void test_impostors_at_loading(void **state) {
    (void)state;
    expect_failure(SCRIPT_GREET_CLOSE, STATUS_CONNECTION, "connection lost while it was loading");
    expect_failure(SCRIPT_GREET_SILENT, STATUS_CONNECTION, "no sign of life for 3 s");
    expect_failure(SCRIPT_BAD_NEED, STATUS_PROTOCOL, "asks for slots that it does not have");
    expect_failure(SCRIPT_EMPTY_NEED, STATUS_PROTOCOL, "asks for slots that it does not have");
    expect_failure(SCRIPT_TRUNCATED, STATUS_PROTOCOL, "cannot be read");
    expect_failure(SCRIPT_CLOSE_LOADING, STATUS_CONNECTION, "connection lost while it was loading");
    expect_failure(SCRIPT_OTHER_SHARDS, STATUS_PROTOCOL,
                   "is ready with 49 shards, it was given 48");
    expect_failure(SCRIPT_CLOSE_DATA, STATUS_CONNECTION, "no data connection: connection refused");
}

/* A worker that is lost or talks nonsense while it loads may be left out for now. */
static void expect_tolerated(enum script script, const char *part) {
    struct impostor impostor;
    struct worker worker;
    struct cluster *cluster;
    struct cluster_look look;
    struct plan_table table;
    deal(&table, 2);
    worker_start(&worker, FIXTURE_MODEL, 8 << 20);
    impostor_start(&impostor, script);
    const char *addresses[] = {daemon_address(worker.daemon), impostor.address};
    log_file_mark();
    assert_int_equal(cluster_connect(addresses, 2, model.fingerprint, true, &cluster), STATUS_OK);
    assert_int_equal(load(cluster, &table, NULL), STATUS_OK);
    log_file_expect(part);
    cluster_look(cluster, 1, &look);
    assert_false(look.serves);
    expect_sums(cluster, &table, 0);
    cluster_destroy(cluster);
    impostor_stop(&impostor);
    worker_stop(&worker);
}

static void test_tolerates_loss_while_loading(void **state) {
    (void)state;
    expect_tolerated(SCRIPT_GREET_CLOSE, "connection lost while it was loading");
    expect_tolerated(SCRIPT_TRUNCATED, "cannot be read");
}

/* ---- Addresses. */

static void expect_connect_failure(const char *address, enum status wanted, const char *part) {
    struct cluster *cluster;
    log_file_mark();
    assert_int_equal(cluster_connect(&address, 1, 0, false, &cluster), wanted);
    log_file_expect(part);
    log_file_expect(address);
    assert_int_equal(log_file_count("error: "), 1);
}

static void test_addresses(void **state) {
    (void)state;
    expect_connect_failure("127.0.0.1", STATUS_USAGE, "HOST:PORT");
    expect_connect_failure(":7717", STATUS_USAGE, "HOST:PORT");
    expect_connect_failure("::1:7717", STATUS_USAGE, "HOST:PORT");
    expect_connect_failure("127.0.0.1:99999", STATUS_USAGE, "HOST:PORT");
    expect_connect_failure("127.0.0.1:1", STATUS_CONNECTION,
                           "connection refused; is skein-worker running there?");
    expect_connect_failure("no-such-host.invalid:7717", STATUS_CONNECTION,
                           "is skein-worker running there?");
}

/* A machine that swallows what it is sent: a listener whose queue is full drops further attempts.
 */
static void test_unreachable(void **state) {
    (void)state;
    enum { COUNT = 8 };
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof name;
    int listener = socket(AF_INET, SOCK_STREAM, 0), fds[COUNT];
    char address[32];
    assert_int_equal(bind(listener, (struct sockaddr *)&name, sizeof name), 0);
    assert_int_equal(listen(listener, 0), 0);
    getsockname(listener, (struct sockaddr *)&name, &length);
    snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(name.sin_port));
    for (int i = 0; i < COUNT; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(fds[i], (struct sockaddr *)&name, sizeof name);
    }
    expect_connect_failure(address, STATUS_CONNECTION, "no connection within 5 s");
    for (int i = 0; i < COUNT; i++)
        close(fds[i]);
    close(listener);
}

/* A worker that is not there at first joins with nothing, and takes what it is then given. */
static void test_joins_late(void **state) {
    (void)state;
    const struct shard more[] = {{1, 1, 0, FIXTURE_INNER}, {1, 3, 8, FIXTURE_INNER}};
    struct worker workers[2];
    char addresses[2][64];
    struct cluster *cluster;
    struct plan_table table;
    deal(&table, 1);
    table.placement.holders = 2;
    for (uint32_t i = 0; i < 2; i++) {
        worker_start(&workers[i], i == 0 ? FIXTURE_MODEL : NULL, 8 << 20);
        snprintf(addresses[i], sizeof addresses[i], "%s", daemon_address(workers[i].daemon));
    }
    worker_stop(&workers[1]);
    const char *const list[] = {addresses[0], addresses[1]};
    log_file_mark();
    assert_int_equal(cluster_connect(list, 2, model.fingerprint, true, &cluster), STATUS_OK);
    log_file_expect("goes on without 1 of 2 workers");
    assert_false(cluster_is_alive(cluster, 1));
    assert_int_equal(cluster_measure(cluster, &(struct machine_work){0}, NULL, NULL, NULL),
                     STATUS_OK);
    assert_int_equal(load(cluster, &table, NULL), STATUS_OK);
    expect_sums(cluster, &table, 0);
    log_file_mark();
    worker_start_at(&workers[1], addresses[1], NULL, 8 << 20);
    int fd = wait_serving(cluster, 1, 1, 0);
    log_file_expect("joins with 0 shards");
    assert_int_equal(cluster_worker(cluster, 1)->memory_bytes, 8 << 20);
    extend(cluster, &table, 1, 0, more, 2);
    assert_int_equal(wait_serving(cluster, 1, 1, 2), -1);
    expect_slots(fd, more, 0);
    cluster_destroy(cluster);
    for (uint32_t i = 0; i < 2; i++)
        worker_stop(&workers[i]);
}

/* Somebody has to be there, and what is there has to be a worker. */
static void test_absence_that_is_not_tolerated(void **state) {
    (void)state;
    struct impostor impostor;
    struct cluster *cluster;
    const char *const nobody[] = {"127.0.0.1:1", "127.0.0.1:2"};
    log_file_mark();
    assert_int_equal(cluster_connect(nobody, 2, 0, true, &cluster), STATUS_CONNECTION);
    assert_int_equal(log_file_count("error: "), 2);
    impostor_start(&impostor, SCRIPT_HTTP);
    const char *const server[] = {"127.0.0.1:1", impostor.address};
    assert_int_equal(cluster_connect(server, 2, 0, true, &cluster), STATUS_PROTOCOL);
    impostor_stop(&impostor);
}

/* One bad address among good ones: the good worker is free again at once. */
static void test_one_of_two_unreachable(void **state) {
    (void)state;
    struct worker worker;
    struct cluster *cluster;
    worker_start(&worker, NULL, 1 << 20);
    const char *addresses[] = {daemon_address(worker.daemon), "127.0.0.1:1"};
    log_file_mark();
    assert_int_equal(cluster_connect(addresses, 2, 0, false, &cluster), STATUS_CONNECTION);
    assert_int_equal(log_file_count("worker 127.0.0.1:1: connection refused"), 1);
    assert_int_equal(log_file_count("error: "), 1);
    assert_int_equal(cluster_connect(addresses, 1, 0, false, &cluster), STATUS_OK);
    cluster_destroy(cluster);
    worker_stop(&worker);
}

int main(void) {
    log_file_begin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loads_and_serves),
        cmocka_unit_test(test_ships_large_shards),
        cmocka_unit_test(test_workers_give_each_other),
        cmocka_unit_test(test_stays_connected),
        cmocka_unit_test(test_notices_lost_worker),
        cmocka_unit_test(test_takes_workers_back_and_extends),
        cmocka_unit_test(test_releases_and_takes_slots_again),
        cmocka_unit_test(test_tolerates_loss_while_loading),
        cmocka_unit_test(test_joins_late),
        cmocka_unit_test(test_absence_that_is_not_tolerated),
        cmocka_unit_test(test_reassigns),
        cmocka_unit_test(test_measures),
        cmocka_unit_test(test_lost_before_loading),
        cmocka_unit_test(test_memory_and_busy),
        cmocka_unit_test(test_impostors_at_greeting),
        cmocka_unit_test(test_impostors_at_measuring),
        cmocka_unit_test(test_impostors_at_loading),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_unreachable),
        cmocka_unit_test(test_one_of_two_unreachable),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
