/* Frames: what is encoded is decoded, and whatever is not a frame is refused by name. */
#include "tests/unit/test.h"

#include <math.h>

#include "common/cluster_limits.h"
#include "proto/wire.h"

#define PEER "10.0.0.9:7717"

static struct wire_header dispatch_header(void) {
    return (struct wire_header){
        .type = WIRE_DISPATCH, .sequence = 7, .layer = 3, .rows = 2, .entries = 3, .hidden = 5};
}

static void test_round_trip(void **state) {
    (void)state;
    struct wire_header header = dispatch_header(), back;
    size_t bytes = wire_dispatch_bytes(2, 3, 5, WIRE_F32), found;
    uint8_t *frame = aligned_alloc(64, (bytes + 63) / 64 * 64);
    wire_encode_header(&header, frame);
    assert_int_equal(wire_decode_header(frame, PEER, &back), STATUS_OK);
    assert_int_equal(back.sequence, 7);
    assert_int_equal(back.layer, 3);
    assert_int_equal(back.rows, 2);
    assert_int_equal(back.entries, 3);
    assert_int_equal(back.hidden, 5);
    assert_int_equal(wire_message_bytes(frame, PEER, &found), STATUS_OK);
    assert_int_equal(found, bytes);
    assert_int_equal((uintptr_t)wire_dispatch_rows(frame) % WIRE_ALIGNMENT, 0);
    assert_ptr_equal((uint8_t *)((float *)wire_dispatch_rows(frame) + 2 * 5), frame + bytes);
    free(frame);
}

static void test_probes(void **state) {
    (void)state;
    struct wire_header header = {.type = WIRE_PROBE,
                                 .sequence = 3,
                                 .entries = WIRE_PROBE_BYTES_MAX,
                                 .payload_bytes = WIRE_PROBE_BYTES_MAX},
                       back;
    uint8_t frame[sizeof header];
    size_t found;
    wire_encode_header(&header, frame);
    assert_int_equal(wire_decode_header(frame, PEER, &back), STATUS_OK);
    assert_int_equal(back.entries, WIRE_PROBE_BYTES_MAX);
    assert_int_equal(wire_message_bytes(frame, PEER, &found), STATUS_OK);
    assert_int_equal(found, sizeof header + WIRE_PROBE_BYTES_MAX);
}

static void test_layout_is_fixed(void **state) {
    (void)state;
    struct wire_header header = {.type = WIRE_OPEN, .sequence = 0x0102030405060708};
    uint8_t frame[sizeof header];
    wire_encode_header(&header, frame);
    const uint8_t start[16] = {'S', 'K', 'I', 'N', 1, 0, 1, 0, 8, 7, 6, 5, 4, 3, 2, 1};
    assert_memory_equal(frame, start, sizeof start);
}

/* Encodes `header`, patches one byte and expects a refusal that says `words`. */
static void expect_refusal(const struct wire_header *header, size_t offset, uint8_t change,
                           const char *words) {
    uint8_t frame[sizeof *header];
    struct wire_header back;
    struct log_capture capture;
    wire_encode_header(header, frame);
    frame[offset] ^= change;
    log_capture_begin(&capture);
    assert_int_equal(wire_decode_header(frame, PEER, &back), STATUS_PROTOCOL);
    log_capture_expect(&capture, PEER, words, NULL);
}

static void test_refuses_damage(void **state) {
    (void)state;
    struct wire_header header = dispatch_header();
    expect_refusal(&header, 0, 1, "not a skein data frame");
    expect_refusal(&header, 4, 2, "data frames of version 3");
    for (size_t offset = 6; offset < sizeof header; offset++)
        expect_refusal(&header, offset, 0x10, "damaged frame header");
}

/* A header with a good checksum and a value that is out of bounds. */
static void expect_out_of_bounds(struct wire_header header) {
    uint8_t frame[sizeof header];
    struct wire_header back;
    struct log_capture capture;
    header.magic = WIRE_MAGIC;
    header.version = WIRE_VERSION;
    header.checksum = wire_checksum(&header, offsetof(struct wire_header, checksum));
    memcpy(frame, &header, sizeof header);
    log_capture_begin(&capture);
    assert_int_equal(wire_decode_header(frame, PEER, &back), STATUS_PROTOCOL);
    log_capture_expect(&capture, PEER, "out of bounds", NULL);
}

