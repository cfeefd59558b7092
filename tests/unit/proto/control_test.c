/* The codec and the reader: whole messages out of any cut of the stream, and nothing but an error
 * out of anything else. */
#include "tests/unit/test.h"

#include "common/cluster_limits.h"
#include "proto/control.h"
#include "tests/unit/random.h"

#define PEER "10.0.0.9:7717"

/* Encodes into memory that the caller frees. */
static uint8_t *encode(const Control__Message *message, size_t *bytes) {
    *bytes = control_encoded_bytes(message);
    uint8_t *data = malloc(*bytes);
    control_encode(message, data);
    return data;
}

static uint8_t *encode_hello(size_t *bytes) {
    Control__Hello hello = CONTROL__HELLO__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    hello.protocol_version = CONTROL_VERSION;
    hello.node_name = "somewhere";
    hello.fingerprint = 0x0123456789abcdef;
    message.kind_case = CONTROL__MESSAGE__KIND_HELLO;
    message.hello = &hello;
    return encode(&message, bytes);
}

static uint8_t *encode_assign(uint32_t shards, size_t *bytes) {
    Control__Assign assign = CONTROL__ASSIGN__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    uint32_t *list = calloc(shards, sizeof *list);
    for (uint32_t i = 0; i < shards; i++)
        list[i] = i * 7;
    assign.hidden = 128;
    assign.n_shard_layer = assign.n_shard_expert = assign.n_shard_begin = assign.n_shard_end =
        shards;
    assign.shard_layer = assign.shard_expert = assign.shard_begin = assign.shard_end = list;
    message.kind_case = CONTROL__MESSAGE__KIND_ASSIGN;
    message.assign = &assign;
    uint8_t *data = encode(&message, bytes);
    free(list);
    return data;
}

/* Puts bytes into the reader as a socket would. */
static void feed(struct control_reader *reader, const uint8_t *data, size_t bytes) {
    while (bytes > 0) {
        uint8_t *room;
        size_t count;
        assert_int_equal(control_reader_reserve(reader, &room, &count), STATUS_OK);
        assert_true(count > 0);
        count = count < bytes ? count : bytes;
        memcpy(room, data, count);
        control_reader_commit(reader, count);
        data += count;
        bytes -= count;
    }
}

static void test_prefix_is_little_endian(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *data = encode_hello(&bytes);
    assert_int_equal(data[0] | data[1] << 8 | data[2] << 16 | data[3] << 24,
                     bytes - CONTROL_PREFIX_BYTES);
    assert_int_equal(data[CONTROL_PREFIX_BYTES],
                     1 << 3 | 2); /* Hello is field 1 in every version */
    free(data);
}

static void test_any_cut_of_the_stream(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *data = encode_hello(&bytes);
    for (size_t cut = 0; cut <= bytes; cut++) {
        struct control_reader reader;
        Control__Message *message;
        control_reader_init(&reader, CONTROL_GREETING_BYTES_MAX);
        feed(&reader, data, cut);
        assert_int_equal(control_reader_next(&reader, PEER, &message), STATUS_OK);
        if (cut < bytes) {
            assert_null(message);
            feed(&reader, data + cut, bytes - cut);
            assert_int_equal(control_reader_next(&reader, PEER, &message), STATUS_OK);
        }
        assert_non_null(message);
        assert_string_equal(control_kind_name(message), "Hello");
        assert_string_equal(message->hello->node_name, "somewhere");
        assert_true(message->hello->fingerprint == 0x0123456789abcdef);
        control_message_free(message);
        assert_int_equal(control_reader_next(&reader, PEER, &message), STATUS_OK);
        assert_null(message);
        control_reader_cleanup(&reader);
    }
    free(data);
}

