/* Who gets which shard from where: pure bookkeeping, so workers exist only as numbers. */
#include "tests/unit/test.h"

#include "common/limits.h"
#include "coordinator/sources.h"

#define WORKERS 4u

static const struct source_health GOOD = {.usable = true};

static const struct shard SHARDS[] = {
    {1, 0, 0, 32}, {1, 1, 0, 32}, {2, 0, 0, 32}, {2, 5, 0, 32}, {2, 5, 0, 16}, {2, 5, 16, 32},
};

/* Workers [0, WORKERS) that can all be asked. */
static struct sources *create(void) {
    struct sources *sources;
    assert_int_equal(sources_create(WORKERS, &sources), STATUS_OK);
    for (uint32_t worker = 0; worker < WORKERS; worker++)
        sources_set_health(sources, worker, GOOD);
    return sources;
}

/* Gives the worker the first `count` shards. */
static void assign(struct sources *sources, uint32_t worker, uint32_t count) {
    for (uint32_t slot = 0; slot < count; slot++)
        assert_int_equal(sources_assign(sources, worker, slot, &SHARDS[slot]), STATUS_OK);
}

static bool need(struct sources *sources, uint32_t worker, uint32_t begin, uint32_t end) {
    return sources_need(sources, worker, &begin, &end, 1);
}

static void expect_here(struct sources *sources, uint32_t worker, uint32_t wanted) {
    uint32_t slot = 99, peer = 99;
    assert_int_equal(sources_next(sources, worker, &slot, &peer), SOURCE_HERE);
    assert_int_equal(slot, wanted);
    assert_int_equal(peer, 99);
}

static void expect_peer(struct sources *sources, uint32_t worker, uint32_t wanted_slot,
                        uint32_t wanted_peer) {
    uint32_t slot = 99, peer = 99;
    assert_int_equal(sources_next(sources, worker, &slot, &peer), SOURCE_PEER);
    assert_int_equal(slot, wanted_slot);
    assert_int_equal(peer, wanted_peer);
}

static void expect_nothing(struct sources *sources, uint32_t worker, enum source wanted) {
    uint32_t slot, peer;
    assert_int_equal(sources_next(sources, worker, &slot, &peer), wanted);
}

static void test_one_worker_is_sent_everything(void **state) {
    (void)state;
    struct sources *sources = create();
    assign(sources, 0, 4);
    expect_nothing(sources, 0, SOURCE_NONE); /* it has not said yet what it lacks */
    assert_true(need(sources, 0, 1, 4));
    for (uint32_t slot = 1; slot < 4; slot++) {
        expect_here(sources, 0, slot);
        sources_note_sent(sources, 0, slot);
    }
    expect_nothing(sources, 0, SOURCE_NONE);
    assert_int_equal(sources_note_ready(sources, 0), 0);
    sources_destroy(sources);
}

/* Two that lack the same are sent different shards, and exchange them. */
static void test_two_workers_exchange(void **state) {
    (void)state;
    struct sources *sources = create();
    assign(sources, 0, 4);
    assign(sources, 1, 4);
    assert_true(need(sources, 0, 0, 4));
    assert_true(need(sources, 1, 0, 4));
    expect_here(sources, 0, 0);
    expect_here(sources, 1, 1);
    sources_note_sent(sources, 0, 0);
    expect_here(sources, 0, 2); /* slot 1 it gets from worker 1, who has it soon */
    sources_note_sent(sources, 1, 1);
    expect_peer(sources, 1, 0, 0); /* before anything else: the other one is idle */
    expect_here(sources, 1, 3);
    sources_note_sent(sources, 1, 3);
    expect_nothing(sources, 1, SOURCE_LATER); /* slot 2 is still being sent to the other one */
    sources_note_sent(sources, 0, 2);
    expect_peer(sources, 1, 2, 0);
    expect_nothing(sources, 1, SOURCE_NONE);
    expect_peer(sources, 0, 3, 1);
    expect_peer(sources, 0, 1, 1);
    expect_nothing(sources, 0, SOURCE_NONE);
    assert_int_equal(sources_note_ready(sources, 0), 2);
    assert_int_equal(sources_note_ready(sources, 1), 2);
    assert_int_equal(sources_note_ready(sources, 1), 0); /* counted once */
    sources_destroy(sources);
}

/* Of several holders those are asked that give least, and one that leaves only if there is no
 * other. */
