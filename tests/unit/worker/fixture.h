/* A real worker in a thread of the test, a coordinator made by hand on a blocking socket, and the
 * log of both in a file, so that no thread's writing races with the test's reading. */
#pragma once

#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/address.h"
#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/kernel/panel.h"
#include "common/weights/shard.h"
#include "common/weights/weights.h"
#include "proto/control.h"
#include "proto/wire.h"
#include "worker/daemon.h"
#include "worker/expert.h"
#include "worker/expert_store.h"

/* The golden model of the tests: layers 1 to 3 have 16 experts, 32 wide, in BF16. */
#define FIXTURE_MODEL   TEST_DATA_DIR "/golden/deepseek-v2-lite-tiny"
#define FIXTURE_LAYERS  4u
#define FIXTURE_EXPERTS 16u
#define FIXTURE_HIDDEN  128u
#define FIXTURE_INNER   32u
#define FIXTURE_TOP_K   6u

static const struct shard_layout FIXTURE_LAYOUT = {FIXTURE_HIDDEN, FIXTURE_INNER, WEIGHT_BF16,
                                                   WEIGHT_BF16, WEIGHT_BF16};

/* ---- The log. */

struct log_file {
    FILE *stream;
    off_t mark;
};

static struct log_file log_file;

/* Before any thread starts. */
static inline void log_file_begin(void) {
    log_file.stream = tmpfile();
    assert_non_null(log_file.stream);
    log_init("test", LOG_DEBUG, log_file.stream);
}

/* What log_file_count and log_file_expect look at starts here. */
static inline void log_file_mark(void) {
    log_file.mark = lseek(fileno(log_file.stream), 0, SEEK_END);
}

static inline char *log_file_text(void) {
    static char text[1 << 20];
    ssize_t got = pread(fileno(log_file.stream), text, sizeof text - 1, log_file.mark);
    text[got > 0 ? got : 0] = '\0';
    return text;
}

static inline unsigned log_file_count(const char *part) {
    unsigned count = 0;
    for (const char *at = log_file_text(); (at = strstr(at, part)); at++)
        count++;
    return count;
}

/* Requires that `part` is logged behind the mark within 10 s. */
static inline void log_file_expect(const char *part) {
    for (int i = 0; i < 1000 && !strstr(log_file_text(), part); i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    if (!strstr(log_file_text(), part))
        fail_msg("\"%s\" was not logged, but \"%s\"", part, log_file_text());
}

/* ---- The worker. */

struct worker {
    struct daemon *daemon;
    pthread_t thread;
};

static inline void *worker_main(void *daemon) {
    daemon_run(daemon);
    return NULL;
}

static inline void worker_start_at(struct worker *worker, const char *listen, const char *model,
                                   uint64_t memory_bytes) {
    const struct daemon_options options = {
        .listen = listen, .threads = 2, .memory_bytes = memory_bytes, .model = model};
    signal(SIGPIPE, SIG_IGN); /* as main does */
    assert_int_equal(daemon_create(&options, &worker->daemon), STATUS_OK);
    assert_int_equal(pthread_create(&worker->thread, NULL, worker_main, worker->daemon), 0);
}

static inline void worker_start(struct worker *worker, const char *model, uint64_t memory_bytes) {
    worker_start_at(worker, "127.0.0.1:0", model, memory_bytes);
}

static inline void worker_stop(struct worker *worker) {
    daemon_stop(worker->daemon);
    pthread_join(worker->thread, NULL);
    daemon_destroy(worker->daemon);
}

/* ---- A coordinator by hand. */

struct client {
    int fd;
    bool silent; /* does not answer health reports */
    struct control_reader reader;
};

static inline int connect_to(const char *text) {
    struct address address;
    assert_true(address_parse(text, &address));
    struct sockaddr_in peer = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)atoi(address.port))};
    inet_pton(AF_INET, address.host, &peer.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&peer, sizeof peer), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 10},
               sizeof(struct timeval));
    return fd;
}

static inline void client_connect(struct client *client, const char *address) {
    client->fd = connect_to(address);
    client->silent = false;
    control_reader_init(&client->reader, CONTROL_MESSAGE_BYTES_MAX);
}

static inline void client_close(struct client *client) {
    close(client->fd);
    control_reader_cleanup(&client->reader);
}

