/* Shards from the worker's own copy and from its cache, by io_uring and without, whole and spoiled.
 */
#include "worker/store_loading.h"

#include "tests/unit/files.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/cluster_limits.h"
#include "common/kernel/panel.h"
#include "tests/unit/worker/store_fixture.h"

static void test_reads_the_model(void **state) {
    (void)state;
    struct weights *weights;
    struct threads *threads;
    atomic_uint_least64_t done;
    atomic_init(&done, 0);
    assert_int_equal(weights_open(MODEL, &weights), STATUS_OK);
    assert_int_equal(threads_create(3, &threads), STATUS_OK);
    struct expert_store *store = create(1 << 20);
    struct assignment three = assignment(SHARDS, 3);
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    fill(store, 2, 0xaa); /* not read again */
    assert_int_equal(store_load(store, weights, threads, &done), STATUS_OK);
    assert_int_equal(atomic_load(&done),
                     expert_store_slot_bytes(store, 0) + expert_store_slot_bytes(store, 1));
    assert_int_equal(expert_store_bytes_filled(store), expert_store_bytes(store));
    uint8_t *wanted = aligned_alloc(64, expert_store_slot_bytes(store, 1));
    assert_int_equal(shard_read(weights, &LAYOUT, &SHARDS[1], wanted), STATUS_OK);
    struct expert packed = shard_view(&LAYOUT, &SHARDS[1], wanted);
    assert_int_equal(panel_pack_matrix(&packed.gate, false), STATUS_OK);
    assert_int_equal(panel_pack_matrix(&packed.up, false), STATUS_OK);
    assert_int_equal(panel_pack_matrix(&packed.down, false), STATUS_OK);
    assert_memory_equal(expert_store_get(store, 1)->gate.data, wanted,
                        expert_store_slot_bytes(store, 1));
    assert_int_equal(expert_store_get(store, 2)->gate.data[0], 0xaa);
    free(wanted);
    expert_store_destroy(store);
    threads_destroy(threads);
    weights_close(weights);
}

static void test_load_can_fail_and_be_cancelled(void **state) {
    (void)state;
    struct weights *weights;
    struct threads *threads;
    struct log_capture capture;
    assert_int_equal(weights_open(MODEL, &weights), STATUS_OK);
    assert_int_equal(threads_create(2, &threads), STATUS_OK);
    struct expert_store *store = create(1 << 20);
    const struct shard missing[] = {{1, 0, 0, 32}, {1, 16, 0, 32}}; /* the model has 16 */
    struct assignment two = assignment(missing, 2);
    assert_int_equal(expert_store_assign(store, &two), STATUS_OK);
    log_capture_begin(&capture);
    assert_int_equal(store_load(store, weights, threads, NULL), STATUS_NOT_FOUND);
    log_capture_expect(&capture, "experts.16.", NULL);
    assert_false(expert_store_is_filled(store, 1));

    struct assignment three = assignment(SHARDS, 3);
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    expert_store_cancel_load(store);
    assert_int_equal(store_load(store, weights, threads, NULL), STATUS_CANCELLED);
    assert_false(expert_store_is_filled(store, 2));
    assert_int_equal(expert_store_assign(store, &three), STATUS_OK);
    assert_int_equal(store_load(store, weights, threads, NULL), STATUS_OK);
    expert_store_destroy(store);
    threads_destroy(threads);
    weights_close(weights);
}

/* What was shipped to one store comes out of the cache into the next, packed; the rest stays
 * missing. */
static void test_keeps_and_reads_back(void **state) {
    (void)state;
    char folder[] = "/tmp/skein-expert-store-XXXXXX", command[64];
    struct shard_cache *cache;
    struct assignment three = assignment(SHARDS, 3);
    struct expert_store *stores[2];
    atomic_uint_least64_t done;
    atomic_init(&done, 0);
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 2; i++) {
        stores[i] = create(1 << 20);
        assert_int_equal(expert_store_assign(stores[i], &three), STATUS_OK);
    }
    assert_int_equal(shard_cache_open(folder, 5, false, SHARD_CACHE_AUTO, &cache), STATUS_OK);
    for (uint32_t slot = 0; slot < 2; slot++) {
        fill(stores[0], slot, (uint8_t)(7 + slot));
        assert_true(store_keep(stores[0], slot, cache));
    }
    shard_cache_close(cache);
    assert_int_equal(shard_cache_open(folder, 5, false, SHARD_CACHE_AUTO, &cache), STATUS_OK);
    assert_int_equal(store_load_kept(stores[1], cache, NULL, true, &done), STATUS_OK);
    assert_int_equal(atomic_load(&done), expert_store_bytes_filled(stores[1]));
    for (uint32_t slot = 0; slot < 2; slot++) {
        const struct expert *kept = expert_store_get(stores[0], slot),
                            *read = expert_store_get(stores[1], slot);
        assert_true(expert_store_is_filled(stores[1], slot));
        assert_memory_equal(kept->gate.data, read->gate.data,
                            expert_store_slot_bytes(stores[1], slot));
        assert_int_equal(kept->gate.packed, read->gate.packed);
        assert_int_equal(kept->up.packed, read->up.packed);
        assert_int_equal(kept->down.packed, read->down.packed);
    }
    assert_false(expert_store_is_filled(stores[1], 2));
    expert_store_cancel_load(stores[1]);
    assert_int_equal(store_load_kept(stores[1], cache, NULL, true, NULL), STATUS_CANCELLED);
    shard_cache_close(cache);
    expert_store_destroy(stores[0]);
    expert_store_destroy(stores[1]);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

