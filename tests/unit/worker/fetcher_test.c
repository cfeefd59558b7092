/* A worker that is sent to other workers for its shards: to a real one, and to scripts in a thread
 * that give something else, or nothing. The coordinator is then asked for the rest. */
#include "tests/unit/worker/fixture.h"

#include <netinet/tcp.h>
#include <xxhash.h>

#include "tests/unit/random.h"

static struct model model;

/* ---- A peer by script. */

enum script {
    SCRIPT_GIVE,       /* what is asked for, in two parts */
    SCRIPT_GIVE_ONE,   /* the same for the first shard, then closes in the middle */
    SCRIPT_REFUSE,     /* Error */
    SCRIPT_CLOSE,      /* closes when it is asked */
    SCRIPT_OTHER,      /* answers with Ready */
    SCRIPT_GARBAGE,    /* answers with what is no message */
    SCRIPT_BAD_HASH,   /* the right bytes with another hash */
    SCRIPT_BAD_BYTES,  /* one byte is another */
    SCRIPT_BAD_OFFSET, /* begins behind the beginning */
    SCRIPT_TOO_LONG,   /* more bytes than the shard has */
    SCRIPT_EMPTY,      /* no bytes */
    SCRIPT_UNASKED,    /* gives the first shard twice */
    SCRIPT_SILENT,     /* says nothing at all */
    SCRIPT_STALLED,    /* half a shard, then nothing but reports of health */
    SCRIPT_MUTATED,    /* what is asked for, with random bytes of the message changed */
};

struct peer {
    enum script script;
    const struct plan *plan;
    struct random random; /* SCRIPT_MUTATED */
    int listener;
    char address[32];
    pthread_t thread;
};

/* Gives `slot` in two parts, spoiled as the script says; true: to the end. */
static bool give(const struct peer *peer, struct client *client, uint32_t slot, bool spoiled) {
    enum script script = spoiled ? peer->script : SCRIPT_GIVE;
    struct shard shard = plan_shard(peer->plan, slot);
    size_t bytes = shard_bytes(&FIXTURE_LAYOUT, &shard), part = bytes / 2;
    uint8_t *data = model_read_packed(&model, &shard);
    uint64_t hash = XXH3_64bits(data, bytes);
    bool stops = script == SCRIPT_GIVE_ONE || script == SCRIPT_STALLED;
    data[bytes - 1] ^= script == SCRIPT_BAD_BYTES;
    client_give(client, script == SCRIPT_BAD_OFFSET, data, script == SCRIPT_EMPTY ? 0 : part, 0);
    if (!stops)
        client_give(client, part, data + part, bytes - part, hash + (script == SCRIPT_BAD_HASH));
    if (script == SCRIPT_TOO_LONG)
        client_give(client, bytes, data, 1, hash);
    free(data);
    return !stops;
}

static void give_mutated(struct peer *peer, struct client *client, uint32_t slot) {
    struct shard shard = plan_shard(peer->plan, slot);
    size_t shard_size = shard_bytes(&FIXTURE_LAYOUT, &shard);
    uint8_t *data = model_read_packed(&model, &shard);
    Control__Packed packed = CONTROL__PACKED__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    packed.data.data = data;
    packed.data.len = shard_size;
    packed.hash = XXH3_64bits(data, shard_size);
    message.kind_case = CONTROL__MESSAGE__KIND_PACKED;
    message.packed = &packed;
    size_t bytes = control_encoded_bytes(&message);
    uint8_t *encoded = malloc(bytes);
    control_encode(&message, encoded);
    for (uint32_t i = random_below(&peer->random, 4) + 1; i > 0; i--) {
        /* Near the ends, mostly: there is what is no data. */
        uint32_t reach = random_below(&peer->random, 2) ? 16 : (uint32_t)bytes;
        uint32_t at = random_below(&peer->random, reach);
        encoded[i % 2 ? at : bytes - 1 - at] ^= (uint8_t)(1 + random_below(&peer->random, 255));
    }
    send(client->fd, encoded, bytes, MSG_NOSIGNAL);
    shutdown(client->fd, SHUT_WR);
    free(encoded);
    free(data);
}