static inline void client_send(struct client *client, const Control__Message *message) {
    size_t bytes = control_encoded_bytes(message);
    uint8_t *data = malloc(bytes);
    control_encode(message, data);
    send(client->fd, data, bytes, MSG_NOSIGNAL);
    free(data);
}

/* Says that the client lives. */
static inline void client_say_health(struct client *client) {
    Control__Health health = CONTROL__HEALTH__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    message.kind_case = CONTROL__MESSAGE__KIND_HEALTH;
    message.health = &health;
    client_send(client, &message);
}

/* The next message other than Health, which is answered, and Progress, which the caller frees; NULL
 * when the peer closed. */
static inline Control__Message *client_receive(struct client *client) {
    for (;;) {
        Control__Message *message;
        assert_int_equal(control_reader_next(&client->reader, "worker", &message), STATUS_OK);
        if (message && message->kind_case != CONTROL__MESSAGE__KIND_HEALTH &&
            message->kind_case != CONTROL__MESSAGE__KIND_PROGRESS)
            return message;
        if (message) {
            if (message->kind_case == CONTROL__MESSAGE__KIND_HEALTH && !client->silent)
                client_say_health(client);
            control_message_free(message);
            continue;
        }
        uint8_t *room;
        size_t bytes;
        assert_int_equal(control_reader_reserve(&client->reader, &room, &bytes), STATUS_OK);
        ssize_t got = recv(client->fd, room, bytes, 0);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            fail_msg("the worker neither answers nor closes");
        if (got <= 0)
            return NULL;
        control_reader_commit(&client->reader, (size_t)got);
    }
}

/* Requires the next message to be of `kind`. */
static inline Control__Message *client_expect(struct client *client,
                                              Control__Message__KindCase kind) {
    Control__Message *message = client_receive(client);
    assert_non_null(message);
    if (message->kind_case != kind)
        fail_msg("%s came instead of kind %d: %s", control_kind_name(message), (int)kind,
                 message->kind_case == CONTROL__MESSAGE__KIND_ERROR ? message->error->text : "");
    return message;
}

/* Requires an Error whose text contains `part`, and then the end of the connection. */
static inline void client_expect_error(struct client *client, const char *part) {
    Control__Message *message = client_expect(client, CONTROL__MESSAGE__KIND_ERROR);
    if (!strstr(message->error->text, part))
        fail_msg("\"%s\" is not in \"%s\"", part, message->error->text);
    control_message_free(message);
    assert_null(client_receive(client));
}

static inline void client_expect_end(struct client *client) {
    assert_null(client_receive(client));
}

static inline void client_say_hello(struct client *client, uint32_t version, uint64_t fingerprint) {
    Control__Hello hello = CONTROL__HELLO__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    hello.protocol_version = version;
    hello.software_version = "9.9";
    hello.node_name = "test-host";
    hello.fingerprint = fingerprint;
    message.kind_case = CONTROL__MESSAGE__KIND_HELLO;
    message.hello = &hello;
    client_send(client, &message);
}

/* Connects and greets; returns the session's id. */
static inline uint64_t client_greet(struct client *client, const char *address,
                                    uint64_t fingerprint) {
    client_connect(client, address);
    client_say_hello(client, CONTROL_VERSION, fingerprint);
    Control__Message *message = client_expect(client, CONTROL__MESSAGE__KIND_WELCOME);
    uint64_t id = message->welcome->session_id;
    control_message_free(message);
    return id;
}

static inline void client_say_goodbye(struct client *client) {
    Control__Goodbye goodbye = CONTROL__GOODBYE__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    message.kind_case = CONTROL__MESSAGE__KIND_GOODBYE;
    message.goodbye = &goodbye;
    client_send(client, &message);
}

static inline void client_ship(struct client *client, uint32_t slot, uint64_t offset,
                               const void *data, size_t bytes) {
    Control__ShardData shard_data = CONTROL__SHARD_DATA__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    shard_data.slot = slot;
    shard_data.offset = offset;
    shard_data.data.data = (uint8_t *)data;
    shard_data.data.len = bytes;
    message.kind_case = CONTROL__MESSAGE__KIND_SHARD_DATA;
    message.shard_data = &shard_data;
    client_send(client, &message);
}

static inline void client_say_source(struct client *client, uint32_t slot, const char *peer) {
    Control__Source source = CONTROL__SOURCE__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    source.slot = slot;
    source.peer = (char *)peer;
    message.kind_case = CONTROL__MESSAGE__KIND_SOURCE;
    message.source = &source;
    client_send(client, &message);
}