static void test_spreads_over_holders(void **state) {
    (void)state;
    struct sources *sources = create();
    uint32_t asked[WORKERS] = {0}, slot, peer;
    for (uint32_t worker = 0; worker < WORKERS; worker++)
        assign(sources, worker, 4);
    for (uint32_t worker = 0; worker < 3; worker++)
        sources_note_ready(sources, worker);
    assert_true(need(sources, 3, 0, 4));
    sources_set_health(sources, 1, (struct source_health){.usable = true, .is_leaving = true});
    for (int i = 0; i < 4; i++) {
        assert_int_equal(sources_next(sources, 3, &slot, &peer), SOURCE_PEER);
        asked[peer]++;
    }
    assert_int_equal(asked[0], 2);
    assert_int_equal(asked[1], 0);
    assert_int_equal(asked[2], 2);
    sources_forget(sources, 3);

    sources_forget(sources, 0);
    sources_set_health(sources, 2, (struct source_health){.usable = false});
    sources_set_health(sources, 3, GOOD);
    assign(sources, 3, 4);
    assert_true(need(sources, 3, 0, 1));
    expect_peer(sources, 3, 0, 1);
    sources_destroy(sources);
}

/* Parts of an expert are not those that others need. */
static void test_only_the_same_range(void **state) {
    (void)state;
    struct sources *sources = create();
    assert_int_equal(sources_assign(sources, 0, 0, &SHARDS[3]), STATUS_OK);
    assert_int_equal(sources_assign(sources, 1, 0, &SHARDS[4]), STATUS_OK);
    assert_int_equal(sources_assign(sources, 1, 1, &SHARDS[5]), STATUS_OK);
    assert_int_equal(sources_assign(sources, 2, 0, &SHARDS[5]), STATUS_OK);
    sources_note_ready(sources, 0);
    sources_note_ready(sources, 2);
    assert_true(need(sources, 1, 0, 2));
    expect_here(sources, 1, 0);
    expect_peer(sources, 1, 1, 2);
    sources_destroy(sources);
}

/* A peer that failed a worker is not named to it again, but to others. */
static void test_avoids_who_failed(void **state) {
    (void)state;
    struct sources *sources = create();
    for (uint32_t worker = 0; worker < WORKERS; worker++)
        assign(sources, worker, 3);
    sources_note_ready(sources, 0);
    sources_note_ready(sources, 1);
    assert_true(need(sources, 2, 0, 2));
    expect_peer(sources, 2, 0, 1);
    expect_peer(sources, 2, 1, 0);
    assert_true(need(sources, 2, 0, 1));
    expect_peer(sources, 2, 0, 0); /* the other one */
    assert_true(need(sources, 2, 0, 2));
    expect_here(sources, 2, 1);
    assert_false(need(sources, 2, 1, 2)); /* it is being sent */
    sources_note_sent(sources, 2, 1);
    expect_here(sources, 2, 0);
    assert_true(need(sources, 3, 2, 3));
    expect_peer(sources, 3, 2, 2);
    sources_destroy(sources);
}

/* What was on its way to a worker that is lost comes in another way. */
static void test_losses(void **state) {
    (void)state;
    struct sources *sources = create();
    assign(sources, 0, 2);
    assign(sources, 1, 2);
    assert_true(need(sources, 0, 0, 1));
    assert_true(need(sources, 1, 0, 1));
    expect_here(sources, 0, 0);
    expect_nothing(sources, 1, SOURCE_LATER);
    sources_forget(sources, 0);
    expect_here(sources, 1, 0);
    sources_note_ready(sources, 1);

    sources_set_health(sources, 0, GOOD);
    assign(sources, 0, 3); /* it comes back, and is given one more */
    assert_true(need(sources, 0, 0, 3));
    expect_peer(sources, 0, 0, 1);
    expect_peer(sources, 0, 1, 1);
    expect_here(sources, 0, 2);
    sources_destroy(sources);
}

/* Whoever shares this machine is no nearer to others than this process. */
static void test_loopback_is_for_its_like(void **state) {
    (void)state;
    const struct source_health here = {.usable = true, .is_local = true};
    struct sources *sources = create();
    for (uint32_t worker = 0; worker < 3; worker++)
        assign(sources, worker, 2);
    sources_set_health(sources, 0, here);
    sources_note_ready(sources, 0);
    assert_true(need(sources, 1, 0, 1));
    expect_here(sources, 1, 0);
    sources_set_health(sources, 2, here);
    assert_true(need(sources, 2, 0, 2));
    expect_peer(sources, 2, 0, 0);
    expect_peer(sources, 2, 1, 1); /* has it itself, and gives less */
    sources_destroy(sources);
}

static void test_refuses_bad_needs(void **state) {
    (void)state;
    const uint32_t begin[] = {0, 1}, end[] = {2, 3};
    struct sources *sources = create();
    assign(sources, 0, 4);
    assert_false(sources_need(sources, 0, NULL, NULL, 0));
    assert_false(need(sources, 0, 0, 5));
    assert_false(need(sources, 0, 2, 2));
    assert_false(need(sources, 0, 3, 2));
    assert_false(need(sources, 0, 4, UINT32_MAX));
    assert_false(sources_need(sources, 0, begin, end, 2)); /* they overlap */
    assert_true(need(sources, 0, 0, 2));
    assert_false(need(sources, 0, 0, 2)); /* said already */
    assert_false(need(sources, 0, 2, 3)); /* it has that one, as it said */
    assert_false(need(sources, 1, 0, 1)); /* was given nothing */
    sources_destroy(sources);
}

