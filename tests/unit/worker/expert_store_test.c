/* The store: assignments checked and taken over, bytes from the model and from the coordinator,
 * memory that is given back. */
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/cluster_limits.h"
#include "tests/unit/worker/store_fixture.h"
#include "worker/expert_store.h"
#include "worker/store_loading.h"

static void test_takes_shipped_bytes(void **state) {
    (void)state;
    struct expert_store *store = create(1 << 20);
    struct assignment three = assignment(SHARDS, 3);
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    assert_int_equal(expert_store_count(store), 3);
    uint64_t bytes = 2 * shard_bytes(&LAYOUT, &SHARDS[0]) + shard_bytes(&LAYOUT, &SHARDS[1]);
    assert_int_equal(expert_store_bytes(store), bytes);
    assert_int_equal(expert_store_bytes_filled(store), 0);
    for (uint32_t slot = 0; slot < 3; slot++)
        fill(store, slot, (uint8_t)(slot + 1));
    assert_int_equal(expert_store_bytes_filled(store), bytes);
    for (uint32_t slot = 0; slot < 3; slot++) {
        const struct expert *expert = expert_store_get(store, slot);
        assert_int_equal((uintptr_t)expert->gate.data % 64, 0);
        assert_int_equal(expert->gate.rows, SHARDS[slot].end - SHARDS[slot].begin);
        assert_int_equal(expert->down.columns, SHARDS[slot].end - SHARDS[slot].begin);
        assert_int_equal(expert->gate.data[0], slot + 1);
        assert_int_equal(expert->down.data[0], slot + 1);
        assert_int_equal(expert_store_shard(store, slot)->expert, SHARDS[slot].expert);
    }
    expert_store_destroy(store);
}

/* A shard goes from one store to another as it lies in memory; what is not whole, not right or not
 * missing is not taken. */
static void test_gives_and_receives(void **state) {
    (void)state;
    struct assignment three = assignment(SHARDS, 3);
    struct expert_store *from = create(1 << 20), *to = create(1 << 20);
    assert_int_equal(expert_store_assign(from, &three), STATUS_OK);
    assert_int_equal(expert_store_assign(to, &three), STATUS_OK);
    fill(from, 1, 7);
    size_t bytes = expert_store_slot_bytes(from, 1);
    const uint8_t *packed = expert_store_packed(from, 1);
    uint64_t hash = XXH3_64bits(packed, bytes);

    assert_true(expert_store_receive(to, 1, 0, packed, 100));
    assert_false(expert_store_adopt(to, 1, hash)); /* the rest is not there yet */
    assert_false(expert_store_is_filled(to, 1));
    assert_true(expert_store_receive(to, 1, 100, packed + 100, bytes - 100));
    assert_false(expert_store_adopt(to, 1, hash + 1));
    assert_false(expert_store_receive(to, 1, bytes, packed, 1));
    assert_false(expert_store_receive(to, 1, UINT64_MAX, packed, 1));
    assert_false(expert_store_receive(to, 1, 1, packed, bytes));
    assert_false(expert_store_receive(to, 3, 0, packed, 1));
    assert_int_equal(expert_store_bytes_filled(to), 0);
    assert_true(expert_store_adopt(to, 1, hash));
    assert_int_equal(expert_store_bytes_filled(to), bytes);
    assert_memory_equal(expert_store_get(to, 1)->gate.data, expert_store_get(from, 1)->gate.data,
                        bytes);
    assert_int_equal(expert_store_get(to, 1)->gate.packed, expert_store_get(from, 1)->gate.packed);
    assert_false(expert_store_receive(to, 1, 0, packed, 1)); /* it is there already */
    assert_false(expert_store_adopt(to, 1, hash));
    expert_store_destroy(from);
    expert_store_destroy(to);
}

static void test_finds_by_name(void **state) {
    (void)state;
    struct assignment three = assignment(SHARDS, 3);
    struct expert_store *store = create(1 << 20);
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    for (uint32_t slot = 0; slot < 3; slot++)
        for (uint32_t first = 0; first < 5; first++) {
            struct packed_name name = expert_store_name(store, slot);
            assert_int_equal(expert_store_find(store, &name, first, 3, false), slot);
        }
    struct packed_name name = expert_store_name(store, 2);
    assert_int_equal(expert_store_find(store, &name, 0, 2, false), 2); /* not among the first two */
    assert_int_equal(expert_store_find(store, &name, 0, 0, false), 0);
    name.exact = true;
    assert_int_equal(expert_store_find(store, &name, 0, 3, false), 3);
    name = expert_store_name(store, 2);
    name.fingerprint++;
    assert_int_equal(expert_store_find(store, &name, 0, 3, false), 3);
    name = expert_store_name(store, 2);
    name.version++;
    assert_int_equal(expert_store_find(store, &name, 0, 3, false), 3);
    name = expert_store_name(store, 1);
    name.shard.end--;
    assert_int_equal(expert_store_find(store, &name, 0, 3, false), 3);
    expert_store_destroy(store);
}