static inline void client_say_fetch(struct client *client, const struct packed_name *name) {
    Control__Fetch fetch = CONTROL__FETCH__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    fetch.fingerprint = name->fingerprint;
    fetch.packing_version = name->version;
    fetch.exact_activations = name->exact;
    fetch.layer = name->shard.layer;
    fetch.expert = name->shard.expert;
    fetch.begin = name->shard.begin;
    fetch.end = name->shard.end;
    message.kind_case = CONTROL__MESSAGE__KIND_FETCH;
    message.fetch = &fetch;
    client_send(client, &message);
}

static inline void client_give(struct client *client, uint64_t offset, const void *data,
                               size_t bytes, uint64_t hash) {
    Control__Packed packed = CONTROL__PACKED__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    packed.offset = offset;
    packed.data.data = (uint8_t *)data;
    packed.data.len = bytes;
    packed.hash = hash;
    message.kind_case = CONTROL__MESSAGE__KIND_PACKED;
    message.packed = &packed;
    client_send(client, &message);
}

#define PLAN_SLOTS 4u

/* An assignment of PLAN_SLOTS experts that tests take apart: change a field, then client_assign. */
struct plan {
    uint64_t fingerprint;
    uint32_t hidden, batch_rows, experts_per_token;
    uint32_t inner[SHARD_LAYOUTS(FIXTURE_LAYERS)], format[SHARD_LAYOUTS(FIXTURE_LAYERS)];
    uint32_t layer[PLAN_SLOTS], expert[PLAN_SLOTS], begin[PLAN_SLOTS], end[PLAN_SLOTS];
    uint32_t spilled[PLAN_SLOTS], spilled_count; /* slots */
};

/* Experts 0 and 5 of layer 1, expert 15 and the first half of expert 0 of layer 3. */
static inline struct plan plan_default(uint64_t fingerprint) {
    return (struct plan){.fingerprint = fingerprint,
                         .hidden = FIXTURE_HIDDEN,
                         .batch_rows = 8,
                         .experts_per_token = FIXTURE_TOP_K,
                         .inner = {0, FIXTURE_INNER, FIXTURE_INNER, FIXTURE_INNER},
                         .format = {0, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16},
                         .layer = {1, 1, 3, 3},
                         .expert = {0, 5, 0, 15},
                         .end = {FIXTURE_INNER, FIXTURE_INNER, FIXTURE_INNER / 2, FIXTURE_INNER}};
}

static inline struct shard plan_shard(const struct plan *plan, uint32_t slot) {
    return (struct shard){plan->layer[slot], plan->expert[slot], plan->begin[slot],
                          plan->end[slot]};
}

static inline void client_assign(struct client *client, struct plan *plan) {
    static uint32_t slots[PLAN_SLOTS] = {0, 1, 2, 3};
    Control__Assign assign = CONTROL__ASSIGN__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    assign.fingerprint = plan->fingerprint;
    assign.n_slot = PLAN_SLOTS;
    assign.slot = slots;
    assign.hidden = plan->hidden;
    assign.batch_rows = plan->batch_rows;
    assign.experts_per_token = plan->experts_per_token;
    assign.n_layer_inner = assign.n_layer_gate_format = SHARD_LAYOUTS(FIXTURE_LAYERS);
    assign.n_layer_up_format = assign.n_layer_down_format = SHARD_LAYOUTS(FIXTURE_LAYERS);
    assign.layer_inner = plan->inner;
    assign.layer_gate_format = assign.layer_up_format = assign.layer_down_format = plan->format;
    assign.n_shard_layer = assign.n_shard_expert = PLAN_SLOTS;
    assign.n_shard_begin = assign.n_shard_end = PLAN_SLOTS;
    assign.shard_layer = plan->layer;
    assign.shard_expert = plan->expert;
    assign.shard_begin = plan->begin;
    assign.shard_end = plan->end;
    assign.spilled_slot = plan->spilled;
    assign.n_spilled_slot = plan->spilled_count;
    message.kind_case = CONTROL__MESSAGE__KIND_ASSIGN;
    message.assign = &assign;
    client_send(client, &message);
}

/* Has the worker, which is ready for the plan's session, release slots and take one more shard in
 * `slot`; UINT32_MAX: none. */