static void test_many_messages_at_once(void **state) {
    (void)state;
    size_t hello_bytes, assign_bytes;
    uint8_t *hello = encode_hello(&hello_bytes), *assign = encode_assign(100000, &assign_bytes);
    struct control_reader reader;
    Control__Message *message;
    control_reader_init(&reader, CONTROL_MESSAGE_BYTES_MAX);
    for (int round = 0; round < 3; round++) {
        feed(&reader, hello, hello_bytes);
        feed(&reader, assign, assign_bytes);
        feed(&reader, hello, hello_bytes / 2);
        assert_int_equal(control_reader_next(&reader, PEER, &message), STATUS_OK);
        control_message_free(message);
        assert_int_equal(control_reader_next(&reader, PEER, &message), STATUS_OK);
        assert_int_equal(message->assign->n_shard_end, 100000);
        assert_int_equal(message->assign->shard_end[99999], 99999 * 7);
        control_message_free(message);
        assert_int_equal(control_reader_next(&reader, PEER, &message), STATUS_OK);
        assert_null(message);
        feed(&reader, hello + hello_bytes / 2, hello_bytes - hello_bytes / 2);
        assert_int_equal(control_reader_next(&reader, PEER, &message), STATUS_OK);
        control_message_free(message);
    }
    control_reader_cleanup(&reader);
    free(hello);
    free(assign);
}

/* The largest assignment that the limits allow is a legal message. */
static void test_largest_assignment(void **state) {
    (void)state;
    Control__Assign assign = CONTROL__ASSIGN__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT, *back;
    uint32_t *list = malloc(SHARDS_MAX * sizeof *list);
    for (uint32_t i = 0; i < SHARDS_MAX; i++)
        list[i] = INNER_MAX;
    assign.n_shard_layer = assign.n_shard_expert = SHARDS_MAX;
    assign.n_shard_begin = assign.n_shard_end = SHARDS_MAX;
    assign.n_spilled_slot = assign.n_slot = assign.n_released_slot = SHARDS_MAX;
    assign.shard_layer = assign.shard_expert = assign.shard_begin = assign.shard_end = list;
    assign.spilled_slot = assign.slot = assign.released_slot = list;
    message.kind_case = CONTROL__MESSAGE__KIND_ASSIGN;
    message.assign = &assign;
    size_t bytes;
    uint8_t *data = encode(&message, &bytes);
    assert_true(bytes <= CONTROL_MESSAGE_BYTES_MAX);
    assert_int_equal(
        control_decode(data + CONTROL_PREFIX_BYTES, bytes - CONTROL_PREFIX_BYTES, PEER, &back),
        STATUS_OK);
    assert_int_equal(back->assign->n_spilled_slot, SHARDS_MAX);
    control_message_free(back);
    free(data);
    free(list);
}

/* A drained reader does not keep the memory of a large message. */
static void test_gives_memory_back(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *data = encode_assign(SHARDS_MAX / 2, &bytes), *room;
    struct control_reader reader;
    Control__Message *message;
    control_reader_init(&reader, CONTROL_MESSAGE_BYTES_MAX);
    feed(&reader, data, bytes);
    assert_int_equal(control_reader_next(&reader, PEER, &message), STATUS_OK);
    control_message_free(message);
    assert_true(reader.capacity >= bytes);
    size_t count;
    assert_int_equal(control_reader_reserve(&reader, &room, &count), STATUS_OK);
    assert_true(reader.capacity < 256u << 10);
    control_reader_cleanup(&reader);
    free(data);
}

static void expect_refused(const uint8_t *data, size_t bytes, uint32_t message_bytes_max,
                           const char *part) {
    struct control_reader reader;
    struct log_capture capture;
    Control__Message *message;
    control_reader_init(&reader, message_bytes_max);
    feed(&reader, data, bytes);
    log_capture_begin(&capture);
    assert_int_equal(control_reader_next(&reader, PEER, &message), STATUS_PROTOCOL);
    log_capture_expect(&capture, PEER, part, NULL);
    control_reader_cleanup(&reader);
}