/* The answer to the `count`th question, for `slot`; false: the connection is to be closed. */
static bool answer(struct peer *peer, struct client *client, uint32_t slot, unsigned count) {
    Control__Ready ready = CONTROL__READY__INIT;
    Control__Error error = CONTROL__ERROR__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    switch (peer->script) {
    case SCRIPT_CLOSE:
        return false;
    case SCRIPT_REFUSE:
        error.text = "no more for you";
        message.kind_case = CONTROL__MESSAGE__KIND_ERROR;
        message.error = &error;
        client_send(client, &message);
        return true;
    case SCRIPT_OTHER:
        message.kind_case = CONTROL__MESSAGE__KIND_READY;
        message.ready = &ready;
        client_send(client, &message);
        return true;
    case SCRIPT_GARBAGE:
        send(client->fd, "GET / HTTP/1.1\r\n", 16, MSG_NOSIGNAL);
        return true;
    case SCRIPT_GIVE_ONE:
        return give(peer, client, slot, count > 0);
    case SCRIPT_UNASKED:
        give(peer, client, slot, false);
        return give(peer, client, slot, false);
    case SCRIPT_SILENT:
        client->silent = true;
        return true;
    case SCRIPT_STALLED:
        give(peer, client, slot, true);
        return true;
    case SCRIPT_MUTATED:
        give_mutated(peer, client, slot);
        return true;
    default:
        return give(peer, client, slot, true);
    }
}

static uint32_t find_slot(const struct plan *plan, const Control__Fetch *fetch) {
    uint32_t slot = 0;
    while (slot < PLAN_SLOTS &&
           (plan->layer[slot] != fetch->layer || plan->expert[slot] != fetch->expert))
        slot++;
    return slot;
}

/* Until the worker parts with it. */
static void *peer_main(void *argument) {
    struct peer *peer = argument;
    struct client client = {.fd = accept(peer->listener, NULL, NULL)};
    control_reader_init(&client.reader, CONTROL_MESSAGE_BYTES_MAX);
    Control__Message *message;
    for (unsigned count = 0; client.fd >= 0 && (message = client_receive(&client)); count++) {
        assert_int_equal(message->kind_case, CONTROL__MESSAGE__KIND_FETCH);
        assert_true(message->fetch->fingerprint == peer->plan->fingerprint);
        uint32_t slot = find_slot(peer->plan, message->fetch);
        assert_true(slot < PLAN_SLOTS);
        bool goes_on = answer(peer, &client, slot, count);
        control_message_free(message);
        if (!goes_on)
            break;
    }
    client_close(&client);
    return NULL;
}

static void peer_start(struct peer *peer, enum script script, const struct plan *plan) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof name;
    peer->script = script;
    peer->plan = plan;
    peer->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(peer->listener, (struct sockaddr *)&name, sizeof name), 0);
    assert_int_equal(listen(peer->listener, 4), 0);
    getsockname(peer->listener, (struct sockaddr *)&name, &length);
    snprintf(peer->address, sizeof peer->address, "127.0.0.1:%u", ntohs(name.sin_port));
    assert_int_equal(pthread_create(&peer->thread, NULL, peer_main, peer), 0);
}

static void peer_stop(struct peer *peer) {
    shutdown(peer->listener, SHUT_RDWR); /* where the worker has parted before it connected */
    pthread_join(peer->thread, NULL);
    close(peer->listener);
}

/* ---- The worker and its coordinator. */

struct session {
    struct worker worker;
    struct client client;
    struct plan plan;
    uint64_t id;
};

/* A worker without the model, which says that it needs everything. */
static void begin(struct session *session) {
    worker_start(&session->worker, NULL, 64 << 20);
    const char *address = daemon_address(session->worker.daemon);
    session->plan = plan_default(model.fingerprint);
    session->id = client_greet(&session->client, address, model.fingerprint);
    client_assign(&session->client, &session->plan);
    control_message_free(client_expect(&session->client, CONTROL__MESSAGE__KIND_NEED));
    log_file_mark();
}

/* Requires that the worker computes as it should. */
static void expect_serving(struct session *session) {
    control_message_free(client_expect(&session->client, CONTROL__MESSAGE__KIND_READY));
    int fd = data_open(daemon_address(session->worker.daemon), session->id);
    expect_first_slots(fd, &model, &session->plan);
    client_say_goodbye(&session->client);
    client_expect_end(&session->client);
    data_expect_end(fd);
}