static inline void client_change(struct client *client, const struct plan *plan,
                                 const uint32_t *released, size_t released_count, uint32_t slot,
                                 struct shard shard) {
    Control__Assign assign = CONTROL__ASSIGN__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    assign.fingerprint = plan->fingerprint;
    assign.hidden = plan->hidden;
    assign.batch_rows = plan->batch_rows;
    assign.experts_per_token = plan->experts_per_token;
    assign.released_slot = (uint32_t *)released;
    assign.n_released_slot = released_count;
    assign.n_slot = assign.n_shard_layer = assign.n_shard_expert = slot != UINT32_MAX;
    assign.n_shard_begin = assign.n_shard_end = slot != UINT32_MAX;
    assign.slot = &slot;
    assign.shard_layer = &shard.layer;
    assign.shard_expert = &shard.expert;
    assign.shard_begin = &shard.begin;
    assign.shard_end = &shard.end;
    message.kind_case = CONTROL__MESSAGE__KIND_ASSIGN;
    message.assign = &assign;
    client_send(client, &message);
}

/* Requires Ready with so many shards. */
static inline void client_expect_ready(struct client *client, uint32_t shards) {
    Control__Message *message = client_expect(client, CONTROL__MESSAGE__KIND_READY);
    assert_int_equal(message->ready->slots, shards);
    control_message_free(message);
}

static inline void client_say_measure(struct client *client, const uint32_t *formats,
                                      size_t count) {
    Control__Measure measure = CONTROL__MEASURE__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    measure.n_format = count;
    measure.format = (uint32_t *)formats;
    message.kind_case = CONTROL__MESSAGE__KIND_MEASURE;
    message.measure = &measure;
    client_send(client, &message);
}

/* Opens a data connection for the session `id`. */
static inline int data_open(const char *address, uint64_t id) {
    int fd = connect_to(address);
    uint8_t frame[sizeof(struct wire_header)];
    struct wire_header header = {.type = WIRE_OPEN, .sequence = id};
    wire_encode_header(&header, frame);
    send(fd, frame, sizeof frame, MSG_NOSIGNAL);
    return fd;
}

/* The end of an io_uring of this thread interrupts it now and then. */
static inline bool read_all(int fd, void *out, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t got = recv(fd, (uint8_t *)out + done, bytes - done, MSG_WAITALL);
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
        done += got > 0 ? (size_t)got : 0;
    }
    return true;
}

/* Requires that the peer closes `fd` without a further byte; then closes it here. */
static inline void data_expect_end(int fd) {
    uint8_t byte;
    ssize_t got = recv(fd, &byte, 1, 0);
    if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)))
        fail_msg("the data connection stays open");
    close(fd);
}

/* A DISPATCH frame of `rows` rows of ones; the caller frees it. */
static inline uint8_t *frame_create(struct wire_header header, const struct wire_entry *entries,
                                    size_t *bytes) {
    *bytes = wire_dispatch_bytes(header.rows, header.entries, header.hidden, WIRE_F32);
    uint8_t *frame = aligned_alloc(64, (*bytes + 63) / 64 * 64);
    memset(frame, 0, *bytes);
    header.type = WIRE_DISPATCH;
    wire_encode_header(&header, frame);
    memcpy(wire_dispatch_entries(frame), entries, header.entries * sizeof *entries);
    float *rows = wire_dispatch_rows(frame);
    for (size_t i = 0; i < (size_t)header.rows * header.hidden; i++)
        rows[i] = 1.0f;
    return frame;
}

/* Sends a frame for layer 1 over `slot` and the one behind it and compares the sums with the same
 * experts here. */
