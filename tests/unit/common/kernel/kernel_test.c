/* Every kernel variant against the scalar reference, over odd sizes and unaligned starts. One
 * tolerance: 1e-5 relative to the sum of magnitudes, which is what f32 sums in another order may
 * differ by. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/kernel/kernel.h"
#include "common/log.h"
#include "tests/unit/common/kernel/blocks.h"

#define COUNT_MAX 1300
#define TOLERANCE 1e-5

static const size_t SIZES[] = {1,  2,  3,  7,  8,   9,   15,  16,   17,  31,
                               33, 63, 64, 65, 100, 127, 129, 1000, 1030};

static uint32_t random_state = 12345;

static uint32_t random_bits(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static float random_value(void) {
    return (float)(random_bits() % 20001) / 10000.0f - 1.0f;
}

/* Bytes of the smallest piece that a vector of this format can start with. */
static size_t piece_bytes(int format) {
    return weight_row_bytes((enum weight_format)format, 1);
}

/* `size` values, or in a format with blocks as many whole ones as hold them. */
static size_t whole_blocks(int format, size_t size) {
    size_t block = weight_is_blocked(format) ? weight_block(format) : 1;
    return (size + block - 1) / block * block;
}

/* Random stored values: every finite bit pattern of the small formats, plain floats for F32, sane
 * scales in blocks. */
static void fill_values(int format, void *out, size_t count) {
    if (weight_is_blocked(format)) {
        block_fill(random_bits, (enum weight_format)format, count, out);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (format == WEIGHT_F32) {
            ((float *)out)[i] = random_value();
        } else if (format == WEIGHT_FP8_E4M3) {
            uint8_t byte = (uint8_t)random_bits();
            ((uint8_t *)out)[i] = (byte & 0x7f) == 0x7f ? 0 : byte;
        } else {
            uint16_t half = (uint16_t)random_bits();
            bool wild = format == WEIGHT_F16 ? (half & 0x7c00) == 0x7c00 : (half & 0x4000) != 0;
            ((uint16_t *)out)[i] = wild ? (uint16_t)(half & 0x8fff) : half;
        }
    }
}

static size_t variants(const struct kernel **out) {
    size_t count = kernel_list(out, 8);
    assert_true(count >= 1);
    return count;
}

static void test_expand_is_exact(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t count = variants(list);
    static uint8_t values[COUNT_MAX * 4 + 1024];
    static float want[COUNT_MAX], got[COUNT_MAX + 1];
    for (int format = 0; format < WEIGHT_FORMAT_COUNT; format++)
        for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++)
            for (size_t shift = 0; shift < 3; shift++)
                for (size_t v = 1; v < count; v++) {
                    uint8_t *start = values + shift * piece_bytes(format);
                    size_t size = whole_blocks(format, SIZES[s]);
                    fill_values(format, start, size);
                    list[0]->expand[format](start, size, 0.37f, want);
                    got[size] = 99;
                    list[v]->expand[format](start, size, 0.37f, got);
                    assert_memory_equal(want, got, size * sizeof(float));
                    assert_true(got[size] == 99);
                }
}

static void test_dot_agrees(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t count = variants(list);
    static uint8_t values[COUNT_MAX * 4 + 1024];
    static float x[COUNT_MAX], expanded[COUNT_MAX];
    for (int format = 0; format < WEIGHT_FORMAT_COUNT; format++)
        for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++)
            for (size_t shift = 0; shift < 3; shift++)
                for (size_t v = 0; v < count; v++) {
                    uint8_t *start = values + shift * piece_bytes(format);
                    size_t size = whole_blocks(format, SIZES[s]);
                    fill_values(format, start, size);
                    list[0]->expand[format](start, size, 1.0f, expanded);
                    double sum = 0, magnitude = 0;
                    for (size_t i = 0; i < size; i++) {
                        x[i] = random_value();
                        sum += (double)expanded[i] * x[i];
                        magnitude += fabs((double)expanded[i] * x[i]);
                    }
                    double got = list[v]->dot[format](start, x, size);
                    if (!(fabs(got - sum) <= TOLERANCE * magnitude))
                        fail_msg("%s dot %s of %zu: %g, expected %g", list[v]->name,
                                 weight_format_name((enum weight_format)format), size, got, sum);
                }
}

