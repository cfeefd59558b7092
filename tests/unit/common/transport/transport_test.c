/* The transport's contract, once for each backend, over TCP on loopback: messages of all sizes,
 * order, back-pressure, who owns a buffer when, and every way in which a peer can fail. Then the
 * choice of a backend. */
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/transport/transport.h"

#define MESSAGE_BYTES_MAX 4000000
#define SOCKET_BYTES      200000 /* that a socket takes in each direction, about */

/* Test messages open with their length; lengths over four million are refused. */
static enum status message_bytes(const void *header, const char *peer, size_t *out) {
    uint64_t bytes;
    memcpy(&bytes, header, sizeof bytes);
    if (bytes > MESSAGE_BYTES_MAX) {
        log_error("%s: refused header", peer);
        return STATUS_PROTOCOL;
    }
    *out = bytes;
    return STATUS_OK;
}

static struct transport *open_transport(const char *backend) {
    const struct transport_options options = {sizeof(uint64_t), message_bytes, backend};
    struct transport *transport;
    assert_int_equal(transport_create(&options, &transport), STATUS_OK);
    return transport;
}

/* Two ends of one TCP connection. */
/* By itself the system may one day take megabytes that nobody reads. */
static int open_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), bytes = SOCKET_BYTES;
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes), 0);
    return fd;
}

static void connect_pair(int ends[2]) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = open_socket(); /* what it accepts inherits its buffers */
    assert_int_equal(bind(listener, (struct sockaddr *)&address, length), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    ends[0] = open_socket();
    assert_int_equal(connect(ends[0], (struct sockaddr *)&address, length), 0);
    ends[1] = accept(listener, NULL, NULL);
    assert_true(ends[1] >= 0);
    close(listener);
}

struct pair {
    struct transport *left, *right;
    struct connection *to_right, *to_left;
};

static void pair_open(struct pair *pair, const char *backend) {
    int ends[2];
    connect_pair(ends);
    pair->left = open_transport(backend);
    pair->right = open_transport(backend);
    assert_int_equal(transport_add(pair->left, ends[0], "right", &pair->to_right), STATUS_OK);
    assert_int_equal(transport_add(pair->right, ends[1], "left", &pair->to_left), STATUS_OK);
}

static void pair_close(struct pair *pair) {
    transport_destroy(pair->left);
    transport_destroy(pair->right);
}

/* A transport on the left, a bare socket on the right. */
struct half {
    struct transport *left;
    struct connection *to_right;
    int right;
};

static void half_open(struct half *half, const char *backend) {
    int ends[2];
    connect_pair(ends);
    half->left = open_transport(backend);
    half->right = ends[1];
    setsockopt(ends[1], SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 10},
               sizeof(struct timeval));
    assert_int_equal(transport_add(half->left, ends[0], "right", &half->to_right), STATUS_OK);
}

static void half_close(struct half *half) {
    transport_destroy(half->left);
    if (half->right >= 0)
        close(half->right);
}

static void fill_message(uint8_t *message, uint64_t bytes, uint8_t fill) {
    memset(message, fill, bytes);
    memcpy(message, &bytes, sizeof bytes);
}

static uint8_t *make_message(uint64_t bytes, uint8_t fill) {
    uint8_t *message = malloc(bytes);
    fill_message(message, bytes, fill);
    return message;
}

static void expect_message(const uint8_t *buffer, uint64_t bytes, uint8_t fill) {
    uint8_t *wanted = make_message(bytes, fill);
    assert_memory_equal(buffer, wanted, bytes);
    free(wanted);
}

/* Polls both ends until one of them has a completion; returns it. */
static struct completion next_completion(struct pair *pair) {
    struct completion completion;
    for (int i = 0; i < 10000; i++) {
        if (transport_poll(pair->left, &completion, 1, 0) ||
            transport_poll(pair->right, &completion, 1, 1))
            return completion;
    }
    fail_msg("no completion within ten seconds");
    return completion;
}

