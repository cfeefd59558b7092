/* Operations on rows and vectors, over odd sizes and unaligned starts. */
#include "tests/kernel/harness.h"

#include <math.h>

#define COUNT_MAX 1300

static const size_t SIZES[] = {1,  2,  3,  7,  8,   9,   15,  16,   17,  31,
                               33, 63, 64, 65, 100, 127, 129, 1000, 1030};
#define SIZE_COUNT (sizeof SIZES / sizeof *SIZES)

/* `size` values, or in a format with blocks as many whole ones as hold them. */
static size_t whole_blocks(enum weight_format format, size_t size) {
    size_t block = weight_is_blocked(format) ? weight_block(format) : 1;
    return (size + block - 1) / block * block;
}

/* Stored values that start at every alignment their pieces can have. */
struct stored {
    enum weight_format format;
    size_t count;
    const uint8_t *values;
};

/* Calls check(random, variant, stored) for all variants, formats, sizes and starts. */
static void for_all_stored(void (*check)(struct random *, const struct kernel *,
                                         const struct stored *)) {
    static uint8_t values[COUNT_MAX * 4 + 1024];
    const struct kernel *list[VARIANTS_MAX];
    size_t variants = kernel_list(list, VARIANTS_MAX);
    struct random random = {12345};
    for (int f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        for (size_t s = 0; s < SIZE_COUNT; s++)
            for (size_t shift = 0; shift < 3; shift++) {
                enum weight_format format = (enum weight_format)f;
                uint8_t *start = values + shift * weight_row_bytes(format, 1);
                const struct stored stored = {format, whole_blocks(format, SIZES[s]), start};
                weights_fill(&random, format, stored.count, start);
                for (size_t v = 0; v < variants; v++)
                    check(&random, list[v], &stored);
            }
}

static void expand_exactly(struct random *random, const struct kernel *kernel,
                           const struct stored *s) {
    (void)random;
    static float want[COUNT_MAX], got[COUNT_MAX + 1];
    kernel_get()->expand[s->format](s->values, s->count, 0.37f, want);
    got[s->count] = 99;
    kernel->expand[s->format](s->values, s->count, 0.37f, got);
    assert_memory_equal(want, got, s->count * sizeof(float));
    assert_true(got[s->count] == 99);
}

void check_expand(void **state) {
    (void)state;
    for_all_stored(expand_exactly);
}

/* Added twice, to values of both signs. */
static void compare_add(struct random *random, const struct kernel *kernel,
                        const struct stored *s) {
    static float expanded[COUNT_MAX], before[COUNT_MAX], got[COUNT_MAX + 1];
    kernel_get()->expand[s->format](s->values, s->count, 1, expanded);
    random_fill(random, 1, s->count, before);
    memcpy(got, before, s->count * sizeof(float));
    got[s->count] = 99;
    kernel->add[s->format](s->values, s->count, 0.37f, got);
    kernel->add[s->format](s->values, s->count, -1.9f, got);
    for (size_t i = 0; i < s->count; i++) {
        double first = (double)expanded[i] * (double)0.37f;
        double second = (double)expanded[i] * (double)-1.9f;
        double magnitude = fabs((double)before[i]) + fabs(first) + fabs(second);
        double want = (double)before[i] + first + second;
        if (!(fabs((double)got[i] - want) <= TOLERANCE * magnitude))
            fail_msg("%s add %s [%zu of %zu]: %g, expected %g", kernel->name,
                     weight_format_name(s->format), i, s->count, (double)got[i], want);
    }
    assert_true(got[s->count] == 99);
}

void check_add(void **state) {
    (void)state;
    for_all_stored(compare_add);
}

static void compare_dot(struct random *random, const struct kernel *kernel,
                        const struct stored *s) {
    static float x[COUNT_MAX], expanded[COUNT_MAX];
    double sum = 0, magnitude = 0;
    kernel_get()->expand[s->format](s->values, s->count, 1, expanded);
    random_fill(random, 1, s->count, x);
    for (size_t i = 0; i < s->count; i++) {
        sum += (double)expanded[i] * (double)x[i];
        magnitude += fabs((double)expanded[i] * (double)x[i]);
    }
    double got = (double)kernel->dot[s->format](s->values, x, s->count);
    if (!(fabs(got - sum) <= TOLERANCE * magnitude))
        fail_msg("%s dot %s of %zu: %g, expected %g", kernel->name, weight_format_name(s->format),
                 s->count, got, sum);
}

void check_dot(void **state) {
    (void)state;
    for_all_stored(compare_dot);
}

static void compare(const char *what, const struct kernel *kernel, const float *want,
                    const float *got, size_t count, float magnitude) {
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(want[i] - got[i]) <= (float)TOLERANCE * (magnitude + fabsf(want[i]))))
            fail_msg("%s %s[%zu of %zu]: %g, expected %g", kernel->name, what, i, count,
                     (double)got[i], (double)want[i]);
}

/* a in [-100, 100], b in [-1, 1]. */
static void compare_vectors(const struct kernel *kernel, const float *a, const float *b, size_t n) {
    static float want[COUNT_MAX], got[COUNT_MAX];
    memcpy(want, a, n * sizeof *a);
    memcpy(got, a, n * sizeof *a);
    kernel_get()->add_scaled(0.7f, b, n, want);
    kernel->add_scaled(0.7f, b, n, got);
    compare("add_scaled", kernel, want, got, n, 100);
    memcpy(want, a, n * sizeof *a);
    memcpy(got, a, n * sizeof *a);
    kernel_get()->swiglu(want, b, n, 0.3f);
    kernel->swiglu(got, b, n, 0.3f);
    compare("swiglu", kernel, want, got, n, 1);
    kernel_get()->rms_norm(a, b, n, 1e-6f, want);
    kernel->rms_norm(a, b, n, 1e-6f, got);
    compare("rms_norm", kernel, want, got, n, 0);
    memcpy(got, a, n * sizeof *a);
    kernel->rms_norm(got, b, n, 1e-6f, got);
    compare("rms_norm in place", kernel, want, got, n, 0);
    memcpy(want, a, n * sizeof *a);
    memcpy(got, a, n * sizeof *a);
    kernel_get()->softmax(want, n);
    kernel->softmax(got, n);
    compare("softmax", kernel, want, got, n, 1e-3f);
}

void check_vectors(void **state) {
    (void)state;
    static float a[COUNT_MAX], b[COUNT_MAX];
    const struct kernel *list[VARIANTS_MAX];
    size_t variants = kernel_list(list, VARIANTS_MAX);
    struct random random = {77};
    for (size_t s = 0; s < SIZE_COUNT; s++)
        for (size_t v = 1; v < variants; v++)
            for (size_t shift = 0; shift < 2; shift++) {
                random_fill(&random, 100, SIZES[s], a + shift);
                random_fill(&random, 1, SIZES[s], b + shift);
                compare_vectors(list[v], a + shift, b + shift, SIZES[s]);
            }
}