/* Released memory and slots are there for others; what is served stays where it is. */
static void test_releases(void **state) {
    (void)state;
    struct weights *weights;
    const struct shard more[] = {{1, 3, 0, 32}, {2, 3, 0, 32}};
    const uint32_t released[] = {0, 2}, high[] = {7, 9}, all[] = {1, 2, 7, 9};
    uint64_t whole = shard_bytes(&LAYOUT, &SHARDS[0]), half = shard_bytes(&LAYOUT, &SHARDS[1]);
    struct expert_store *store = create(2 * whole + half);
    struct assignment three = assignment(SHARDS, 3);
    struct log_capture capture;
    assert_int_equal(weights_open(MODEL, &weights), STATUS_OK);
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    assert_int_equal(store_load(store, weights, NULL, NULL), STATUS_OK);
    assert_false(expert_store_may_release(store, 0)); /* it is not served yet */
    expert_store_serve(store);
    assert_true(expert_store_may_release(store, 0));
    assert_false(expert_store_may_release(store, 3) || expert_store_may_release(store, 1u << 30));

    expert_store_withdraw(store, released, 2);
    assert_false(expert_store_is_served(store, 0) || expert_store_is_served(store, 2));
    assert_true(expert_store_is_served(store, 1));
    assert_int_equal(expert_store_release(store, released, 2), STATUS_OK);
    assert_int_equal(expert_store_held(store), 1);
    assert_int_equal(expert_store_bytes(store), half);
    assert_int_equal(expert_store_slot_bytes(store, 0), 0);
    struct packed_name name = expert_store_name(store, 1);
    name.shard = SHARDS[0];
    assert_int_equal(expert_store_find(store, &name, 0, 2, false), 2);
    name.shard = (struct shard){0};
    assert_int_equal(expert_store_find(store, &name, 0, 2, false), 2);

    log_capture_begin(&capture); /* slot 1 holds something */
    assert_int_equal(expert_store_extend(store, all, more, 1), STATUS_PROTOCOL);
    log_capture_expect(&capture, "slot 1 of the assignment", "vacant", NULL);
    assert_int_equal(expert_store_extend(store, high, more, 2), STATUS_OK);
    assert_int_equal(expert_store_count(store), 10);
    assert_int_equal(expert_store_held(store), 3);
    assert_false(expert_store_is_filled(store, 7));
    assert_true(expert_store_is_filled(store, 8)); /* nothing is missing there */
    assert_int_equal(store_load(store, weights, NULL, NULL), STATUS_OK);
    expert_store_serve(store);
    assert_true(expert_store_is_served(store, 9) && !expert_store_is_served(store, 8));
    assert_int_equal(expert_store_fill(store, 9, 0, "", 1), STATUS_PROTOCOL);

    /* A new assignment with gaps keeps what is there. */
    const struct shard kept[] = {more[1], SHARDS[1]};
    const uint32_t gaps[] = {3, 6};
    const struct assignment next = {5, LAYOUTS, 3, kept, 2, gaps, NULL, false};
    assert_int_equal(expert_store_assign(store, &next), STATUS_OK);
    assert_int_equal(expert_store_held(store), 2);
    assert_int_equal(expert_store_bytes_filled(store), whole + half);
    expert_store_destroy(store);
    weights_close(weights);
}

static void *release_first(void *argument) {
    struct expert_store *store = argument;
    const uint32_t slot = 0;
    return expert_store_release(store, &slot, 1) == STATUS_OK ? store : NULL;
}

/* What is being used is not freed before its user leaves; a release that is given up frees
 * nothing. */
