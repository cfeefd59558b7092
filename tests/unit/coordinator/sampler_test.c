/* Greedy choice, every filter, the distribution of the draws, and logits that are no numbers. */
#include "coordinator/sampler.h"

#include <math.h>
#include <stdbool.h>

#include "tests/unit/random.h"
#include "tests/unit/test.h"

enum { DRAWS = 20000, WORDS_MAX = 64 };

static const struct sampler_options PLAIN = {
    .temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f, .seed = 42};

static struct sampler *create(struct sampler_options options, uint32_t vocabulary) {
    struct sampler *sampler;
    assert_int_equal(sampler_create(&options, vocabulary, &sampler), STATUS_OK);
    return sampler;
}

static uint32_t choose(struct sampler *sampler, const float *logits, size_t count) {
    float copy[WORDS_MAX];
    memcpy(copy, logits, count * sizeof *logits);
    return sampler_choose(sampler, copy);
}

/* How often each token comes in DRAWS draws. */
static void count_draws(struct sampler_options options, const float *logits, uint32_t count,
                        uint32_t *counts) {
    struct sampler *sampler = create(options, count);
    memset(counts, 0, count * sizeof *counts);
    for (int i = 0; i < DRAWS; i++)
        counts[choose(sampler, logits, count)]++;
    sampler_destroy(sampler);
}

/* Requires exactly the tokens with `expected` > 0, in those proportions: chi-square below
 * 35, which chance exceeds once in 10^6 at 7 degrees of freedom and rarer at fewer. */
static void expect_draws(struct sampler_options options, const float *logits, uint32_t count,
                         const double *expected) {
    uint32_t counts[WORDS_MAX];
    count_draws(options, logits, count, counts);
    double total = 0.0, chi_square = 0.0;
    for (uint32_t i = 0; i < count; i++)
        total += expected[i];
    for (uint32_t i = 0; i < count; i++) {
        double wanted = DRAWS * expected[i] / total;
        if (wanted == 0.0)
            assert_int_equal(counts[i], 0);
        else
            chi_square += (counts[i] - wanted) * (counts[i] - wanted) / wanted;
    }
    if (chi_square > 35.0)
        fail_msg("chi-square %g", chi_square);
}

/* Probabilities 0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005 at shuffled ids. */
static const double SHARES[8] = {0.1, 0.4, 0.005, 0.15, 0.03, 0.25, 0.015, 0.05};

static void fill_logits(float logits[8]) {
    for (int i = 0; i < 8; i++)
        logits[i] = (float)log(SHARES[i]) + 3.0f;
}

static void temperature_zero_is_greedy(void **state) {
    (void)state;
    struct sampler_options options = PLAIN;
    options.temperature = 0.0f;
    struct sampler *sampler = create(options, 6);
    assert_int_equal(choose(sampler, (float[]){-1, 3, 2, 3, -5, 3}, 6), 1);
    assert_int_equal(choose(sampler, (float[]){0, 0, 0, 0, 0, 0}, 6), 0);
    assert_int_equal(choose(sampler, (float[]){-9, -8, -7, -6, -5, -4}, 6), 5);
    sampler_destroy(sampler);
}

static void draws_follow_the_probabilities(void **state) {
    (void)state;
    float logits[8];
    fill_logits(logits);
    expect_draws(PLAIN, logits, 8, SHARES);
}

static void temperature_sharpens_and_flattens(void **state) {
    (void)state;
    float logits[8];
    fill_logits(logits);
    static const float TEMPERATURES[] = {0.5f, 2.0f};
    for (int t = 0; t < 2; t++) {
        struct sampler_options options = PLAIN;
        options.temperature = TEMPERATURES[t];
        double expected[8];
        for (int i = 0; i < 8; i++)
            expected[i] = pow(SHARES[i], 1.0 / (double)TEMPERATURES[t]);
        expect_draws(options, logits, 8, expected);
    }
}

