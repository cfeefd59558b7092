/* What is run, seen through the engine's observer of routes; and that rates are well formed. */
#include "tests/unit/test.h"

#include "coordinator/measure.h"
#include "coordinator/runtime.h"

#define GOLDEN TEST_DATA_DIR "/golden/deepseek-v3-tiny"

struct seen {
    uint32_t layer;     /* only this one counts */
    uint32_t sequences; /* of an answer's step */
    uint32_t prompt_rows, answer_rows;
    uint32_t first_min, end_max, rows_max;
};

static void observe(void *context, uint32_t layer, const struct batch *batch,
                    const uint32_t *experts, const float *weights) {
    (void)experts, (void)weights;
    struct seen *seen = context;
    if (layer != seen->layer)
        return;
    bool is_answer = batch->segments[0].rows == 1;
    assert_int_equal(batch->segment_count, is_answer ? seen->sequences : 1);
    *(is_answer ? &seen->answer_rows : &seen->prompt_rows) += batch->rows;
    for (uint32_t i = 0; i < batch->segment_count; i++) {
        const struct batch_segment *segment = &batch->segments[i];
        uint32_t first = segment->position, end = first + segment->rows;
        assert_int_equal(segment->rows * batch->segment_count, batch->rows);
        seen->first_min = first < seen->first_min ? first : seen->first_min;
        seen->end_max = end > seen->end_max ? end : seen->end_max;
    }
    seen->rows_max = batch->rows > seen->rows_max ? batch->rows : seen->rows_max;
}

static struct runtime *open_model(void) {
    struct runtime *runtime;
    const struct runtime_options options = {.model_path = GOLDEN,
                                            .kv_cache = "auto",
                                            .threads = 2,
                                            .isa = "auto",
                                            .placement = "experts",
                                            .batch_rows = 16,
                                            .context = 768,
                                            .sequences = 3};
    assert_int_equal(runtime_open(&options, &runtime), STATUS_OK);
    return runtime;
}

static uint32_t first_expert_layer(const struct model_shape *shape) {
    uint32_t layer = 0;
    while (!shape->is_expert_layer[layer])
        layer++;
    return layer;
}

static void expect_free_sequence(struct engine *engine) {
    uint32_t sequence;
    assert_int_equal(kv_cache_open(engine_cache(engine), &sequence), STATUS_OK);
    kv_cache_close(engine_cache(engine), sequence);
}

/* Before each timing, in turns. */
static enum status count_calls(void *context, enum measure_kind kind, uint32_t repetition) {
    uint32_t *calls = context;
    assert_int_equal(kind, *calls % 2 ? MEASURE_DECODE : MEASURE_PREFILL);
    assert_int_equal(repetition, *calls / 2);
    ++*calls;
    return STATUS_OK;
}

static enum status refuse(void *context, enum measure_kind kind, uint32_t repetition) {
    (void)context, (void)repetition;
    return kind == MEASURE_DECODE ? STATUS_IO : STATUS_OK;
}

/* The steps of an answer, which took `all_s`. */
static void expect_steps(const double steps_s[6], double all_s) {
    double sum_s = 0;
    for (int i = 0; i < 6; i++) {
        assert_true(steps_s[i] > 0);
        sum_s += steps_s[i];
    }
    assert_true(sum_s <= all_s * (1 + 1e-9));
}

static void test_runs_what_was_asked(void **state) {
    (void)state;
    struct runtime *runtime = open_model();
    struct engine *engine = runtime_engine(runtime);
    for (uint32_t depth = 0; depth <= 130; depth += 130)
        for (uint32_t sequences = 1; sequences <= 3; sequences += 2) {
            struct seen seen = {.layer = first_expert_layer(runtime_shape(runtime)),
                                .sequences = sequences,
                                .first_min = UINT32_MAX};
            uint32_t calls = 0;
            double steps_s[3][6] = {{0}};
            const struct measure_options options = {.prefill_tokens = 40,
                                                    .decode_tokens = 6,
                                                    .depth = depth,
                                                    .sequences = sequences,
                                                    .repetitions = 3,
                                                    .steps_s = steps_s[0],
                                                    .before = count_calls,
                                                    .context = &calls};
            double prefill[3], decode[3];
            engine_observe_routes(engine, observe, &seen);
            assert_int_equal(measure_model(engine, &options, (double *[]){prefill, decode}),
                             STATUS_OK);
            engine_observe_routes(engine, NULL, NULL);
            /* One more prompt and one more token, to warm up. */
            assert_int_equal(seen.prompt_rows, 4 * 40);
            assert_int_equal(seen.answer_rows, sequences * (1 + 3 * 6));
            assert_int_equal(seen.first_min, depth);
            assert_int_equal(seen.end_max, depth + 40);
            assert_int_equal(seen.rows_max, 16);
            assert_int_equal(calls, 6);
            for (int i = 0; i < 3; i++) {
                assert_true(prefill[i] > 0 && decode[i] > 0);
                expect_steps(steps_s[i], sequences * 6 / decode[i]);
            }
            expect_free_sequence(engine);
        }
    runtime_close(runtime);
}

static void test_error_before_a_timing(void **state) {
    (void)state;
    struct runtime *runtime = open_model();
    const struct measure_options options = {.prefill_tokens = 1,
                                            .decode_tokens = 2,
                                            .sequences = 1,
                                            .repetitions = 1,
                                            .before = refuse};
    double prefill, decode = -1;
    assert_int_equal(
        measure_model(runtime_engine(runtime), &options, (double *[]){&prefill, &decode}),
        STATUS_IO);
    assert_true(prefill > 0 && decode == -1);
    expect_free_sequence(runtime_engine(runtime));
    runtime_close(runtime);
}

static void test_depth_over_the_cache(void **state) {
    (void)state;
    struct runtime *runtime = open_model();
    for (uint32_t depth = 762; depth <= 812; depth += 50) {
        const struct measure_options options = {.prefill_tokens = 8,
                                                .decode_tokens = 2,
                                                .depth = depth,
                                                .sequences = 1,
                                                .repetitions = 1};
        double prefill, decode;
        struct log_capture capture;
        log_capture_begin(&capture);
        assert_int_equal(
            measure_model(runtime_engine(runtime), &options, (double *[]){&prefill, &decode}),
            STATUS_NO_MEMORY);
        log_capture_expect(&capture, "the context is full", "room for 768", NULL);
        expect_free_sequence(runtime_engine(runtime));
    }
    runtime_close(runtime);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs_what_was_asked),
        cmocka_unit_test(test_error_before_a_timing),
        cmocka_unit_test(test_depth_over_the_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