static void end(struct session *session) {
    client_close(&session->client);
    worker_stop(&session->worker);
}

/* Requires that the slots [begin, end) are asked for again. */
static void expect_need(struct session *session, uint32_t first, uint32_t behind) {
    Control__Message *message = client_expect(&session->client, CONTROL__MESSAGE__KIND_NEED);
    assert_int_equal(message->need->n_begin, 1);
    assert_int_equal(message->need->begin[0], first);
    assert_int_equal(message->need->end[0], behind);
    control_message_free(message);
}

static void test_gets_from_a_worker(void **state) {
    (void)state;
    struct session session;
    struct worker giver;
    struct client other;
    begin(&session);
    worker_start(&giver, FIXTURE_MODEL, 64 << 20);
    const char *address = daemon_address(giver.daemon);
    client_greet(&other, address, model.fingerprint);
    client_assign(&other, &session.plan);
    control_message_free(client_expect(&other, CONTROL__MESSAGE__KIND_READY));
    for (uint32_t slot = 0; slot < PLAN_SLOTS - 1; slot++)
        client_say_source(&session.client, slot, address);
    ship_from(&session.client, &model, &session.plan, PLAN_SLOTS - 1);
    expect_serving(&session);
    log_file_expect("got 3 shards");
    client_close(&other);
    worker_stop(&giver);
    end(&session);
}

static void test_gets_from_several(void **state) {
    (void)state;
    struct session session;
    struct peer peers[2];
    begin(&session);
    for (int i = 0; i < 2; i++)
        peer_start(&peers[i], SCRIPT_GIVE, &session.plan);
    for (uint32_t slot = 0; slot < PLAN_SLOTS; slot++)
        client_say_source(&session.client, slot, peers[slot % 2].address);
    expect_serving(&session);
    assert_int_equal(log_file_count("got 2 shards"), 2);
    for (int i = 0; i < 2; i++)
        peer_stop(&peers[i]);
    end(&session);
}

/* The peer is to give slots 1 and 2; those from `first_missing` on it does not give, for the reason
 * that is logged. Another one, and the coordinator, give them then. */
static void expect_failure(enum script script, uint32_t first_missing, const char *part) {
    struct session session;
    struct peer peer, good;
    begin(&session);
    peer_start(&peer, script, &session.plan);
    peer_start(&good, SCRIPT_GIVE, &session.plan);
    /* In one piece, so that the peer cannot fail in between. */
    setsockopt(session.client.fd, IPPROTO_TCP, TCP_CORK, &(int){1}, sizeof(int));
    client_say_source(&session.client, 1, peer.address);
    client_say_source(&session.client, 2, peer.address);
    setsockopt(session.client.fd, IPPROTO_TCP, TCP_CORK, &(int){0}, sizeof(int));
    expect_need(&session, first_missing, 3);
    log_file_expect(part);
    log_file_expect("asking the coordinator for the");
    if (script == SCRIPT_CLOSE) { /* named once more all the same: it is not tried again */
        client_say_source(&session.client, 0, peer.address);
        expect_need(&session, 0, 1);
    }
    if (first_missing == 1)
        client_say_source(&session.client, 1, good.address);
    client_say_source(&session.client, 0, good.address);
    ship_from(&session.client, &model, &session.plan, 2);
    expect_serving(&session);
    peer_stop(&peer);
    peer_stop(&good);
    end(&session);
}

static void test_peers_that_fail(void **state) {
    (void)state;
    expect_failure(SCRIPT_GIVE_ONE, 2, "connection lost");
    expect_failure(SCRIPT_REFUSE, 1, "no more for you");
    expect_failure(SCRIPT_CLOSE, 1, "connection lost");
    expect_failure(SCRIPT_OTHER, 1, "answers with Ready");
    expect_failure(SCRIPT_GARBAGE, 1, "does not speak skein's control protocol");
    expect_failure(SCRIPT_BAD_HASH, 1, "not those of the shard");
    expect_failure(SCRIPT_BAD_BYTES, 1, "not those of the shard");
    expect_failure(SCRIPT_BAD_OFFSET, 1, "not those of the shard");
    expect_failure(SCRIPT_TOO_LONG, 2, "not those of the shard");
    expect_failure(SCRIPT_EMPTY, 1, "not those of the shard");
    expect_failure(SCRIPT_UNASKED, 2, "not those of the shard");
}

