/* The worker over real sockets: one coordinator after another, and in between everything that a
 * peer must not do. After each offence a well-behaved coordinator is served. */
#include "tests/unit/worker/fixture.h"

#include "tests/unit/files.h"

#include "common/machine.h"
#include "tests/unit/random.h"

static struct worker own_copy, no_copy; /* with the model and without */
static struct model model;

static const char *address(void) {
    return daemon_address(own_copy.daemon);
}

static void expect_still_serving(void) {
    expect_good_session(address(), &model);
}

static void test_serves_one_after_another(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++)
        expect_still_serving();
}

static void test_says_what_it_has(void **state) {
    (void)state;
    struct client client;
    client_connect(&client, address());
    client_say_hello(&client, CONTROL_VERSION, model.fingerprint);
    Control__Message *message = client_expect(&client, CONTROL__MESSAGE__KIND_WELCOME);
    assert_int_equal(message->welcome->protocol_version, CONTROL_VERSION);
    assert_string_equal(message->welcome->software_version, SKEIN_VERSION);
    assert_int_equal(message->welcome->cores, 2);
    assert_int_equal(message->welcome->memory_bytes, 64 << 20);
    assert_true(message->welcome->has_model);
    assert_true(message->welcome->session_id != 0);
    assert_true(message->welcome->isa[0]);
    control_message_free(message);
    client_close(&client);

    client_connect(&client, address());
    client_say_hello(&client, CONTROL_VERSION, model.fingerprint + 1);
    message = client_expect(&client, CONTROL__MESSAGE__KIND_WELCOME);
    assert_false(message->welcome->has_model);
    control_message_free(message);
    client_close(&client);
}

static void test_takes_shipped_shards_and_keeps_them(void **state) {
    (void)state;
    const char *there = daemon_address(no_copy.daemon);
    struct client client;
    client_greet(&client, there, model.fingerprint);
    struct plan plan = plan_default(model.fingerprint);
    client_assign(&client, &plan);
    Control__Message *message = client_expect(&client, CONTROL__MESSAGE__KIND_NEED);
    assert_int_equal(message->need->n_begin, 1);
    assert_int_equal(message->need->begin[0], 0);
    assert_int_equal(message->need->end[0], PLAN_SLOTS);
    control_message_free(message);
    ship_from(&client, &model, &plan, 0);
    control_message_free(client_expect(&client, CONTROL__MESSAGE__KIND_READY));
    client_close(&client); /* vanishes without a goodbye */

    expect_good_session(there, &model); /* nothing is asked for again */

    /* Two slots in the middle are new. */
    client_greet(&client, there, model.fingerprint);
    plan.expert[1] = 6;
    plan.layer[2] = 2;
    client_assign(&client, &plan);
    message = client_expect(&client, CONTROL__MESSAGE__KIND_NEED);
    assert_int_equal(message->need->n_begin, 1);
    assert_int_equal(message->need->begin[0], 1);
    assert_int_equal(message->need->end[0], 3);
    control_message_free(message);
    client_close(&client);
}

/* A worker that may spill, with a folder for that. */
static void start_spilling(struct worker *worker, const char *directory, const char *own,
                           uint64_t spill_bytes) {
    const struct daemon_options options = {.listen = "127.0.0.1:0",
                                           .threads = 2,
                                           .memory_bytes = 256 << 10,
                                           .model = own,
                                           .cache = directory,
                                           .spill_bytes = spill_bytes};
    assert_int_equal(daemon_create(&options, &worker->daemon), STATUS_OK);
    assert_int_equal(pthread_create(&worker->thread, NULL, worker_main, worker->daemon), 0);
}

static void ship_slot(struct client *client, const struct plan *plan, uint32_t slot) {
    struct shard shard = plan_shard(plan, slot);
    uint8_t *storage = model_read(&model, &shard);
    client_ship(client, slot, 0, storage, shard_bytes(&FIXTURE_LAYOUT, &shard));
    free(storage);
}

/* Requires that the worker asks for `slot` alone, and ships it. */
static void ship_needed(struct client *client, const struct plan *plan, uint32_t slot) {
    Control__Message *message = client_expect(client, CONTROL__MESSAGE__KIND_NEED);
    assert_int_equal(message->need->n_begin, 1);
    assert_int_equal(message->need->begin[0], slot);
    assert_int_equal(message->need->end[0], slot + 1);
    control_message_free(message);
    ship_slot(client, plan, slot);
}

