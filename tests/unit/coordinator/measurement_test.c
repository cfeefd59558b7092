/* Figures that a worker may and may not answer with, and links that a thread plays: slow, silent,
 * broken. Times have a bound on one side only: nothing makes a link look better than it is. */
#include "tests/unit/worker/fixture.h"

#include <math.h>

#include "coordinator/measurement.h"

/* ---- Figures. */

static const struct machine_work WORK = {1u << WEIGHT_BF16 | 1u << WEIGHT_Q4_0, false};

struct answer {
    Control__Figures message;
    uint32_t formats[3];
    double decode[3], batch[3];
};

static void answer_init(struct answer *answer) {
    *answer = (struct answer){.formats = {WEIGHT_Q4_0, WEIGHT_BF16, WEIGHT_F32},
                              .decode = {1e9, 2e9, 3e9},
                              .batch = {4e9, 5e9, 6e9}};
    control__figures__init(&answer->message);
    answer->message.read_bytes_per_s = 7e9;
    answer->message.disk_bytes_per_s = 2e9;
    answer->message.n_format = 2;
    answer->message.n_decode_bytes_per_s = answer->message.n_batch_macs_per_s = 2;
    answer->message.format = answer->formats;
    answer->message.decode_bytes_per_s = answer->decode;
    answer->message.batch_macs_per_s = answer->batch;
}

static void test_takes_figures(void **state) {
    (void)state;
    struct answer answer;
    struct machine_figures figures = {.memory_bytes = 5, .threads = 3};
    answer_init(&answer);
    assert_true(measurement_take_figures(&answer.message, &WORK, &figures));
    assert_true(figures.read_bytes_per_s == 7e9);
    assert_true(figures.disk_bytes_per_s == 2e9);
    assert_true(figures.formats[WEIGHT_Q4_0].decode_bytes_per_s == 1e9);
    assert_true(figures.formats[WEIGHT_Q4_0].batch_macs_per_s == 4e9);
    assert_true(figures.formats[WEIGHT_BF16].decode_bytes_per_s == 2e9);
    assert_true(figures.formats[WEIGHT_BF16].batch_macs_per_s == 5e9);
    assert_true(machine_has_figures(&figures, &WORK));
    assert_int_equal(figures.memory_bytes, 5);
    assert_int_equal(figures.threads, 3);
}

static void expect_refused(const struct answer *answer) {
    struct machine_figures figures = {.threads = 3}, before = figures;
    assert_false(measurement_take_figures(&answer->message, &WORK, &figures));
    assert_memory_equal(&figures, &before, sizeof figures);
}

static void test_refuses_figures(void **state) {
    (void)state;
    const double bad[] = {0, -1e9, 1e-300, NAN, INFINITY, 1e19};
    struct answer answer;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        answer_init(&answer);
        answer.message.read_bytes_per_s = bad[i];
        expect_refused(&answer);
        answer_init(&answer);
        answer.message.disk_bytes_per_s = bad[i];
        if (bad[i] != 0) /* it spills nothing */
            expect_refused(&answer);
        answer_init(&answer);
        answer.decode[1] = bad[i];
        expect_refused(&answer);
        answer_init(&answer);
        answer.batch[0] = bad[i];
        expect_refused(&answer);
    }
    answer_init(&answer);
    answer.message.n_decode_bytes_per_s = 1;
    expect_refused(&answer);
    answer.message.n_decode_bytes_per_s = 3;
    expect_refused(&answer);
    answer_init(&answer);
    answer.message.n_batch_macs_per_s = 0;
    expect_refused(&answer);
    answer_init(&answer);
    answer.formats[1] = WEIGHT_Q4_0; /* twice */
    expect_refused(&answer);
    answer.formats[1] = WEIGHT_F32; /* another one than was asked for */
    expect_refused(&answer);
    answer.formats[1] = WEIGHT_FORMAT_COUNT;
    expect_refused(&answer);
    answer.formats[1] = UINT32_MAX;
    expect_refused(&answer);
    answer_init(&answer); /* one more than was asked for, and one less */
    answer.message.n_format = 3;
    answer.message.n_decode_bytes_per_s = answer.message.n_batch_macs_per_s = 3;
    expect_refused(&answer);
    answer.message.n_format = 1;
    answer.message.n_decode_bytes_per_s = answer.message.n_batch_macs_per_s = 1;
    expect_refused(&answer);
}

/* ---- Links. */

struct link {
    int listener, fd; /* where the other end listens; our end */
    pthread_t thread;
    double delay_s, to_bytes_per_s, from_bytes_per_s;
    uint32_t answers;   /* that are given; then the connection closes */
    uint64_t sequence;  /* added to that of every answer */
    uint16_t type;      /* of answers */
    uint32_t more;      /* bytes beyond what is asked for */
    uint64_t bytes_max; /* of the largest payload that was seen in either direction */
};

static void sleep_s(double seconds) {
    struct timespec time = {.tv_sec = (time_t)seconds};
    time.tv_nsec = (long)((seconds - (double)time.tv_sec) * 1e9);
    nanosleep(&time, NULL);
}