static void check_close(const char *what, const struct kernel *kernel, const float *want,
                        const float *got, size_t count, float magnitude) {
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(want[i] - got[i]) <= (float)TOLERANCE * (magnitude + fabsf(want[i]))))
            fail_msg("%s %s[%zu of %zu]: %g, expected %g", kernel->name, what, i, count,
                     (double)got[i], (double)want[i]);
}

static void test_vectors_agree(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t count = variants(list);
    static float a[COUNT_MAX], b[COUNT_MAX], want[COUNT_MAX], got[COUNT_MAX];
    for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++)
        for (size_t v = 1; v < count; v++) {
            size_t n = SIZES[s];
            for (size_t i = 0; i < n; i++) {
                a[i] = random_value() * 100;
                b[i] = random_value();
            }
            memcpy(want, a, n * sizeof *a);
            memcpy(got, a, n * sizeof *a);
            list[0]->add_scaled(0.7f, b, n, want);
            list[v]->add_scaled(0.7f, b, n, got);
            check_close("add_scaled", list[v], want, got, n, 100);
            memcpy(want, a, n * sizeof *a);
            memcpy(got, a, n * sizeof *a);
            list[0]->swiglu(want, b, n, 0.3f);
            list[v]->swiglu(got, b, n, 0.3f);
            check_close("swiglu", list[v], want, got, n, 1);
            list[0]->rms_norm(a, b, n, 1e-6f, want);
            list[v]->rms_norm(a, b, n, 1e-6f, got);
            check_close("rms_norm", list[v], want, got, n, 0);
            memcpy(want, a, n * sizeof *a);
            memcpy(got, a, n * sizeof *a);
            list[0]->softmax(want, n);
            list[v]->softmax(got, n);
            check_close("softmax", list[v], want, got, n, 1e-3f);
        }
}

/* Parts of a softmax, with what came before below and above them. */
static void test_softmax_parts(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t count = variants(list);
    static float x[COUNT_MAX], got[COUNT_MAX], want[COUNT_MAX];
    for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++)
        for (size_t v = 0; v < count; v++)
            for (int before = 0; before < 3; before++) {
                size_t n = SIZES[s];
                float best = before == 0 ? -INFINITY : before == 1 ? -40 : 40, largest = best;
                double sum = 0;
                for (size_t i = 0; i < n; i++) {
                    got[i] = x[i] = random_value() * 100;
                    largest = x[i] * 0.3f > largest ? x[i] * 0.3f : largest;
                }
                for (size_t i = 0; i < n; i++) {
                    want[i] = (float)exp((double)(x[i] * 0.3f) - (double)largest);
                    sum += (double)want[i];
                }
                double got_sum = (double)list[v]->softmax_part(got, n, 0.3f, &best);
                assert_true(best == largest);
                check_close("softmax_part", list[v], want, got, n, 1e-3f);
                assert_true(fabs(got_sum - sum) <= TOLERANCE * (sum + 1e-3));
            }
}