/* A worker that serves gives slots back and takes others into them, also in one message. */
static void test_releases_slots(void **state) {
    (void)state;
    const uint32_t released[] = {1, 3}, bad[] = {3, 1}, more[] = {0, PLAN_SLOTS};
    const char *there = daemon_address(no_copy.daemon);
    struct client client;
    struct plan plan = plan_default(model.fingerprint), next = plan;
    uint64_t id = client_greet(&client, there, model.fingerprint);
    client_assign(&client, &plan);
    Control__Message *message = client_receive(&client);
    if (message && message->kind_case == CONTROL__MESSAGE__KIND_NEED) {
        for (size_t i = 0; i < message->need->n_begin; i++)
            for (uint32_t slot = message->need->begin[i]; slot < message->need->end[i]; slot++)
                ship_slot(&client, &plan, slot);
        control_message_free(message);
        message = client_receive(&client);
    }
    assert_int_equal(message->ready->slots, PLAN_SLOTS);
    control_message_free(message);
    int fd = data_open(there, id);
    expect_first_slots(fd, &model, &plan);
    log_file_mark();
    client_change(&client, &plan, released, 2, UINT32_MAX, (struct shard){0});
    client_expect_ready(&client, PLAN_SLOTS - 2);
    log_file_expect("released 2 shards");

    /* Into slot 1 comes what was in none. */
    next.expert[1] = 9;
    client_change(&client, &plan, NULL, 0, 1, plan_shard(&next, 1));
    ship_needed(&client, &next, 1);
    client_expect_ready(&client, PLAN_SLOTS - 1);
    expect_first_slots(fd, &model, &next);

    /* In one message: what slot 1 has goes, and what it had first comes. */
    client_change(&client, &plan, released, 1, 1, plan_shard(&plan, 1));
    ship_needed(&client, &plan, 1);
    client_expect_ready(&client, PLAN_SLOTS - 1);
    expect_first_slots(fd, &model, &plan);
    close(fd);

    /* Slots that hold nothing, out of order, or that do not exist. */
    client_change(&client, &plan, released + 1, 1, UINT32_MAX, (struct shard){0});
    client_expect_error(&client, "releases slots that are not served");
    client_close(&client);
    const struct {
        const uint32_t *slots;
        uint32_t count, slot;
        const char *part;
    } cases[] = {{bad, 2, UINT32_MAX, "out of bounds or of order"},
                 {more, 2, UINT32_MAX, "releases slots that are not served"},
                 {NULL, 0, 0, "fills slots that hold something"},
                 {NULL, 0, SHARDS_MAX, "out of bounds or of order"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        client_greet(&client, address(), model.fingerprint);
        client_change(&client, &plan, cases[i].slots, cases[i].count, cases[i].slot,
                      plan_shard(&plan, 0));
        client_expect_error(&client, "assignment");
        client_close(&client);
        client_greet(&client, address(), model.fingerprint);
        client_assign(&client, &plan);
        client_expect_ready(&client, PLAN_SLOTS);
        client_change(&client, &plan, cases[i].slots, cases[i].count, cases[i].slot,
                      plan_shard(&plan, 0));
        client_expect_error(&client, cases[i].part);
        client_close(&client);
        expect_still_serving();
    }
}

/* Spilled shards are asked for once, or read from the worker's own copy, and served from there. */
static void test_spills(void **state) {
    (void)state;
    for (int has_copy = 0; has_copy < 2; has_copy++) {
        struct worker worker;
        char directory[64];
        test_directory_make(directory);
        start_spilling(&worker, directory, has_copy ? FIXTURE_MODEL : NULL, 1 << 20);
        const char *there = daemon_address(worker.daemon);
        for (int round = 0; round < 2; round++) {
            struct client client;
            struct plan plan = plan_default(model.fingerprint);
            plan.spilled[0] = 1;
            plan.spilled[1] = 3;
            plan.spilled_count = 2;
            uint64_t id = client_greet(&client, there, model.fingerprint);
            client_assign(&client, &plan);
            if (!has_copy && round == 0) {
                control_message_free(client_expect(&client, CONTROL__MESSAGE__KIND_NEED));
                ship_from(&client, &model, &plan, 0);
            }
            control_message_free(client_expect(&client, CONTROL__MESSAGE__KIND_READY));
            int fd = data_open(there, id);
            struct expert experts[2];
            uint8_t *storage[2];
            for (uint32_t slot = 0; slot < 2; slot++) {
                struct shard shard = plan_shard(&plan, slot);
                storage[slot] = model_read(&model, &shard);
                experts[slot] = shard_view(&FIXTURE_LAYOUT, &shard, storage[slot]);
            }
            data_expect_sums(fd, experts, 0);
            data_expect_sums(fd, experts, 0);
            client_say_goodbye(&client);
            client_expect_end(&client);
            data_expect_end(fd);
            client_close(&client);
            free(storage[0]);
            free(storage[1]);
        }
        worker_stop(&worker);
        test_directory_remove(directory);
    }
}

static void test_refuses_to_spill(void **state) {
    (void)state;
    struct worker worker;
    struct client client;
    char directory[64];
    test_directory_make(directory);
    start_spilling(&worker, directory, FIXTURE_MODEL, 10000);
    struct plan plan = plan_default(model.fingerprint);
    plan.spilled_count = 1;
    client_greet(&client, daemon_address(worker.daemon), model.fingerprint);
    client_assign(&client, &plan);
    client_expect_error(&client, "raise its --spill or --memory"); /* 24 KiB */
    client_close(&client);
    worker_stop(&worker);
    test_directory_remove(directory);

    client_greet(&client, address(), model.fingerprint); /* which was started without */
    client_assign(&client, &plan);
    client_expect_error(&client, "raise its --spill");
    client_close(&client);
    plan.spilled[0] = PLAN_SLOTS;
    client_greet(&client, address(), model.fingerprint);
    client_assign(&client, &plan);
    client_expect_error(&client, "spills slots that are not new");
    client_close(&client);
    expect_still_serving();

    const struct daemon_options options = {
        .listen = "127.0.0.1:0", .threads = 1, .memory_bytes = 1, .spill_bytes = 1};
    struct daemon *daemon;
    log_file_mark();
    assert_int_equal(daemon_create(&options, &daemon), STATUS_USAGE);
    log_file_expect("name one with --cache");
}

static void test_other_version(void **state) {
    (void)state;
    struct client client;
    client_connect(&client, address());
    client_say_hello(&client, CONTROL_VERSION + 1, 0);
    client_expect_error(&client, "upgrade the worker");
    client_close(&client);
    client_connect(&client, address());
    client_say_hello(&client, 0, 0);
    client_expect_error(&client, "upgrade the coordinator");
    client_close(&client);
    expect_still_serving();
}

static void test_busy(void **state) {
    (void)state;
    struct client first, second;
    client_greet(&first, address(), model.fingerprint);
    client_connect(&second, address());
    client_say_hello(&second, CONTROL_VERSION, model.fingerprint);
    client_expect_error(&second, "busy with coordinator test-host");
    client_close(&second);
    client_close(&first);
    expect_still_serving();
}

/* Sends raw bytes on a new connection and requires that the worker closes it. */
static void expect_refused(const void *bytes, size_t count, const char *logged) {
    struct client client;
    log_file_mark();
    client_connect(&client, address());
    send(client.fd, bytes, count, MSG_NOSIGNAL);
    uint8_t byte;
    ssize_t got = recv(client.fd, &byte, 1, 0);
    assert_true(got == 0 || (got < 0 && errno == ECONNRESET));
    client_close(&client);
    log_file_expect(logged);
    expect_still_serving();
}

static void test_garbage(void **state) {
    (void)state;
    expect_refused("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27,
                   "does not speak skein's control protocol");
    const uint8_t oversized[] = {0xff, 0xff, 0xff, 0x7f, 1, 2, 3};
    expect_refused(oversized, sizeof oversized, "2147483647 bytes");
    /* Allowed later, but not before the greeting. */
    const uint8_t early[] = {1, 0, 1, 0, 1, 2, 3};
    expect_refused(early, sizeof early, "65537 bytes");
    const uint8_t truncated[] = {4, 0, 0, 0, 0x0a, 0x20, 1, 2};
    expect_refused(truncated, sizeof truncated, "cannot be read");
    const uint8_t nothing[] = {0, 0, 0, 0};
    expect_refused(nothing, sizeof nothing, "cannot be read");
    const uint8_t unknown_kind[] = {3, 0, 0, 0, 0xfa, 0x01, 0};
    expect_refused(unknown_kind, sizeof unknown_kind, "cannot be read");
    const uint8_t early_ready[] = {2, 0, 0, 0, 0x42, 0};
    expect_refused(early_ready, sizeof early_ready, "sent Ready");
}

static void test_data_garbage(void **state) {
    (void)state;
    uint8_t frame[sizeof(struct wire_header)];
    struct wire_header header = {.type = WIRE_OPEN, .sequence = 1};
    wire_encode_header(&header, frame);
    expect_refused(frame, sizeof frame, "session that does not exist");
    frame[8] ^= 1;
    expect_refused(frame, sizeof frame, "damaged frame header");
    header.type = WIRE_COMBINE;
    wire_encode_header(&header, frame);
    expect_refused(frame, sizeof frame, "starts with a frame of type 3");

    log_file_mark();
    int fd = connect_to(address());
    send(fd, frame, 20, MSG_NOSIGNAL);
    close(fd);
    log_file_expect("closed in the middle of its first frame");
    expect_still_serving();
}

static void test_wrong_session_while_serving(void **state) {
    (void)state;
    struct client client;
    uint64_t id = client_greet(&client, address(), model.fingerprint);
    struct plan plan = plan_default(model.fingerprint);
    client_assign(&client, &plan);
    control_message_free(client_expect(&client, CONTROL__MESSAGE__KIND_READY));
    log_file_mark();
    data_expect_end(data_open(address(), id + 1));
    assert_int_equal(log_file_count("session that does not exist"), 1);
    int good = data_open(address(), id);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    data_expect_end(data_open(address(), id)); /* a second one */
    assert_int_equal(log_file_count("has a data connection already"), 1);
    client_close(&client);
    data_expect_end(good);
    expect_still_serving();
}

/* Greets, assigns `plan` and requires an Error that contains `part`. */
static void expect_assignment_refused(struct plan plan, const char *part) {
    struct client client;
    client_greet(&client, address(), model.fingerprint);
    client_assign(&client, &plan);
    client_expect_error(&client, part);
    client_close(&client);
}

static void test_bad_assignments(void **state) {
    (void)state;
    const struct plan good = plan_default(model.fingerprint);
    struct plan plan = good;
    plan.layer[2] = FIXTURE_LAYERS;
    expect_assignment_refused(plan, "out of bounds");
    plan = good;
    plan.expert[0] = EXPERTS_MAX;
    expect_assignment_refused(plan, "out of bounds");
    plan = good;
    plan.begin[0] = plan.end[0];
    expect_assignment_refused(plan, "out of bounds");
    plan = good;
    plan.end[3] = UINT32_MAX;
    expect_assignment_refused(plan, "out of bounds");
    plan = good;
    plan.begin[3] = 3;
    expect_assignment_refused(plan, "out of bounds");
    plan = good;
    plan.format[1] = 99;
    expect_assignment_refused(plan, "out of bounds");
    plan = good;
    plan.hidden = 0;
    expect_assignment_refused(plan, "out of bounds");
    plan = good;
    plan.inner[1] = plan.inner[3] = plan.end[0] = INNER_MAX;
    expect_assignment_refused(plan, "raise its --memory");
    plan = good;
    plan.batch_rows = BATCH_ROWS_MAX + 1;
    expect_assignment_refused(plan, "cannot serve");
    plan = good;
    plan.experts_per_token = 0;
    expect_assignment_refused(plan, "cannot serve");
    expect_still_serving();
}

static void test_model_of_another_shape(void **state) {
    (void)state;
    /* The worker's copy contradicts the assignment: it asks for the bytes instead. */
    struct client client;
    struct plan plan = plan_default(model.fingerprint);
    plan.inner[1] = plan.end[0] = 2 * FIXTURE_INNER;
    client_greet(&client, address(), model.fingerprint);
    client_assign(&client, &plan);
    control_message_free(client_expect(&client, CONTROL__MESSAGE__KIND_NEED));
    client_close(&client);
    expect_still_serving();
}

static void test_shipped_out_of_order(void **state) {
    (void)state;
    const struct {
        uint32_t slot;
        uint64_t offset;
        size_t bytes;
    } cases[] = {{PLAN_SLOTS, 0, 8}, {0, 8, 8}, {0, 0, 1 << 20}, {0, UINT64_MAX, 8}, {1, 0, 0}};
    uint8_t *data = calloc(1, 1 << 20);
    const char *there = daemon_address(no_copy.daemon);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct client client;
        struct plan plan = plan_default(model.fingerprint + 9);
        client_greet(&client, there, model.fingerprint + 9);
        client_assign(&client, &plan);
        control_message_free(client_expect(&client, CONTROL__MESSAGE__KIND_NEED));
        client_ship(&client, cases[i].slot, cases[i].offset, data, cases[i].bytes);
        client_expect_error(&client, "out of order");
        client_close(&client);
    }
    free(data);
    expect_still_serving();
}