static void top_k_keeps_the_best(void **state) {
    (void)state;
    float logits[8];
    fill_logits(logits);
    struct sampler_options options = PLAIN;
    options.top_k = 3;
    expect_draws(options, logits, 8, (double[]){0, 0.4, 0, 0.15, 0, 0.25, 0, 0});
    options.top_k = 1;
    expect_draws(options, logits, 8, (double[]){0, 1, 0, 0, 0, 0, 0, 0});
    options.top_k = 100;
    expect_draws(options, logits, 8, SHARES);
}

static void top_k_breaks_ties_by_id(void **state) {
    (void)state;
    struct sampler_options options = PLAIN;
    options.top_k = 3;
    expect_draws(options, (float[]){1, 1, 1, 1, 5, 1}, 6, (double[]){1, 1, 0, 0, exp(4.0), 0});
}

static void top_p_keeps_the_smallest_set(void **state) {
    (void)state;
    float logits[8];
    fill_logits(logits);
    struct sampler_options options = PLAIN;
    options.top_p = 0.79f; /* 0.4 + 0.25 = 0.65 is too little, 0.8 enough */
    expect_draws(options, logits, 8, (double[]){0, 0.4, 0, 0.15, 0, 0.25, 0, 0});
    options.top_p = 0.0f;
    expect_draws(options, logits, 8, (double[]){0, 1, 0, 0, 0, 0, 0, 0});
}

static void min_p_is_relative_to_the_best(void **state) {
    (void)state;
    float logits[8];
    fill_logits(logits);
    struct sampler_options options = PLAIN;
    options.min_p = 0.24f; /* times 0.4 = 0.096 */
    expect_draws(options, logits, 8, (double[]){0.1, 0.4, 0, 0.15, 0, 0.25, 0, 0});
    options.min_p = 2.0f;
    expect_draws(options, logits, 8, (double[]){0, 1, 0, 0, 0, 0, 0, 0});
}

static void filters_apply_in_order(void **state) {
    (void)state;
    float logits[8];
    fill_logits(logits);
    struct sampler_options options = PLAIN;
    /* Of the four best (0.9 together) 0.4 + 0.25 + 0.15 are 0.889: a top-p of all tokens would
     * need the fourth to reach 0.85. */
    options.top_k = 4;
    options.top_p = 0.85f;
    expect_draws(options, logits, 8, (double[]){0, 0.4, 0, 0.15, 0, 0.25, 0, 0});
    options.min_p = 0.5f;
    expect_draws(options, logits, 8, (double[]){0, 0.4, 0, 0, 0, 0.25, 0, 0});
    options.top_k = 0;
    options.top_p = 0.5f;
    options.min_p = 0.7f; /* 0.25 / 0.4 is below */
    expect_draws(options, logits, 8, (double[]){0, 1, 0, 0, 0, 0, 0, 0});
}

static void penalty_lowers_tokens_seen(void **state) {
    (void)state;
    struct sampler_options options = PLAIN;
    options.temperature = 0.0f;
    options.repetition_penalty = 2.0f;
    struct sampler *sampler = create(options, 4);
    sampler_accept(sampler, 1);
    sampler_accept(sampler, 1); /* once is enough */
    sampler_accept(sampler, 3);
    sampler_accept(sampler, 4000000000u);
    assert_int_equal(choose(sampler, (float[]){2.5f, 4.9f, -1, -1}, 4), 0);
    assert_int_equal(choose(sampler, (float[]){2.4f, 4.9f, -1, -1}, 4), 1);
    assert_int_equal(choose(sampler, (float[]){-9, -9, -1.9f, -1}, 4), 2);
    assert_int_equal(choose(sampler, (float[]){-9, -9, -2.1f, -1}, 4), 3);
    sampler_destroy(sampler);
}

/* The draws are part of what users rely on: these must not change on any machine. */
static void seed_decides_the_draws(void **state) {
    (void)state;
    static const uint32_t EXPECTED[12] = {0, 1, 4, 5, 7, 5, 5, 5, 5, 3, 4, 1};
    float logits[8];
    fill_logits(logits);
    struct sampler *first = create(PLAIN, 8), *second = create(PLAIN, 8);
    struct sampler_options options = PLAIN;
    options.seed = 43;
    struct sampler *other = create(options, 8);
    int different = 0;
    for (int i = 0; i < 12; i++) {
        uint32_t id = choose(first, logits, 8);
        assert_int_equal(id, EXPECTED[i]);
        assert_int_equal(id, choose(second, logits, 8));
        different += id != choose(other, logits, 8);
    }
    assert_true(different > 0);
    sampler_destroy(first);
    sampler_destroy(second);
    sampler_destroy(other);
}

