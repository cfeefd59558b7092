/* The data plane alone: a service with a store filled here, on a socket pair. */
#include "tests/unit/worker/fixture.h"

#include <math.h>

#include "common/threads.h"
#include "worker/service.h"

static struct model model;
static struct threads *threads;
static struct expert_store *store;
static struct service *service;
static struct service_options options;
static struct expert experts[PLAN_SLOTS]; /* the test's own */
static uint8_t *storage[PLAN_SLOTS];

/* A connection to the service; a closed one may still be noticed, so it is tried for a while. */
static int attach(void) {
    for (int i = 0; i < 200; i++) {
        int ends[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 10},
                   sizeof(struct timeval));
        if (service_attach(service, ends[1], "coordinator-7") == STATUS_OK)
            return ends[0];
        close(ends[0]);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    fail_msg("the service stays busy");
    return -1;
}

static void expect_still_serving(void) {
    int fd = attach();
    data_expect_sums(fd, experts, 0);
    close(fd);
}

static void test_serves_frame_after_frame(void **state) {
    (void)state;
    int fd = attach();
    for (int i = 0; i < 5; i++)
        data_expect_sums(fd, experts, 0);
    close(fd);
    expect_still_serving();
}

/* Two frames are sent before the first answer is read; the answers come in order. */
static void test_frames_queue(void **state) {
    (void)state;
    int fd = attach();
    for (uint64_t i = 0; i < 4; i++) {
        const struct wire_entry entry = {0, 2, 1.0f};
        const struct wire_header header = {
            .sequence = i, .layer = 3, .rows = 1, .entries = 1, .hidden = FIXTURE_HIDDEN};
        size_t bytes;
        uint8_t *frame = frame_create(header, &entry, &bytes);
        assert_int_equal(send(fd, frame, bytes, 0), bytes);
        free(frame);
    }
    uint8_t *reply = aligned_alloc(64, wire_combine_bytes(1, FIXTURE_HIDDEN, WIRE_F32));
    for (uint64_t i = 0; i < 4; i++) {
        struct wire_header header;
        assert_true(read_all(fd, reply, wire_combine_bytes(1, FIXTURE_HIDDEN, WIRE_F32)));
        assert_int_equal(wire_decode_header(reply, "service", &header), STATUS_OK);
        assert_int_equal(header.sequence, i);
    }
    free(reply);
    close(fd);
}

/* A row without entries has zero sums, and the largest frame fits. */
static void test_bounds_of_a_frame(void **state) {
    (void)state;
    int fd = attach();
    const uint32_t rows = options.batch_rows;
    struct wire_entry entries[64];
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < 2; slot++)
        for (uint32_t row = 0; row < rows; row++)
            entries[count++] = (struct wire_entry){row, slot, 1.0f};
    assert_int_equal(count, options.batch_rows * options.entries_per_row);
    struct wire_header header = {
        .sequence = 1, .layer = 1, .rows = rows, .entries = count, .hidden = FIXTURE_HIDDEN};
    size_t bytes, reply_bytes = wire_combine_bytes(rows, FIXTURE_HIDDEN, WIRE_F32);
    uint8_t *frame = frame_create(header, entries, &bytes);
    uint8_t *reply = aligned_alloc(64, reply_bytes);
    assert_int_equal(send(fd, frame, bytes, 0), bytes);
    assert_true(read_all(fd, reply, reply_bytes));
    free(frame);

    header.entries = 0;
    frame = frame_create(header, entries, &bytes);
    assert_int_equal(send(fd, frame, bytes, 0), bytes);
    assert_true(read_all(fd, reply, reply_bytes));
    for (uint32_t i = 0; i < rows * FIXTURE_HIDDEN; i++)
        assert_true(((float *)wire_combine_rows(reply))[i] == 0);
    free(frame);
    free(reply);
    close(fd);
}

/* Sends one frame; requires an ERROR frame with `part`, the end of the connection, and one log
 * line. */
static void expect_refused(struct wire_header header, struct wire_entry entry, const char *part) {
    int fd = attach();
    size_t bytes;
    header.sequence = 5;
    uint8_t *frame = frame_create(header, &entry, &bytes);
    log_file_mark();
    send(fd, frame, bytes, MSG_NOSIGNAL);
    free(frame);
    struct wire_header found;
    char text[WIRE_ERROR_BYTES_MAX + 1];
    assert_true(read_all(fd, &found, sizeof found));
    assert_int_equal(wire_decode_header(&found, "service", &found), STATUS_OK);
    assert_int_equal(found.type, WIRE_ERROR);
    assert_int_equal(found.sequence, 5);
    assert_true(read_all(fd, text, found.payload_bytes));
    text[found.payload_bytes] = '\0';
    if (!strstr(text, part))
        fail_msg("\"%s\" is not in \"%s\"", part, text);
    data_expect_end(fd);
    log_file_expect("coordinator-7");
    assert_int_equal(log_file_count("error: "), 1);
    expect_still_serving();
}