static void test_waits_for_the_user(void **state) {
    (void)state;
    struct expert_store *store = create(1 << 20);
    struct assignment three = assignment(SHARDS, 3);
    const uint32_t slots[] = {0, 1};
    pthread_t thread;
    void *released;
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    for (uint32_t slot = 0; slot < 3; slot++)
        fill(store, slot, 1);
    expert_store_serve(store);
    uint64_t bytes = expert_store_bytes(store);
    expert_store_enter(store);
    expert_store_withdraw(store, slots, 2);
    assert_int_equal(pthread_create(&thread, NULL, release_first, store), 0);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    /* Sanitizers would see that it is freed, or changed meanwhile. */
    assert_int_equal(*(const uint8_t *)expert_store_get(store, 0)->gate.data, 1);
    expert_store_leave(store);
    expert_store_enter(store); /* the next frame does not hold it up */
    pthread_join(thread, &released);
    assert_ptr_equal(released, store);
    assert_int_equal(expert_store_bytes(store), bytes - shard_bytes(&LAYOUT, &SHARDS[0]));

    expert_store_cancel_load(store);
    assert_int_equal(expert_store_release(store, slots + 1, 1), STATUS_CANCELLED);
    assert_int_equal(expert_store_held(store), 2);
    assert_true(expert_store_is_filled(store, 1));
    expert_store_leave(store);
    expert_store_destroy(store);
}

static void test_extends(void **state) {
    (void)state;
    struct weights *weights;
    const struct shard more[] = {{1, 3, 0, 32}, {2, 3, 0, 32}}, bad[] = {{3, 0, 0, 32}};
    const uint32_t slots[] = {3, 4, 5};
    uint64_t three_bytes = 2 * shard_bytes(&LAYOUT, &SHARDS[0]) + shard_bytes(&LAYOUT, &SHARDS[1]);
    struct expert_store *store = create(three_bytes + 2 * shard_bytes(&LAYOUT, &more[0]));
    struct assignment three = assignment(SHARDS, 3);
    struct log_capture capture;
    assert_int_equal(weights_open(MODEL, &weights), STATUS_OK);
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    assert_int_equal(store_load(store, weights, NULL, NULL), STATUS_OK);
    assert_false(expert_store_is_served(store, 0));
    expert_store_serve(store);
    assert_int_equal(expert_store_served_end(store), 3);
    const struct expert *first = expert_store_get(store, 0);
    assert_int_equal(expert_store_extend(store, slots, more, 2), STATUS_OK);
    assert_int_equal(expert_store_count(store), 5);
    assert_true(expert_store_is_served(store, 2) && !expert_store_is_served(store, 3));
    assert_ptr_equal(expert_store_get(store, 0), first);
    assert_false(expert_store_is_filled(store, 3));
    assert_int_equal(store_load(store, weights, NULL, NULL), STATUS_OK);
    expert_store_serve(store);
    assert_true(expert_store_is_served(store, 4) && !expert_store_is_served(store, 5));
    assert_int_equal(expert_store_shard(store, 4)->layer, 2);

    uint64_t bytes = expert_store_bytes(store);
    log_capture_begin(&capture);
    assert_int_equal(expert_store_extend(store, slots + 2, more, 1), STATUS_NO_MEMORY);
    log_capture_expect(&capture, "raise --memory", NULL);
    log_capture_begin(&capture);
    assert_int_equal(expert_store_extend(store, slots + 2, bad, 1), STATUS_PROTOCOL);
    log_capture_expect(&capture, "slot 5 of the assignment is out of bounds", NULL);
    assert_int_equal(expert_store_count(store), 5);
    assert_int_equal(expert_store_bytes(store), bytes);
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    assert_false(expert_store_is_served(store, 0));
    expert_store_destroy(store);
    weights_close(weights);
}

static void test_keeps_what_matches(void **state) {
    (void)state;
    struct expert_store *store = create(1 << 20);
    struct assignment three = assignment(SHARDS, 3);
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    fill(store, 0, 1);
    fill(store, 1, 2);
    uint8_t byte = 3;
    assert_int_equal(expert_store_fill(store, 2, 0, &byte, 1), STATUS_OK); /* not complete */

    /* The same shards in another order, one of them twice, and a new range. */
    const struct shard next[] = {SHARDS[2], {1, 7, 0, 24}, SHARDS[1], SHARDS[0], SHARDS[0]};
    struct assignment five = assignment(next, 5);
    assert_int_equal(expert_store_assign(store, &five), STATUS_OK);
    const bool kept[] = {false, false, true, true, false};
    for (uint32_t slot = 0; slot < 5; slot++)
        assert_int_equal(expert_store_is_filled(store, slot), kept[slot]);
    assert_int_equal(expert_store_get(store, 2)->gate.data[0], 2);
    assert_int_equal(expert_store_get(store, 3)->gate.data[0], 1);
    assert_int_equal(expert_store_fill(store, 0, 0, &byte, 1),
                     STATUS_OK); /* from the start again */

    five.fingerprint++;
    assert_int_equal(expert_store_assign(store, &five), STATUS_OK);
    assert_int_equal(expert_store_bytes_filled(store), 0);
    expert_store_destroy(store);
}

