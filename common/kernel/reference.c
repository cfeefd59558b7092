/* The scalar reference: what every other variant is compared with, and what runs on processors
 * without one. Written for clarity; the compiler may vectorise it. */
#include <math.h>

#include "common/kernel/blocks.h"
#include "common/kernel/float_panel.h"
#include "common/kernel/half.h"
#include "common/kernel/panel_dot.h"
#include "common/kernel/variants.h"

#define DEFINE_FORMAT(NAME, TYPE, CONVERT)                                                         \
    static void expand_##NAME(const void *values, size_t count, float scale, float *out) {         \
        const TYPE *v = values;                                                                    \
        for (size_t i = 0; i < count; i++)                                                         \
            out[i] = CONVERT(v[i]) * scale;                                                        \
    }                                                                                              \
    static void add_##NAME(const void *values, size_t count, float scale, float *y) {              \
        const TYPE *v = values;                                                                    \
        for (size_t i = 0; i < count; i++)                                                         \
            y[i] += CONVERT(v[i]) * scale;                                                         \
    }                                                                                              \
    static float dot_##NAME(const void *values, const float *x, size_t count) {                    \
        const TYPE *v = values;                                                                    \
        float sum = 0;                                                                             \
        for (size_t i = 0; i < count; i++)                                                         \
            sum += CONVERT(v[i]) * x[i];                                                           \
        return sum;                                                                                \
    }

DEFINE_FORMAT(f32, float, )
DEFINE_FORMAT(f16, uint16_t, f32_from_f16)
DEFINE_FORMAT(bf16, uint16_t, f32_from_bf16)
DEFINE_FORMAT(fp8, uint8_t, f32_from_fp8)

static void add_scaled(float a, const float *x, size_t count, float *y) {
    add_f32(x, count, a, y);
}

static void swiglu(float *gate, const float *up, size_t count, float weight) {
    for (size_t i = 0; i < count; i++)
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i] * weight;
}

static void rms_norm(const float *x, const float *weight, size_t count, float epsilon, float *out) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)x[i] * x[i];
    float factor = (float)(1.0 / sqrt(sum / (double)count + epsilon));
    for (size_t i = 0; i < count; i++)
        out[i] = x[i] * factor * weight[i];
}

static float softmax_part(float *x, size_t count, float scale, float *best) {
    for (size_t i = 0; i < count; i++)
        *best = x[i] * scale > *best ? x[i] * scale : *best;
    float sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += x[i] = expf(x[i] * scale - *best);
    return sum;
}

static void softmax(float *x, size_t count) {
    float best = -INFINITY, sum = softmax_part(x, count, 1.0f, &best);
    for (size_t i = 0; i < count; i++)
        x[i] /= sum;
}

static void row_dots(const struct row_tile *rows, const float *x, size_t x_stride, size_t batch,
                     float *y, size_t y_stride) {
    for (size_t r = 0; r < batch; r++)
        for (size_t i = 0; i < rows->count; i++)
            y[r * y_stride + i] =
                dot_f32(rows->values + i * rows->stride, x + r * x_stride, rows->width);
}

static void row_sums(const struct row_tile *rows, const float *a, size_t a_stride, size_t batch,
                     float *y, size_t y_stride) {
    for (size_t r = 0; r < batch; r++)
        for (size_t i = 0; i < rows->count; i++)
            add_scaled(a[r * a_stride + i], rows->values + i * rows->stride, rows->width,
                       y + r * y_stride);
}

const struct kernel KERNEL_REFERENCE = {
    .name = "reference",
    .expand = {expand_f32, expand_f16, expand_bf16, expand_fp8, BLOCK_FORMATS(BLOCK_EXPAND_ENTRY)},
    .add = {add_f32, add_f16, add_bf16, add_fp8, BLOCK_FORMATS(BLOCK_ADD_ENTRY)},
    .dot = {dot_f32, dot_f16, dot_bf16, dot_fp8, BLOCK_FORMATS(BLOCK_DOT_ENTRY)},
    .panel_dot = {BLOCK_FORMATS(PANEL_DOT_ENTRY)},
    .float_panel_dot = {[WEIGHT_F32] = float_panel_dot_f32,
                        [WEIGHT_F16] = float_panel_dot_f16,
                        [WEIGHT_BF16] = float_panel_dot_bf16,
                        [WEIGHT_FP8_E4M3] = float_panel_dot_fp8},
    .quantise = panel_quantise,
    .add_scaled = add_scaled,
    .swiglu = swiglu,
    .rms_norm = rms_norm,
    .softmax = softmax,
    .softmax_part = softmax_part,
    .row_dots = row_dots,
    .row_sums = row_sums,
    .peak = &PEAK_REFERENCE,
};