/* Messages that do not fit the session's state. */
static void test_wrong_moment(void **state) {
    (void)state;
    struct client client;
    struct plan plan = plan_default(model.fingerprint);
    client_greet(&client, address(), model.fingerprint);
    client_say_hello(&client, CONTROL_VERSION, model.fingerprint);
    client_expect_end(&client);
    client_close(&client);

    client_greet(&client, address(), model.fingerprint);
    client_ship(&client, 0, 0, "abc", 3);
    client_expect_end(&client);
    client_close(&client);

    client_greet(&client, address(), model.fingerprint);
    client_assign(&client, &plan);
    control_message_free(client_expect(&client, CONTROL__MESSAGE__KIND_READY));
    client_assign(&client, &plan); /* again from the beginning */
    client_expect_error(&client, "fills slots that hold something");
    client_close(&client);

    client_greet(&client, address(), model.fingerprint);
    client_assign(&client, &plan);
    client_assign(&client, &plan); /* while it loads */
    Control__Message *message;
    while ((message = client_receive(&client)))
        control_message_free(message);
    client_close(&client);
    expect_still_serving();
}

static void test_measures(void **state) {
    (void)state;
    const uint32_t formats[] = {WEIGHT_Q8_0, WEIGHT_BF16};
    struct client client;
    struct plan plan = plan_default(model.fingerprint);
    client_greet(&client, address(), model.fingerprint);
    client_say_measure(&client, formats, 2);
    Control__Message *message = client_expect(&client, CONTROL__MESSAGE__KIND_FIGURES);
    const Control__Figures *figures = message->figures;
    assert_true(machine_rate_is_plausible(figures->read_bytes_per_s));
    assert_int_equal(figures->n_format, 2);
    assert_int_equal(figures->n_decode_bytes_per_s, 2);
    assert_int_equal(figures->n_batch_macs_per_s, 2);
    assert_int_equal(figures->format[0] + figures->format[1], WEIGHT_Q8_0 + WEIGHT_BF16);
    for (size_t i = 0; i < 2; i++) {
        assert_true(machine_rate_is_plausible(figures->decode_bytes_per_s[i]));
        assert_true(machine_rate_is_plausible(figures->batch_macs_per_s[i]));
    }
    control_message_free(message);
    client_assign(&client, &plan); /* it goes on from there */
    control_message_free(client_expect(&client, CONTROL__MESSAGE__KIND_READY));
    client_say_measure(&client, formats, 2); /* too late */
    client_expect_end(&client);
    client_close(&client);

    const uint32_t unknown[] = {WEIGHT_BF16, WEIGHT_FORMAT_COUNT};
    client_greet(&client, address(), model.fingerprint);
    client_say_measure(&client, unknown, 2);
    client_expect_error(&client, "weight format that it does not know");
    client_close(&client);

    client_greet(&client, address(), model.fingerprint);
    client_say_measure(&client, formats, 1);
    client_assign(&client, &plan); /* while it measures */
    client_expect_end(&client);
    client_close(&client);
    expect_still_serving();
}