static void test_other_layout_is_not_kept(void **state) {
    (void)state;
    struct expert_store *store = create(1 << 20);
    struct shard_layout layouts[SHARD_LAYOUTS(3)] = {LAYOUTS[0], LAYOUTS[1], LAYOUTS[2]};
    struct assignment three = assignment(SHARDS, 3);
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    for (uint32_t slot = 0; slot < 3; slot++)
        fill(store, slot, 9);
    layouts[1].down = WEIGHT_F16;
    three.layouts = layouts;
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    assert_false(expert_store_is_filled(store, 0));
    assert_false(expert_store_is_filled(store, 1));
    assert_true(expert_store_is_filled(store, 2));
    expert_store_destroy(store);
}

static void test_empty_assignment(void **state) {
    (void)state;
    struct expert_store *store = create(0);
    struct assignment none = assignment(NULL, 0);
    assert_int_equal(expert_store_count(store), 0);
    assert_int_equal(expert_store_assign(store, &none), STATUS_OK);
    assert_int_equal(expert_store_assign(store, &none), STATUS_OK);
    assert_int_equal(expert_store_bytes(store), 0);
    expert_store_destroy(store);
    expert_store_destroy(NULL);
}

/* Assigns one shard and requires a refusal that leaves the store empty. */
static void expect_refused(const struct shard_layout *layout, struct shard shard,
                           const char *part) {
    struct expert_store *store = create(1 << 20);
    struct assignment good = assignment(SHARDS, 3);
    struct shard_layout layouts[SHARD_LAYOUTS(3)] = {*layout, *layout, *layout};
    const struct shard shards[] = {SHARDS[0], shard};
    struct assignment bad = {5, layouts, 3, shards, 2, NULL, NULL, false};
    struct log_capture capture;
    assert_int_equal(expert_store_assign(store, &good), STATUS_OK);
    log_capture_begin(&capture);
    assert_int_equal(expert_store_assign(store, &bad), STATUS_PROTOCOL);
    log_capture_expect(&capture, "slot ", part, NULL);
    assert_int_equal(expert_store_count(store), 0);
    assert_int_equal(expert_store_bytes(store), 0);
    expert_store_destroy(store);
}

static void test_refuses_bad_shards(void **state) {
    (void)state;
    expect_refused(&LAYOUT, (struct shard){3, 0, 0, 32}, "layer 3");
    expect_refused(&LAYOUT, (struct shard){1, EXPERTS_MAX, 0, 32}, "expert 2048");
    expect_refused(&LAYOUT, (struct shard){1, 0, 0, 40}, "[0, 40)");
    expect_refused(&LAYOUT, (struct shard){1, 0, 16, 16}, "[16, 16)");
    expect_refused(&LAYOUT, (struct shard){1, 0, 24, 16}, "[24, 16)");
    expect_refused(&LAYOUT, (struct shard){1, 0, 4, 16}, "[4, 16)");
    expect_refused(&LAYOUT, (struct shard){1, 0, 0, 12}, "[0, 12)");
    const struct shard_layout layouts[] = {
        {0, 32, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16},
        {128, 0, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16},
        {HIDDEN_MAX + 1, 32, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16},
        {128, INNER_MAX + 1, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16},
        {128, 32, WEIGHT_FORMAT_COUNT, WEIGHT_BF16, WEIGHT_BF16},
        {128, 32, WEIGHT_BF16, (enum weight_format)0xffffffff, WEIGHT_BF16},
        {128, 32, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_FORMAT_COUNT},
        {128, 32, WEIGHT_FP8_E4M3, WEIGHT_BF16, WEIGHT_BF16}, /* half a block */
        {128, 32, WEIGHT_Q4_K, WEIGHT_BF16, WEIGHT_BF16},     /* rows of half a block */
        {128, 32, WEIGHT_BF16, WEIGHT_Q6_K, WEIGHT_BF16},
        {128, 40, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_Q8_0},
    };
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        expect_refused(&layouts[i], (struct shard){1, 0, 0, 16}, "out of bounds");
}