static void test_refuses(void **state) {
    (void)state;
    const uint8_t oversized[] = {0xff, 0xff, 0xff, 0xff};
    expect_refused(oversized, 4, CONTROL_MESSAGE_BYTES_MAX, "4294967295 bytes");
    const uint8_t one_over[] = {1, 0, 1, 0};
    expect_refused(one_over, 4, CONTROL_GREETING_BYTES_MAX, "at most 65536");
    const uint8_t text[] = "SSH-2.0-OpenSSH_9.2\r\n";
    expect_refused(text, sizeof text, CONTROL_MESSAGE_BYTES_MAX, "does not speak");
    const uint8_t empty[] = {0, 0, 0, 0};
    expect_refused(empty, 4, CONTROL_MESSAGE_BYTES_MAX, "of 0 bytes");
    const uint8_t truncated[] = {4, 0, 0, 0, 0x0a, 0x7f, 1, 2};
    expect_refused(truncated, sizeof truncated, CONTROL_MESSAGE_BYTES_MAX, "cannot be read");
    const uint8_t unknown_kind[] = {3, 0, 0, 0, 0xfa, 0x01, 0};
    expect_refused(unknown_kind, sizeof unknown_kind, CONTROL_MESSAGE_BYTES_MAX, "another version");
}

/* Millions of empty fields would unpack to a hundred times their size. */
static void test_refuses_to_blow_up(void **state) {
    (void)state;
    const size_t bytes = CONTROL_MESSAGE_BYTES_MAX - 64;
    uint8_t *data = malloc(bytes);
    Control__Message *message;
    struct log_capture capture;
    for (size_t i = 0; i < bytes; i += 2) {
        data[i] = 9 << 3 | 2; /* Health */
        data[i + 1] = 0;
    }
    log_capture_begin(&capture);
    assert_int_equal(control_decode(data, bytes, PEER, &message), STATUS_PROTOCOL);
    log_capture_expect(&capture, PEER, NULL);
    free(data);
}

/* Changed, cut and repeated bytes: each message is decoded or refused, and what is decoded can be
 * used. */
static void test_mutations(void **state) {
    (void)state;
    struct random random = {99};
    size_t seed_bytes[2];
    uint8_t *seeds[2] = {encode_hello(&seed_bytes[0]), encode_assign(20, &seed_bytes[1])};
    FILE *sink = fopen("/dev/null", "w");
    log_init("test", LOG_DEBUG, sink);
    unsigned decoded = 0, refused = 0;
    for (int round = 0; round < 20000; round++) {
        const uint8_t *seed = seeds[round % 2];
        size_t bytes = seed_bytes[round % 2] - CONTROL_PREFIX_BYTES;
        uint8_t *data = malloc(bytes); /* exactly, so that reading over its end is seen */
        memcpy(data, seed + CONTROL_PREFIX_BYTES, bytes);
        for (uint32_t i = random_below(&random, 5); i > 0; i--)
            data[random_below(&random, (uint32_t)bytes)] = (uint8_t)random_bits(&random);
        size_t cut = random_below(&random, 3) ? bytes : random_below(&random, (uint32_t)bytes);
        Control__Message *message;
        if (control_decode(data, cut, PEER, &message) == STATUS_OK) {
            decoded++;
            assert_true(control_encoded_bytes(message) > CONTROL_PREFIX_BYTES);
            control_message_free(message);
        } else {
            refused++;
        }
        free(data);
    }
    assert_true(decoded > 1000 && refused > 1000);
    log_init("test", LOG_ERROR, NULL);
    fclose(sink);
    free(seeds[0]);
    free(seeds[1]);
}

static void test_every_kind_has_a_name(void **state) {
    (void)state;
    Control__Message message = CONTROL__MESSAGE__INIT;
    assert_string_equal(control_kind_name(&message), "nothing");
    for (int kind = CONTROL__MESSAGE__KIND_HELLO; kind <= CONTROL__MESSAGE__KIND_GOODBYE; kind++) {
        message.kind_case = (Control__Message__KindCase)kind;
        assert_string_not_equal(control_kind_name(&message), "nothing");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefix_is_little_endian),
        cmocka_unit_test(test_any_cut_of_the_stream),
        cmocka_unit_test(test_many_messages_at_once),
        cmocka_unit_test(test_largest_assignment),
        cmocka_unit_test(test_gives_memory_back),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_refuses_to_blow_up),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_every_kind_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
