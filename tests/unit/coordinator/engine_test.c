/* The engine on a golden model: several sequences in one batch are what each is alone, a divided
 * batch what it is undivided, and a decode step takes no memory. Agreement with the golden logits
 * is checked end to end. */
#include "tests/unit/files.h"

#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "coordinator/runtime.h"
#include "worker/daemon.h"

#define GOLDEN     TEST_DATA_DIR "/golden/deepseek-v3-tiny"
#define VOCABULARY 320u

static const struct runtime_options OPTIONS = {.model_path = GOLDEN,
                                               .kv_cache = "auto",
                                               .threads = 2,
                                               .isa = "auto",
                                               .placement = "experts",
                                               .batch_rows = 16,
                                               .context = 1024};

static void forward(struct engine *engine, const struct batch_segment *segments, uint32_t count,
                    uint32_t rows, const uint32_t *tokens, float *logits) {
    struct batch batch = {tokens, rows, segments, count, 0};
    const float *hidden;
    assert_int_equal(engine_forward(engine, &batch, &hidden), STATUS_OK);
    engine_logits(engine, hidden, rows, logits);
}

static void expect_close(const float *a, const float *b) {
    for (uint32_t i = 0; i < VOCABULARY; i++)
        assert_true(fabsf(a[i] - b[i]) < 1e-4f);
}

#ifdef __SANITIZE_ADDRESS__
/* gcc ships the function, but not the header that declares it. */
int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void *, size_t),
                                              void (*free_hook)(const volatile void *));

static atomic_uint allocations;

static void count_malloc(const volatile void *pointer, size_t bytes) {
    (void)pointer;
    (void)bytes;
    allocations++;
}

static void ignore_free(const volatile void *pointer) {
    (void)pointer;
}
#endif

/* A worker in a thread of this process. */
struct worker {
    struct daemon *daemon;
    pthread_t thread;
    bool ended;
    char directory[64];
};

static void *worker_main(void *daemon) {
    daemon_run(daemon);
    return NULL;
}

static void worker_start(struct worker *worker, const char *transport, uint64_t memory_bytes) {
    signal(SIGPIPE, SIG_IGN); /* as main does */
    worker->ended = false;
    test_directory_make(worker->directory);
    const struct daemon_options options = {.listen = "127.0.0.1:0",
                                           .threads = 2,
                                           .memory_bytes = memory_bytes,
                                           .spill_bytes = 64 << 20,
                                           .cache = worker->directory,
                                           .model = GOLDEN,
                                           .transport = transport};
    assert_int_equal(daemon_create(&options, &worker->daemon), STATUS_OK);
    assert_int_equal(pthread_create(&worker->thread, NULL, worker_main, worker->daemon), 0);
}

static void worker_end(struct worker *worker) {
    if (worker->ended)
        return;
    worker->ended = true;
    daemon_stop(worker->daemon);
    pthread_join(worker->thread, NULL);
}

static void worker_stop(struct worker *worker) {
    worker_end(worker);
    daemon_destroy(worker->daemon);
    test_directory_remove(worker->directory);
}

static struct runtime_options options_with(const struct worker *worker, const char *transport) {
    struct runtime_options options = OPTIONS;
    options.workers = daemon_address(worker->daemon);
    options.worker_timeout_s = 10;
    options.transport = transport;
    options.offload = "on";
    return options;
}

#ifdef __SANITIZE_ADDRESS__
/* The fewest allocations that ten decode steps took in one of up to a hundred rounds. In each
 * there may be others, because health reports between coordinator and worker have their own times:
 * on a busy machine in most. */
static unsigned count_allocations(const struct runtime_options *options) {
    struct runtime *runtime;
    assert_int_equal(runtime_open(options, &runtime), STATUS_OK);
    struct engine *engine = runtime_engine(runtime);
    struct kv_cache *cache = engine_cache(engine);
    static float logits[4 * VOCABULARY];
    const uint32_t tokens[] = {5, 6, 7, 8};
    uint32_t sequence;
    unsigned fewest = UINT_MAX;
    assert_int_equal(kv_cache_open(cache, &sequence), STATUS_OK);
    assert_int_equal(kv_cache_extend(cache, sequence, 4), STATUS_OK);
    struct batch_segment prompt = {sequence, 0, 0, 4};
    forward(engine, &prompt, 1, 4, tokens, logits);
    for (uint32_t round = 0; round < 100 && fewest > 0; round++) {
        unsigned before = allocations;
        for (uint32_t step = 0; step < 10; step++) {
            assert_int_equal(kv_cache_extend(cache, sequence, 1), STATUS_OK);
            struct batch_segment segment = {sequence, 4 + 10 * round + step, 0, 1};
            forward(engine, &segment, 1, 1, tokens + step % 4, logits);
        }
        fewest = allocations - before < fewest ? allocations - before : fewest;
    }
    runtime_close(runtime);
    return fewest;
}

