/* Shards on the disk: the sums are those of shards in memory to the bit, however few buffers there
 * are and whoever reads; files that are cut short, damaged or gone are a fault and no crash. */
#include "tests/unit/files.h"

#include <unistd.h>

#include "common/cluster_limits.h"
#include "common/kernel/kernel.h"
#include "worker/spill.h"
#include "worker/store_loading.h"

#define MODEL   TEST_DATA_DIR "/golden/deepseek-v2-lite-tiny"
#define EXPERTS 16u
#define HIDDEN  128u
#define INNER   32u
#define ROWS    12u

static const struct shard_layout LAYOUTS[SHARD_LAYOUTS(2)] = {
    {0}, {HIDDEN, INNER, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16}};

/* All experts of layer 1 twice: slots [0, EXPERTS) in memory, the others on the disk. */
struct fixture {
    char directory[64];
    struct weights *weights;
    struct threads *threads;
    struct expert_store *store;
    struct shard_cache *cache;
    struct expert_workspace *workspace;
    struct spill *spill;
    float x[ROWS * HIDDEN];
    struct expert_task tasks[EXPERTS * ROWS], spilled_tasks[EXPERTS * ROWS];
    size_t count;
};

static size_t expert_bytes(void) {
    return shard_bytes(&LAYOUTS[1], &(struct shard){.end = INNER});
}

/* A store with room for so many buffers, its spilled shards written from the model. */
static void load(struct fixture *f, uint32_t buffers) {
    struct shard shards[2 * EXPERTS];
    bool spilled[2 * EXPERTS];
    atomic_uint_least64_t done;
    atomic_init(&done, 0);
    for (uint32_t i = 0; i < 2 * EXPERTS; i++) {
        shards[i] = (struct shard){1, i % EXPERTS, 0, INNER};
        spilled[i] = i >= EXPERTS;
    }
    const struct assignment assignment = {.fingerprint = 5,
                                          .layouts = LAYOUTS,
                                          .layer_count = 2,
                                          .shards = shards,
                                          .shard_count = 2 * EXPERTS,
                                          .spilled = spilled};
    uint64_t memory_bytes = EXPERTS * expert_bytes() + buffers * SPILL_BUFFER_BYTES(expert_bytes());
    assert_int_equal(expert_store_create(memory_bytes, &f->store), STATUS_OK);
    expert_store_allow_spill(f->store, EXPERTS * expert_bytes());
    assert_int_equal(expert_store_assign(f->store, &assignment), STATUS_OK);
    assert_int_equal(store_load(f->store, f->weights, f->threads, &done), STATUS_OK);
    assert_int_equal(shard_cache_open(f->directory, 5, false, 0, &f->cache), STATUS_OK);
    assert_int_equal(store_load_spilled(f->store, f->cache, f->weights, false, &done), STATUS_OK);
    assert_int_equal(atomic_load(&done), 2 * EXPERTS * expert_bytes());
    expert_store_serve(f->store);
}

/* Every row through a third of the experts, some through all of them. */
static void list_tasks(struct fixture *f) {
    f->count = 0;
    for (uint32_t i = 0; i < ROWS * HIDDEN; i++)
        f->x[i] = (float)(i * 37 % 101) / 101 - 0.5f;
    for (uint32_t e = 0; e < EXPERTS; e++)
        for (uint32_t row = 0; row < ROWS; row++)
            if (row % 5 == 0 || (e + row) % 3 == 0) {
                const float weight = 1.0f / (float)(e + row + 1);
                /* Of the odd experts it is the one in memory both times. */
                f->tasks[f->count] =
                    (struct expert_task){expert_store_get(f->store, e), row, weight};
                f->spilled_tasks[f->count] = f->tasks[f->count];
                if (e % 2 == 0)
                    f->spilled_tasks[f->count].expert = spill_expert(f->spill, EXPERTS + e);
                f->count++;
            }
}

static void open_fixture(struct fixture *f, uint32_t buffers, bool uses_uring) {
    memset(f, 0, sizeof *f);
    test_directory_make(f->directory);
    assert_int_equal(kernel_select("auto"), STATUS_OK);
    assert_int_equal(weights_open(MODEL, &f->weights), STATUS_OK);
    assert_int_equal(threads_create(2, &f->threads), STATUS_OK);
    assert_int_equal(expert_workspace_create(f->threads, HIDDEN, INNER, ROWS, &f->workspace),
                     STATUS_OK);
    load(f, buffers);
    const struct spill_options options = {f->store, f->cache, f->threads, uses_uring};
    assert_int_equal(spill_create(&options, &f->spill), STATUS_OK);
    const struct expert_arrivals arrivals = spill_arrivals(f->spill);
    expert_workspace_set_arrivals(f->workspace, &arrivals);
    list_tasks(f);
}