static void *answer_probes(void *argument) {
    struct link *link = argument;
    int fd = accept(link->listener, NULL, NULL);
    uint8_t *payload = calloc(1, sizeof(struct wire_header) + WIRE_PROBE_BYTES_MAX + 64);
    struct wire_header header;
    for (uint32_t i = 0; i < link->answers && read_all(fd, payload, sizeof header); i++) {
        assert_int_equal(wire_decode_header(payload, "coordinator", &header), STATUS_OK);
        assert_int_equal(header.type, WIRE_PROBE);
        if (header.payload_bytes && !read_all(fd, payload, header.payload_bytes))
            break;
        sleep_s(link->delay_s + (double)header.payload_bytes / link->to_bytes_per_s +
                header.entries / link->from_bytes_per_s);
        const struct wire_header reply = {.type = link->type,
                                          .sequence = header.sequence + link->sequence,
                                          .payload_bytes = header.entries + link->more};
        wire_encode_header(&reply, payload);
        send(fd, payload, sizeof reply + reply.payload_bytes, MSG_NOSIGNAL);
        uint64_t bytes =
            header.payload_bytes > header.entries ? header.payload_bytes : header.entries;
        if (bytes > link->bytes_max)
            link->bytes_max = bytes;
    }
    close(fd);
    free(payload);
    return NULL;
}

static void link_start(struct link *link) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof name;
    char address[32];
    link->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(link->listener, (struct sockaddr *)&name, sizeof name), 0);
    assert_int_equal(listen(link->listener, 1), 0);
    getsockname(link->listener, (struct sockaddr *)&name, &length);
    snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(name.sin_port));
    link->fd = connect_to(address);
    pthread_create(&link->thread, NULL, answer_probes, link);
}

static struct link link_default(void) {
    return (struct link){.to_bytes_per_s = 1e12,
                         .from_bytes_per_s = 1e12,
                         .answers = UINT32_MAX,
                         .type = WIRE_PROBE_REPLY};
}

static enum status measure(struct link *link, struct link_figures *out) {
    link_start(link);
    enum status status = measurement_probe_link(link->fd, "a worker", NULL, out);
    pthread_join(link->thread, NULL);
    close(link->listener);
    return status;
}

static void test_fast_link(void **state) {
    (void)state;
    struct link link = link_default();
    struct link_figures figures;
    assert_int_equal(measure(&link, &figures), STATUS_OK);
    assert_true(figures.round_trip_s > 0 && figures.round_trip_s < 1);
    assert_true(machine_rate_is_plausible(figures.to_bytes_per_s));
    assert_true(machine_rate_is_plausible(figures.from_bytes_per_s));
}

/* A link of 20 and 5 MB/s, and one over which 4 KiB already take long. */
static void test_slow_links(void **state) {
    (void)state;
    struct link link = link_default();
    struct link_figures figures;
    link.delay_s = 0.001;
    link.to_bytes_per_s = 20e6;
    link.from_bytes_per_s = 5e6;
    assert_int_equal(measure(&link, &figures), STATUS_OK);
    assert_true(figures.round_trip_s >= 0.001);
    assert_true(figures.to_bytes_per_s > 0 && figures.to_bytes_per_s < 1.5 * 20e6);
    assert_true(figures.from_bytes_per_s > 0 && figures.from_bytes_per_s < 1.5 * 5e6);
    assert_true(link.bytes_max <= 1 << 20);

    link.bytes_max = 0;
    link.to_bytes_per_s = link.from_bytes_per_s = 20e3;
    assert_int_equal(measure(&link, &figures), STATUS_OK);
    assert_true(figures.to_bytes_per_s < 1.5 * 20e3 && figures.from_bytes_per_s < 1.5 * 20e3);
    assert_int_equal(link.bytes_max, 4096);
}

static void expect_failure(struct link link, enum status wanted, const char *logged) {
    const struct link_figures before = {1, 2, 3};
    struct link_figures figures = before;
    log_file_mark();
    assert_int_equal(measure(&link, &figures), wanted);
    assert_memory_equal(&figures, &before, sizeof figures);
    assert_int_equal(log_file_count("error: "), logged != NULL);
    if (logged)
        log_file_expect(logged);
}

static void test_broken_links(void **state) {
    (void)state;
    struct link link = link_default();
    link.answers = 0;
    expect_failure(link, STATUS_CONNECTION, NULL);
    link.answers = 8; /* in the middle */
    expect_failure(link, STATUS_CONNECTION, NULL);
    link = link_default();
    link.type = WIRE_PROBE;
    expect_failure(link, STATUS_PROTOCOL, "a worker: answers probe 1 for 0 bytes");
    link = link_default();
    link.sequence = 5;
    expect_failure(link, STATUS_PROTOCOL, "with frame 6 of type 6");
    link = link_default();
    link.more = 10;
    expect_failure(link, STATUS_PROTOCOL, "of type 6 with 10");
    link = link_default();
    link.type = WIRE_PROBE_REPLY + 1;
    expect_failure(link, STATUS_PROTOCOL, "out of bounds");
}

int main(void) {
    log_file_begin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes_figures), cmocka_unit_test(test_refuses_figures),
        cmocka_unit_test(test_fast_link),     cmocka_unit_test(test_slow_links),
        cmocka_unit_test(test_broken_links),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