/* Sends a probe with `bytes` of payload and requires an answer with `wanted`. */
static void expect_probe(int fd, uint64_t sequence, uint32_t bytes, uint32_t wanted) {
    const struct wire_header header = {
        .type = WIRE_PROBE, .sequence = sequence, .entries = wanted, .payload_bytes = bytes};
    struct wire_header found;
    uint8_t *frame = calloc(1, sizeof header + (bytes > wanted ? bytes : wanted));
    wire_encode_header(&header, frame);
    assert_int_equal(send(fd, frame, sizeof header + bytes, MSG_NOSIGNAL), sizeof header + bytes);
    assert_true(read_all(fd, frame, sizeof header + wanted));
    assert_int_equal(wire_decode_header(frame, "worker", &found), STATUS_OK);
    assert_int_equal(found.type, WIRE_PROBE_REPLY);
    assert_int_equal(found.sequence, sequence);
    assert_int_equal(found.payload_bytes, wanted);
    free(frame);
}

static void test_answers_probes(void **state) {
    (void)state;
    struct client client;
    uint64_t id = client_greet(&client, address(), model.fingerprint);
    int fd = data_open(address(), id);
    expect_probe(fd, 1, 0, 0);
    expect_probe(fd, 2, 100000, 0);
    expect_probe(fd, 3, 0, WIRE_PROBE_BYTES_MAX);
    expect_probe(fd, 4, 333, 7777);
    log_file_mark();
    data_expect_end(data_open(address(), id)); /* a second one */
    assert_int_equal(log_file_count("or not now"), 1);
    expect_probe(fd, 5, 1, 1);

    /* Rows are not answered before there is an assignment. */
    const struct wire_entry entry = {0, 0, 1.0f};
    const struct wire_header header = {.rows = 1, .entries = 1, .hidden = FIXTURE_HIDDEN};
    size_t bytes;
    uint8_t *frame = frame_create(header, &entry, &bytes);
    send(fd, frame, bytes, MSG_NOSIGNAL);
    data_expect_end(fd);
    log_file_expect("before its assignment was there");
    free(frame);

    /* An end in the middle, by us and by the coordinator's loss. */
    struct plan plan = plan_default(model.fingerprint);
    client_assign(&client, &plan);
    control_message_free(client_expect(&client, CONTROL__MESSAGE__KIND_READY));
    client_close(&client);
    id = client_greet(&client, address(), model.fingerprint);
    fd = data_open(address(), id);
    expect_probe(fd, 1, 0, 0);
    client_close(&client);
    data_expect_end(fd);
    expect_still_serving();
}

