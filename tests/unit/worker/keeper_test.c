/* What is filled gets to the cache, once, however often it is asked for; what comes into a slot
 * later as well. */
#include "tests/unit/test.h"

#include <stdatomic.h>

#include "tests/unit/files.h"
#include "worker/keeper.h"

#define SHARDS 300u /* more than one job writes */

static const struct shard_layout LAYOUTS[SHARD_LAYOUTS(1)] = {
    {32, 8, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32}};

static uv_loop_t loop;
static struct expert_store *store;
static struct keeper *keeper;
static struct shard_cache *cache;
static char directory[64];
static bool continues;

static void on_paused(void *context) {
    (void)context;
    if (continues && !keeper_was_stopped(keeper))
        keeper_continue(keeper, cache);
}

static void fill(uint32_t slot) {
    uint8_t data[3 * 8 * 32 * sizeof(float)] = {0};
    size_t bytes = expert_store_slot_bytes(store, slot);
    assert_true(bytes <= sizeof data);
    assert_int_equal(expert_store_fill(store, slot, 0, data, bytes), STATUS_OK);
}

/* How many of the shards [0, count) have a file. */
static uint32_t count_kept(uint32_t count) {
    struct shard_cache *fresh;
    uint32_t found = 0;
    assert_int_equal(shard_cache_open(directory, 1, true, SHARD_CACHE_AUTO, &fresh), STATUS_OK);
    for (uint32_t e = 0; e < count; e++)
        found += shard_cache_has(fresh, &(struct shard){0, e, 0, 8});
    shard_cache_close(fresh);
    return found;
}

static void run(void) {
    keeper_continue(keeper, cache);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_false(keeper_is_writing(keeper));
}

static void test_keeps_what_is_filled(void **state) {
    (void)state;
    const uint32_t slots[] = {7, 250};
    const struct shard more[] = {{0, SHARDS, 0, 8}, {0, SHARDS + 1, 0, 8}};
    continues = true;
    for (uint32_t slot = 0; slot < SHARDS; slot += 2)
        fill(slot);
    run();
    assert_int_equal(count_kept(SHARDS), SHARDS / 2);
    for (uint32_t slot = 1; slot < SHARDS; slot += 2)
        fill(slot);
    run();
    assert_int_equal(count_kept(SHARDS), SHARDS);

    /* Others come into slots that were released; vacant ones are nothing to keep. */
    expert_store_serve(store);
    expert_store_withdraw(store, slots, 2);
    assert_int_equal(expert_store_release(store, slots, 2), STATUS_OK);
    keeper_reset(keeper);
    run();
    assert_int_equal(expert_store_extend(store, slots, more, 2), STATUS_OK);
    fill(slots[0]);
    fill(slots[1]);
    run(); /* as far as it knows, these slots are done */
    assert_int_equal(count_kept(SHARDS + 2), SHARDS);
    keeper_renew(keeper, slots, 2);
    run();
    assert_int_equal(count_kept(SHARDS + 2), SHARDS + 2);
}

/* What was not written when it was stopped is written the next time. */
static void test_goes_on_after_a_stop(void **state) {
    (void)state;
    continues = true;
    for (uint32_t slot = 0; slot < SHARDS; slot++)
        fill(slot);
    keeper_continue(keeper, cache);
    keeper_stop(keeper);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(keeper_was_stopped(keeper));
    assert_true(count_kept(SHARDS) < SHARDS);
    run();
    assert_int_equal(count_kept(SHARDS), SHARDS);
}

static int start(void **state) {
    (void)state;
    struct shard shards[SHARDS];
    for (uint32_t e = 0; e < SHARDS; e++)
        shards[e] = (struct shard){0, e, 0, 8};
    const struct assignment assignment = {.fingerprint = 1,
                                          .layouts = LAYOUTS,
                                          .layer_count = 1,
                                          .shards = shards,
                                          .shard_count = SHARDS,
                                          .exact = true};
    test_directory_make(directory);
    uv_loop_init(&loop);
    assert_int_equal(expert_store_create(UINT64_MAX, &store), STATUS_OK);
    assert_int_equal(expert_store_assign(store, &assignment), STATUS_OK);
    assert_int_equal(shard_cache_open(directory, 1, true, SHARD_CACHE_AUTO, &cache), STATUS_OK);
    assert_int_equal(keeper_create(&loop, store, on_paused, NULL, &keeper), STATUS_OK);
    return 0;
}

static int stop(void **state) {
    (void)state;
    keeper_destroy(keeper);
    shard_cache_close(cache);
    expert_store_destroy(store);
    uv_loop_close(&loop);
    test_directory_remove(directory);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_keeps_what_is_filled, start, stop),
        cmocka_unit_test_setup_teardown(test_goes_on_after_a_stop, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
