/* The perplexity of each golden model's prompt against the one that its reference logits give. */
#include "tests/unit/test.h"

#include <math.h>

#include "common/json.h"
#include "coordinator/perplexity.h"
#include "coordinator/runtime.h"

#define GOLDEN    TEST_DATA_DIR "/golden/"
#define IDS_MAX   64
#define TOLERANCE 1e-4

static const char *const MODELS[] = {"deepseek-moe-tiny", "deepseek-v2-tiny",
                                     "deepseek-v2-lite-tiny", "deepseek-v3-tiny",
                                     "deepseek-v3-tiny-fp8"};

static size_t read_prompt(const char *model, uint32_t *ids) {
    char path[256];
    json_t *golden;
    snprintf(path, sizeof path, GOLDEN "%s/golden.json", model);
    assert_int_equal(json_read_file(path, false, &golden), STATUS_OK);
    const json_t *list = json_object_get(golden, "prompt_ids");
    size_t count = json_array_size(list);
    assert_in_range(count, 8, IDS_MAX);
    for (size_t i = 0; i < count; i++)
        ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    json_decref(golden);
    return count;
}

/* float32 values (rows, columns) behind the header of a NumPy file; the caller frees. */
static float *read_logits(const char *model, size_t rows, size_t columns) {
    char path[256];
    snprintf(path, sizeof path, GOLDEN "%s/logits.npy", model);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    float *values = malloc(rows * columns * sizeof *values);
    assert_int_equal(fseek(file, -(long)(rows * columns * sizeof *values), SEEK_END), 0);
    assert_int_equal(fread(values, sizeof *values, rows * columns, file), rows * columns);
    fclose(file);
    return values;
}

/* What the definition says of the first `count` ids in one window. */
static struct perplexity expect(const float *logits, size_t vocabulary, const uint32_t *ids,
                                size_t count) {
    double surprise[IDS_MAX], total = 0, squares = 0;
    for (size_t i = 0; i + 1 < count; i++) {
        double sum = 0;
        for (size_t v = 0; v < vocabulary; v++)
            sum += exp((double)logits[i * vocabulary + v]);
        surprise[i] = -log(exp((double)logits[i * vocabulary + ids[i + 1]]) / sum);
        total += surprise[i];
    }
    double n = (double)count - 1, mean = total / n;
    for (size_t i = 0; i + 1 < count; i++)
        squares += (surprise[i] - mean) * (surprise[i] - mean);
    return (struct perplexity){count - 1, exp(mean), exp(mean) * sqrt(squares / (n - 1) / n),
                               -total};
}

static struct runtime *open_model(const char *model, uint32_t batch_rows) {
    char path[256];
    struct runtime *runtime;
    snprintf(path, sizeof path, GOLDEN "%s", model);
    const struct runtime_options options = {.model_path = path,
                                            .kv_cache = "auto",
                                            .threads = 2,
                                            .isa = "auto",
                                            .placement = "experts",
                                            .batch_rows = batch_rows,
                                            .context = 128};
    assert_int_equal(runtime_open(&options, &runtime), STATUS_OK);
    return runtime;
}

static struct perplexity measure(struct runtime *runtime, const uint32_t *ids, size_t count,
                                 uint32_t window) {
    const struct perplexity_options options = {
        .ids = ids, .count = count, .window = window, .threads = runtime_threads(runtime)};
    struct perplexity result;
    assert_int_equal(perplexity_measure(runtime_engine(runtime), &options, &result), STATUS_OK);
    return result;
}

static void expect_close(const struct perplexity *got, const struct perplexity *want) {
    assert_int_equal(got->tokens, want->tokens);
    if (!(fabs(got->value / want->value - 1) < TOLERANCE))
        fail_msg("the perplexity is %.9g, expected %.9g", got->value, want->value);
    if (!(fabs(got->standard_error / want->standard_error - 1) < 1e-3))
        fail_msg("its error is %.9g, expected %.9g", got->standard_error, want->standard_error);
    assert_true(fabs(got->likelihood_total / want->likelihood_total - 1) < TOLERANCE);
}

