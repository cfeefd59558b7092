/* The kernel table written once over a vector type: each variant's file defines the macros below
 * for its instruction set and includes this file, which defines the functions and the table's
 * entries.
 *
 *   LANES             f32 values in a vector            VEC               the vector's type
 *   LOAD(p) STORE(p,v) SET(a) ZERO() ADD MUL DIV MIN MAX (a,b) FMA(a,b,c)
 *   SUM(v) BEST(v)    horizontal sum and maximum
 *   LOAD_F16(p) LOAD_BF16(p) LOAD_FP8(p)  LANES stored values as f32; FP8 still lacks FP8_FACTOR
 *   ROUND(v) POW2(v)  nearest integer; 2^v for integral v in [-126, 127]
 */
#include <math.h>
#include <string.h>

#include "common/kernel/blocks.h"
#include "common/kernel/variants.h"

#define LOAD_F32(p) LOAD(p)

/* A vector of whole numbers, read as volatile: gcc would fold the load into each instruction that
 * takes it, and groups of weights often lie across two cache lines. */
typedef long long unaligned_lanes __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
#define LOAD_ONCE(p) (*(const volatile unaligned_lanes *)(p))

/* Before a loop over constants whose arrays are meant to be registers. */
#define UNROLL _Pragma("GCC unroll 8")

/* E4M3 is read as an F16 of the same fields, whose exponent bias is larger by 8: the processor's
 * own conversion then takes care of subnormals, at full speed. */
#define FP8_FACTOR 0x1p8f

/* e^x in f32 to 2 units in the last place for x in [-87, 88] (clamped below): x = n ln2 + r, e^r by
 * a polynomial of degree 6 (Taylor terms suffice on |r| <= ln2 / 2), times 2^n. */
static inline VEC exp_lanes(VEC x) {
    x = MAX(x, SET(-87.0f));
    VEC n = ROUND(MUL(x, SET(1.44269504f)));
    VEC r = FMA(n, SET(-0.693359375f), x);
    r = FMA(n, SET(2.12194440e-4f), r);
    VEC p = SET(1.0f / 720);
    p = FMA(p, r, SET(1.0f / 120));
    p = FMA(p, r, SET(1.0f / 24));
    p = FMA(p, r, SET(1.0f / 6));
    p = FMA(p, r, SET(0.5f));
    p = FMA(p, r, SET(1.0f));
    p = FMA(p, r, SET(1.0f));
    return MUL(p, POW2(n));
}

/* Four accumulators hide the latency of the multiply-add; the tail goes through the reference. */
#define DEFINE_FORMAT(NAME, TYPE, LOAD_TYPE, INDEX, FACTOR)                                        \
    static void expand_##NAME(const void *values, size_t count, float scale, float *out) {         \
        const TYPE *v = values;                                                                    \
        VEC s = SET(scale * (FACTOR));                                                             \
        size_t i = 0;                                                                              \
        for (; i + LANES <= count; i += LANES)                                                     \
            STORE(out + i, MUL(LOAD_TYPE(v + i), s));                                              \
        KERNEL_REFERENCE.expand[INDEX](v + i, count - i, scale, out + i);                          \
    }                                                                                              \
    static void add_##NAME(const void *values, size_t count, float scale, float *y) {              \
        const TYPE *v = values;                                                                    \
        VEC s = SET(scale * (FACTOR));                                                             \
        size_t i = 0;                                                                              \
        for (; i + LANES <= count; i += LANES)                                                     \
            STORE(y + i, FMA(LOAD_TYPE(v + i), s, LOAD(y + i)));                                   \
        KERNEL_REFERENCE.add[INDEX](v + i, count - i, scale, y + i);                               \
    }                                                                                              \
    static float dot_##NAME(const void *values, const float *x, size_t count) {                    \
        const TYPE *v = values;                                                                    \
        VEC a = ZERO(), b = ZERO(), c = ZERO(), d = ZERO();                                        \
        size_t i = 0;                                                                              \
        for (; i + 4 * LANES <= count; i += 4 * LANES) {                                           \
            a = FMA(LOAD_TYPE(v + i), LOAD(x + i), a);                                             \
            b = FMA(LOAD_TYPE(v + i + LANES), LOAD(x + i + LANES), b);                             \
            c = FMA(LOAD_TYPE(v + i + 2 * LANES), LOAD(x + i + 2 * LANES), c);                     \
            d = FMA(LOAD_TYPE(v + i + 3 * LANES), LOAD(x + i + 3 * LANES), d);                     \
        }                                                                                          \
        for (; i + LANES <= count; i += LANES)                                                     \
            a = FMA(LOAD_TYPE(v + i), LOAD(x + i), a);                                             \
        return SUM(ADD(ADD(a, b), ADD(c, d))) * (FACTOR) +                                         \
               KERNEL_REFERENCE.dot[INDEX](v + i, x + i, count - i);                               \
    }

