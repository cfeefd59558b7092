/* The data plane alone: a service with a store filled here, on a socket pair. */
#include "tests/unit/worker/fixture.h"

#include <math.h>
#include <stdatomic.h>

#include "common/kernel/half.h"
#include "common/threads.h"
#include "worker/service.h"

/* The plan's experts, and some rows of the output head behind them. */
#define SLOTS      (PLAN_SLOTS + 1)
#define HEAD_SLOT  PLAN_SLOTS
#define HEAD_BEGIN 64u
#define HEAD_END   208u

static struct model model;
static struct threads *threads;
static struct expert_store *store;
static struct service *service;
static struct service_options options;
static struct expert experts[SLOTS]; /* the test's own */
static uint8_t *storage[SLOTS];

/* A connection to the service; a closed one may still be noticed, so it is tried for a while. What
 * the service sends waits in `send_bytes` (0: as the system has it) until it is read. */
static int attach_narrow(int send_bytes) {
    for (int i = 0; i < 200; i++) {
        int ends[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        if (send_bytes)
            setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
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

static int attach(void) {
    return attach_narrow(0);
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
    uint8_t *reply = aligned_alloc(64, wire_combine_bytes(1, FIXTURE_HIDDEN, WIRE_F32, 0));
    for (uint64_t i = 0; i < 4; i++) {
        struct wire_header header;
        assert_true(read_all(fd, reply, wire_combine_bytes(1, FIXTURE_HIDDEN, WIRE_F32, 0)));
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
    size_t bytes, reply_bytes = wire_combine_bytes(rows, FIXTURE_HIDDEN, WIRE_F32, 0);
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

/* Answers that wait for the peer to read do not end the connection before the sentence that comes
 * behind them. */
static void test_error_behind_answers(void **state) {
    (void)state;
    enum { GOOD = 2 };
    int fd = attach_narrow(1);
    log_file_mark();
    for (uint32_t i = 0; i <= GOOD; i++) {
        const struct wire_entry entry = {0, i < GOOD ? 0 : SLOTS, 1.0f};
        const struct wire_header header = {.sequence = i,
                                           .layer = 1,
                                           .rows = options.batch_rows,
                                           .entries = 1,
                                           .hidden = FIXTURE_HIDDEN};
        size_t bytes;
        uint8_t *frame = frame_create(header, &entry, &bytes);
        assert_int_equal(send(fd, frame, bytes, 0), bytes);
        free(frame);
    }
    log_file_expect("is not valid");
    size_t reply_bytes = wire_combine_bytes(options.batch_rows, FIXTURE_HIDDEN, WIRE_F32, 0);
    uint8_t *reply = aligned_alloc(64, reply_bytes);
    struct wire_header found;
    for (uint32_t i = 0; i <= GOOD; i++) {
        assert_true(read_all(fd, reply, i < GOOD ? reply_bytes : sizeof found));
        assert_int_equal(wire_decode_header(reply, "service", &found), STATUS_OK);
        assert_int_equal(found.type, i < GOOD ? WIRE_COMBINE : WIRE_ERROR);
        assert_int_equal(found.sequence, i);
    }
    free(reply);
    close(fd);
    expect_still_serving();
}

/* Asked for it, an answer says behind the rows when the other thread computed. */
static void test_spans(void **state) {
    (void)state;
    service_destroy(service);
    options.tells_spans = true;
    assert_int_equal(service_create(&options, &service), STATUS_OK);
    struct wire_entry entries[8];
    for (uint32_t row = 0; row < options.batch_rows; row++)
        entries[row] = (struct wire_entry){row, 0, 1.0f};
    struct wire_header header = {
        .sequence = 1, .layer = 1, .rows = 8, .entries = 8, .hidden = FIXTURE_HIDDEN};
    size_t bytes, reply_bytes = wire_combine_bytes(8, FIXTURE_HIDDEN, WIRE_F32, 1);
    uint8_t *frame = frame_create(header, entries, &bytes);
    uint8_t *reply = aligned_alloc(64, (reply_bytes + 63) / 64 * 64);
    bool worked = false;
    int fd = attach();
    uint64_t started_ns = clock_now_ns(); /* the system may leave the thread without a processor */
    while (!worked && clock_elapsed_s(started_ns) < 20) {
        assert_int_equal(send(fd, frame, bytes, 0), bytes);
        assert_true(read_all(fd, reply, reply_bytes));
        assert_int_equal(wire_decode_header(reply, "service", &header), STATUS_OK);
        assert_int_equal(header.entries, 1);
        const struct wire_span *span = wire_combine_spans(reply);
        assert_true(span->begin_us <= span->end_us && span->end_us <= header.busy_us);
        assert_true(span->busy_us <= span->end_us - span->begin_us + 1);
        worked = span->end_us > 0;
    }
    assert_true(worked);
    free(frame);
    free(reply);
    close(fd);
    service_destroy(service);
    options.tells_spans = false;
    assert_int_equal(service_create(&options, &service), STATUS_OK);
    expect_still_serving();
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
    expect_refused(good, (struct wire_entry){0, SLOTS, 1.0f}, "entries are not valid");
    expect_refused(good, (struct wire_entry){0, UINT32_MAX, 1.0f}, "entries are not valid");
    expect_refused(good, (struct wire_entry){1, 0, 1.0f}, "entries are not valid");
    expect_refused(good, (struct wire_entry){0, 0, NAN}, "entries are not valid");
    expect_refused(good, (struct wire_entry){0, 2, 1.0f}, "holds a shard of layer 3");
    header.layer = 2;
    expect_refused(header, entry, "the frame is for experts of 2");
    header = good;
    header.hidden = FIXTURE_HIDDEN / 2;
    expect_refused(header, entry, "1 rows of 64");
    header = good;
    header.rows = 0;
    header.entries = 0;
    expect_refused(header, entry, "0 rows");
}

static void expect_released_slot_refused(uint32_t slot) {
    const struct wire_header header = {
        .layer = 3, .rows = 1, .entries = 1, .hidden = FIXTURE_HIDDEN};
    expect_refused(header, (struct wire_entry){0, slot, 1.0f}, "entries are not valid");
}

/* A frame that names a released slot is refused as for one that never was, until it is filled
 * again. */
static void test_refuses_released_slots(void **state) {
    (void)state;
    const uint32_t slots[] = {2, 3};
    const struct shard shard = *expert_store_shard(store, 2);
    expert_store_withdraw(store, slots, 2);
    expect_released_slot_refused(2);
    assert_int_equal(expert_store_release(store, slots, 2), STATUS_OK);
    expect_released_slot_refused(2);
    expect_released_slot_refused(3);
    assert_int_equal(expert_store_extend(store, slots, &shard, 1), STATUS_OK);
    assert_int_equal(expert_store_fill(store, 2, 0, storage[2], expert_store_slot_bytes(store, 2)),
                     STATUS_OK);
    expect_released_slot_refused(2); /* not served yet */
    expert_store_serve(store);
    expect_released_slot_refused(3);
    test_frames_queue(state);
}

static void *send_frames(void *stopped) {
    int fd = attach();
    while (!atomic_load((atomic_bool *)stopped))
        data_expect_sums(fd, experts, 0);
    close(fd);
    return NULL;
}

/* Slots come and go while others are computed. */
static void test_releases_beside_frames(void **state) {
    (void)state;
    const uint32_t slot = 2;
    const struct shard shard = *expert_store_shard(store, slot);
    size_t bytes = expert_store_slot_bytes(store, slot);
    uint64_t held_bytes = expert_store_bytes(store);
    atomic_bool stopped = false;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, send_frames, &stopped), 0);
    for (int i = 0; i < 50; i++) {
        expert_store_withdraw(store, &slot, 1);
        assert_int_equal(expert_store_release(store, &slot, 1), STATUS_OK);
        assert_int_equal(expert_store_bytes(store), held_bytes - bytes);
        assert_int_equal(expert_store_extend(store, &slot, &shard, 1), STATUS_OK);
        assert_int_equal(expert_store_fill(store, slot, 0, storage[slot], bytes), STATUS_OK);
        expert_store_serve(store);
    }
    atomic_store(&stopped, true);
    pthread_join(thread, NULL);
    assert_int_equal(expert_store_bytes(store), held_bytes);
    test_frames_queue(state);
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

/* Rows of the output head are answered with logits, which are longer or shorter than rows. */
static void test_head(void **state) {
    (void)state;
    const struct wire_entry entries[] = {{0, HEAD_SLOT, 1}, {1, HEAD_SLOT, 1}, {2, HEAD_SLOT, 1}};
    const struct wire_header header = {
        .sequence = 3, .rows = 3, .entries = 3, .hidden = FIXTURE_HIDDEN};
    size_t bytes, reply_bytes = wire_combine_bytes(3, HEAD_END - HEAD_BEGIN, WIRE_F32, 0);
    uint8_t *frame = frame_create(header, entries, &bytes);
    uint8_t *reply = aligned_alloc(64, (reply_bytes + 63) / 64 * 64);
    int fd = attach();
    assert_int_equal(send(fd, frame, bytes, MSG_NOSIGNAL), bytes);
    assert_true(read_all(fd, reply, reply_bytes));
    struct wire_header found;
    assert_int_equal(wire_decode_header(reply, "service", &found), STATUS_OK);
    assert_int_equal(found.hidden, HEAD_END - HEAD_BEGIN);
    assert_int_equal(found.rows, 3);
    const float *logits = wire_combine_rows(reply);
    uint16_t *values = malloc((HEAD_END - HEAD_BEGIN) * FIXTURE_HIDDEN * sizeof *values);
    const struct region region = {
        .row = HEAD_BEGIN, .rows = HEAD_END - HEAD_BEGIN, .columns = FIXTURE_HIDDEN};
    assert_int_equal(weights_read_region(model.weights, "lm_head.weight", &region, values),
                     STATUS_OK);
    for (uint32_t i = 0; i < HEAD_END - HEAD_BEGIN; i++) {
        double sum = 0; /* rows of ones */
        for (uint32_t c = 0; c < FIXTURE_HIDDEN; c++)
            sum += f32_from_bf16(values[i * FIXTURE_HIDDEN + c]);
        for (uint32_t row = 0; row < 3; row++)
            assert_float_equal(logits[row * (HEAD_END - HEAD_BEGIN) + i], sum, 1e-3);
    }
    free(values);
    free(frame);
    free(reply);
    close(fd);
}

static void test_refuses_head_frames(void **state) {
    (void)state;
    const struct wire_header header = {.rows = 2, .entries = 1, .hidden = FIXTURE_HIDDEN};
    expect_refused(header, (struct wire_entry){0, HEAD_SLOT, 1}, "of the output head");
    const struct wire_entry mixed[] = {{0, 0, 1}, {0, HEAD_SLOT, 1}};
    const struct wire_header both = {.layer = 1, .rows = 1, .entries = 2, .hidden = FIXTURE_HIDDEN};
    size_t bytes;
    uint8_t *frame = frame_create(both, mixed, &bytes);
    int fd = attach();
    log_file_mark();
    send(fd, frame, bytes, MSG_NOSIGNAL);
    struct wire_header found;
    assert_true(read_all(fd, &found, sizeof found));
    assert_int_equal(found.type, WIRE_ERROR);
    log_file_expect("the frame is for experts");
    free(frame);
    close(fd);
    expect_still_serving();
}

/* A shard, and what the test knows of it. */
static void fill_slot(uint32_t slot, const struct shard_layout *layout, const struct shard *shard) {
    size_t bytes = shard_bytes(layout, shard);
    storage[slot] = aligned_alloc(64, bytes);
    assert_int_equal(shard_read(model.weights, layout, shard, storage[slot]), STATUS_OK);
    experts[slot] = shard_view(layout, shard, storage[slot]);
    assert_int_equal(expert_store_fill(store, slot, 0, storage[slot], bytes), STATUS_OK);
}

static int start(void **state) {
    (void)state;
    struct plan plan = plan_default(0);
    struct shard_layout layouts[SHARD_LAYOUTS(FIXTURE_LAYERS)] = {
        {0}, FIXTURE_LAYOUT, FIXTURE_LAYOUT, FIXTURE_LAYOUT};
    layouts[2 * FIXTURE_LAYERS] =
        (struct shard_layout){.hidden = FIXTURE_HIDDEN, .inner = 320, .gate = WEIGHT_BF16};
    struct shard shards[SLOTS] = {[HEAD_SLOT] = {0, SHARD_HEAD, HEAD_BEGIN, HEAD_END}};
    for (uint32_t slot = 0; slot < PLAN_SLOTS; slot++)
        shards[slot] = plan_shard(&plan, slot);
    const struct assignment assignment = {1,     layouts, FIXTURE_LAYERS, shards,
                                          SLOTS, NULL,    NULL,           false};
    model_open(&model);
    assert_int_equal(threads_create(2, &threads), STATUS_OK);
    assert_int_equal(expert_store_create(1 << 20, &store), STATUS_OK);
    assert_int_equal(expert_store_assign(store, &assignment), STATUS_OK);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        fill_slot(slot, shard_layout(layouts, FIXTURE_LAYERS, &shards[slot]), &shards[slot]);
    expert_store_serve(store);
    options = (struct service_options){.threads = threads,
                                       .store = store,
                                       .hidden = FIXTURE_HIDDEN,
                                       .inner_max = FIXTURE_INNER,
                                       .batch_rows = 8,
                                       .entries_per_row = 2,
                                       .head_rows = HEAD_END - HEAD_BEGIN};
    assert_int_equal(service_create(&options, &service), STATUS_OK);
    return 0;
}

static int stop(void **state) {
    (void)state;
    service_destroy(service);
    expert_store_destroy(store);
    threads_destroy(threads);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
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
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_refuses_frames),
        cmocka_unit_test(test_error_behind_answers),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_refuses_head_frames),
        cmocka_unit_test(test_broken_streams),
        cmocka_unit_test(test_releases_beside_frames),
        cmocka_unit_test(test_refuses_released_slots),
        cmocka_unit_test(test_second_connection_is_refused),
        cmocka_unit_test(test_destroy_closes),
        cmocka_unit_test(test_refuses_options),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
