/* What headers say of real files agrees with what is held once they are loaded, and what is assumed
 * of a shape agrees with counting by hand. */
#include "tests/unit/coordinator/plan_fixture.h"

#include <math.h>

#include "common/kernel/kernel.h"
#include "coordinator/model.h"

static void check_read(const char *path) {
    struct model_shape shape;
    struct weights *weights;
    struct outline *outline;
    struct threads *threads;
    struct model *model;
    assert_int_equal(model_shape_read(path, &shape), STATUS_OK);
    assert_int_equal(weights_open(path, &weights), STATUS_OK);
    assert_int_equal(outline_read(weights, &shape, &outline), STATUS_OK);
    assert_int_equal(threads_create(1, &threads), STATUS_OK);
    const struct model_load_options options = {NULL, false, false};
    assert_int_equal(model_load(weights, &shape, &options, threads, &model), STATUS_OK);
    /* Arenas come in mappings of 2 MiB, and small models have many vectors of 64 bytes. */
    double held = (double)model_bytes(model);
    if (!(fabs((double)outline->own_bytes - held) < 0.05 * held + 1048576))
        fail_msg("%s: %llu bytes outlined, %.0f held", path, (unsigned long long)outline->own_bytes,
                 held);
    uint64_t routed = 0;
    uint32_t formats = outline_expert_formats(outline, &shape, shape.layers);
    assert_int_not_equal(formats, 0);
    assert_int_equal(formats & ~outline_formats(outline, &shape), 0);
    assert_int_equal(outline_expert_formats(outline, &shape, 0), 0);
    for (uint32_t layer = 0; layer < shape.layers; layer++) {
        const struct outline_layer *at = &outline->layers[layer];
        assert_true(matrix_sum_bytes(&at->attention) > 0);
        assert_int_equal(matrix_sum_bytes(&at->router) > 0, shape.is_expert_layer[layer]);
        assert_int_equal(matrix_sum_bytes(&at->local_ffn) > 0, model->layers[layer].ffn_count > 0);
        routed += shape.is_expert_layer[layer] ? at->routed.inner : 0;
    }
    assert_true(routed > 0);
    model_destroy(model);
    threads_destroy(threads);
    free(outline);
    weights_close(weights);
}

static void test_read(void **state) {
    (void)state;
    check_read(DEMO_MODEL_DIR);
    check_read(TEST_DATA_DIR "/golden/deepseek-v3-tiny-fp8");
    check_read(TEST_DATA_DIR "/golden/deepseek-moe-tiny");
    check_read(TEST_DATA_DIR "/golden/deepseek-v2-lite-tiny");
}

static uint64_t values_of(const struct matrix_sum *sum) {
    uint64_t values = 0;
    for (size_t f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        values += sum->values[f];
    return values;
}

static void test_assume(void **state) {
    (void)state;
    struct outline *outline;
    struct model_shape shape = fixture_shape_grouped(61);
    shape.is_expert_layer[1] = shape.is_expert_layer[2] = false;
    assert_int_equal(outline_assume(&shape, "q4_0", &outline), STATUS_OK);
    /* 187.1 M weights of attention (DeepSeek-V3: arXiv 2412.19437, section 4.2). */
    uint64_t attention = 7168ull * 1536 + 1536ull * 128 * 192 + 7168ull * 576 + 512ull * 128 * 256 +
                         128ull * 128 * 7168;
    assert_int_equal(values_of(&outline->layers[5].attention), attention);
    assert_int_equal(values_of(&outline->layers[5].local_ffn), 3ull * 7168 * 2048);
    assert_int_equal(values_of(&outline->layers[1].local_ffn), 3ull * 7168 * 18432);
    assert_int_equal(outline->layers[5].router.bytes[WEIGHT_F32], 256 * 7168 * 4);
    assert_int_equal(outline->layers[5].attention.bytes[WEIGHT_Q4_0], attention / 32 * 18);
    assert_int_equal(outline->layers[5].routed.down, WEIGHT_Q4_0);
    assert_int_equal(values_of(&outline->head), 129280ull * 7168);
    assert_true(outline->head.bytes[WEIGHT_Q6_K] > 0);
    free(outline);
    /* 671 B weights in all, 1.04 bytes of FP8 for most of them. */
    assert_int_equal(outline_assume(&shape, "fp8", &outline), STATUS_OK);
    double routed =
        58 * 256.0 * (double)shard_bytes(&outline->layers[5].routed, &(struct shard){.end = 2048});
    assert_true(fabs((routed + (double)outline->own_bytes) / 672e9 - 1) < 0.01);
    assert_true(outline->head.bytes[WEIGHT_BF16] > 0);
    free(outline);
}

/* Rows that are no whole blocks take what quantize would take. */
static void test_assume_odd_columns(void **state) {
    (void)state;
    struct outline *outline;
    struct model_shape shape = fixture_shape_lite();
    assert_int_equal(outline_assume(&shape, "q4_k", &outline), STATUS_OK);
    assert_int_equal(outline->layers[1].routed.gate, WEIGHT_Q4_K);
    assert_int_equal(outline->layers[1].routed.down, WEIGHT_Q5_0); /* 1408 columns */
    assert_int_equal(outline_expert_formats(outline, &shape, shape.layers),
                     1u << WEIGHT_Q4_K | 1u << WEIGHT_Q5_0);
    free(outline);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_assume),
        cmocka_unit_test(test_assume_odd_columns),
    };
    if (kernel_select("auto"))
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