/* The same with all experts on a worker with so much memory for them, and slices of what all rows
 * meet if there is room; both sides use `transport`. */
static unsigned count_on_worker(const char *transport, uint64_t memory_bytes) {
    struct worker worker;
    worker_start(&worker, transport, memory_bytes);
    const struct runtime_options options = options_with(&worker, transport);
    unsigned count = count_allocations(&options);
    worker_stop(&worker);
    return count;
}
#endif

/* In this process; and with a worker in a thread of it, whose allocations count as well. Counted
 * through AddressSanitizer's hooks, which see every allocation of every thread. */
static void test_decode_step_allocates_nothing(void **state) {
    (void)state;
#ifndef __SANITIZE_ADDRESS__
    print_message("allocations can only be counted under AddressSanitizer\n");
    skip();
#else
    assert_true(__sanitizer_install_malloc_and_free_hooks(count_malloc, ignore_free));
    void *volatile counted = malloc(1);
    free(counted);
    assert_int_equal(allocations, 1);
    assert_int_equal(count_allocations(&OPTIONS), 0);
    for (int spills = 0; spills < 2; spills++) {
        uint64_t memory_bytes = spills ? 300 << 10 : 64 << 20; /* of some 700 KiB of experts */
        assert_int_equal(count_on_worker("sockets", memory_bytes), 0);
        assert_int_equal(count_on_worker("auto", memory_bytes), 0); /* io_uring, where allowed */
    }
#endif
}

/* What all rows meet is half on a worker, output head included: the logits are those of this
 * process alone, of one row, of as many as its answers have room for, and of more. And so they are
 * when the worker is gone. */
static void test_offloaded(void **state) {
    (void)state;
    struct worker worker;
    static float alone[16 * VOCABULARY], shared[16 * VOCABULARY];
    uint32_t tokens[16];
    for (uint32_t i = 0; i < 16; i++)
        tokens[i] = (i * 53 + 7) % VOCABULARY;
    worker_start(&worker, "auto", 64 << 20);
    struct runtime_options options[2] = {OPTIONS, options_with(&worker, "auto")};
    for (int where = 0; where < 2; where++) {
        struct runtime *runtime;
        uint32_t sequence;
        float *logits = where ? shared : alone;
        /* Experts here as well, so that the worker can be lost. */
        options[where].memory_bytes = where ? 64 << 20 : 0;
        assert_int_equal(runtime_open(&options[where], &runtime), STATUS_OK);
        struct engine *engine = runtime_engine(runtime);
        struct kv_cache *cache = engine_cache(engine);
        if (where)
            assert_true(planning_plan(runtime_planning(runtime))->offloaded_bytes > 0);
        assert_int_equal(kv_cache_open(cache, &sequence), STATUS_OK);
        const uint32_t sizes[] = {1, 6, 8, 1};
        for (uint32_t i = 0, at = 0; i < 4; at += sizes[i++]) {
            if (where && i == 3)
                worker_end(&worker);
            assert_int_equal(kv_cache_extend(cache, sequence, sizes[i]), STATUS_OK);
            struct batch_segment segment = {sequence, at, 0, sizes[i]};
            forward(engine, &segment, 1, sizes[i], tokens + at, logits + at * VOCABULARY);
        }
        runtime_close(runtime);
    }
    for (uint32_t i = 0; i < 16; i++)
        expect_close(alone + i * VOCABULARY, shared + i * VOCABULARY);
    worker_stop(&worker);
}