static void close_fixture(struct fixture *f) {
    spill_destroy(f->spill);
    expert_workspace_destroy(f->workspace);
    shard_cache_close(f->cache);
    expert_store_destroy(f->store);
    threads_destroy(f->threads);
    weights_close(f->weights);
    test_directory_remove(f->directory);
}

/* Returns in how many parts the tasks were computed; 0 where a file could not be read. */
static uint32_t compute_spilled(struct fixture *f, float sums[ROWS * HIDDEN]) {
    uint32_t parts = 0;
    memset(sums, 0, ROWS * HIDDEN * sizeof *sums);
    for (size_t first = 0, ready; first < f->count; first += ready, parts++) {
        ready = spill_fetch(f->spill, f->spilled_tasks + first, f->count - first);
        if (ready == 0)
            return 0;
        expert_forward(f->workspace, f->x, f->spilled_tasks + first, ready, sums);
    }
    return spill_fault(f->spill) ? 0 : parts;
}

static void test_same_sums(void **state) {
    (void)state;
    const uint32_t buffers[] = {2, 3, 5, 8, EXPERTS, 4 * EXPERTS};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        for (int uses_uring = 0; uses_uring < 2; uses_uring++) {
            static struct fixture f;
            static float want[ROWS * HIDDEN], got[ROWS * HIDDEN];
            open_fixture(&f, buffers[i], uses_uring);
            memset(want, 0, sizeof want);
            expert_forward(f.workspace, f.x, f.tasks, f.count, want);
            assert_true(want[0] != 0);
            for (int round = 0; round < 3; round++) {
                uint32_t parts = compute_spilled(&f, got);
                assert_memory_equal(got, want, sizeof want);
                assert_int_equal(parts == 1, buffers[i] >= EXPERTS / 2);
            }
            close_fixture(&f);
        }
}

/* The only file of the fixture's folder with the expert's name. */
static void find_file(const struct fixture *f, uint32_t expert, char path[PATH_MAX]) {
    const struct shard shard = {1, expert, 0, INNER};
    assert_true(
        shard_cache_path(f->cache, &shard, expert_store_hash(f->store, EXPERTS + expert), path));
    assert_int_equal(access(path, R_OK), 0);
}

static void flip_byte(const char *path) {
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, 5000, SEEK_SET);
    int byte = fgetc(file);
    fseek(file, 5000, SEEK_SET);
    fputc(byte ^ 1, file);
    fclose(file);
}

static void test_bad_files(void **state) {
    (void)state;
    const char *const words[] = {"it was cut short", "it was cut short", "it is damaged",
                                 "No such file"};
    for (int kind = 0; kind < 4; kind++)
        for (int uses_uring = 0; uses_uring < 2; uses_uring++) {
            static struct fixture f;
            static float sums[ROWS * HIDDEN];
            struct log_capture capture;
            char path[PATH_MAX];
            open_fixture(&f, 4, uses_uring);
            find_file(&f, 6, path);
            if (kind == 3)
                assert_int_equal(unlink(path), 0);
            else if (kind == 2)
                flip_byte(path);
            else
                assert_int_equal(truncate(path, kind ? 4096 : 0), 0);
            log_capture_begin(&capture);
            assert_int_equal(compute_spilled(&f, sums), 0);
            assert_non_null(strstr(spill_fault(f.spill), words[kind]));
            assert_non_null(strstr(spill_fault(f.spill), "expert 6 of layer 1"));
            assert_int_equal(compute_spilled(&f, sums), 0); /* nor later */
            log_capture_expect(&capture, path, words[kind], "fetched again", NULL);
            assert_int_not_equal(access(path, F_OK), 0); /* so that it is */
            close_fixture(&f);
        }
}