/* Polls one end for a good completion. */
static struct completion await_one(struct transport *transport) {
    struct completion completion;
    assert_int_equal(transport_poll(transport, &completion, 1, 10000), 1);
    assert_int_equal(completion.status, STATUS_OK);
    return completion;
}

static void exchange_sizes(struct pair *pair, uint8_t *message, uint8_t *buffer) {
    const uint64_t sizes[] = {8, 9, 100, 65536, 3000001, 8, 28800, 28800, 27, 70000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fill_message(message, sizes[i], (uint8_t)(i + 1));
        assert_int_equal(
            transport_post_receive(pair->right, pair->to_left, buffer, MESSAGE_BYTES_MAX),
            STATUS_OK);
        assert_int_equal(transport_post_send(pair->left, pair->to_right, message, sizes[i]),
                         STATUS_OK);
        for (int done = 0; done < 2; done++) {
            struct completion completion = next_completion(pair);
            assert_int_equal(completion.status, STATUS_OK);
            assert_int_equal(completion.bytes, sizes[i]);
            assert_ptr_equal(completion.buffer,
                             completion.operation == TRANSPORT_SEND ? message : buffer);
        }
        expect_message(buffer, sizes[i], (uint8_t)(i + 1));
    }
}

static void test_sizes(void **state) {
    struct pair pair;
    pair_open(&pair, *state);
    uint8_t *message = malloc(MESSAGE_BYTES_MAX), *buffer = malloc(MESSAGE_BYTES_MAX);
    exchange_sizes(&pair, message, buffer);
    pair_close(&pair);
    free(message);
    free(buffer);
}

/* The same from memory that was registered, in the middle of other registered memory. */
static void test_registered_memory(void **state) {
    struct pair pair;
    pair_open(&pair, *state);
    const size_t bytes = 3 * MESSAGE_BYTES_MAX;
    uint8_t *memory[2] = {malloc(bytes), malloc(bytes)};
    for (size_t side = 0; side < 2; side++) {
        struct transport *transport = side ? pair.right : pair.left;
        transport_register(transport, memory[side] + 2 * MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX);
        transport_register(transport, memory[side], MESSAGE_BYTES_MAX);
        transport_register(transport, memory[side] + MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX);
    }
    for (size_t place = 0; place < 3; place++)
        exchange_sizes(&pair, memory[0] + place * MESSAGE_BYTES_MAX,
                       memory[1] + place * MESSAGE_BYTES_MAX);
    /* Across the end of one and from memory that nobody registered. */
    exchange_sizes(&pair, memory[0] + MESSAGE_BYTES_MAX - 10, memory[1] + MESSAGE_BYTES_MAX / 2);
    pair_close(&pair);
    free(memory[0]);
    free(memory[1]);
}

static void test_order_and_bound(void **state) {
    struct pair pair;
    pair_open(&pair, *state);
    uint8_t *messages[TRANSPORT_POSTED_MAX], buffers[TRANSPORT_POSTED_MAX][64];
    for (int i = 0; i < TRANSPORT_POSTED_MAX; i++) {
        messages[i] = make_message(16, (uint8_t)i);
        assert_int_equal(transport_post_receive(pair.right, pair.to_left, buffers[i], 64),
                         STATUS_OK);
        assert_int_equal(transport_post_send(pair.left, pair.to_right, messages[i], 16), STATUS_OK);
    }
    assert_int_equal(transport_post_receive(pair.right, pair.to_left, buffers[0], 64),
                     STATUS_NO_MEMORY);
    int received = 0;
    for (int done = 0; done < 2 * TRANSPORT_POSTED_MAX; done++) {
        struct completion completion = next_completion(&pair);
        assert_int_equal(completion.status, STATUS_OK);
        if (completion.operation == TRANSPORT_RECEIVE) {
            assert_ptr_equal(completion.buffer, buffers[received]);
            assert_memory_equal(buffers[received], messages[received], 16);
            received++;
        }
    }
    for (int i = 0; i < TRANSPORT_POSTED_MAX; i++)
        free(messages[i]);
    pair_close(&pair);
}