/* What was released is nobody's source, is not asked for, and its slot is free for another shard.
 */
static void test_released_slots(void **state) {
    (void)state;
    struct sources *sources = create();
    for (uint32_t worker = 0; worker < 3; worker++)
        assign(sources, worker, 3);
    assert_int_equal(sources_note_ready(sources, 1), 0);
    assert_true(need(sources, 0, 0, 3));
    expect_peer(sources, 0, 0, 1);
    sources_release(sources, 1, 1);
    sources_release(sources, 1, 1); /* nothing is there any more */
    expect_here(sources, 0, 1);
    assert_true(need(sources, 2, 0, 3)); /* of slot 1 there will be news */
    sources_note_sent(sources, 0, 1);
    sources_release(sources, 2, 1);
    expect_peer(sources, 2, 0, 1);
    expect_peer(sources, 2, 2, 1);
    expect_nothing(sources, 2, SOURCE_NONE);
    assert_false(need(sources, 2, 1, 2));

    assert_int_equal(sources_assign(sources, 1, 1, &SHARDS[3]), STATUS_OK);
    assert_int_equal(sources_assign(sources, 2, 4, &SHARDS[3]), STATUS_OK);
    assert_int_equal(sources_note_ready(sources, 2), 2);
    sources_forget(sources, 2); /* it comes back with gaps */
    assert_int_equal(sources_assign(sources, 2, 0, &SHARDS[0]), STATUS_OK);
    assert_true(need(sources, 1, 1, 2));
    expect_here(sources, 1, 1);
    sources_note_sent(sources, 1, 1);
    assert_false(need(sources, 2, 3, 5));
    assert_true(need(sources, 2, 4, 5));
    expect_peer(sources, 2, 4, 1);
    sources_destroy(sources);
}

/* Releasing over and over takes no more memory, and lists stay whole. */
static void test_released_often(void **state) {
    (void)state;
    struct sources *sources = create();
    for (uint32_t i = 0; i < 2000; i++) {
        uint32_t worker = i % WORKERS, slot = i % 5;
        sources_release(sources, worker, slot);
        assert_int_equal(sources_assign(sources, worker, slot, &SHARDS[i % 6]), STATUS_OK);
    }
    for (uint32_t worker = 0; worker < WORKERS; worker++)
        for (uint32_t slot = 0; slot < 5; slot++)
            sources_release(sources, worker, slot);
    assign(sources, 0, 4);
    assign(sources, 1, 4);
    assert_int_equal(sources_note_ready(sources, 0), 0);
    assert_true(need(sources, 1, 0, 4));
    for (uint32_t slot = 0; slot < 4; slot++)
        expect_peer(sources, 1, slot, 0);
    expect_nothing(sources, 1, SOURCE_NONE);
    sources_destroy(sources);
}

/* What lies on a disk is sent from here, and not asked of who has it there. */
static void test_spilled(void **state) {
    (void)state;
    struct sources *sources = create();
    for (uint32_t worker = 0; worker < 3; worker++)
        assign(sources, worker, 1);
    sources_spill(sources, 0, 0);
    sources_spill(sources, 2, 0);
    sources_note_ready(sources, 0);
    assert_true(need(sources, 1, 0, 1));
    expect_here(sources, 1, 0);
    sources_note_sent(sources, 1, 0);
    assert_true(need(sources, 2, 0, 1));
    expect_here(sources, 2, 0);
    sources_destroy(sources);
}

/* What all rows meet has lists of its own, up to the last layer. */
static void test_shared_slices(void **state) {
    (void)state;
    static const struct shard SLICES[] = {{LAYERS_MAX - 1, SHARD_FFN, 0, 32},
                                          {0, SHARD_HEAD, 0, 32},
                                          {LAYERS_MAX - 1, EXPERTS_MAX - 1, 0, 32}};
    struct sources *sources = create();
    for (uint32_t worker = 0; worker < 2; worker++)
        for (uint32_t slot = 0; slot < 3; slot++)
            assert_int_equal(sources_assign(sources, worker, slot, &SLICES[slot]), STATUS_OK);
    sources_note_ready(sources, 0);
    assert_true(need(sources, 1, 0, 3));
    for (uint32_t slot = 0; slot < 3; slot++)
        expect_peer(sources, 1, slot, 0);
    sources_destroy(sources);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_released_slots),
        cmocka_unit_test(test_released_often),
        cmocka_unit_test(test_spilled),
        cmocka_unit_test(test_shared_slices),
        cmocka_unit_test(test_one_worker_is_sent_everything),
        cmocka_unit_test(test_two_workers_exchange),
        cmocka_unit_test(test_spreads_over_holders),
        cmocka_unit_test(test_only_the_same_range),
        cmocka_unit_test(test_avoids_who_failed),
        cmocka_unit_test(test_losses),
        cmocka_unit_test(test_loopback_is_for_its_like),
        cmocka_unit_test(test_refuses_bad_needs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