/* A layer of shards that are mappings and end in the middle of a block, and one of small ones. */
#define KEPT 150u
static const struct shard_layout KEPT_LAYOUTS[SHARD_LAYOUTS(2)] = {
    {200, 264, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16},
    {128, 32, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16}};

static struct expert_store *create_kept(void) {
    static struct shard shards[KEPT];
    for (uint32_t i = 0; i < KEPT; i++)
        shards[i] = (struct shard){i % 2, i, 0, KEPT_LAYOUTS[i % 2].inner};
    const struct assignment assignment = {.fingerprint = 5,
                                          .layouts = KEPT_LAYOUTS,
                                          .layer_count = 2,
                                          .shards = shards,
                                          .shard_count = KEPT};
    struct expert_store *store = create(1 << 30);
    assert_int_equal(expert_store_assign(store, &assignment), STATUS_OK);
    return store;
}

/* Reads all slots of a new store from the cache; these are not right, and then removed. */
static void expect_kept(const struct expert_store *from, const struct shard_cache *cache,
                        struct threads *threads, bool uses_uring, const uint32_t bad[4]) {
    struct expert_store *store = create_kept();
    atomic_uint_least64_t done;
    atomic_init(&done, 0);
    assert_int_equal(store_load_kept(store, cache, threads, uses_uring, &done), STATUS_OK);
    assert_int_equal(atomic_load(&done), expert_store_bytes_filled(store));
    for (uint32_t slot = 0; slot < KEPT; slot++) {
        bool is_bad = slot == bad[0] || slot == bad[1] || slot == bad[2] || slot == bad[3];
        assert_int_equal(expert_store_is_filled(store, slot), !is_bad);
        if (!is_bad)
            assert_memory_equal(expert_store_packed(store, slot), expert_store_packed(from, slot),
                                expert_store_slot_bytes(store, slot));
    }
    expert_store_destroy(store);
}

/* Does something to the slot's file: 0 flips a byte of it, 1 and 2 cut it, 3 removes it. */
static void spoil(const struct expert_store *store, const struct shard_cache *cache, uint32_t slot,
                  int how) {
    char path[PATH_MAX];
    size_t bytes = expert_store_slot_bytes(store, slot);
    uint64_t hash = XXH3_64bits(expert_store_packed(store, slot), bytes);
    uint8_t byte = 0;
    assert_true(shard_cache_path(cache, expert_store_shard(store, slot), hash, path));
    if (how == 3) {
        assert_int_equal(unlink(path), 0);
    } else if (how > 0) {
        assert_int_equal(truncate(path, how == 1 ? 4096 : 0), 0);
    } else {
        int fd = open(path, O_WRONLY);
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)bytes - 1), 1); /* fill writes no zeros */
        close(fd);
    }
}

/* The whole cache comes back by io_uring and without, whoever reads, beside files that are not as
 * they were written. */
static void test_reads_back_all(void **state) {
    (void)state;
    const uint32_t good[4] = {KEPT, KEPT, KEPT, KEPT}, bad[4] = {0, 3, 77, KEPT - 1};
    struct expert_store *store = create_kept();
    log_file_begin();
    for (uint32_t slot = 0; slot < KEPT; slot++)
        fill(store, slot, (uint8_t)(1 + slot));
    for (int way = 0; way < 6; way++) {
        char folder[64];
        bool uses_uring = way % 2;
        struct shard_cache *cache;
        struct threads *threads = NULL;
        test_directory_make(folder);
        if (way / 2 > 0)
            assert_int_equal(threads_create(way / 2 == 1 ? 1 : 3, &threads), STATUS_OK);
        assert_int_equal(shard_cache_open(folder, 5, false, SHARD_CACHE_AUTO, &cache), STATUS_OK);
        for (uint32_t slot = 0; slot < KEPT; slot++)
            assert_true(store_keep(store, slot, cache));
        for (int round = 0; round < 3; round++) {
            shard_cache_close(cache);
            assert_int_equal(shard_cache_open(folder, 5, false, SHARD_CACHE_AUTO, &cache),
                             STATUS_OK);
            for (int how = 0; round == 1 && how < 4; how++)
                spoil(store, cache, bad[how], how);
            log_file_mark();
            expect_kept(store, cache, threads, uses_uring, round == 0 ? good : bad);
            assert_int_equal(log_file_count("it is removed and fetched again"), round == 1 ? 4 : 0);
            assert_int_equal(log_file_count("it is damaged"), round == 1);
            assert_int_equal(log_file_count("it was cut short"), round == 1 ? 2 : 0);
        }
        shard_cache_close(cache);
        threads_destroy(threads);
        test_directory_remove(folder);
    }
    expert_store_destroy(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_the_model),
        cmocka_unit_test(test_load_can_fail_and_be_cancelled),
        cmocka_unit_test(test_keeps_and_reads_back),
        cmocka_unit_test(test_reads_back_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