/* Messages of any lengths come in one stream; none may take bytes of the next one away. */
static void test_stream_of_lengths(void **state) {
    const uint64_t sizes[] = {30000, 8,     9,  30000, 16,    16,    30000, 40000, 8,
                              70000, 70000, 90, 65536, 65537, 65535, 8,     8,     200000};
    const size_t count = sizeof sizes / sizeof *sizes;
    struct half half;
    half_open(&half, *state);
    uint8_t *buffers[2] = {malloc(300000), malloc(300000)};
    size_t sent = 0, total = 0;
    uint8_t *bytes = malloc(1000000);
    for (size_t i = 0; i < count; i++) {
        fill_message(bytes + total, sizes[i], (uint8_t)(i + 1));
        total += sizes[i];
    }
    assert_int_equal(transport_post_receive(half.left, half.to_right, buffers[0], 300000),
                     STATUS_OK);
    for (size_t i = 0; i < count; i++) {
        struct completion completion;
        /* The second buffer sometimes is there in time and sometimes not. */
        if (i % 3 && i + 1 < count)
            transport_post_receive(half.left, half.to_right, buffers[(i + 1) % 2], 300000);
        while (!transport_poll(half.left, &completion, 1, 0)) {
            ssize_t moved = send(half.right, bytes + sent, total - sent, MSG_DONTWAIT);
            sent += moved > 0 ? (size_t)moved : 0;
        }
        assert_int_equal(completion.status, STATUS_OK);
        assert_int_equal(completion.bytes, sizes[i]);
        assert_ptr_equal(completion.buffer, buffers[i % 2]);
        expect_message(buffers[i % 2], sizes[i], (uint8_t)(i + 1));
        if (i % 3 == 0 && i + 1 < count)
            transport_post_receive(half.left, half.to_right, buffers[(i + 1) % 2], 300000);
    }
    half_close(&half);
    free(buffers[0]);
    free(buffers[1]);
    free(bytes);
}

/* Byte by byte, so that header and message come in every possible part. */
static void test_slow_sender(void **state) {
    struct half half;
    half_open(&half, *state);
    setsockopt(half.right, IPPROTO_TCP, 1 /* TCP_NODELAY */, &(int){1}, sizeof(int));
    uint8_t message[40], buffer[64];
    struct completion completion;
    for (int round = 0; round < 3; round++) {
        fill_message(message, sizeof message, (uint8_t)(round + 1));
        transport_post_receive(half.left, half.to_right, buffer, sizeof buffer);
        for (size_t i = 0; i < sizeof message; i++) {
            assert_int_equal(transport_poll(half.left, &completion, 1, 1), 0);
            assert_int_equal(send(half.right, message + i, 1, 0), 1);
        }
        completion = await_one(half.left);
        assert_int_equal(completion.bytes, sizeof message);
        assert_memory_equal(buffer, message, sizeof message);
    }
    half_close(&half);
}

/* Both ends send more than the sockets take, in both directions at the same time. */
static void test_back_pressure(void **state) {
    struct pair pair;
    pair_open(&pair, *state);
    uint8_t *messages[2] = {make_message(MESSAGE_BYTES_MAX, 1), make_message(MESSAGE_BYTES_MAX, 2)};
    uint8_t *buffers[4];
    for (int i = 0; i < 4; i++)
        buffers[i] = malloc(MESSAGE_BYTES_MAX);
    for (int i = 0; i < 2; i++) {
        transport_post_send(pair.left, pair.to_right, messages[0], MESSAGE_BYTES_MAX);
        transport_post_send(pair.right, pair.to_left, messages[1], MESSAGE_BYTES_MAX);
    }
    struct completion completion;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(transport_poll(pair.left, &completion, 1, 2), 0);
        assert_int_equal(transport_poll(pair.right, &completion, 1, 2), 0);
    }
    transport_post_receive(pair.right, pair.to_left, buffers[0], MESSAGE_BYTES_MAX);
    transport_post_receive(pair.left, pair.to_right, buffers[1], MESSAGE_BYTES_MAX);
    for (int done = 0; done < 8; done++) {
        completion = next_completion(&pair);
        assert_int_equal(completion.status, STATUS_OK);
        assert_int_equal(completion.bytes, MESSAGE_BYTES_MAX);
        if (done == 0) { /* the others come late */
            transport_post_receive(pair.right, pair.to_left, buffers[2], MESSAGE_BYTES_MAX);
            transport_post_receive(pair.left, pair.to_right, buffers[3], MESSAGE_BYTES_MAX);
        }
    }
    for (int i = 0; i < 4; i++) {
        expect_message(buffers[i], MESSAGE_BYTES_MAX, i % 2 ? 2 : 1);
        free(buffers[i]);
    }
    free(messages[0]);
    free(messages[1]);
    pair_close(&pair);
}