static inline void data_expect_sums(int fd, const struct expert experts[2], uint32_t slot) {
    const struct wire_entry entries[] = {{0, slot, 0.5f}, {1, slot, 0.25f}, {1, slot + 1, 2.0f}};
    const struct wire_header header = {
        .sequence = 77, .layer = 1, .rows = 2, .entries = 3, .hidden = FIXTURE_HIDDEN};
    size_t bytes, reply_bytes = wire_combine_bytes(2, FIXTURE_HIDDEN, WIRE_F32, 0);
    uint8_t *frame = frame_create(header, entries, &bytes);
    uint8_t *reply = aligned_alloc(64, reply_bytes);
    assert_int_equal(send(fd, frame, bytes, MSG_NOSIGNAL), bytes);
    assert_true(read_all(fd, reply, reply_bytes));
    struct wire_header found;
    assert_int_equal(wire_decode_header(reply, "worker", &found), STATUS_OK);
    assert_int_equal(found.type, WIRE_COMBINE);
    assert_int_equal(found.sequence, 77);
    assert_int_equal(found.rows, 2);

    struct threads *threads;
    struct expert_workspace *workspace;
    float *sums = calloc(2 * FIXTURE_HIDDEN, sizeof *sums);
    assert_int_equal(threads_create(1, &threads), STATUS_OK);
    assert_int_equal(expert_workspace_create(threads, FIXTURE_HIDDEN, FIXTURE_INNER, 2, &workspace),
                     STATUS_OK);
    const struct expert_task tasks[] = {
        {&experts[0], 0, 0.5f}, {&experts[0], 1, 0.25f}, {&experts[1], 1, 2.0f}};
    expert_forward(workspace, wire_dispatch_rows(frame), tasks, 3, sums);
    float largest = 0;
    for (size_t i = 0; i < 2 * FIXTURE_HIDDEN; i++) {
        assert_float_equal(((float *)wire_combine_rows(reply))[i], sums[i], 1e-5);
        largest = sums[i] > largest ? sums[i] : largest;
    }
    assert_true(largest > 0);
    expert_workspace_destroy(workspace);
    threads_destroy(threads);
    free(sums);
    free(reply);
    free(frame);
}

/* The test's own copy of the model's experts. */
struct model {
    struct weights *weights;
    uint64_t fingerprint;
};

static inline void model_open(struct model *model) {
    assert_int_equal(weights_open(FIXTURE_MODEL, &model->weights), STATUS_OK);
    assert_int_equal(weights_fingerprint(model->weights, &model->fingerprint), STATUS_OK);
}

static inline void model_close(struct model *model) {
    weights_close(model->weights);
}

/* Reads one shard; the caller frees the storage. */
static inline uint8_t *model_read(const struct model *model, const struct shard *shard) {
    uint8_t *storage = aligned_alloc(64, shard_bytes(&FIXTURE_LAYOUT, shard));
    assert_int_equal(shard_read(model->weights, &FIXTURE_LAYOUT, shard, storage), STATUS_OK);
    return storage;
}

/* The same as kernels read it. */
static inline uint8_t *model_read_packed(const struct model *model, const struct shard *shard) {
    uint8_t *storage = model_read(model, shard);
    struct expert expert = shard_view(&FIXTURE_LAYOUT, shard, storage);
    assert_int_equal(panel_pack_matrix(&expert.gate, false), STATUS_OK);
    assert_int_equal(panel_pack_matrix(&expert.up, false), STATUS_OK);
    assert_int_equal(panel_pack_matrix(&expert.down, false), STATUS_OK);
    return storage;
}

/* Ships all slots of `plan` from `first` on to a worker without a copy. */
static inline void ship_from(struct client *client, const struct model *model,
                             const struct plan *plan, uint32_t first) {
    for (uint32_t slot = first; slot < PLAN_SLOTS; slot++) {
        struct shard shard = plan_shard(plan, slot);
        uint8_t *storage = model_read(model, &shard);
        size_t bytes = shard_bytes(&FIXTURE_LAYOUT, &shard), part = 1000;
        client_ship(client, slot, 0, storage, part);
        client_ship(client, slot, part, storage + part, bytes - part);
        free(storage);
    }
}

/* Requires that the worker computes with the plan's first two slots as they should be. */
static inline void expect_first_slots(int fd, const struct model *model, const struct plan *plan) {
    struct expert experts[2];
    uint8_t *storage[2];
    for (uint32_t slot = 0; slot < 2; slot++) {
        struct shard shard = plan_shard(plan, slot);
        storage[slot] = model_read(model, &shard);
        experts[slot] = shard_view(&FIXTURE_LAYOUT, &shard, storage[slot]);
    }
    data_expect_sums(fd, experts, 0);
    free(storage[0]);
    free(storage[1]);
}

/* A whole session, from greeting to goodbye, on a worker that has the model itself. */
static inline void expect_good_session(const char *address, const struct model *model) {
    struct client client;
    uint64_t id = client_greet(&client, address, model->fingerprint);
    struct plan plan = plan_default(model->fingerprint);
    client_assign(&client, &plan);
    control_message_free(client_expect(&client, CONTROL__MESSAGE__KIND_READY));
    int fd = data_open(address, id);
    expect_first_slots(fd, model, &plan);
    client_say_goodbye(&client);
    client_expect_end(&client);
    data_expect_end(fd);
    client_close(&client);
}
