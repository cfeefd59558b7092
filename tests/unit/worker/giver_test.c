/* A worker that other workers ask for shards, played by hand: what it has it gives as it lies in
 * memory, what is on its way it waits for, and everything else it refuses; its own session goes on
 * meanwhile. */
#include "tests/unit/worker/fixture.h"

#include <xxhash.h>

#include "tests/unit/random.h"
#include "worker/shard_cache.h"

static struct worker own_copy, no_copy; /* with the model and without */
static struct model model;

/* A coordinator whose shards the worker at `address` serves. */
struct session {
    const char *address;
    struct client client;
    struct plan plan;
    uint64_t id;
};

static void begin(struct session *session, const struct worker *worker, uint64_t fingerprint,
                  Control__Message__KindCase answer) {
    session->address = daemon_address(worker->daemon);
    session->plan = plan_default(fingerprint);
    session->id = client_greet(&session->client, session->address, fingerprint);
    client_assign(&session->client, &session->plan);
    control_message_free(client_expect(&session->client, answer));
}

static void end(struct session *session) {
    client_say_goodbye(&session->client);
    client_expect_end(&session->client);
    client_close(&session->client);
}

static struct packed_name name_of(const struct session *session, uint32_t slot) {
    return (struct packed_name){session->plan.fingerprint, SHARD_PACKING_VERSION, false,
                                plan_shard(&session->plan, slot)};
}

/* Requires the shard of `slot` in one message. */
static void expect_given(struct client *peer, const struct session *session, uint32_t slot) {
    struct shard shard = plan_shard(&session->plan, slot);
    size_t bytes = shard_bytes(&FIXTURE_LAYOUT, &shard);
    uint8_t *wanted = model_read_packed(&model, &shard);
    Control__Message *message = client_expect(peer, CONTROL__MESSAGE__KIND_PACKED);
    assert_int_equal(message->packed->offset, 0);
    assert_int_equal(message->packed->data.len, bytes);
    assert_memory_equal(message->packed->data.data, wanted, bytes);
    assert_true(message->packed->hash == XXH3_64bits(wanted, bytes));
    control_message_free(message);
    free(wanted);
}

static void test_gives_what_it_has(void **state) {
    (void)state;
    struct session session;
    struct client peers[2];
    begin(&session, &own_copy, model.fingerprint, CONTROL__MESSAGE__KIND_READY);
    int fd = data_open(session.address, session.id);
    for (int i = 0; i < 2; i++)
        client_connect(&peers[i], session.address);
    for (uint32_t turn = 0; turn < 2 * PLAN_SLOTS; turn++)
        for (int i = 0; i < 2; i++) {
            uint32_t slot = i ? PLAN_SLOTS - 1 - turn % PLAN_SLOTS : turn % PLAN_SLOTS;
            const struct packed_name name = name_of(&session, slot);
            client_say_fetch(&peers[i], &name);
            expect_given(&peers[i], &session, slot);
        }
    log_file_mark();
    for (int i = 0; i < 2; i++)
        client_close(&peers[i]);
    log_file_expect("gave 8 shards");
    expect_first_slots(fd, &model, &session.plan);
    end(&session);
    data_expect_end(fd);
}

static void expect_refused(const struct session *session, struct packed_name name) {
    struct client peer;
    client_connect(&peer, session->address);
    client_say_fetch(&peer, &name);
    client_expect_error(&peer, "it does not hold [");
    client_close(&peer);
}

static void test_refuses_what_it_has_not(void **state) {
    (void)state;
    struct session session;
    begin(&session, &own_copy, model.fingerprint, CONTROL__MESSAGE__KIND_READY);
    const struct packed_name good = name_of(&session, 2);
    struct packed_name name = good;
    name.fingerprint++;
    expect_refused(&session, name);
    name = good;
    name.version++;
    expect_refused(&session, name);
    name = good;
    name.exact = true;
    expect_refused(&session, name);
    name = good;
    name.shard.expert = UINT32_MAX;
    expect_refused(&session, name);
    name = good;
    name.shard.layer = UINT32_MAX;
    expect_refused(&session, name);
    name = good;
    name.shard.end++;
    expect_refused(&session, name);
    end(&session);
    expect_refused(&session, good); /* nobody is served, and so nobody is sent here */
    expect_good_session(session.address, &model);
}

/* What the worker is itself still waiting for is given as soon as it has come. */
static void test_gives_what_comes(void **state) {
    (void)state;
    struct session session;
    struct client peer;
    begin(&session, &no_copy, model.fingerprint, CONTROL__MESSAGE__KIND_NEED);
    client_connect(&peer, session.address);
    const struct packed_name name = name_of(&session, 3);
    client_say_fetch(&peer, &name);
    ship_from(&session.client, &model, &session.plan, 3);
    expect_given(&peer, &session, 3); /* before the others are there */
    client_close(&peer);
    end(&session);
}