DEFINE_FORMAT(f32, float, LOAD_F32, WEIGHT_F32, 1.0f)
DEFINE_FORMAT(f16, uint16_t, LOAD_F16, WEIGHT_F16, 1.0f)
DEFINE_FORMAT(bf16, uint16_t, LOAD_BF16, WEIGHT_BF16, 1.0f)
DEFINE_FORMAT(fp8, uint8_t, LOAD_FP8, WEIGHT_FP8_E4M3, FP8_FACTOR)

/* The block formats, see block_simd.h. */
#define SIMD_EXPAND_ENTRY(FORMAT, NAME) [WEIGHT_##FORMAT] = expand_##NAME,
#define SIMD_ADD_ENTRY(FORMAT, NAME)    [WEIGHT_##FORMAT] = add_##NAME,
#define SIMD_DOT_ENTRY(FORMAT, NAME)    [WEIGHT_##FORMAT] = dot_block_##NAME,

static void add_scaled(float a, const float *x, size_t count, float *y) {
    add_f32(x, count, a, y);
}

static void swiglu(float *gate, const float *up, size_t count, float weight) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        VEC g = LOAD(gate + i);
        /* Clamped where e^-g would overflow: there the product is below 1e-36, 0 for all purposes.
         */
        VEC sigmoid =
            DIV(SET(1.0f), ADD(SET(1.0f), exp_lanes(MIN(MUL(g, SET(-1.0f)), SET(87.0f)))));
        STORE(gate + i, MUL(MUL(MUL(g, sigmoid), LOAD(up + i)), SET(weight)));
    }
    KERNEL_REFERENCE.swiglu(gate + i, up + i, count - i, weight);
}

static void rms_norm(const float *x, const float *weight, size_t count, float epsilon, float *out) {
    VEC a = ZERO(), b = ZERO();
    size_t i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES) {
        a = FMA(LOAD(x + i), LOAD(x + i), a);
        b = FMA(LOAD(x + i + LANES), LOAD(x + i + LANES), b);
    }
    double sum = (double)SUM(ADD(a, b));
    for (; i < count; i++)
        sum += (double)x[i] * x[i];
    float factor = (float)(1.0 / sqrt(sum / (double)count + epsilon));
    i = 0;
    for (; i + LANES <= count; i += LANES)
        STORE(out + i, MUL(MUL(LOAD(x + i), SET(factor)), LOAD(weight + i)));
    for (; i < count; i++)
        out[i] = x[i] * factor * weight[i];
}

static float largest(const float *x, size_t count) {
    float best = x[0];
    size_t i = 0;
    if (count >= LANES) {
        VEC top = LOAD(x);
        for (i = LANES; i + LANES <= count; i += LANES)
            top = MAX(top, LOAD(x + i));
        best = BEST(top);
    }
    for (; i < count; i++)
        best = x[i] > best ? x[i] : best;
    return best;
}

static float softmax_part(float *x, size_t count, float scale, float *best) {
    float top = largest(x, count) * scale, sum = 0;
    *best = top > *best ? top : *best;
    VEC total = ZERO();
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        VEC e = exp_lanes(ADD(MUL(LOAD(x + i), SET(scale)), SET(-*best)));
        STORE(x + i, e);
        total = ADD(total, e);
    }
    for (; i < count; i++)
        sum += x[i] = expf(x[i] * scale - *best);
    return sum + SUM(total);
}

static void softmax(float *x, size_t count) {
    float best = -INFINITY, factor = 1.0f / softmax_part(x, count, 1.0f, &best);
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        STORE(x + i, MUL(LOAD(x + i), SET(factor)));
    for (; i < count; i++)
        x[i] *= factor;
}

#include "common/kernel/rows_simd.h"

/* Further entries may follow. */
#define TABLE(NAME, PEAK, ...)                                                                     \
    {                                                                                              \
        .name = NAME,                                                                              \
        .expand = {expand_f32, expand_f16, expand_bf16, expand_fp8,                                \
                   BLOCK_FORMATS(SIMD_EXPAND_ENTRY)},                                              \
        .add = {add_f32, add_f16, add_bf16, add_fp8, BLOCK_FORMATS(SIMD_ADD_ENTRY)},               \
        .dot = {dot_f32, dot_f16, dot_bf16, dot_fp8, BLOCK_FORMATS(SIMD_DOT_ENTRY)},               \
        .panel_dot = {BLOCK_FORMATS(SIMD_PANEL_ENTRY)},                                            \
        .float_panel_dot = {[WEIGHT_F32] = float_dot_f32,                                          \
                            [WEIGHT_F16] = float_dot_f16,                                          \
                            [WEIGHT_BF16] = float_dot_bf16,                                        \
                            [WEIGHT_FP8_E4M3] = float_dot_fp8},                                    \
        .quantise = quantise, .add_scaled = add_scaled, .swiglu = swiglu, .rms_norm = rms_norm,    \
        .softmax = softmax, .softmax_part = softmax_part, .row_dots = row_dots,                    \
        .row_sums = row_sums, .peak = &(PEAK), __VA_ARGS__                                         \
    }