/* A coordinator that is stopped answers nothing and closes nothing. */
static void test_silent_coordinator(void **state) {
    (void)state;
    struct client client;
    log_file_mark();
    client_greet(&client, address(), model.fingerprint);
    client.silent = true;
    uint64_t started_ns = clock_now_ns();
    client_expect_end(&client);
    double silent_s = clock_elapsed_s(started_ns);
    assert_true(silent_s > 2.0 && silent_s < 8.0);
    client_close(&client);
    log_file_expect("is gone (timed out)");
    expect_still_serving();
}

static void test_silent_connections(void **state) {
    (void)state;
    enum { COUNT = ARRIVALS_MAX + 8 };
    int fds[COUNT];
    log_file_mark();
    for (int i = 0; i < COUNT; i++)
        fds[i] = connect_to(address());
    log_file_expect("making room for others");
    expect_still_serving();
    for (int i = 0; i < COUNT; i++)
        data_expect_end(fds[i]); /* the last ones after their deadline */
    log_file_expect("said nothing for 5 s");
}

static void test_too_many_clients(void **state) {
    (void)state;
    enum { COUNT = CONTROL_CONNECTIONS_MAX + 4 };
    int fds[COUNT];
    const uint8_t half_a_message[] = {9, 0, 0, 0, 1};
    log_file_mark();
    for (int i = 0; i < COUNT; i++) {
        fds[i] = connect_to(address());
        send(fds[i], half_a_message, sizeof half_a_message, MSG_NOSIGNAL);
    }
    log_file_expect("control connections are open");
    for (int i = 0; i < COUNT; i++) {
        struct client client = {.fd = fds[i], .silent = true};
        control_reader_init(&client.reader, CONTROL_MESSAGE_BYTES_MAX);
        client_expect_end(&client); /* after the health timeout */
        client_close(&client);
    }
    expect_still_serving();
}

