/* Each format through block_quantise and back through the kernels' expand: the error on random
 * weights against stated bounds and against a quantiser that only scales, values that a format can
 * hold exactly, and the ends of the range. */
#include "common/kernel/block_quantise.h"

#include "tests/unit/test.h"

#include <float.h>
#include <math.h>

#include "common/kernel/kernel.h"
#include "tests/unit/random.h"

#define COUNT 65536

/* Normal, by the sum of twelve uniform numbers; cut off at six. */
static float random_normal(struct random *random) {
    float sum = 0;
    for (int i = 0; i < 12; i++)
        sum += random_float(random, 0.5f);
    return sum;
}

static void quantise_and_expand(enum weight_format format, const float *x, size_t count,
                                float *out) {
    uint8_t *blocks = malloc(weight_row_bytes(format, (uint32_t)count));
    block_quantise(format, x, count, blocks);
    kernel_get()->expand[format](blocks, count, 1, out);
    free(blocks);
}

/* Sum of squared errors over sum of squares. */
static double relative_error(const float *x, const float *y, size_t count) {
    double error = 0, sum = 0;
    for (size_t i = 0; i < count; i++) {
        error += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        sum += (double)x[i] * (double)x[i];
    }
    return error / sum;
}

/* What scaling alone gives: in groups of `width`, levels from the least to the greatest value, or
 * from zero to both sides, with scales that are not even rounded. */
static double naive_error(const float *x, size_t count, size_t width, int steps, bool line) {
    float *y = malloc(count * sizeof *y);
    for (size_t at = 0; at < count; at += width) {
        float low = x[at], high = x[at], extreme = 0;
        for (size_t i = at; i < at + width; i++) {
            low = fminf(low, x[i]);
            high = fmaxf(high, x[i]);
            extreme = fabsf(x[i]) > fabsf(extreme) ? x[i] : extreme;
        }
        float scale = line ? (high - low) / (float)steps : extreme / -(float)((steps + 1) / 2);
        float offset = line ? low : 0;
        for (size_t i = at; i < at + width; i++) {
            float q = rintf((x[i] - offset) / scale);
            if (!line)
                q = fminf(q, (float)(steps / 2));
            y[i] = q * scale + offset;
        }
    }
    double error = relative_error(x, y, count);
    free(y);
    return error;
}

/* `bound` is for normal numbers. */
static const struct {
    enum weight_format format;
    double bound;
    size_t width;
    int steps;
    bool line;
} FORMATS[] = {
    {WEIGHT_Q4_0, 6.7e-3, 32, 15, false}, {WEIGHT_Q5_0, 1.65e-3, 32, 31, false},
    {WEIGHT_Q5_1, 1.15e-3, 32, 31, true}, {WEIGHT_Q8_0, 2.9e-5, 32, 255, false},
    {WEIGHT_Q4_K, 5.0e-3, 32, 15, true},  {WEIGHT_Q5_K, 1.22e-3, 32, 31, true},
    {WEIGHT_Q6_K, 3.0e-4, 16, 63, false},
};

#define FORMAT_COUNT (sizeof FORMATS / sizeof *FORMATS)

static void test_error_on_normal_weights(void **state) {
    (void)state;
    struct random random = {7};
    float *x = malloc(COUNT * sizeof *x), *y = malloc(COUNT * sizeof *y);
    for (size_t i = 0; i < COUNT; i++)
        x[i] = 0.02f * random_normal(&random);
    for (size_t f = 0; f < FORMAT_COUNT; f++) {
        quantise_and_expand(FORMATS[f].format, x, COUNT, y);
        double error = relative_error(x, y, COUNT);
        double naive = naive_error(x, COUNT, FORMATS[f].width, FORMATS[f].steps, FORMATS[f].line);
        if (error > FORMATS[f].bound || error >= naive)
            fail_msg("%s: error %.3e, bound %.3e, naive %.3e",
                     weight_format_name(FORMATS[f].format), error, FORMATS[f].bound, naive);
    }
    free(x);
    free(y);
}

/* Outliers, one sign only, rows of different magnitude: worse for all, but never worse than naive.
 */
static void test_error_on_awkward_weights(void **state) {
    (void)state;
    struct random random = {8};
    float *x = malloc(COUNT * sizeof *x), *y = malloc(COUNT * sizeof *y);
    for (size_t i = 0; i < COUNT; i++) {
        float value = random_normal(&random);
        switch (i / 4096 % 4) {
        case 0:
            x[i] = value * value * value;
            break;
        case 1:
            x[i] = fabsf(value) * 1e-3f;
            break;
        case 2:
            x[i] = -1 - 0.1f * value;
            break;
        default:
            x[i] = i % 37 ? 0 : value;
        }
    }
    for (size_t f = 0; f < FORMAT_COUNT; f++) {
        quantise_and_expand(FORMATS[f].format, x, COUNT, y);
        double error = relative_error(x, y, COUNT);
        /* Rounded scales and Q4_K's lack of positive offsets cost what the naive one does not pay.
         */
        bool offsets = FORMATS[f].format == WEIGHT_Q4_K || FORMATS[f].format == WEIGHT_Q5_K;
        double naive = naive_error(x, COUNT, FORMATS[f].width, FORMATS[f].steps, FORMATS[f].line);
        if (error > naive * (offsets ? 1.1 : 1.0))
            fail_msg("%s: error %.3e, naive %.3e", weight_format_name(FORMATS[f].format), error,
                     naive);
    }
    free(x);
    free(y);
}