#define PEERS 20

/* Answers are taken as they come, and one poll may bring many. */
static void test_many_connections(void **state) {
    struct transport *left = open_transport(*state), *right = open_transport(*state);
    struct connection *out[PEERS], *in[PEERS];
    uint8_t messages[PEERS][100], buffers[PEERS][100];
    for (int i = 0; i < PEERS; i++) {
        int ends[2];
        connect_pair(ends);
        assert_int_equal(transport_add(left, ends[0], "right", &out[i]), STATUS_OK);
        assert_int_equal(transport_add(right, ends[1], "left", &in[i]), STATUS_OK);
        fill_message(messages[i], 100, (uint8_t)i);
        transport_post_receive(left, out[i], buffers[i], 100);
    }
    for (int i = PEERS - 1; i >= 0; i--)
        transport_post_send(right, in[i], messages[i], 100);
    transport_flush(right);
    struct completion completions[7];
    for (int received = 0; received < PEERS;) {
        size_t count = transport_poll(left, completions, 7, 10000);
        assert_true(count > 0);
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(completions[i].status, STATUS_OK);
            received++;
        }
    }
    for (int i = 0; i < PEERS; i++)
        expect_message(buffers[i], 100, (uint8_t)i);
    transport_destroy(left);
    transport_destroy(right);
}

/* What was posted leaves without a poll. */
static void test_flush_sends(void **state) {
    struct half half;
    half_open(&half, *state);
    uint8_t message[50], found[50];
    fill_message(message, sizeof message, 3);
    transport_post_send(half.left, half.to_right, message, sizeof message);
    transport_flush(half.left);
    assert_int_equal(recv(half.right, found, sizeof found, MSG_WAITALL), sizeof found);
    assert_memory_equal(found, message, sizeof message);
    half_close(&half);
}

/* With io_uring the frames of a layer leave together: none of them until the flush, which makes one
 * call of the kernel for all. */
static void test_flush_sends_all_together(void **state) {
    struct transport *left = open_transport(*state);
    struct connection *to_right[PEERS];
    int right[PEERS];
    uint8_t messages[PEERS][50], buffers[PEERS][50], found[50];
    for (int i = 0; i < PEERS; i++) {
        int ends[2];
        connect_pair(ends);
        right[i] = ends[1];
        assert_int_equal(transport_add(left, ends[0], "right", &to_right[i]), STATUS_OK);
        fill_message(messages[i], sizeof messages[i], (uint8_t)i);
        transport_post_receive(left, to_right[i], buffers[i], sizeof buffers[i]);
        transport_post_send(left, to_right[i], messages[i], sizeof messages[i]);
    }
    for (int i = 0; i < PEERS; i++) {
        assert_int_equal(recv(right[i], found, sizeof found, MSG_DONTWAIT), -1);
        assert_int_equal(errno, EAGAIN);
    }
    transport_flush(left);
    for (int i = 0; i < PEERS; i++) {
        assert_int_equal(recv(right[i], found, sizeof found, MSG_WAITALL), sizeof found);
        assert_memory_equal(found, messages[i], sizeof found);
        close(right[i]);
    }
    transport_destroy(left);
}

