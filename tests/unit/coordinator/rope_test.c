/* Rotations against the formulas in double: both pairings, plain and YaRN, far positions. */
#include "tests/unit/test.h"

#include <math.h>

#include "coordinator/rope.h"
#include "tests/unit/random.h"

#define DIMS 16u

static void expect_rotation(const struct model_shape *shape, const double *frequencies,
                            double magnitude, uint32_t position) {
    struct rope *rope;
    struct random random = {position};
    float x[DIMS], got[DIMS];
    random_fill(&random, 1, DIMS, x);
    memcpy(got, x, sizeof x);
    assert_int_equal(rope_create(shape, 4, &rope), STATUS_OK);
    struct batch_segment segment = {0, position - 2, 0, 3};
    struct batch batch = {NULL, 3, &segment, 1, 0};
    rope_begin(rope, &batch);
    rope_rotate(rope, 2, got);
    for (uint32_t i = 0; i < DIMS / 2; i++) {
        bool consecutive = shape->rope_consecutive;
        uint32_t a = consecutive ? 2 * i : i, b = consecutive ? 2 * i + 1 : i + DIMS / 2;
        double angle = position * frequencies[i];
        double first = (x[a] * cos(angle) - x[b] * sin(angle)) * magnitude;
        double second = (x[a] * sin(angle) + x[b] * cos(angle)) * magnitude;
        assert_true(fabs(first - got[a]) < 1e-6 && fabs(second - got[b]) < 1e-6);
    }
    rope_destroy(rope);
}

static void plain_frequencies(double theta, double *out) {
    for (uint32_t i = 0; i < DIMS / 2; i++)
        out[i] = pow(theta, -2.0 * i / DIMS);
}

static void test_plain(void **state) {
    (void)state;
    struct model_shape heads = {
        .attention = ATTENTION_MULTI_HEAD, .head_dim = DIMS, .rope = {.theta = 10000}};
    struct model_shape latent = {.attention = ATTENTION_LATENT,
                                 .rope_dim = DIMS,
                                 .nope_dim = 48,
                                 .rope = {.theta = 50000},
                                 .rope_consecutive = true};
    struct model_shape permuted = heads;
    permuted.rope_consecutive = true;
    double frequencies[DIMS / 2];
    const uint32_t positions[] = {2, 3, 100, 131071};
    for (size_t i = 0; i < sizeof positions / sizeof *positions; i++) {
        plain_frequencies(10000, frequencies);
        expect_rotation(&heads, frequencies, 1, positions[i]);
        expect_rotation(&permuted, frequencies, 1, positions[i]);
        plain_frequencies(50000, frequencies);
        expect_rotation(&latent, frequencies, 1, positions[i]);
    }
    assert_true(fabsf(rope_score_scale(&heads) - 0.25f) < 1e-7f);
    assert_true(fabsf(rope_score_scale(&latent) - 0.125f) < 1e-7f);
}

/* Worked by hand for d = 16, theta = 10000, L = 4096, factor 40, beta 32 and 1: corr(32) = 2.62 and
 * corr(1) = 5.63, so the ramp runs from 2 to 6. */
static void test_yarn(void **state) {
    (void)state;
    struct model_shape shape = {.attention = ATTENTION_LATENT,
                                .rope_dim = DIMS,
                                .nope_dim = 48,
                                .rope = {10000, true, 40, 4096, 32, 1, 0.707, 1.0},
                                .rope_consecutive = true};
    const double ramp[DIMS / 2] = {0, 0, 0, 0.25, 0.5, 0.75, 1, 1};
    double frequencies[DIMS / 2];
    plain_frequencies(10000, frequencies);
    for (uint32_t i = 0; i < DIMS / 2; i++)
        frequencies[i] *= ramp[i] / 40 + 1 - ramp[i];
    double m = 0.1 * 0.707 * log(40) + 1, m_all = 0.1 * log(40) + 1;
    expect_rotation(&shape, frequencies, m / m_all, 7);
    expect_rotation(&shape, frequencies, m / m_all, 5000);
    assert_true(fabs(rope_score_scale(&shape) - 0.125 * m_all * m_all) < 1e-6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_yarn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
