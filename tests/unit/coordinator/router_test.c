/* The routing rules, each on scores where another rule would choose otherwise. */
#include "tests/unit/test.h"

#include <math.h>

#include "coordinator/router.h"

#define EXPERTS 8

static struct model_shape shape_of(enum score_function score, enum group_rule rule, uint32_t groups,
                                   uint32_t groups_per_token, uint32_t k) {
    return (struct model_shape){.experts = EXPERTS,
                                .experts_per_token = k,
                                .score = score,
                                .group_rule = rule,
                                .groups = groups,
                                .groups_per_token = groups_per_token,
                                .weight_scale = 1};
}

static void expect_choice(const struct model_shape *shape, const float *logits, const float *bias,
                          const uint32_t *want, float *weights) {
    float scores[EXPERTS], choice[EXPERTS];
    uint32_t experts[EXPERTS];
    memcpy(scores, logits, sizeof scores);
    router_score(shape, scores, bias, choice);
    router_choose(shape, scores, choice, experts, weights);
    for (uint32_t k = 0; k < shape->experts_per_token; k++)
        assert_int_equal(experts[k], want[k]);
}

static void test_greedy_softmax(void **state) {
    (void)state;
    struct model_shape shape = shape_of(SCORE_SOFTMAX, GROUP_NONE, 1, 1, 3);
    const float logits[EXPERTS] = {0, 3, 1, 2, -1, 0, 0, 0};
    float weights[3], sum = 0;
    expect_choice(&shape, logits, NULL, (uint32_t[]){1, 3, 2}, weights);
    for (int e = 0; e < EXPERTS; e++)
        sum += expf(logits[e]);
    assert_true(fabsf(weights[0] - expf(3) / sum) < 1e-6f);
    shape.weight_scale = 16;
    expect_choice(&shape, logits, NULL, (uint32_t[]){1, 3, 2}, weights);
    assert_true(fabsf(weights[0] - 16 * expf(3) / sum) < 1e-5f);
    shape.normalise_weights = true;
    shape.weight_scale = 1;
    expect_choice(&shape, logits, NULL, (uint32_t[]){1, 3, 2}, weights);
    assert_true(fabsf(weights[0] + weights[1] + weights[2] - 1) < 1e-6f);
}

/* Groups of two: the best single expert is in group 0, the best pair in group 1. */
static void test_group_rules_differ(void **state) {
    (void)state;
    const float logits[EXPERTS] = {3, -9, 2, 2.1f, 0, 0, 1, -9};
    float weights[2];
    struct model_shape best = shape_of(SCORE_SIGMOID, GROUP_BEST, 4, 1, 2);
    expect_choice(&best, logits, NULL, (uint32_t[]){0, 1}, weights);
    struct model_shape two = shape_of(SCORE_SIGMOID, GROUP_TWO_BEST, 4, 1, 2);
    expect_choice(&two, logits, NULL, (uint32_t[]){3, 2}, weights);
}

/* The bias steers the choice and leaves the weights alone. */
static void test_bias_only_chooses(void **state) {
    (void)state;
    struct model_shape shape = shape_of(SCORE_SIGMOID, GROUP_NONE, 1, 1, 1);
    const float logits[EXPERTS] = {1, 0, 0, 0, 0, 0, 0, 0};
    const float bias[EXPERTS] = {0, 0, 0, 0, 0, 0.5f, 0, 0};
    float weights[1];
    expect_choice(&shape, logits, bias, (uint32_t[]){5}, weights);
    assert_true(fabsf(weights[0] - 0.5f) < 1e-6f);
}

/* Kept groups whose choice scores are all negative still win over dropped groups. */
static void test_dropped_groups_never_win(void **state) {
    (void)state;
    struct model_shape shape = shape_of(SCORE_SIGMOID, GROUP_TWO_BEST, 2, 1, 4);
    const float logits[EXPERTS] = {9, -9, -9, -9, 0, 0, 0, 0};
    const float bias[EXPERTS] = {-2, -3, -3, -3, -1, -1, -1, -1};
    float weights[4];
    expect_choice(&shape, logits, bias, (uint32_t[]){4, 5, 6, 7}, weights);
}

static void test_ties_go_to_the_lower_index(void **state) {
    (void)state;
    const float logits[EXPERTS] = {0};
    float weights[2];
    struct model_shape shape = shape_of(SCORE_SOFTMAX, GROUP_BEST, 4, 2, 2);
    expect_choice(&shape, logits, NULL, (uint32_t[]){0, 1}, weights);
}

/* Not-a-number scores choose something valid: no expert twice, none out of range. */
static void test_nan_scores(void **state) {
    (void)state;
    struct model_shape shape = shape_of(SCORE_SIGMOID, GROUP_TWO_BEST, 4, 2, 4);
    float logits[EXPERTS], choice[EXPERTS], weights[4];
    uint32_t experts[4];
    for (int e = 0; e < EXPERTS; e++)
        logits[e] = NAN;
    router_score(&shape, logits, NULL, choice);
    router_choose(&shape, logits, choice, experts, weights);
    for (int k = 0; k < 4; k++) {
        assert_true(experts[k] < EXPERTS);
        for (int j = 0; j < k; j++)
            assert_int_not_equal(experts[k], experts[j]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_softmax),
        cmocka_unit_test(test_group_rules_differ),
        cmocka_unit_test(test_bias_only_chooses),
        cmocka_unit_test(test_dropped_groups_never_win),
        cmocka_unit_test(test_ties_go_to_the_lower_index),
        cmocka_unit_test(test_nan_scores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