static void test_refuses_long_lists(void **state) {
    (void)state;
    struct expert_store *store = create(1 << 20);
    struct assignment bad = assignment(SHARDS, SHARDS_MAX + 1);
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(expert_store_assign(store, &bad), STATUS_PROTOCOL);
    log_capture_expect(&capture, "524289 shards", NULL);
    bad = assignment(SHARDS, 1);
    bad.layer_count = LAYERS_MAX + 1;
    log_capture_begin(&capture);
    assert_int_equal(expert_store_assign(store, &bad), STATUS_PROTOCOL);
    log_capture_expect(&capture, "257 layers", NULL);
    expert_store_destroy(store);
}

static void test_memory_limit_is_exact(void **state) {
    (void)state;
    struct assignment three = assignment(SHARDS, 3);
    uint64_t bytes = 2 * shard_bytes(&LAYOUT, &SHARDS[0]) + shard_bytes(&LAYOUT, &SHARDS[1]);
    struct expert_store *store = create(bytes);
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    expert_store_destroy(store);
    store = create(bytes - 1);
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(expert_store_assign(store, &three), STATUS_NO_MEMORY);
    log_capture_expect(&capture, " 1 more than", "--memory", NULL);
    expert_store_destroy(store);
}

static void test_refuses_bytes_that_do_not_follow(void **state) {
    (void)state;
    struct expert_store *store = create(1 << 20);
    struct assignment three = assignment(SHARDS, 3);
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    fill(store, 1, 1);
    const struct {
        uint32_t slot;
        uint64_t offset;
        size_t count;
    } cases[] = {{3, 0, 1},          {UINT32_MAX, 0, 1}, {0, 1, 1},
                 {0, UINT64_MAX, 1}, {0, 0, 0},          {0, 0, 1 << 20},
                 {0, 0, SIZE_MAX},   {1, 0, 1},          {1, expert_store_slot_bytes(store, 1), 1}};
    uint8_t *data = calloc(1, 1 << 20);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct log_capture capture;
        log_capture_begin(&capture);
        assert_int_equal(
            expert_store_fill(store, cases[i].slot, cases[i].offset, data, cases[i].count),
            STATUS_PROTOCOL);
        log_capture_expect(&capture, "do not follow", NULL);
    }
    assert_int_equal(expert_store_bytes_filled(store), expert_store_slot_bytes(store, 1));
    free(data);
    expert_store_destroy(store);
}

static uint64_t resident_bytes(void) {
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_int_equal(fscanf(file, "%*u %llu", &pages), 1);
    fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* 64 MiB of large shards: no more than that is taken, and dropping them gives it back. */
static void test_memory_is_taken_and_given_back(void **state) {
    (void)state;
    enum { COUNT = 32 };
    const struct shard_layout layouts[SHARD_LAYOUTS(1)] = {
        {1024, 352, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16}};
    struct shard shards[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        shards[i] = (struct shard){0, i, 0, 352};
    struct assignment all = {1, layouts, 1, shards, COUNT, NULL, NULL, false};
    struct expert_store *store = create(1 << 30);
    uint64_t before = resident_bytes();
    assert_int_equal(expert_store_assign(store, &all), STATUS_OK);
    for (uint32_t slot = 0; slot < COUNT; slot++)
        fill(store, slot, 1);
    uint64_t bytes = expert_store_bytes(store), full = resident_bytes(), taken = full - before;
    assert_true(bytes > 64 << 20);
    assert_true(taken > bytes / 100 * 95);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* their shadows count, too */
    assert_true(taken < bytes / 100 * 105);
#endif
    all.shard_count = 1;
    assert_int_equal(expert_store_assign(store, &all), STATUS_OK);
    assert_true(expert_store_is_filled(store, 0));
    assert_true(resident_bytes() < full - bytes / 100 * 90);
    expert_store_destroy(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes_shipped_bytes),
        cmocka_unit_test(test_gives_and_receives),
        cmocka_unit_test(test_finds_by_name),
        cmocka_unit_test(test_extends),
        cmocka_unit_test(test_releases),
        cmocka_unit_test(test_waits_for_the_user),
        cmocka_unit_test(test_keeps_what_matches),
        cmocka_unit_test(test_other_layout_is_not_kept),
        cmocka_unit_test(test_empty_assignment),
        cmocka_unit_test(test_refuses_bad_shards),
        cmocka_unit_test(test_refuses_long_lists),
        cmocka_unit_test(test_memory_limit_is_exact),
        cmocka_unit_test(test_refuses_bytes_that_do_not_follow),
        cmocka_unit_test(test_memory_is_taken_and_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