/* Products with rows, for every remainder of rows, columns and batch; y has gaps that stay. */
static void check_rows(const struct kernel *kernel, size_t rows, size_t width, size_t batch) {
    enum { STRIDE = 41, ROWS = 12, BATCH = 19 };
    static float values[ROWS * STRIDE + 1], x[BATCH * STRIDE], y[BATCH * STRIDE];
    const struct row_tile tile = {values + 1, STRIDE, rows, width};
    for (size_t i = 0; i < ROWS * STRIDE; i++)
        values[i + 1] = random_value();
    for (size_t i = 0; i < BATCH * STRIDE; i++)
        x[i] = random_value();
    for (int transposed = 0; transposed < 2; transposed++) {
        size_t outputs = transposed ? width : rows, inputs = transposed ? rows : width;
        for (size_t i = 0; i < BATCH * STRIDE; i++)
            y[i] = 0.5f;
        if (transposed)
            kernel->row_sums(&tile, x, STRIDE, batch, y, STRIDE);
        else
            kernel->row_dots(&tile, x, STRIDE, batch, y, STRIDE);
        for (size_t r = 0; r < BATCH; r++)
            for (size_t o = 0; o < STRIDE; o++) {
                bool is_output = r < batch && o < outputs;
                double want = is_output && !transposed ? 0 : 0.5, magnitude = fabs(want);
                for (size_t i = 0; is_output && i < inputs; i++) {
                    float value = tile.values[transposed ? i * STRIDE + o : o * STRIDE + i];
                    want += (double)value * x[r * STRIDE + i];
                    magnitude += fabs((double)value * x[r * STRIDE + i]);
                }
                if (!(fabs((double)y[r * STRIDE + o] - want) <= TOLERANCE * magnitude))
                    fail_msg("%s, %zu rows of %zu, batch %zu, transposed %d: y[%zu][%zu] is %g, "
                             "expected %g",
                             kernel->name, rows, width, batch, transposed, r, o,
                             (double)y[r * STRIDE + o], want);
            }
    }
}

static void test_rows(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t count = variants(list);
    const size_t widths[] = {1, 7, 8, 16, 31, 40}, batches[] = {1, 2, 4, 5, 8, 11, 19};
    for (size_t v = 0; v < count; v++)
        for (size_t rows = 1; rows <= 12; rows++)
            for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
                for (size_t b = 0; b < sizeof batches / sizeof *batches; b++)
                    check_rows(list[v], rows, widths[w], batches[b]);
}

static void test_known_values(void **state) {
    (void)state;
    const struct kernel *reference = kernel_get();
    const uint8_t fp8[] = {0x00, 0x01, 0x08, 0x38, 0x7e, 0xfe, 0xb8};
    const float fp8_want[] = {0, 0x1p-9f, 0x1p-6f, 1, 448, -448, -1};
    const uint16_t f16[] = {0x3c00, 0x0001, 0xc000, 0x7bff, 0x8000};
    const float f16_want[] = {1, 0x1p-24f, -2, 65504, -0.0f};
    float out[8];
    reference->expand[WEIGHT_FP8_E4M3](fp8, 7, 1, out);
    assert_memory_equal(out, fp8_want, sizeof fp8_want);
    reference->expand[WEIGHT_F16](f16, 5, 1, out);
    assert_memory_equal(out, f16_want, sizeof f16_want);
}

static void test_select_by_name(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t count = variants(list);
    for (size_t v = 0; v < count; v++) {
        assert_int_equal(kernel_select(list[v]->name), STATUS_OK);
        assert_ptr_equal(kernel_get(), list[v]);
    }
    assert_int_equal(kernel_select("auto"), STATUS_OK);
    assert_ptr_equal(kernel_get(), list[count - 1]);
    char *text = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&text, &bytes);
    log_init("test", LOG_DEBUG, stream);
    assert_int_equal(kernel_select("z80"), STATUS_UNSUPPORTED);
    fclose(stream);
    log_init("test", LOG_ERROR, NULL);
    assert_non_null(strstr(text, "--isa z80: this processor has auto, reference"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_values),   cmocka_unit_test(test_expand_is_exact),
        cmocka_unit_test(test_dot_agrees),     cmocka_unit_test(test_vectors_agree),
        cmocka_unit_test(test_softmax_parts),  cmocka_unit_test(test_rows),
        cmocka_unit_test(test_select_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