static void test_one_at_a_time(void **state) {
    (void)state;
    struct session session;
    struct client peer;
    begin(&session, &no_copy, model.fingerprint + 1, CONTROL__MESSAGE__KIND_NEED);
    const struct packed_name name = name_of(&session, 0);
    log_file_mark();
    client_connect(&peer, session.address);
    client_say_fetch(&peer, &name);
    client_say_fetch(&peer, &name);
    client_expect_end(&peer);
    client_close(&peer);
    log_file_expect("before it has got the last one");

    /* Somebody who asks is no coordinator, and a coordinator does not ask. */
    client_connect(&peer, session.address);
    client_say_fetch(&peer, &name);
    client_say_hello(&peer, CONTROL_VERSION, model.fingerprint);
    client_expect_end(&peer);
    client_close(&peer);
    client_say_fetch(&session.client, &name);
    client_expect_end(&session.client);
    client_close(&session.client);
    expect_good_session(daemon_address(own_copy.daemon), &model);
}

/* Well-formed questions with random bytes changed: any answer is right that leaves the session
 * alone. */
static void test_mutated_messages(void **state) {
    (void)state;
    struct random random = {99};
    struct session session;
    begin(&session, &own_copy, model.fingerprint, CONTROL__MESSAGE__KIND_READY);
    int fd = data_open(session.address, session.id);
    for (int round = 0; round < 300; round++) {
        const struct packed_name name = name_of(&session, 1);
        Control__Fetch fetch = CONTROL__FETCH__INIT;
        Control__Message message = CONTROL__MESSAGE__INIT;
        fetch.fingerprint = name.fingerprint;
        fetch.packing_version = name.version;
        fetch.layer = name.shard.layer;
        fetch.expert = name.shard.expert;
        fetch.end = name.shard.end;
        message.kind_case = CONTROL__MESSAGE__KIND_FETCH;
        message.fetch = &fetch;
        uint8_t bytes[64];
        size_t count = control_encoded_bytes(&message);
        assert_true(count <= sizeof bytes);
        control_encode(&message, bytes);
        for (uint32_t i = random_below(&random, 4) + 1; i > 0; i--)
            bytes[CONTROL_PREFIX_BYTES + random_below(&random, (uint32_t)count - 4)] =
                (uint8_t)random_bits(&random);
        struct client peer;
        client_connect(&peer, session.address);
        send(peer.fd, bytes, count, MSG_NOSIGNAL);
        shutdown(peer.fd, SHUT_WR);
        Control__Message *answer;
        while ((answer = client_receive(&peer))) {
            if (answer->kind_case == CONTROL__MESSAGE__KIND_DRAIN)
                fail_msg("round %d happens to ask for a drain; take another seed", round);
            control_message_free(answer);
        }
        client_close(&peer);
    }
    expect_first_slots(fd, &model, &session.plan);
    end(&session);
    data_expect_end(fd);
}

static void test_session_ends(void **state) {
    (void)state;
    struct session session;
    struct client peer;
    begin(&session, &no_copy, model.fingerprint + 2, CONTROL__MESSAGE__KIND_NEED);
    const struct packed_name name = name_of(&session, 0);
    client_connect(&peer, session.address);
    client_say_fetch(&peer, &name);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    client_close(&session.client);
    client_expect_error(&peer, "its session has ended");
    client_close(&peer);
}

static void test_too_many(void **state) {
    (void)state;
    struct session session;
    struct client peers[GIVERS_MAX], late;
    begin(&session, &own_copy, model.fingerprint, CONTROL__MESSAGE__KIND_READY);
    const struct packed_name name = name_of(&session, 1);
    for (unsigned i = 0; i < GIVERS_MAX; i++) {
        client_connect(&peers[i], session.address);
        client_say_fetch(&peers[i], &name);
        expect_given(&peers[i], &session, 1);
    }
    client_connect(&late, session.address);
    client_say_fetch(&late, &name);
    client_expect_error(&late, "too many workers");
    client_close(&late);
    for (unsigned i = 0; i < GIVERS_MAX; i++)
        client_close(&peers[i]);
    end(&session);
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
        cmocka_unit_test(test_gives_what_it_has), cmocka_unit_test(test_refuses_what_it_has_not),
        cmocka_unit_test(test_gives_what_comes),  cmocka_unit_test(test_one_at_a_time),
        cmocka_unit_test(test_mutated_messages),  cmocka_unit_test(test_session_ends),
        cmocka_unit_test(test_too_many),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