static void test_peer_closes(void **state) {
    struct pair pair;
    pair_open(&pair, *state);
    uint8_t buffers[2][64];
    assert_int_equal(transport_post_receive(pair.left, pair.to_right, buffers[0], 64), STATUS_OK);
    assert_int_equal(transport_post_receive(pair.left, pair.to_right, buffers[1], 64), STATUS_OK);
    struct completion completions[8];
    transport_destroy(pair.right);
    pair.right = NULL;
    size_t count = transport_poll(pair.left, completions, 8, 1000);
    assert_int_equal(count, 2);
    assert_int_equal(completions[0].status, STATUS_CONNECTION);
    assert_int_equal(completions[1].status, STATUS_CONNECTION);
    /* Whatever is posted on a dead connection completes with the same. */
    assert_int_equal(transport_post_receive(pair.left, pair.to_right, buffers[0], 64), STATUS_OK);
    assert_int_equal(transport_post_send(pair.left, pair.to_right, buffers[1], 64), STATUS_OK);
    assert_int_equal(transport_poll(pair.left, completions, 8, 1000), 2);
    assert_int_equal(completions[0].status, STATUS_CONNECTION);
    assert_int_equal(transport_poll(pair.left, completions, 8, 0), 0);
    pair_close(&pair);
}

/* The last message is whole, although its sender has gone. */
static void test_message_before_the_end(void **state) {
    struct half half;
    half_open(&half, *state);
    uint8_t message[40], buffers[2][64];
    for (int closed = 0; closed < 2; closed++) { /* the second time with the end behind it */
        fill_message(message, sizeof message, (uint8_t)(closed + 5));
        assert_int_equal(send(half.right, message, sizeof message, 0), sizeof message);
        if (closed) {
            close(half.right);
            half.right = -1;
        }
        transport_post_receive(half.left, half.to_right, buffers[closed], 64);
        await_one(half.left);
        assert_memory_equal(buffers[closed], message, sizeof message);
    }
    struct completion completion;
    transport_post_receive(half.left, half.to_right, buffers[0], 64);
    assert_int_equal(transport_poll(half.left, &completion, 1, 10000), 1);
    assert_int_equal(completion.status, STATUS_CONNECTION);
    half_close(&half);
}

/* A peer that ends in the middle: the send that waits for room and the receive that waits for bytes
 * both come back, once each, and their buffers with them. */
static void test_peer_resets(void **state) {
    struct half half;
    half_open(&half, *state);
    uint8_t *message = make_message(MESSAGE_BYTES_MAX, 1), *buffer = calloc(1, 1000);
    uint8_t part[500];
    fill_message(part, sizeof part, 9);
    memcpy(part, &(uint64_t){1000}, sizeof(uint64_t));
    transport_post_receive(half.left, half.to_right, buffer, 1000);
    for (int i = 0; i < 4; i++)
        transport_post_send(half.left, half.to_right, message, MESSAGE_BYTES_MAX);
    assert_int_equal(send(half.right, part, sizeof part, 0), sizeof part);
    struct completion completions[16];
    size_t sends = 0, receives = 0, count;
    for (int i = 0; i < 20; i++)
        sends += transport_poll(half.left, completions, 16, 1);
    assert_true(sends < 4);
    close(half.right); /* with bytes unread: a reset */
    half.right = -1;
    while (sends + receives < 5) {
        count = transport_poll(half.left, completions, 16, 10000);
        assert_true(count > 0);
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(completions[i].status, STATUS_CONNECTION);
            receives += completions[i].operation == TRANSPORT_RECEIVE;
            sends += completions[i].operation == TRANSPORT_SEND;
        }
    }
    assert_int_equal(receives, 1);
    free(message);
    free(buffer);
    assert_int_equal(transport_poll(half.left, completions, 16, 20), 0);
    half_close(&half);
}