static void test_agrees_with_reference_logits(void **state) {
    (void)state;
    for (size_t m = 0; m < sizeof MODELS / sizeof *MODELS; m++) {
        uint32_t ids[IDS_MAX];
        size_t count = read_prompt(MODELS[m], ids);
        for (uint32_t batch_rows = 5; batch_rows <= IDS_MAX; batch_rows += IDS_MAX - 5) {
            struct runtime *runtime = open_model(MODELS[m], batch_rows);
            uint32_t vocabulary = runtime_shape(runtime)->vocabulary;
            float *logits = read_logits(MODELS[m], count, vocabulary);
            struct perplexity want = expect(logits, vocabulary, ids, count);
            struct perplexity got = measure(runtime, ids, count, 512);
            expect_close(&got, &want);
            /* A window sees nothing of what comes behind it, and one id predicts nothing. */
            want = expect(logits, vocabulary, ids, 10);
            got = measure(runtime, ids, 10, 10);
            expect_close(&got, &want);
            got = measure(runtime, ids, 11, 10);
            expect_close(&got, &want);
            free(logits);
            runtime_close(runtime);
        }
    }
}

static void test_windows_add_up(void **state) {
    (void)state;
    uint32_t ids[IDS_MAX];
    size_t count = read_prompt("deepseek-v3-tiny", ids);
    struct runtime *runtime = open_model("deepseek-v3-tiny", 512);
    struct perplexity all = measure(runtime, ids, count, 12);
    double total = 0;
    size_t tokens = 0;
    for (size_t first = 0; first < count; first += 12) {
        size_t left = count - first < 12 ? count - first : 12;
        struct perplexity part = measure(runtime, ids + first, left, 12);
        total += part.likelihood_total;
        tokens += part.tokens;
    }
    assert_int_equal(all.tokens, tokens);
    assert_true(fabs(all.likelihood_total / total - 1) < 1e-9);
    assert_true(fabs(all.value / exp(-total / (double)tokens) - 1) < 1e-9);
    struct perplexity single = measure(runtime, ids, 2, 12);
    assert_int_equal(single.tokens, 1);
    assert_true(single.standard_error == 0);
    runtime_close(runtime);
}

struct observed {
    size_t calls, ids_done;
    struct perplexity last;
};

static void observe(void *context, size_t ids_done, const struct perplexity *now) {
    struct observed *observed = context;
    assert_true(ids_done > observed->ids_done);
    assert_true(now->tokens > observed->last.tokens);
    *observed = (struct observed){observed->calls + 1, ids_done, *now};
}

static void test_observer_follows(void **state) {
    (void)state;
    uint32_t ids[IDS_MAX];
    size_t count = read_prompt("deepseek-v3-tiny", ids);
    struct runtime *runtime = open_model("deepseek-v3-tiny", 5);
    struct observed observed = {.calls = 0};
    struct perplexity result;
    const struct perplexity_options options = {.ids = ids,
                                               .count = count,
                                               .window = 10,
                                               .threads = runtime_threads(runtime),
                                               .observer = observe,
                                               .context = &observed};
    assert_int_equal(perplexity_measure(runtime_engine(runtime), &options, &result), STATUS_OK);
    assert_int_equal(observed.calls, (count + 4) / 5);
    assert_int_equal(observed.ids_done, count);
    assert_memory_equal(&observed.last, &result, sizeof result);
    runtime_close(runtime);
}

static void test_window_over_the_cache(void **state) {
    (void)state;
    struct runtime *runtime = open_model("deepseek-v3-tiny", 512);
    uint32_t ids[200] = {0}, sequence;
    const struct perplexity_options options = {
        .ids = ids, .count = 200, .window = 200, .threads = runtime_threads(runtime)};
    struct perplexity result = {.tokens = 77};
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(perplexity_measure(runtime_engine(runtime), &options, &result),
                     STATUS_NO_MEMORY);
    log_capture_expect(&capture, "200 positions", "--context", NULL);
    assert_int_equal(result.tokens, 77);
    assert_int_equal(kv_cache_open(engine_cache(runtime_engine(runtime)), &sequence), STATUS_OK);
    runtime_close(runtime);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_agrees_with_reference_logits),
        cmocka_unit_test(test_windows_add_up),
        cmocka_unit_test(test_observer_follows),
        cmocka_unit_test(test_window_over_the_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
