/* The transport's contract, over connected sockets: messages of all sizes, order, back-pressure,
 * and every way in which a peer can fail. */
#include "tests/unit/test.h"

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/limits.h"
#include "common/transport/transport.h"

/* Test messages open with their length; lengths over a million are refused. */
static enum status message_bytes(const void *header, const char *peer, size_t *out) {
    uint64_t bytes;
    memcpy(&bytes, header, sizeof bytes);
    if (bytes > 4000000) {
        log_error("%s: refused header", peer);
        return STATUS_PROTOCOL;
    }
    *out = bytes;
    return STATUS_OK;
}

static const struct transport_options OPTIONS = {sizeof(uint64_t), message_bytes};

struct pair {
    struct transport *left, *right;
    struct connection *to_right, *to_left;
};

static void pair_open(struct pair *pair) {
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    assert_int_equal(transport_create(&OPTIONS, &pair->left), STATUS_OK);
    assert_int_equal(transport_create(&OPTIONS, &pair->right), STATUS_OK);
    assert_int_equal(transport_add(pair->left, sockets[0], "right", &pair->to_right), STATUS_OK);
    assert_int_equal(transport_add(pair->right, sockets[1], "left", &pair->to_left), STATUS_OK);
}

static void pair_close(struct pair *pair) {
    transport_destroy(pair->left);
    transport_destroy(pair->right);
}

static uint8_t *make_message(uint64_t bytes, uint8_t fill) {
    uint8_t *message = malloc(bytes);
    memset(message, fill, bytes);
    memcpy(message, &bytes, sizeof bytes);
    return message;
}

/* Polls both ends until one of them has a completion; returns it. */
static struct completion next_completion(struct pair *pair) {
    struct completion completion;
    for (int i = 0; i < 1000; i++) {
        if (transport_poll(pair->left, &completion, 1, 0) ||
            transport_poll(pair->right, &completion, 1, 1))
            return completion;
    }
    fail_msg("no completion within a second");
    return completion;
}

static void test_sizes(void **state) {
    (void)state;
    struct pair pair;
    pair_open(&pair);
    const uint64_t sizes[] = {8, 9, 100, 65536, 3000001};
    uint8_t *buffer = malloc(4000000);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint8_t *message = make_message(sizes[i], (uint8_t)(i + 1));
        assert_int_equal(transport_post_receive(pair.right, pair.to_left, buffer, 4000000),
                         STATUS_OK);
        assert_int_equal(transport_post_send(pair.left, pair.to_right, message, sizes[i]),
                         STATUS_OK);
        for (int done = 0; done < 2; done++) {
            struct completion completion = next_completion(&pair);
            assert_int_equal(completion.status, STATUS_OK);
            assert_int_equal(completion.bytes, sizes[i]);
            assert_ptr_equal(completion.buffer,
                             completion.operation == TRANSPORT_SEND ? message : buffer);
        }
        assert_memory_equal(buffer, message, sizes[i]);
        free(message);
    }
    free(buffer);
    pair_close(&pair);
}

static void test_order_and_bound(void **state) {
    (void)state;
    struct pair pair;
    pair_open(&pair);
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

static void test_peer_closes(void **state) {
    (void)state;
    struct pair pair;
    pair_open(&pair);
    uint8_t buffers[2][64];
    assert_int_equal(transport_post_receive(pair.left, pair.to_right, buffers[0], 64), STATUS_OK);
    assert_int_equal(transport_post_receive(pair.left, pair.to_right, buffers[1], 64), STATUS_OK);
    /* Half a header, then nothing. */
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

static void expect_receive_error(uint64_t bytes, size_t capacity, const char *words) {
    struct pair pair;
    pair_open(&pair);
    uint8_t message[64] = {0}, buffer[64];
    memcpy(message, &bytes, sizeof bytes);
    struct completion completion;
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(transport_post_send(pair.left, pair.to_right, message, 64), STATUS_OK);
    assert_int_equal(transport_post_receive(pair.right, pair.to_left, buffer, capacity), STATUS_OK);
    assert_int_equal(transport_poll(pair.right, &completion, 1, 1000), 1);
    assert_int_equal(completion.status, STATUS_PROTOCOL);
    log_capture_expect(&capture, "left", words, NULL);
    pair_close(&pair);
}

static void test_refused_messages(void **state) {
    (void)state;
    expect_receive_error(UINT64_MAX, 64, "refused header");
    expect_receive_error(64, 32, "64 bytes where at most 32");
    expect_receive_error(3, 64, "3 bytes");
}

static void *wake_later(void *transport) {
    usleep(20000);
    transport_wake(transport);
    return NULL;
}

static void test_wake_and_timeout(void **state) {
    (void)state;
    struct pair pair;
    pair_open(&pair);
    struct completion completion;
    uint64_t started_ns = clock_now_ns();
    assert_int_equal(transport_poll(pair.left, &completion, 1, 30), 0);
    assert_true(clock_elapsed_s(started_ns) >= 0.029);
    pthread_t thread;
    pthread_create(&thread, NULL, wake_later, pair.left);
    assert_int_equal(transport_poll(pair.left, &completion, 1, -1), 0);
    pthread_join(thread, NULL);
    transport_wake(pair.left);
    assert_int_equal(transport_poll(pair.left, &completion, 1, -1), 0);
    pair_close(&pair);
}

static void test_remove_drops_completions(void **state) {
    (void)state;
    struct pair pair;
    pair_open(&pair);
    uint8_t *message = make_message(16, 1);
    assert_int_equal(transport_post_send(pair.left, pair.to_right, message, 16), STATUS_OK);
    transport_remove(pair.left, pair.to_right);
    struct completion completion;
    assert_int_equal(transport_poll(pair.left, &completion, 1, 0), 0);
    free(message);
    pair_close(&pair);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_order_and_bound),
        cmocka_unit_test(test_peer_closes),
        cmocka_unit_test(test_refused_messages),
        cmocka_unit_test(test_wake_and_timeout),
        cmocka_unit_test(test_remove_drops_completions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