static void expect_receive_error(const char *backend, uint64_t bytes, size_t capacity,
                                 const char *words) {
    struct pair pair;
    pair_open(&pair, backend);
    uint8_t message[64] = {0}, buffers[2][64];
    memcpy(message, &bytes, sizeof bytes);
    struct completion completions[4];
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(transport_post_send(pair.left, pair.to_right, message, 64), STATUS_OK);
    transport_flush(pair.left);
    for (int i = 0; i < 2; i++)
        assert_int_equal(transport_post_receive(pair.right, pair.to_left, buffers[i], capacity),
                         STATUS_OK);
    assert_int_equal(transport_poll(pair.right, completions, 4, 1000), 2);
    assert_int_equal(completions[0].status, STATUS_PROTOCOL);
    assert_int_equal(completions[1].status, STATUS_CONNECTION);
    log_capture_expect(&capture, "left", words, NULL);
    pair_close(&pair);
}

static void test_refused_messages(void **state) {
    expect_receive_error(*state, UINT64_MAX, 64, "refused header");
    expect_receive_error(*state, 64, 32, "64 bytes where at most 32");
    expect_receive_error(*state, 3, 64, "3 bytes");
}

static void *wake_later(void *transport) {
    usleep(20000);
    transport_wake(transport);
    return NULL;
}

static void test_wake_and_timeout(void **state) {
    struct pair pair;
    pair_open(&pair, *state);
    struct completion completion;
    uint64_t started_ns = clock_now_ns();
    assert_int_equal(transport_poll(pair.left, &completion, 1, 30), 0);
    assert_true(clock_elapsed_s(started_ns) >= 0.029);
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, wake_later, pair.left);
        assert_int_equal(transport_poll(pair.left, &completion, 1, -1), 0);
        pthread_join(thread, NULL);
        transport_wake(pair.left);
        transport_wake(pair.left);
        assert_int_equal(transport_poll(pair.left, &completion, 1, -1), 0);
    }
    pair_close(&pair);
}

static void test_remove_drops_completions(void **state) {
    struct pair pair;
    pair_open(&pair, *state);
    uint8_t *message = make_message(16, 1);
    assert_int_equal(transport_post_send(pair.left, pair.to_right, message, 16), STATUS_OK);
    transport_flush(pair.left);
    transport_remove(pair.left, pair.to_right);
    struct completion completion;
    assert_int_equal(transport_poll(pair.left, &completion, 1, 0), 0);
    free(message);
    pair_close(&pair);
}

/* Whether the half's peer gets nothing but bytes of value 1 behind the length, and then the end. */
static void expect_ones_until_end(int fd) {
    static uint8_t bytes[100000];
    uint64_t header;
    assert_int_equal(recv(fd, &header, sizeof header, MSG_WAITALL), sizeof header);
    for (ssize_t got; (got = recv(fd, bytes, sizeof bytes, 0)) > 0;)
        for (ssize_t i = 0; i < got; i++)
            assert_int_equal(bytes[i], 1);
}

/* In the middle of a message in each direction: afterwards the buffers are the caller's, whatever
 * the peer does, and other connections have lost nothing. */
static void test_remove_in_flight(void **state) {
    for (int destroy = 0; destroy < 2; destroy++) {
        struct half half;
        half_open(&half, *state);
        int other[2];
        struct connection *to_other;
        connect_pair(other);
        assert_int_equal(transport_add(half.left, other[0], "other", &to_other), STATUS_OK);
        uint8_t *message = make_message(MESSAGE_BYTES_MAX, 1), *buffer = malloc(1000);
        uint8_t part[500], good[30], place[30];
        fill_message(good, sizeof good, 7);
        fill_message(part, sizeof part, 9);
        memcpy(part, &(uint64_t){1000}, sizeof(uint64_t));
        transport_post_receive(half.left, half.to_right, buffer, 1000);
        transport_post_receive(half.left, to_other, place, sizeof place);
        transport_post_send(half.left, half.to_right, message, MESSAGE_BYTES_MAX);
        transport_post_send(half.left, half.to_right, message, MESSAGE_BYTES_MAX);
        assert_int_equal(send(half.right, part, sizeof part, 0), sizeof part);
        struct completion completion;
        for (int i = 0; i < 10; i++)
            assert_int_equal(transport_poll(half.left, &completion, 1, 1), 0);
        assert_int_equal(send(other[1], good, sizeof good, 0), sizeof good);
        if (destroy)
            transport_destroy(half.left);
        else
            transport_remove(half.left, half.to_right);
        memset(message, 0xee, MESSAGE_BYTES_MAX);
        memset(buffer, 0xee, 1000);
        send(half.right, part, sizeof part, MSG_NOSIGNAL);
        expect_ones_until_end(half.right);
        for (int i = 0; i < 1000; i++)
            assert_int_equal(buffer[i], 0xee);
        if (!destroy) {
            completion = await_one(half.left);
            assert_ptr_equal(completion.connection, to_other);
            assert_memory_equal(place, good, sizeof good);
            transport_destroy(half.left);
        }
        close(other[1]);
        close(half.right);
        free(message);
        free(buffer);
    }
}