/* Row by row through one sequence, then all rows in chunks that straddle in any way. */
static void test_steps_agree_with_chunks(void **state) {
    (void)state;
    struct runtime *runtime;
    assert_int_equal(runtime_open(&OPTIONS, &runtime), STATUS_OK);
    struct engine *engine = runtime_engine(runtime);
    struct kv_cache *cache = engine_cache(engine);
    static float single[16 * VOCABULARY], chunked[16 * VOCABULARY];
    uint32_t tokens[16], sequence;
    for (uint32_t i = 0; i < 16; i++)
        tokens[i] = (i * 37 + 11) % VOCABULARY;
    assert_int_equal(kv_cache_open(cache, &sequence), STATUS_OK);
    for (uint32_t i = 0; i < 16; i++) {
        assert_int_equal(kv_cache_extend(cache, sequence, 1), STATUS_OK);
        struct batch_segment segment = {sequence, i, 0, 1};
        forward(engine, &segment, 1, 1, tokens + i, single + i * VOCABULARY);
    }
    const uint32_t sizes[] = {3, 1, 5, 7};
    kv_cache_truncate(cache, sequence, 0);
    for (uint32_t i = 0, at = 0; i < 4; at += sizes[i++]) {
        assert_int_equal(kv_cache_extend(cache, sequence, sizes[i]), STATUS_OK);
        struct batch_segment segment = {sequence, at, 0, sizes[i]};
        forward(engine, &segment, 1, sizes[i], tokens + at, chunked + at * VOCABULARY);
    }
    for (uint32_t i = 0; i < 16; i++)
        expect_close(single + i * VOCABULARY, chunked + i * VOCABULARY);
    runtime_close(runtime);
}

/* Rows [done, done + count) of each of `sequences`, in one batch; logits behind one another. */
static void forward_all(struct engine *engine, const uint32_t *sequences, uint32_t sequence_count,
                        uint32_t done, uint32_t count, float *logits) {
    struct batch_segment segments[4];
    uint32_t tokens[16];
    for (uint32_t s = 0; s < sequence_count; s++) {
        assert_int_equal(kv_cache_extend(engine_cache(engine), sequences[s], count), STATUS_OK);
        segments[s] = (struct batch_segment){sequences[s], done, s * count, count};
        for (uint32_t i = 0; i < count; i++)
            tokens[s * count + i] = ((done + i) * 37 + s * 101 + 11) % VOCABULARY;
    }
    forward(engine, segments, sequence_count, sequence_count * count, tokens, logits);
}

/* Batches of all sizes up to 16, of one sequence and of three that parts begin and end within;
 * returns how many rows of logits there are. */
static uint32_t forward_batches(const struct runtime_options *options, float *logits) {
    struct runtime *runtime;
    assert_int_equal(runtime_open(options, &runtime), STATUS_OK);
    struct engine *engine = runtime_engine(runtime);
    uint32_t sequences[3], rows = 0, at = 0;
    for (uint32_t s = 0; s < 3; s++)
        assert_int_equal(kv_cache_open(engine_cache(engine), &sequences[s]), STATUS_OK);
    for (uint32_t count = 1; count <= 16; count++) {
        forward_all(engine, sequences, 1, at, count, logits + rows * VOCABULARY);
        at += count;
        rows += count;
    }
    kv_cache_truncate(engine_cache(engine), sequences[0], 0);
    at = 0;
    for (uint32_t count = 1; count <= 5; count++) {
        forward_all(engine, sequences, 3, at, count, logits + rows * VOCABULARY);
        at += count;
        rows += 3 * count;
    }
    runtime_close(runtime);
    return rows;
}

/* In two or four parts on a worker as undivided in this process. */
static void test_divided_batches_agree(void **state) {
    (void)state;
    static float whole[256 * VOCABULARY], divided[256 * VOCABULARY];
    struct worker worker;
    struct runtime_options options = OPTIONS;
    options.sequences = 3;
    uint32_t rows = forward_batches(&options, whole);
    assert_true(rows == 16 * 17 / 2 + 3 * 15);
    static const char *const OVERLAPS[] = {"2", "on"}, *const TRANSPORTS[] = {"sockets", "auto"};
    for (int i = 0; i < 2; i++) {
        worker_start(&worker, TRANSPORTS[i], 64 << 20);
        options.workers = daemon_address(worker.daemon);
        options.worker_timeout_s = 10;
        options.overlap = OVERLAPS[i];
        options.transport = TRANSPORTS[i];
        memset(divided, 0, sizeof divided);
        assert_int_equal(forward_batches(&options, divided), rows);
        for (uint32_t row = 0; row < rows; row++)
            expect_close(whole + row * VOCABULARY, divided + row * VOCABULARY);
        worker_stop(&worker);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offloaded),
        cmocka_unit_test(test_decode_step_allocates_nothing),
        cmocka_unit_test(test_steps_agree_with_chunks),
        cmocka_unit_test(test_divided_batches_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