/* Blocks that a format can hold: levels that reach both ends in each group, scales that are f16. */
static void make_exact(enum weight_format format, struct random *random, float *x) {
    float scale = 0x1.4cp-9f; /* f16 */
    for (int group = 0; group < 16; group++) {
        for (int i = 0; i < 16; i++) {
            float *out = &x[16 * group + i];
            bool first = i == 0 && group % 2 == 0, second = i == 1 && group % 2 == 0;
            int small = 63 - group / 2 * 4, minimum = 63 - group / 2 * 3;
            switch (format) {
            case WEIGHT_Q4_0:
                *out = scale * (float)(first ? -8 : (int)random_below(random, 16) - 8);
                break;
            case WEIGHT_Q5_0:
                *out = scale * (float)(first ? -16 : (int)random_below(random, 32) - 16);
                break;
            case WEIGHT_Q8_0:
                *out = scale * (float)(first ? 127 : (int)random_below(random, 255) - 127);
                break;
            case WEIGHT_Q5_1:
                *out = scale * (float)(first    ? 0
                                       : second ? 31
                                                : (int)random_below(random, 32)) -
                       0x1.8p-6f;
                break;
            case WEIGHT_Q6_K:
                small = 127 - 3 * group;
                *out = scale * (float)-small *
                       (float)(i == 0 ? -32 : (int)random_below(random, 64) - 32);
                if (group == 0)
                    *out =
                        scale * -128 * (float)(i == 0 ? -32 : (int)random_below(random, 64) - 32);
                break;
            default: { /* Q4_K, Q5_K */
                int top = format == WEIGHT_Q4_K ? 15 : 31;
                int q = first ? 0 : second ? top : (int)random_below(random, (uint32_t)top + 1);
                *out = scale * (float)(small * q) - 0x1.6p-7f * (float)minimum;
            }
            }
        }
    }
}

static void test_exact_blocks(void **state) {
    (void)state;
    struct random random = {9};
    for (size_t f = 0; f < FORMAT_COUNT; f++) {
        for (int repeat = 0; repeat < 50; repeat++) {
            float x[256], y[256];
            make_exact(FORMATS[f].format, &random, x);
            quantise_and_expand(FORMATS[f].format, x, 256, y);
            for (int i = 0; i < 256; i++)
                if (x[i] != y[i])
                    fail_msg("%s[%d]: %.9g instead of %.9g", weight_format_name(FORMATS[f].format),
                             i, (double)y[i], (double)x[i]);
        }
    }
}

static void test_floats(void **state) {
    (void)state;
    const float x[4] = {1, -0x1.02p-3f, 1.00390625f, -3.14159274f};
    float y[4];
    quantise_and_expand(WEIGHT_F32, x, 4, y);
    assert_memory_equal(x, y, sizeof x);
    quantise_and_expand(WEIGHT_F16, x, 4, y);
    assert_true(y[0] == x[0] && y[1] == x[1] && y[2] == x[2] && y[3] == -3.140625f);
    quantise_and_expand(WEIGHT_BF16, x, 4, y);
    assert_true(y[0] == x[0] && y[1] == x[1] && y[2] == 1 && y[3] == -3.140625f);
}

static void test_zeros(void **state) {
    (void)state;
    float x[256] = {0}, y[256];
    for (size_t f = 0; f < FORMAT_COUNT; f++) {
        memset(y, 1, sizeof y);
        quantise_and_expand(FORMATS[f].format, x, 256, y);
        for (int i = 0; i < 256; i++)
            assert_true(y[i] == 0);
    }
}

/* Every power of ten from denormal numbers to the largest: the result is finite and, as far as f16
 * scales reach, near. */
static void test_magnitudes(void **state) {
    (void)state;
    struct random random = {10};
    for (size_t f = 0; f < FORMAT_COUNT; f++) {
        for (int exponent = -44; exponent <= 38; exponent++) {
            float x[256], y[256];
            for (int i = 0; i < 256; i++)
                x[i] = random_float(&random, 1) * (float)pow(10, exponent);
            quantise_and_expand(FORMATS[f].format, x, 256, y);
            for (int i = 0; i < 256; i++)
                assert_true(isfinite(y[i]));
            double error = relative_error(x, y, 256);
            bool reachable = exponent >= -3 && exponent <= 4;
            if (error > (reachable ? 8e-3 : 1.01))
                fail_msg("%s at 1e%d: error %.3e", weight_format_name(FORMATS[f].format), exponent,
                         error);
        }
    }
}

/* What would need a scale above 65504 saturates, with its sign. */
static void test_saturation(void **state) {
    (void)state;
    float x[256] = {0}, y[256];
    x[3] = -FLT_MAX;
    x[250] = FLT_MAX;
    for (size_t f = 0; f < FORMAT_COUNT; f++) {
        quantise_and_expand(FORMATS[f].format, x, 256, y);
        assert_true(isfinite(y[3]) && isfinite(y[250]));
        assert_true(y[3] < 0);
        assert_true(y[250] > 0);
    }
}

static void test_formats(void **state) {
    (void)state;
    assert_true(block_quantise_has(WEIGHT_BF16));
    assert_true(block_quantise_has(WEIGHT_Q5_1));
    assert_false(block_quantise_has(WEIGHT_FP8_E4M3));
    assert_false(block_quantise_has(WEIGHT_Q3_K));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_on_normal_weights),
        cmocka_unit_test(test_error_on_awkward_weights),
        cmocka_unit_test(test_exact_blocks),
        cmocka_unit_test(test_floats),
        cmocka_unit_test(test_zeros),
        cmocka_unit_test(test_magnitudes),
        cmocka_unit_test(test_saturation),
        cmocka_unit_test(test_formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