/* Well-formed messages with random bytes changed: any answer is right that leaves the worker
 * serving. */
static void test_mutated_messages(void **state) {
    (void)state;
    struct random random = {4711};
    struct plan plan = plan_default(model.fingerprint);
    for (int round = 0; round < TEST_ROUNDS(300); round++) {
        struct client client;
        client_greet(&client, address(), model.fingerprint);
        Control__Assign assign = CONTROL__ASSIGN__INIT;
        Control__Message message = CONTROL__MESSAGE__INIT;
        assign.fingerprint = plan.fingerprint;
        assign.hidden = plan.hidden;
        assign.batch_rows = 1;
        assign.experts_per_token = 1;
        assign.n_layer_inner = assign.n_layer_gate_format = SHARD_LAYOUTS(FIXTURE_LAYERS);
        assign.n_layer_up_format = assign.n_layer_down_format = SHARD_LAYOUTS(FIXTURE_LAYERS);
        assign.layer_inner = plan.inner;
        assign.layer_gate_format = assign.layer_up_format = assign.layer_down_format = plan.format;
        assign.n_shard_layer = assign.n_shard_expert = PLAN_SLOTS;
        assign.n_shard_begin = assign.n_shard_end = PLAN_SLOTS;
        assign.shard_layer = plan.layer;
        assign.shard_expert = plan.expert;
        assign.shard_begin = plan.begin;
        assign.shard_end = plan.end;
        message.kind_case = CONTROL__MESSAGE__KIND_ASSIGN;
        message.assign = &assign;
        uint8_t bytes[256];
        size_t count = control_encoded_bytes(&message);
        assert_true(count <= sizeof bytes);
        control_encode(&message, bytes);
        for (uint32_t i = random_below(&random, 4) + 1; i > 0; i--)
            bytes[CONTROL_PREFIX_BYTES + random_below(&random, (uint32_t)count - 4)] =
                (uint8_t)random_bits(&random);
        send(client.fd, bytes, count, MSG_NOSIGNAL);
        shutdown(client.fd, SHUT_WR);
        Control__Message *answer;
        while ((answer = client_receive(&client)))
            control_message_free(answer);
        client_close(&client);
    }
    expect_still_serving();
}