static void test_peers_that_wait(void **state) {
    (void)state;
    expect_failure(SCRIPT_SILENT, 1, "no sign of life any more");
    expect_failure(SCRIPT_STALLED, 1, "gave nothing for too long");
}

/* Well-formed messages with random bytes changed: none of them is taken for the shard. */
static void test_mutated_messages(void **state) {
    (void)state;
    struct random random = {815};
    for (int round = 0; round < TEST_ROUNDS(100); round++) {
        struct session session;
        struct peer peer = {.random = {random_bits(&random)}};
        begin(&session);
        peer_start(&peer, SCRIPT_MUTATED, &session.plan);
        client_say_source(&session.client, 0, peer.address);
        expect_need(&session, 0, 1);
        ship_from(&session.client, &model, &session.plan, 0);
        expect_serving(&session);
        peer_stop(&peer);
        end(&session);
    }
}

static void test_nobody_there(void **state) {
    (void)state;
    struct session session;
    begin(&session);
    client_say_source(&session.client, 0, "127.0.0.1:1");
    client_say_source(&session.client, 3, "no-such-host.invalid:7717");
    for (int i = 0; i < 2; i++)
        control_message_free(client_expect(&session.client, CONTROL__MESSAGE__KIND_NEED));
    log_file_expect("worker 127.0.0.1:1: connection refused");
    log_file_expect("worker no-such-host.invalid:7717: ");
    ship_from(&session.client, &model, &session.plan, 0);
    expect_serving(&session);
    end(&session);
}

/* Requires that the coordinator is sent away for what it says last. */
static void expect_refused(uint32_t slot, const char *address) {
    struct session session;
    begin(&session);
    client_say_source(&session.client, slot, address);
    client_expect_error(&session.client, "cannot ask for a shard");
    end(&session);
}

static void test_bad_sources(void **state) {
    (void)state;
    char text[ADDRESS_TEXT_BYTES_MAX + 100];
    memset(text, '1', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    expect_refused(PLAN_SLOTS, "127.0.0.1:1");
    expect_refused(UINT32_MAX, "127.0.0.1:1");
    expect_refused(0, "");
    expect_refused(0, "127.0.0.1");
    expect_refused(0, text);

    struct session session;
    struct peer peer;
    begin(&session); /* twice */
    peer_start(&peer, SCRIPT_STALLED, &session.plan);
    client_say_source(&session.client, 1, peer.address);
    client_say_source(&session.client, 1, peer.address);
    client_expect_error(&session.client, "cannot ask for a shard");
    peer_stop(&peer);
    end(&session);
}

/* The session, or the worker, ends in the middle. */
static void test_ends(void **state) {
    (void)state;
    for (int round = 0; round < 2; round++) {
        struct session session;
        struct peer peer;
        begin(&session);
        peer_start(&peer, SCRIPT_STALLED, &session.plan);
        for (uint32_t slot = 0; slot < PLAN_SLOTS; slot++)
            client_say_source(&session.client, slot, peer.address);
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        if (round == 0)
            client_close(&session.client);
        else
            worker_stop(&session.worker);
        peer_stop(&peer);
        if (round == 0)
            worker_stop(&session.worker);
        else
            client_close(&session.client);
    }
}

static int start(void **state) {
    (void)state;
    model_open(&model);
    return 0;
}

static int stop(void **state) {
    (void)state;
    model_close(&model);
    return 0;
}

int main(void) {
    log_file_begin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gets_from_a_worker), cmocka_unit_test(test_gets_from_several),
        cmocka_unit_test(test_peers_that_fail),    cmocka_unit_test(test_peers_that_wait),
        cmocka_unit_test(test_mutated_messages),   cmocka_unit_test(test_nobody_there),
        cmocka_unit_test(test_bad_sources),        cmocka_unit_test(test_ends),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