static void test_refuses_bounds(void **state) {
    (void)state;
    struct wire_header header = {.type = WIRE_OPEN};
    header.type = 0;
    expect_out_of_bounds(header);
    header.type = 7;
    expect_out_of_bounds(header);
    header = (struct wire_header){.type = WIRE_OPEN, .payload_bytes = 1};
    expect_out_of_bounds(header);
    header = (struct wire_header){.type = WIRE_ERROR, .payload_bytes = WIRE_ERROR_BYTES_MAX + 1};
    expect_out_of_bounds(header);
    header = (struct wire_header){.type = WIRE_PROBE, .payload_bytes = WIRE_PROBE_BYTES_MAX + 1};
    expect_out_of_bounds(header);
    header = (struct wire_header){.type = WIRE_PROBE, .entries = WIRE_PROBE_BYTES_MAX + 1};
    expect_out_of_bounds(header);
    header =
        (struct wire_header){.type = WIRE_PROBE_REPLY, .payload_bytes = WIRE_PROBE_BYTES_MAX + 1};
    expect_out_of_bounds(header);
    header = (struct wire_header){.type = WIRE_PROBE_REPLY, .entries = 1};
    expect_out_of_bounds(header);
    header = dispatch_header();
    header.payload_bytes = wire_dispatch_bytes(2, 3, 5, WIRE_F32) - sizeof header + 1;
    expect_out_of_bounds(header);
    header = dispatch_header();
    header.rows = BATCH_ROWS_MAX + 1;
    expect_out_of_bounds(header);
    header.rows = UINT32_MAX;
    expect_out_of_bounds(header);
    header = dispatch_header();
    header.hidden = UINT32_MAX;
    expect_out_of_bounds(header);
    header = dispatch_header();
    header.hidden = HIDDEN_MAX + 1;
    expect_out_of_bounds(header);
    header = (struct wire_header){.type = WIRE_COMBINE, .rows = 1, .hidden = VOCABULARY_MAX + 1};
    expect_out_of_bounds(header);
    header = (struct wire_header){.type = WIRE_COMBINE, .rows = 1, .entries = THREADS_MAX + 1};
    expect_out_of_bounds(header);
    header.entries = 1;
    header.payload_bytes = wire_combine_bytes(1, 0, WIRE_F32, 0) - sizeof header;
    expect_out_of_bounds(header);
    header = dispatch_header();
    header.entries = UINT32_MAX;
    expect_out_of_bounds(header);
    header = dispatch_header();
    header.layer = LAYERS_MAX;
    expect_out_of_bounds(header);
}

static void check_entries(const struct wire_entry *entries, enum status expected) {
    struct wire_header header = dispatch_header();
    _Alignas(64) uint8_t frame[256];
    wire_encode_header(&header, frame);
    memcpy(wire_dispatch_entries(frame), entries, 3 * sizeof *entries);
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(wire_check_entries(frame, &header, 4, PEER), expected);
    if (expected) {
        log_capture_expect(&capture, PEER, "entry", NULL);
    } else {
        fclose(capture.stream);
        assert_int_equal(capture.bytes, 0);
        free(capture.text);
    }
}