static void test_refuses_frames(void **state) {
    (void)state;
    const struct wire_header good = {.layer = 1, .rows = 1, .entries = 1, .hidden = FIXTURE_HIDDEN};
    const struct wire_entry entry = {0, 0, 1.0f};
    struct wire_header header = good;
    expect_refused(good, (struct wire_entry){0, PLAN_SLOTS, 1.0f}, "entries are not valid");
    expect_refused(good, (struct wire_entry){0, UINT32_MAX, 1.0f}, "entries are not valid");
    expect_refused(good, (struct wire_entry){1, 0, 1.0f}, "entries are not valid");
    expect_refused(good, (struct wire_entry){0, 0, NAN}, "entries are not valid");
    expect_refused(good, (struct wire_entry){0, 2, 1.0f}, "holds an expert of layer 3");
    header.layer = 2;
    expect_refused(header, entry, "the frame is of 2");
    header = good;
    header.hidden = FIXTURE_HIDDEN / 2;
    expect_refused(header, entry, "1 rows of 64");
    header = good;
    header.rows = 0;
    header.entries = 0;
    expect_refused(header, entry, "0 rows");
}

/* What the transport already refuses, or what ends early, closes the connection and no more. */
static void test_broken_streams(void **state) {
    (void)state;
    struct wire_header header = {.type = WIRE_DISPATCH,
                                 .layer = 1,
                                 .rows = options.batch_rows + 1,
                                 .entries = 1,
                                 .hidden = FIXTURE_HIDDEN};
    uint8_t frame[sizeof header];
    int fd = attach();
    wire_encode_header(&header, frame);
    send(fd, frame, sizeof frame, MSG_NOSIGNAL);
    data_expect_end(fd);

    fd = attach();
    memset(frame, 0x5a, sizeof frame);
    send(fd, frame, sizeof frame, MSG_NOSIGNAL);
    data_expect_end(fd);

    fd = attach();
    header.rows = 1;
    wire_encode_header(&header, frame);
    send(fd, frame, sizeof frame, MSG_NOSIGNAL);
    close(fd); /* in the middle of the payload */
    expect_still_serving();
}

static void test_second_connection_is_refused(void **state) {
    (void)state;
    int first = attach(), ends[2];
    data_expect_sums(first, experts, 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    log_file_mark();
    assert_int_equal(service_attach(service, ends[1], "coordinator-8"), STATUS_PROTOCOL);
    log_file_expect("coordinator-8");
    data_expect_end(ends[0]);
    data_expect_sums(first, experts, 0);
    close(first);
}

static void test_destroy_closes(void **state) {
    (void)state;
    int fd = attach();
    data_expect_sums(fd, experts, 0);
    service_destroy(service);
    data_expect_end(fd);
    assert_int_equal(service_create(&options, &service), STATUS_OK);
    service_destroy(NULL);
}

static void expect_options_refused(struct service_options bad) {
    struct service *none;
    log_file_mark();
    assert_int_equal(service_create(&bad, &none), STATUS_PROTOCOL);
    log_file_expect("is out of bounds");
}

static void test_refuses_options(void **state) {
    (void)state;
    struct service_options bad = options;
    bad.hidden = 0;
    expect_options_refused(bad);
    bad = options;
    bad.batch_rows = 0;
    expect_options_refused(bad);
    bad.batch_rows = BATCH_ROWS_MAX + 1;
    expect_options_refused(bad);
    bad = options;
    bad.entries_per_row = ENTRIES_PER_ROW_MAX + 1;
    expect_options_refused(bad);
}

static int start(void **state) {
    (void)state;
    struct plan plan = plan_default(0);
    const struct shard_layout layouts[] = {{0}, FIXTURE_LAYOUT, FIXTURE_LAYOUT, FIXTURE_LAYOUT};
    struct shard shards[PLAN_SLOTS];
    for (uint32_t slot = 0; slot < PLAN_SLOTS; slot++)
        shards[slot] = plan_shard(&plan, slot);
    const struct assignment assignment = {1, layouts, FIXTURE_LAYERS, shards, PLAN_SLOTS, false};
    model_open(&model);
    assert_int_equal(threads_create(2, &threads), STATUS_OK);
    assert_int_equal(expert_store_create(1 << 20, &store), STATUS_OK);
    assert_int_equal(expert_store_assign(store, &assignment), STATUS_OK);
    for (uint32_t slot = 0; slot < PLAN_SLOTS; slot++) {
        storage[slot] = model_read(&model, &shards[slot]);
        experts[slot] = shard_view(&FIXTURE_LAYOUT, &shards[slot], storage[slot]);
        assert_int_equal(expert_store_fill(store, slot, 0, storage[slot],
                                           shard_bytes(&FIXTURE_LAYOUT, &shards[slot])),
                         STATUS_OK);
    }
    expert_store_serve(store);
    options = (struct service_options){.threads = threads,
                                       .store = store,
                                       .hidden = FIXTURE_HIDDEN,
                                       .inner_max = FIXTURE_INNER,
                                       .batch_rows = 8,
                                       .entries_per_row = 2};
    assert_int_equal(service_create(&options, &service), STATUS_OK);
    return 0;
}

static int stop(void **state) {
    (void)state;
    service_destroy(service);
    expert_store_destroy(store);
    threads_destroy(threads);
    for (uint32_t slot = 0; slot < PLAN_SLOTS; slot++)
        free(storage[slot]);
    model_close(&model);
    return 0;
}

int main(void) {
    log_file_begin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_serves_frame_after_frame),
        cmocka_unit_test(test_frames_queue),
        cmocka_unit_test(test_bounds_of_a_frame),
        cmocka_unit_test(test_refuses_frames),
        cmocka_unit_test(test_broken_streams),
        cmocka_unit_test(test_second_connection_is_refused),
        cmocka_unit_test(test_destroy_closes),
        cmocka_unit_test(test_refuses_options),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