#define ROUNDS 2000

/* Sends every message back. */
static void *echo(void *argument) {
    struct pair *pair = argument;
    uint8_t buffer[3000];
    struct completion completion;
    transport_post_receive(pair->right, pair->to_left, buffer, sizeof buffer);
    for (int done = 0; done < ROUNDS;) {
        if (!transport_poll(pair->right, &completion, 1, 10000) || completion.status)
            return "the echo got no message";
        if (completion.operation == TRANSPORT_RECEIVE) {
            transport_post_send(pair->right, pair->to_left, buffer, completion.bytes);
        } else {
            transport_post_receive(pair->right, pair->to_left, buffer, sizeof buffer);
            done++;
        }
    }
    return NULL;
}

static void test_two_threads(void **state) {
    struct pair pair;
    pair_open(&pair, *state);
    pthread_t thread;
    pthread_create(&thread, NULL, echo, &pair);
    uint8_t message[3000], buffer[3000];
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t bytes = 8 + (uint64_t)(round * 37 % 2900);
        fill_message(message, bytes, (uint8_t)round);
        transport_post_receive(pair.left, pair.to_right, buffer, sizeof buffer);
        transport_post_send(pair.left, pair.to_right, message, bytes);
        await_one(pair.left);
        await_one(pair.left);
        assert_memory_equal(buffer, message, bytes);
    }
    void *complaint;
    pthread_join(thread, &complaint);
    if (complaint)
        fail_msg("%s", (const char *)complaint);
    pair_close(&pair);
}

/* ---- The choice of a backend. */

/* The kernel refuses io_uring to the calling thread, as container runtimes do. */
static bool forbid_uring(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

struct refused {
    bool skipped;
    enum status forced;      /* of asking for io_uring */
    struct transport *other; /* what auto made */
};

static void *create_refused(void *argument) {
    struct refused *refused = argument;
    const struct transport_options automatic = {sizeof(uint64_t), message_bytes, NULL};
    const struct transport_options forced = {sizeof(uint64_t), message_bytes, "uring"};
    struct transport *none;
    if (!forbid_uring()) {
        refused->skipped = true;
        return NULL;
    }
    if (transport_create(&automatic, &refused->other))
        refused->other = NULL;
    refused->forced = transport_create(&forced, &none);
    return NULL;
}

static void test_refused_by_the_system(void **state) {
    (void)state;
    struct log_capture capture;
    struct refused refused = {0};
    pthread_t thread;
    log_capture_begin(&capture);
    pthread_create(&thread, NULL, create_refused, &refused);
    pthread_join(thread, NULL);
    if (refused.skipped) {
        print_message("skipped the refusal of io_uring: no system call filters here\n");
        return;
    }
    log_capture_expect(&capture, "io_uring cannot be used (Operation not permitted)",
                       "using plain sockets", "cannot set up the data plane with uring", NULL);
    assert_int_equal(refused.forced, STATUS_IO);
    assert_non_null(refused.other);
    int ends[2];
    connect_pair(ends);
    struct pair pair = {.left = refused.other, .right = open_transport("sockets")};
    assert_int_equal(transport_add(pair.left, ends[0], "right", &pair.to_right), STATUS_OK);
    assert_int_equal(transport_add(pair.right, ends[1], "left", &pair.to_left), STATUS_OK);
    uint8_t *message = malloc(MESSAGE_BYTES_MAX), *buffer = malloc(MESSAGE_BYTES_MAX);
    exchange_sizes(&pair, message, buffer);
    free(message);
    free(buffer);
    pair_close(&pair);
}

/* A thread that may pin next to nothing registers more than that. */
static void *register_too_much(void *argument) {
    struct transport **out = argument;
    static uint8_t memory[3][1 << 20];
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};
    *out = NULL;
    if (syscall(SYS_capset, &header, none))
        return NULL;
    *out = open_transport("uring");
    for (int i = 0; i < 3; i++)
        transport_register(*out, memory[i], sizeof memory[i]);
    return memory[1];
}

