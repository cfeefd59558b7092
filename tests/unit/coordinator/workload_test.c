/* Bytes and multiplications of a small model that is counted by hand. */
#include "tests/unit/test.h"

#include <math.h>

#include "coordinator/workload.h"

#define HIDDEN     128u
#define INNER      256u
#define VOCABULARY 64u

static void add(enum weight_format format, uint32_t rows, uint32_t columns,
                struct matrix_sum *sum) {
    sum->bytes[format] += matrix_bytes(format, rows, columns);
    sum->values[format] += (uint64_t)rows * columns;
}

/* A dense layer in BF16 with multi-head attention, and an expert layer in FP8 with an F32 router.
 * The counts of values below are 4 x 128 x 128 (attention), 3 x 256 x 128 (feed-forwards). */
static void count(struct workload *workload) {
    struct outline *outline = calloc(1, sizeof *outline);
    struct model_shape shape = {.layers = 2, .experts = 8, .experts_per_token = 2};
    shape.is_expert_layer[1] = true;
    for (int l = 0; l < 2; l++) {
        enum weight_format format = l ? WEIGHT_FP8_E4M3 : WEIGHT_BF16;
        struct outline_layer *layer = &outline->layers[l];
        for (int i = 0; i < 4; i++)
            add(format, HIDDEN, HIDDEN, &layer->attention);
        add(format, INNER, HIDDEN, &layer->local_ffn);
        add(format, INNER, HIDDEN, &layer->local_ffn);
        add(format, HIDDEN, INNER, &layer->local_ffn);
    }
    add(WEIGHT_F32, 8, HIDDEN, &outline->layers[1].router);
    outline->layers[1].routed =
        (struct shard_layout){HIDDEN, INNER, WEIGHT_FP8_E4M3, WEIGHT_FP8_E4M3, WEIGHT_F16};
    add(WEIGHT_F32, VOCABULARY, HIDDEN, &outline->head);
    workload_count(outline, &shape, workload);
    free(outline);
}

static void test_bytes(void **state) {
    (void)state;
    struct workload workload;
    count(&workload);
    uint64_t bf16 = 2 * (4 * 128 * 128 + 3 * 256 * 128);
    /* A matrix of 128 x 128 has one scale, one of 256 x 128 two; both are padded to 64 bytes. */
    uint64_t fp8 = 4 * (128 * 128 + 64) + 3 * (256 * 128 + 64);
    uint64_t router = 4 * 8 * 128, head = 4 * 64 * 128;
    assert_int_equal(workload.own_bytes, bf16 + fp8 + router + head);
    assert_int_equal(workload.expert_bytes, 2 * (256 * 128 + 64) + 2 * 256 * 128);
    assert_int_equal(workload_decode_bytes(&workload),
                     workload.own_bytes + 2 * workload.expert_bytes);
}

static void test_operations(void **state) {
    (void)state;
    struct workload workload;
    count(&workload);
    double layer = 4 * 128 * 128 + 3 * 256 * 128, projection = 256 * 128;
    assert_true(workload.operations[PEAK_BF16] == 2 * (2 * layer + 2 * 2 * projection));
    assert_true(workload.operations[PEAK_F32] == 2 * (8 * 128 + 2 * projection));
    assert_true(workload.operations[PEAK_INT8] == 0);
    assert_true(workload.head_operations[PEAK_F32] == 2 * 64 * 128);
    assert_true(workload.head_operations[PEAK_BF16] == 0);
}

static void expect_seconds(double got, double want) {
    if (!(fabs(got / want - 1) < 1e-12))
        fail_msg("%.15g s, expected %.15g", got, want);
}

static const struct workload SMALL = {
    .own_bytes = 1000,
    .expert_bytes = 100,
    .experts = 4,
    .experts_per_token = 1,
    .operations = {[PEAK_F32] = 10, [PEAK_BF16] = 40, [PEAK_INT8] = 80},
    .head_operations = {[PEAK_F32] = 30},
};

static void test_multiply_seconds(void **state) {
    (void)state;
    struct machine_peak rates = {.operations_per_s = {10, 20, 40}};
    expect_seconds(workload_multiply_s(&SMALL, &rates, 1, 1), 1 + 2 + 2 + 3);
    expect_seconds(workload_multiply_s(&SMALL, &rates, 10, 2), 10 + 20 + 20 + 2 * 3);
    /* What there is no unit for goes through f32. */
    rates = (struct machine_peak){.operations_per_s = {[PEAK_F32] = 10}};
    expect_seconds(workload_multiply_s(&SMALL, &rates, 10, 1), 10 + 40 + 80 + 3);
}

static void test_read_seconds(void **state) {
    (void)state;
    const struct machine_peak rates = {.read_bytes_per_s = 100};
    expect_seconds(workload_read_s(&SMALL, &rates, 1, 512), 11);
    /* Two tokens meet 4 x (1 - (3/4)^2) = 1.75 experts. */
    expect_seconds(workload_read_s(&SMALL, &rates, 2, 512), 11.75);
    expect_seconds(workload_read_s(&SMALL, &rates, 2, 1), 22);
    expect_seconds(workload_read_s(&SMALL, &rates, 5, 2), 11.75 * 2 + 11);
    expect_seconds(workload_read_s(&SMALL, &rates, 1000, 1000), 14);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_operations),
        cmocka_unit_test(test_multiply_seconds),
        cmocka_unit_test(test_read_seconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
