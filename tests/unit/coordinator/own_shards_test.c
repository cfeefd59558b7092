/* Further shards for this process: at once and beside, one after another, broken off and
 * unreadable.
 */
#include "coordinator/own_shards.h"

#include <time.h>

#include "tests/unit/worker/store_fixture.h"
#include "worker/store_loading.h"

struct own {
    struct weights *weights;
    struct threads *threads;
    struct expert_store *store;
    struct own_shards *shards;
};

/* With the first shard in it. */
static void begin(struct own *own) {
    struct assignment one = assignment(SHARDS, 1);
    assert_int_equal(weights_open(MODEL, &own->weights), STATUS_OK);
    assert_int_equal(threads_create(2, &own->threads), STATUS_OK);
    own->store = create(1 << 20);
    assert_int_equal(expert_store_assign(own->store, &one), STATUS_OK);
    assert_int_equal(store_load(own->store, own->weights, own->threads, NULL), STATUS_OK);
    expert_store_serve(own->store);
    assert_int_equal(own_shards_create(own->store, own->weights, own->threads, &own->shards),
                     STATUS_OK);
}

static void end(struct own *own) {
    own_shards_destroy(own->shards);
    expert_store_destroy(own->store);
    threads_destroy(own->threads);
    weights_close(own->weights);
}

static enum status extend(struct own *own, uint32_t slot, bool beside) {
    return own_shards_extend(own->shards, &slot, &SHARDS[slot], 1, beside);
}

static void test_at_once(void **state) {
    (void)state;
    struct own own;
    begin(&own);
    assert_int_equal(extend(&own, 1, false), STATUS_OK);
    assert_false(expert_store_is_served(own.store, 1));
    assert_true(own_shards_serve(own.shards));
    assert_true(expert_store_is_served(own.store, 1));
    end(&own);
}

static void test_beside(void **state) {
    (void)state;
    struct own own;
    begin(&own);
    assert_int_equal(extend(&own, 1, true), STATUS_OK);
    assert_int_equal(extend(&own, 2, true), STATUS_OK); /* the first one is there then */
    assert_true(expert_store_is_filled(own.store, 1));
    assert_true(expert_store_is_served(own.store, 0)); /* all the time */
    for (int i = 0; i < 5000 && !own_shards_serve(own.shards); i++)
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    assert_true(expert_store_is_served(own.store, 1));
    assert_true(expert_store_is_served(own.store, 2));
    end(&own);
}

static void test_ends_while_it_loads(void **state) {
    (void)state;
    struct own own;
    begin(&own);
    assert_int_equal(extend(&own, 1, true), STATUS_OK);
    end(&own);
}

static void test_what_cannot_be_read(void **state) {
    (void)state;
    struct own own;
    struct log_capture capture;
    const struct shard missing = {1, 16, 0, 32}; /* the model has 16 */
    const uint32_t slot = 1;
    begin(&own);
    log_capture_begin(&capture);
    assert_int_equal(own_shards_extend(own.shards, &slot, &missing, 1, true), STATUS_OK);
    own_shards_wait(own.shards);
    log_capture_expect(&capture, "experts.16.", "goes on without", NULL);
    assert_false(own_shards_serve(own.shards));
    assert_false(expert_store_is_served(own.store, 1));
    assert_true(expert_store_is_served(own.store, 0));
    log_capture_begin(&capture);
    assert_int_equal(extend(&own, 2, false), STATUS_NOT_FOUND);
    log_capture_expect(&capture, "experts.16.", NULL);
    assert_int_equal(extend(&own, 2, false), STATUS_PROTOCOL); /* it is taken */
    end(&own);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_at_once),
        cmocka_unit_test(test_beside),
        cmocka_unit_test(test_ends_while_it_loads),
        cmocka_unit_test(test_what_cannot_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