static void test_pins_what_it_may(void **state) {
    (void)state;
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &before), 0);
    limit = (struct rlimit){.rlim_cur = 200 << 10, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    struct log_capture capture;
    struct pair pair;
    pthread_t thread;
    void *memory;
    log_capture_begin(&capture);
    pthread_create(&thread, NULL, register_too_much, &pair.left);
    pthread_join(thread, &memory);
    setrlimit(RLIMIT_MEMLOCK, &before);
    if (!pair.left) {
        print_message("skipped the limit of pinned memory: no capabilities to give up\n");
        return;
    }
    fclose(capture.stream);
    log_init("test", LOG_ERROR, NULL);
    assert_non_null(strstr(capture.text, "buffers and no more"));
    free(capture.text);
    int ends[2];
    connect_pair(ends);
    pair.right = open_transport("uring");
    assert_int_equal(transport_add(pair.left, ends[0], "right", &pair.to_right), STATUS_OK);
    assert_int_equal(transport_add(pair.right, ends[1], "left", &pair.to_left), STATUS_OK);
    uint8_t *buffer = malloc(1 << 20);
    fill_message(memory, 100000, 4);
    transport_post_receive(pair.right, pair.to_left, buffer, 1 << 20);
    transport_post_send(pair.left, pair.to_right, memory, 100000);
    next_completion(&pair);
    next_completion(&pair);
    expect_message(buffer, 100000, 4);
    free(buffer);
    pair_close(&pair);
}

static bool has_uring(void) {
    const struct transport_options options = {sizeof(uint64_t), message_bytes, "uring"};
    struct transport *transport;
    if (transport_create(&options, &transport))
        return false;
    transport_destroy(transport);
    return true;
}

#define TEST(name)                                                                                 \
    { #name, name, NULL, NULL, (void *)(uintptr_t)backend }

static int run_suite(const char *backend) {
    const struct CMUnitTest tests[] = {
        TEST(test_sizes),
        TEST(test_registered_memory),
        TEST(test_order_and_bound),
        TEST(test_stream_of_lengths),
        TEST(test_slow_sender),
        TEST(test_back_pressure),
        TEST(test_many_connections),
        TEST(test_flush_sends),
        TEST(test_peer_closes),
        TEST(test_message_before_the_end),
        TEST(test_peer_resets),
        TEST(test_refused_messages),
        TEST(test_wake_and_timeout),
        TEST(test_remove_drops_completions),
        TEST(test_remove_in_flight),
        TEST(test_two_threads),
    };
    return cmocka_run_group_tests_name(backend, tests, NULL, NULL);
}

int main(void) {
    const struct CMUnitTest choice[] = {cmocka_unit_test(test_refused_by_the_system)};
    const char *backend = "uring";
    const struct CMUnitTest uring_only[] = {TEST(test_flush_sends_all_together),
                                            cmocka_unit_test(test_pins_what_it_may)};
    signal(SIGPIPE, SIG_IGN);
    int failed = run_suite("sockets") + cmocka_run_group_tests(choice, NULL, NULL);
    if (has_uring())
        failed += run_suite("uring") + cmocka_run_group_tests(uring_only, NULL, NULL);
    else
        print_message("skipped the tests of io_uring: this system refuses it\n");
    return failed;
}