static void odd_logits_do_no_harm(void **state) {
    (void)state;
    static const float LOGITS[][5] = {
        {NAN, 1, 2, NAN, 0},
        {INFINITY, INFINITY, 0, 1, 2},
        {-INFINITY, -INFINITY, -INFINITY, 3, -INFINITY},
        {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY},
        {NAN, NAN, NAN, NAN, NAN},
        {3.4e38f, -3.4e38f, 0, 1e-45f, INFINITY},
    };
    static const bool ALLOWED[][5] = {
        {0, 1, 1, 0, 1}, {1, 1, 0, 0, 0}, {0, 0, 0, 1, 0},
        {1, 0, 0, 0, 0}, {1, 0, 0, 0, 0}, {0, 0, 0, 0, 1},
    };
    static const float TEMPERATURES[] = {0.0f, 1e-45f, 1.0f, INFINITY, NAN, -1.0f};
    for (size_t t = 0; t < sizeof TEMPERATURES / sizeof *TEMPERATURES; t++)
        for (uint32_t mode = 0; mode < 8; mode++) {
            struct sampler_options options = {.temperature = TEMPERATURES[t],
                                              .top_k = mode & 1 ? 2 : 0,
                                              .top_p = mode & 2 ? 0.9f : NAN,
                                              .min_p = mode & 4 ? 0.1f : NAN,
                                              .repetition_penalty = NAN,
                                              .seed = mode};
            struct sampler *sampler = create(options, 5);
            sampler_accept(sampler, 1);
            for (size_t i = 0; i < sizeof LOGITS / sizeof *LOGITS; i++) {
                uint32_t id = choose(sampler, LOGITS[i], 5);
                assert_true(id < 5);
                bool normal = TEMPERATURES[t] <= 1.0f;
                if (normal && !ALLOWED[i][id])
                    fail_msg("token %u of row %zu at temperature %g", id, i,
                             (double)TEMPERATURES[t]);
            }
            sampler_destroy(sampler);
        }
}

/* A vocabulary of real size against a sort: the kept set is the k best. */
static void large_vocabulary_keeps_the_k_best(void **state) {
    (void)state;
    enum { VOCABULARY = 129280, KEPT = 50 };
    float *logits = malloc(VOCABULARY * sizeof *logits), *copy = malloc(VOCABULARY * sizeof *copy);
    struct random random = {7};
    random_fill(&random, 0.5f, VOCABULARY, logits);
    struct sampler_options options = PLAIN;
    options.top_k = KEPT;
    struct sampler *sampler = create(options, VOCABULARY);
    for (int i = 0; i < 40; i++) {
        memcpy(copy, logits, VOCABULARY * sizeof *copy);
        uint32_t id = sampler_choose(sampler, copy);
        size_t better = 0;
        for (uint32_t j = 0; j < VOCABULARY; j++)
            better += logits[j] > logits[id];
        assert_true(better < KEPT);
    }
    sampler_destroy(sampler);
    free(logits);
    free(copy);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(temperature_zero_is_greedy),
        cmocka_unit_test(draws_follow_the_probabilities),
        cmocka_unit_test(temperature_sharpens_and_flattens),
        cmocka_unit_test(top_k_keeps_the_best),
        cmocka_unit_test(top_k_breaks_ties_by_id),
        cmocka_unit_test(top_p_keeps_the_smallest_set),
        cmocka_unit_test(min_p_is_relative_to_the_best),
        cmocka_unit_test(filters_apply_in_order),
        cmocka_unit_test(penalty_lowers_tokens_seen),
        cmocka_unit_test(seed_decides_the_draws),
        cmocka_unit_test(odd_logits_do_no_harm),
        cmocka_unit_test(large_vocabulary_keeps_the_k_best),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