/* What the store says of an assignment with spilled shards. */
static void test_limits(void **state) {
    (void)state;
    const struct shard shards[] = {{1, 0, 0, INNER}, {1, 1, 0, INNER}, {1, 2, 0, INNER}};
    const bool spilled[] = {false, true, true};
    const struct assignment assignment = {.layouts = LAYOUTS,
                                          .layer_count = 2,
                                          .shards = shards,
                                          .shard_count = 3,
                                          .spilled = spilled};
    uint64_t bytes = expert_bytes(), buffers = SPILL_BUFFERS_MIN * SPILL_BUFFER_BYTES(bytes);
    const struct {
        uint64_t memory_bytes, spill_bytes;
        enum status status;
        const char *logged;
    } cases[] = {{bytes + buffers, 2 * bytes, STATUS_OK, NULL},
                 {bytes + buffers, 2 * bytes - 1, STATUS_REFUSED, "raise --spill"},
                 {bytes + buffers, 0, STATUS_REFUSED, "this worker allows 0"},
                 {bytes + buffers - 1, 2 * bytes, STATUS_REFUSED, "raise --memory"},
                 {bytes - 1, 2 * bytes, STATUS_NO_MEMORY, "raise --memory"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct expert_store *store;
        struct log_capture capture;
        assert_int_equal(expert_store_create(cases[i].memory_bytes, &store), STATUS_OK);
        expert_store_allow_spill(store, cases[i].spill_bytes);
        if (cases[i].logged)
            log_capture_begin(&capture);
        assert_int_equal(expert_store_assign(store, &assignment), cases[i].status);
        if (cases[i].logged)
            log_capture_expect(&capture, cases[i].logged, NULL);
        assert_int_equal(expert_store_spilled_bytes(store), cases[i].logged ? 0 : 2 * bytes);
        if (!cases[i].logged) { /* what is left of memory is for reading */
            log_capture_begin(&capture);
            assert_int_equal(expert_store_extend(store, &(uint32_t){3}, shards, 1),
                             STATUS_NO_MEMORY);
            log_capture_expect(&capture, "raise --memory", NULL);
        }
        expert_store_destroy(store);
    }
}

/* Shipped shards go to the disk; the next assignment finds them there. */
static void test_shipped_shards(void **state) {
    (void)state;
    static struct fixture f;
    open_fixture(&f, 2, true);
    const struct shard shard = {1, 9, 8, 24};
    const bool spilled = true;
    const struct assignment assignment = {.fingerprint = 6,
                                          .layouts = LAYOUTS,
                                          .layer_count = 2,
                                          .shards = &shard,
                                          .shard_count = 1,
                                          .spilled = &spilled};
    atomic_uint_least64_t done;
    atomic_init(&done, 0);
    for (int round = 0; round < 4; round++) {
        struct expert_store *store;
        struct shard_cache *cache;
        size_t bytes = shard_bytes(&LAYOUTS[1], &shard);
        assert_int_equal(expert_store_create(1 << 20, &store), STATUS_OK);
        expert_store_allow_spill(store, 1 << 20);
        assert_int_equal(expert_store_assign(store, &assignment), STATUS_OK);
        assert_int_equal(shard_cache_open(f.directory, 6, false, 0, &cache), STATUS_OK);
        uint64_t hash;
        char path[PATH_MAX];
        bool was_there = shard_cache_find(cache, &shard, bytes, &hash);
        if (round == 3) { /* the damage shows only where it is looked for */
            assert_true(shard_cache_path(cache, &shard, hash, path));
            flip_byte(path);
        }
        assert_int_equal(store_load_spilled(store, cache, NULL, round >= 2, &done), STATUS_OK);
        assert_int_equal(was_there, round > 0);
        assert_int_equal(expert_store_is_filled(store, 0), round == 1 || round == 2);
        if (round == 0) {
            uint8_t *data = aligned_alloc(64, bytes);
            assert_int_equal(shard_read(f.weights, &LAYOUTS[1], &shard, data), STATUS_OK);
            assert_int_equal(expert_store_fill(store, 0, 0, data, 1000), STATUS_OK);
            assert_int_equal(expert_store_fill(store, 0, 1000, data + 1000, bytes - 1000),
                             STATUS_OK);
            assert_int_equal(store_spill(store, 0, cache), STATUS_OK);
            assert_true(expert_store_is_filled(store, 0));
            free(data);
        }
        shard_cache_close(cache);
        expert_store_destroy(store);
    }
    close_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_sums),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_shipped_shards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