static void test_stops_while_serving(void **state) {
    (void)state;
    struct worker worker;
    struct client client;
    worker_start(&worker, FIXTURE_MODEL, 64 << 20);
    client_greet(&client, daemon_address(worker.daemon), model.fingerprint);
    struct plan plan = plan_default(model.fingerprint);
    client_assign(&client, &plan);
    control_message_free(client_expect(&client, CONTROL__MESSAGE__KIND_READY));
    worker_stop(&worker);
    client_expect_end(&client);
    client_close(&client);
}

static void test_refuses_addresses(void **state) {
    (void)state;
    struct daemon_options options = {.threads = 1, .memory_bytes = 1};
    struct daemon *daemon;
    const struct {
        const char *listen, *logged;
        enum status status;
    } cases[] = {{"0.0.0.0:0", "--insecure", STATUS_USAGE},
                 {"[::]:0", "--insecure", STATUS_USAGE},
                 {"127.0.0.1", "HOST:PORT", STATUS_USAGE},
                 {"127.0.0.1:70000", "HOST:PORT", STATUS_USAGE},
                 {"::1:80", "HOST:PORT", STATUS_USAGE},
                 {address(), "is another skein-worker running there?", STATUS_CONNECTION}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        log_file_mark();
        options.listen = cases[i].listen;
        assert_int_equal(daemon_create(&options, &daemon), cases[i].status);
        log_file_expect(cases[i].logged);
        assert_int_equal(log_file_count("error: "), 1);
    }
    options.listen = "0.0.0.0:0";
    options.insecure = true;
    assert_int_equal(daemon_create(&options, &daemon), STATUS_OK);
    daemon_destroy(daemon); /* without having run */
}

static int start(void **state) {
    (void)state;
    model_open(&model);
    worker_start(&own_copy, FIXTURE_MODEL, 64 << 20);
    worker_start(&no_copy, NULL, 64 << 20);
    return 0;
}

static int stop(void **state) {
    (void)state;
    worker_stop(&own_copy);
    worker_stop(&no_copy);
    model_close(&model);
    return 0;
}

int main(void) {
    log_file_begin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_serves_one_after_another),
        cmocka_unit_test(test_says_what_it_has),
        cmocka_unit_test(test_takes_shipped_shards_and_keeps_them),
        cmocka_unit_test(test_releases_slots),
        cmocka_unit_test(test_spills),
        cmocka_unit_test(test_refuses_to_spill),
        cmocka_unit_test(test_other_version),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_data_garbage),
        cmocka_unit_test(test_wrong_session_while_serving),
        cmocka_unit_test(test_bad_assignments),
        cmocka_unit_test(test_model_of_another_shape),
        cmocka_unit_test(test_shipped_out_of_order),
        cmocka_unit_test(test_wrong_moment),
        cmocka_unit_test(test_measures),
        cmocka_unit_test(test_answers_probes),
        cmocka_unit_test(test_silent_coordinator),
        cmocka_unit_test(test_silent_connections),
        cmocka_unit_test(test_too_many_clients),
        cmocka_unit_test(test_mutated_messages),
        cmocka_unit_test(test_stops_while_serving),
        cmocka_unit_test(test_refuses_addresses),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