static void test_entries(void **state) {
    (void)state;
    const struct wire_entry good[] = {{0, 1, 0.5f}, {1, 1, 0.5f}, {0, 3, -1}};
    check_entries(good, STATUS_OK);
    const struct wire_entry in_any_order[] = {{0, 2, 1}, {0, 1, 1}, {0, 3, 1}};
    check_entries(in_any_order, STATUS_OK);
    const struct wire_entry bad[][3] = {
        {{2, 1, 1}, {0, 2, 1}, {0, 3, 1}},   /* row */
        {{0, 1, 1}, {0, 2, 1}, {0, 4, 1}},   /* slot */
        {{1, 1, 1}, {0, 1, 1}, {0, 3, 1}},   /* order of rows */
        {{0, 1, 1}, {0, 1, 1}, {0, 3, 1}},   /* twice */
        {{0, 1, NAN}, {0, 2, 1}, {0, 3, 1}}, /* weight */
        {{0, 1, INFINITY}, {0, 2, 1}, {0, 3, 1}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        check_entries(bad[i], STATUS_PROTOCOL);
}

/* Rows in bf16 take half, lie as aligned, and come back within half a unit of the last place. */
static void test_rounded_rows(void **state) {
    (void)state;
    _Alignas(64) uint8_t frame[512];
    const struct wire_header header = {
        .type = WIRE_DISPATCH, .format = WIRE_BF16, .rows = 2, .entries = 3, .hidden = 5};
    const float values[] = {1.0f, -3.1415927f, 0.0f, 1e-20f, 65504.0f};
    float back[5];
    struct wire_header found;
    memset(frame, 0, sizeof frame);
    wire_encode_header(&header, frame);
    assert_int_equal(wire_decode_header(frame, "peer", &found), STATUS_OK);
    assert_int_equal(found.format, WIRE_BF16);
    assert_int_equal(sizeof found + found.payload_bytes, wire_dispatch_bytes(2, 3, 5, WIRE_BF16));
    assert_int_equal(wire_dispatch_bytes(2, 3, 5, WIRE_F32) -
                         wire_dispatch_bytes(2, 3, 5, WIRE_BF16),
                     2 * 5 * 2);
    uint8_t *rows = wire_dispatch_rows(frame);
    assert_int_equal((uintptr_t)rows % WIRE_ALIGNMENT, 0);
    wire_store(WIRE_BF16, values, 5, rows);
    wire_load(WIRE_BF16, rows, 5, back);
    for (int i = 0; i < 5; i++)
        assert_true(fabsf(back[i] - values[i]) <= fabsf(values[i]) / 256);
    wire_store(WIRE_F32, values, 5, rows);
    wire_load(WIRE_F32, rows, 5, back);
    assert_memory_equal(values, back, sizeof back);
    struct wire_header bad = header;
    bad.format = WIRE_FORMAT_COUNT;
    wire_encode_header(&bad, frame);
    assert_int_equal(wire_decode_header(frame, "peer", &found), STATUS_PROTOCOL);
}

/* Rows in q8 take a quarter and a sixteenth; what they are answered with is not rounded so. */
static void test_q8_rows(void **state) {
    (void)state;
    _Alignas(64) uint8_t frame[512];
    struct wire_header found,
        header = {.type = WIRE_DISPATCH, .format = WIRE_Q8, .rows = 2, .entries = 3, .hidden = 70};
    assert_int_equal(wire_row_bytes(WIRE_Q8, 70), 3 * 34);
    assert_int_equal(wire_dispatch_bytes(2, 3, 70, WIRE_Q8) -
                         wire_dispatch_bytes(0, 3, 70, WIRE_Q8),
                     2 * 3 * 34);
    wire_encode_header(&header, frame);
    assert_int_equal(wire_decode_header(frame, "peer", &found), STATUS_OK);
    assert_int_equal(wire_answer_format(WIRE_Q8), WIRE_BF16);
    assert_int_equal(wire_answer_format(WIRE_F32), WIRE_F32);
    header = (struct wire_header){.type = WIRE_COMBINE, .format = WIRE_Q8, .rows = 2, .hidden = 70};
    wire_encode_header(&header, frame);
    assert_int_equal(wire_decode_header(frame, "peer", &found), STATUS_PROTOCOL);
    float values[70], back[70];
    for (int i = 0; i < 70; i++)
        values[i] = (float)(i - 35) / 8;
    wire_store(WIRE_Q8, values, 70, frame);
    wire_load(WIRE_Q8, frame, 70, back);
    for (int i = 0; i < 70; i++)
        assert_true(fabsf(back[i] - values[i]) <= 35.0f / 8 / 127 * 0.51f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_layout_is_fixed),
        cmocka_unit_test(test_refuses_damage), cmocka_unit_test(test_refuses_bounds),
        cmocka_unit_test(test_entries),        cmocka_unit_test(test_rounded_rows),
        cmocka_unit_test(test_q8_rows),        cmocka_unit_test(test_probes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
