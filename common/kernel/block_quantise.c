/* Every block is first brought to magnitudes of at most one by a power of two, which is exact and
 * keeps squares in range. Then a search: for a candidate scale each value takes its nearest level,
 * and for these levels the best scale has a closed form (least squares), so what is left to search
 * is how far the levels reach beyond the extreme values or fall short of them. The K formats round
 * the scales found for their groups to integers; afterwards each group tries the neighbouring
 * integers, and the block's own scales are fitted to all levels at once. Errors are always measured
 * with the scales as they are stored.
 *
 * The loops are compiled for reassociated sums (see CMakeLists.txt), so that plain ones vectorise.
 */
#include "common/kernel/block_quantise.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "common/kernel/block_formats.h"
#include "common/kernel/half.h"

/* Blocks whose largest magnitude is below this become zeros: a scale would need to be under
 * 2^-26, where f16 ends. */
#define MAGNITUDE_MIN 0x1p-24f
/* The largest power of two whose inverse is a normal f32, too. */
#define EXPONENT_MAX 126

static float largest_magnitude(const float *x, int count) {
    float largest = 0;
    for (int i = 0; i < count; i++) {
        float magnitude = fabsf(x[i]);
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

/* A block whose largest magnitude is in [1/2, 1), or up to 4 at the end of f32's range. */
struct block {
    float y[256];
    float unit; /* x = y * unit, a power of two */
};

/* False: the block is to be zeros. */
static bool normalise(const float *x, int count, struct block *out) {
    float largest = largest_magnitude(x, count);
    if (largest < MAGNITUDE_MIN)
        return false;
    int exponent;
    frexpf(largest, &exponent);
    exponent = exponent < EXPONENT_MAX ? exponent : EXPONENT_MAX;
    float factor = ldexpf(1, -exponent);
    for (int i = 0; i < count; i++)
        out->y[i] = x[i] * factor;
    out->unit = ldexpf(1, exponent);
    return true;
}

/* Rounds a scale of normalised values to what f16 stores; returns what it is then. */
static float store_scale(float scale, const struct block *block, uint16_t *bits) {
    *bits = f16_from_f32(scale * block->unit);
    return f32_from_f16(*bits) / block->unit;
}

/* The same for a scale that is multiplied by integers up to an end: where f16 has few digits left,
 * it is rounded up, as smaller integers are better than ones beyond the end. */
static float store_block_scale(float scale, const struct block *block, uint16_t *bits) {
    float stored = store_scale(scale, block, bits);
    if (fabsf(stored) >= fabsf(scale) * (1 - 1.0f / 128) || (*bits & 0x7fff) == 0x7bff)
        return stored;
    *bits = (uint16_t)((*bits | (scale < 0 ? 0x8000 : 0)) + 1);
    return f32_from_f16(*bits) / block->unit;
}

/* ---- One scale, levels around zero. */

struct levels {
    int low, high;
};

struct sums {
    float xq, qq, q;
};

static inline float clamp(float value, float low, float high) {
    value = value < low ? low : value;
    return value > high ? high : value;
}

/* Nearest level of each y * inverse. */
static inline int level_of(float y, float inverse, struct levels levels) {
    return (int)(clamp(y * inverse, (float)levels.low, (float)levels.high) + 0.5f -
                 (float)levels.low) +
           levels.low;
}

static struct sums sum_levels(const float *y, int count, float inverse, struct levels levels) {
    float xq = 0, qq = 0;
    for (int i = 0; i < count; i++) {
        float q = (float)level_of(y[i], inverse, levels);
        xq += y[i] * q;
        qq += q * q;
    }
    return (struct sums){.xq = xq, .qq = qq};
}

static float error_with_scale(const float *y, int count, float scale, struct levels levels) {
    float inverse = scale != 0 ? 1 / scale : 0, error = 0;
    for (int i = 0; i < count; i++) {
        float difference = y[i] - scale * (float)level_of(y[i], inverse, levels);
        error += difference * difference;
    }
    return error;
}

/* The scale with the least error; 0 for zeros. The extreme value is put at the end of the range
 * that has one level more, and a little inside of or beyond it; then at the other end. */
static float fit_scale(const float *y, int count, struct levels levels, float step) {
    float extreme = 0;
    for (int i = 0; i < count; i++)
        extreme = fabsf(y[i]) > fabsf(extreme) ? y[i] : extreme;
    if (extreme == 0)
        return 0;
    float best = 0, best_gain = 0;
    for (int k = -6; k <= 6; k++) {
        for (int end = 0; end < 2; end++) {
            if (end && (k < -2 || k > 2))
                continue;
            float reach = (float)(end ? levels.high : levels.low);
            reach += (reach < 0 ? -step : step) * (float)k;
            struct sums sums = sum_levels(y, count, reach / extreme, levels);
            float gain = sums.qq > 0 ? sums.xq * sums.xq / sums.qq : 0;
            if (gain > best_gain) {
                best_gain = gain;
                best = sums.xq / sums.qq;
            }
        }
    }
    for (int i = 0; i < 2 && best != 0; i++) {
        struct sums sums = sum_levels(y, count, 1 / best, levels);
        if (sums.qq > 0 && sums.xq * sums.xq / sums.qq > best_gain) {
            best_gain = sums.xq * sums.xq / sums.qq;
            best = sums.xq / sums.qq;
        }
    }
    return best;
}

/* Stores the scale, or the better fit that the rounded one leads to; writes the levels. */
static uint16_t choose_levels(const struct block *block, float scale, struct levels levels,
                              int *q) {
    uint16_t bits, refined_bits = 0;
    scale = store_scale(scale, block, &bits);
    struct sums sums = sum_levels(block->y, 32, scale != 0 ? 1 / scale : 0, levels);
    float refined = sums.qq > 0 ? store_scale(sums.xq / sums.qq, block, &refined_bits) : scale;
    if (refined != scale && error_with_scale(block->y, 32, refined, levels) <
                                error_with_scale(block->y, 32, scale, levels)) {
        scale = refined;
        bits = refined_bits;
    }
    float inverse = scale != 0 ? 1 / scale : 0;
    for (int i = 0; i < 32; i++)
        q[i] = level_of(block->y[i], inverse, levels);
    return bits;
}

static void quantise_q4_0(const float *x, struct block_q4_0 *out) {
    static const struct levels LEVELS = {-8, 7};
    struct block block;
    int q[32] = {0};
    out->scale = 0;
    if (normalise(x, 32, &block))
        out->scale = choose_levels(&block, fit_scale(block.y, 32, LEVELS, 0.2f), LEVELS, q);
    for (int i = 0; i < 16; i++)
        out->nibbles[i] = (uint8_t)((q[i] + 8) | (q[i + 16] + 8) << 4);
}

/* Puts the fifth bits of 32 levels from 0 to 31. */
static void pack_fives(const int *q, uint8_t fifth_bits[4], uint8_t nibbles[16]) {
    memset(fifth_bits, 0, 4);
    for (int i = 0; i < 32; i++)
        fifth_bits[i / 8] |= (uint8_t)(q[i] >> 4 << i % 8);
    for (int i = 0; i < 16; i++)
        nibbles[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

static void quantise_q5_0(const float *x, struct block_q5_0 *out) {
    static const struct levels LEVELS = {-16, 15};
    struct block block;
    int q[32] = {0};
    out->scale = 0;
    if (normalise(x, 32, &block))
        out->scale = choose_levels(&block, fit_scale(block.y, 32, LEVELS, 0.25f), LEVELS, q);
    for (int i = 0; i < 32; i++)
        q[i] += 16;
    pack_fives(q, out->fifth_bits, out->nibbles);
}

/* With so many levels nothing is gained by cutting off the extreme. */
static void quantise_q8_0(const float *x, struct block_q8_0 *out) {
    static const struct levels LEVELS = {-127, 127};
    struct block block;
    int q[32] = {0};
    out->scale = 0;
    if (normalise(x, 32, &block))
        out->scale = choose_levels(&block, largest_magnitude(block.y, 32) / 127, LEVELS, q);
    for (int i = 0; i < 32; i++)
        out->values[i] = (int8_t)q[i];
}

/* ---- A scale and an offset, levels from zero. */

struct line {
    float scale, offset; /* y = q * scale + offset */
};

static inline int line_level(float y, float offset, float inverse, float top) {
    return (int)(clamp((y - offset) * inverse, 0, top) + 0.5f);
}

static struct sums sum_line(const float *y, int count, float offset, float inverse, float top) {
    float xq = 0, qq = 0, q_sum = 0;
    for (int i = 0; i < count; i++) {
        float q = (float)line_level(y[i], offset, inverse, top);
        xq += y[i] * q;
        qq += q * q;
        q_sum += q;
    }
    return (struct sums){.xq = xq, .qq = qq, .q = q_sum};
}

static float sum_values(const float *y, int count) {
    float sum = 0;
    for (int i = 0; i < count; i++)
        sum += y[i];
    return sum;
}

static float error_with_line(const float *y, int count, struct line line, float top) {
    float inverse = line.scale != 0 ? 1 / line.scale : 0, error = 0;
    for (int i = 0; i < count; i++) {
        float q = (float)line_level(y[i], line.offset, inverse, top);
        float difference = y[i] - line.scale * q - line.offset;
        error += difference * difference;
    }
    return error;
}

/* The best line for the levels that `sums` were taken of; offsets above zero are not allowed where
 * `negative`. Returns how much of the sum of squares it explains, and below zero for a line that
 * cannot be stored. */
static float solve_line(const struct sums *sums, float x_sum, int count, bool negative,
                        struct line *out) {
    float n = (float)count, determinant = n * sums->qq - sums->q * sums->q;
    if (determinant <= 0)
        return -1;
    out->scale = (n * sums->xq - x_sum * sums->q) / determinant;
    out->offset = (sums->qq * x_sum - sums->q * sums->xq) / determinant;
    if (negative && out->offset > 0) {
        out->offset = 0;
        out->scale = sums->xq / sums->qq;
    }
    if (out->scale <= 0)
        return -1;
    return out->scale * sums->xq + out->offset * x_sum;
}

static struct line fit_line(const float *y, int count, int top_level, bool negative, float step) {
    float low = y[0], high = y[0], x_sum = 0, top = (float)top_level;
    for (int i = 0; i < count; i++) {
        low = y[i] < low ? y[i] : low;
        high = y[i] > high ? y[i] : high;
        x_sum += y[i];
    }
    if (negative && low > 0)
        low = 0;
    if (high <= low)
        return (struct line){0, low};
    struct line best = {(high - low) / top, low}, line;
    float best_gain = -1;
    for (int k = -6; k <= 6; k++) {
        float inverse = (top + step * (float)k) / (high - low), offset = low;
        for (int round = 0; round < 2; round++) {
            struct sums sums = sum_line(y, count, offset, inverse, top);
            float gain = solve_line(&sums, x_sum, count, negative, &line);
            if (gain < 0)
                break;
            if (gain > best_gain) {
                best_gain = gain;
                best = line;
            }
            offset = line.offset;
            inverse = 1 / line.scale;
        }
    }
    return best;
}

static void quantise_q5_1(const float *x, struct block_q5_1 *out) {
    struct block block;
    int q[32] = {0};
    out->scale = out->minimum = 0;
    if (normalise(x, 32, &block)) {
        struct line line = fit_line(block.y, 32, 31, false, 0.25f);
        line.scale = store_scale(line.scale, &block, &out->scale);
        float inverse = line.scale != 0 ? 1 / line.scale : 0;
        /* The offset that suits the scale as it is now. */
        struct sums sums = sum_line(block.y, 32, line.offset, inverse, 31);
        float offset = (sum_values(block.y, 32) - line.scale * sums.q) / 32;
        line.offset = store_scale(offset, &block, &out->minimum);
        for (int i = 0; i < 32; i++)
            q[i] = line_level(block.y[i], line.offset, inverse, 31);
    }
    pack_fives(q, out->fifth_bits, out->nibbles);
}

/* ---- Q4_K and Q5_K: eight groups of 32, each a line with integer scale and offset. */

struct lines {
    uint16_t scale_bits, minimum_bits;
    float scale, minimum; /* of the block, as stored */
    int small_scale[8], small_minimum[8];
};

static struct line group_line(const struct lines *lines, int group) {
    return (struct line){lines->scale * (float)lines->small_scale[group],
                         -lines->minimum * (float)lines->small_minimum[group]};
}

static float error_of_lines(const struct block *block, const struct lines *lines, float top) {
    float error = 0;
    for (int group = 0; group < 8; group++)
        error += error_with_line(block->y + 32 * group, 32, group_line(lines, group), top);
    return error;
}

static int nearest_integer(float value, int low, int high) {
    return (int)lrintf(clamp(value, (float)low, (float)high));
}

/* Tries the neighbouring scales of a group, each with the offset that suits it. */
static void refine_group(const float *y, struct lines *lines, int group, float top) {
    int best_scale = lines->small_scale[group], best_minimum = lines->small_minimum[group];
    int middle = best_scale;
    float best = error_with_line(y, 32, group_line(lines, group), top);
    float x_sum = sum_values(y, 32);
    for (int scale = middle - 1; scale <= middle + 1; scale++) {
        if (scale < 1 || scale > 63 || lines->scale <= 0)
            continue;
        lines->small_scale[group] = scale;
        lines->small_minimum[group] = best_minimum;
        struct line line = group_line(lines, group);
        struct sums sums = sum_line(y, 32, line.offset, 1 / line.scale, top);
        float minimum = (line.scale * sums.q - x_sum) / 32;
        int nearest = lines->minimum > 0 ? nearest_integer(minimum / lines->minimum, 0, 63) : 0;
        for (int small = nearest > 0 ? nearest - 1 : 0; small <= nearest + 1 && small < 64;
             small++) {
            lines->small_minimum[group] = small;
            float error = error_with_line(y, 32, group_line(lines, group), top);
            if (error < best) {
                best = error;
                best_scale = scale;
                best_minimum = small;
            }
        }
    }
    lines->small_scale[group] = best_scale;
    lines->small_minimum[group] = best_minimum;
}

/* Fits the block's two scales to the levels of all groups. */
static void refit_block(const struct block *block, struct lines *lines, float top) {
    float ss = 0, sm = 0, mm = 0, xs = 0, xm = 0;
    for (int group = 0; group < 8; group++) {
        const float *y = block->y + 32 * group;
        struct line line = group_line(lines, group);
        float scale = (float)lines->small_scale[group], m = (float)lines->small_minimum[group];
        struct sums sums = sum_line(y, 32, line.offset, line.scale > 0 ? 1 / line.scale : 0, top);
        ss += scale * scale * sums.qq;
        sm += scale * m * sums.q;
        mm += 32 * m * m;
        xs += scale * sums.xq;
        xm += m * sum_values(y, 32);
    }
    float determinant = ss * mm - sm * sm;
    struct lines refitted = *lines;
    float scale = ss > 0 ? xs / ss : lines->scale, minimum = lines->minimum;
    if (determinant > 0) {
        scale = (xs * mm - xm * sm) / determinant;
        minimum = (xs * sm - xm * ss) / determinant;
    }
    if (scale <= 0 || minimum < 0)
        return;
    refitted.scale = store_scale(scale, block, &refitted.scale_bits);
    refitted.minimum = store_scale(minimum, block, &refitted.minimum_bits);
    if (error_of_lines(block, &refitted, top) < error_of_lines(block, lines, top))
        *lines = refitted;
}

static void fit_lines(const struct block *block, int top_level, float step, struct lines *out) {
    struct line found[8];
    float top = (float)top_level, scale = 0, minimum = 0;
    for (int group = 0; group < 8; group++) {
        found[group] = fit_line(block->y + 32 * group, 32, top_level, true, step);
        scale = found[group].scale > scale ? found[group].scale : scale;
        minimum = -found[group].offset > minimum ? -found[group].offset : minimum;
    }
    out->scale = store_block_scale(scale / 63, block, &out->scale_bits);
    out->minimum = store_block_scale(minimum / 63, block, &out->minimum_bits);
    for (int group = 0; group < 8; group++) {
        out->small_scale[group] =
            out->scale > 0 ? nearest_integer(found[group].scale / out->scale, 0, 63) : 0;
        out->small_minimum[group] =
            out->minimum > 0 ? nearest_integer(-found[group].offset / out->minimum, 0, 63) : 0;
    }
    for (int round = 0; round < 2; round++) {
        for (int group = 0; group < 8; group++)
            refine_group(block->y + 32 * group, out, group, top);
        refit_block(block, out, top);
    }
}

/* The eight scales and minimums of six bits, see unpack_scales in block_expand.h. */
static void pack_scales(const struct lines *lines, uint8_t out[12]) {
    const int *scale = lines->small_scale, *minimum = lines->small_minimum;
    for (int i = 0; i < 4; i++) {
        out[i] = (uint8_t)(scale[i] | scale[i + 4] >> 4 << 6);
        out[i + 4] = (uint8_t)(minimum[i] | minimum[i + 4] >> 4 << 6);
        out[i + 8] = (uint8_t)((scale[i + 4] & 15) | (minimum[i + 4] & 15) << 4);
    }
}

/* What Q4_K and Q5_K share; the 256 levels go to `q`. All zeros for a block of zeros. */
static void quantise_lines(const float *x, int top_level, float step, struct lines *lines,
                           uint8_t q[256]) {
    struct block block;
    memset(lines, 0, sizeof *lines);
    memset(q, 0, 256);
    if (!normalise(x, 256, &block))
        return;
    fit_lines(&block, top_level, step, lines);
    for (int group = 0; group < 8; group++) {
        struct line line = group_line(lines, group);
        float inverse = line.scale > 0 ? 1 / line.scale : 0;
        for (int i = 32 * group; i < 32 * group + 32; i++)
            q[i] = (uint8_t)line_level(block.y[i], line.offset, inverse, (float)top_level);
    }
}

static void quantise_q4_k(const float *x, struct block_q4_k *out) {
    struct lines lines;
    uint8_t q[256];
    quantise_lines(x, 15, 0.2f, &lines, q);
    out->scale = lines.scale_bits;
    out->minimum = lines.minimum_bits;
    pack_scales(&lines, out->scales);
    for (int i = 0; i < 128; i++) {
        const uint8_t *pair = q + i / 32 * 64 + i % 32;
        out->nibbles[i] = (uint8_t)(pair[0] | pair[32] << 4);
    }
}

static void quantise_q5_k(const float *x, struct block_q5_k *out) {
    struct lines lines;
    uint8_t q[256];
    quantise_lines(x, 31, 0.25f, &lines, q);
    out->scale = lines.scale_bits;
    out->minimum = lines.minimum_bits;
    pack_scales(&lines, out->scales);
    memset(out->fifth_bits, 0, sizeof out->fifth_bits);
    for (int i = 0; i < 256; i++)
        out->fifth_bits[i % 32] |= (uint8_t)(q[i] >> 4 << i / 32);
    for (int i = 0; i < 128; i++) {
        const uint8_t *pair = q + i / 32 * 64 + i % 32;
        out->nibbles[i] = (uint8_t)((pair[0] & 15) | (pair[32] & 15) << 4);
    }
}

/* ---- Q6_K: sixteen groups of 16, each with an integer scale. */

static const struct levels LEVELS_Q6 = {-32, 31};

struct scales {
    uint16_t bits;
    float scale; /* of the block, as stored */
    int small[16];
};

static float error_of_scales(const struct block *block, const struct scales *scales) {
    float error = 0;
    for (int group = 0; group < 16; group++)
        error += error_with_scale(block->y + 16 * group, 16,
                                  scales->scale * (float)scales->small[group], LEVELS_Q6);
    return error;
}

static void refine_scale(const float *y, struct scales *scales, int group) {
    int middle = scales->small[group], best_scale = middle;
    float best = FLT_MAX;
    for (int small = middle - 1; small <= middle + 1; small++) {
        if (small < -128 || small > 127)
            continue;
        float error = error_with_scale(y, 16, scales->scale * (float)small, LEVELS_Q6);
        if (error < best) {
            best = error;
            best_scale = small;
        }
    }
    scales->small[group] = best_scale;
}

static void refit_scale(const struct block *block, struct scales *scales) {
    float xq = 0, qq = 0;
    for (int group = 0; group < 16; group++) {
        float small = (float)scales->small[group], scale = scales->scale * small;
        struct sums sums =
            sum_levels(block->y + 16 * group, 16, scale != 0 ? 1 / scale : 0, LEVELS_Q6);
        xq += small * sums.xq;
        qq += small * small * sums.qq;
    }
    if (qq <= 0)
        return;
    struct scales refitted = *scales;
    refitted.scale = store_scale(xq / qq, block, &refitted.bits);
    if (error_of_scales(block, &refitted) < error_of_scales(block, scales))
        *scales = refitted;
}

static void fit_scales(const struct block *block, struct scales *out) {
    float found[16], largest = 0;
    for (int group = 0; group < 16; group++) {
        found[group] = fit_scale(block->y + 16 * group, 16, LEVELS_Q6, 0.25f);
        largest = fabsf(found[group]) > fabsf(largest) ? found[group] : largest;
    }
    /* The largest becomes -128, the one number more that there is. */
    out->scale = store_block_scale(largest / -128, block, &out->bits);
    for (int group = 0; group < 16; group++)
        out->small[group] =
            out->scale != 0 ? nearest_integer(found[group] / out->scale, -128, 127) : 0;
    for (int round = 0; round < 2; round++) {
        for (int group = 0; group < 16; group++)
            refine_scale(block->y + 16 * group, out, group);
        refit_scale(block, out);
    }
}

static void quantise_q6_k(const float *x, struct block_q6_k *out) {
    struct block block;
    struct scales scales = {0};
    int q[256] = {0};
    if (normalise(x, 256, &block)) {
        fit_scales(&block, &scales);
        for (int i = 0; i < 256; i++) {
            float scale = scales.scale * (float)scales.small[i / 16];
            q[i] = level_of(block.y[i], scale != 0 ? 1 / scale : 0, LEVELS_Q6);
        }
    }
    out->scale = scales.bits;
    memset(out->nibbles, 0, sizeof out->nibbles);
    memset(out->pairs, 0, sizeof out->pairs);
    for (int group = 0; group < 16; group++) {
        int quarter = group % 8 / 2, start = group % 2 * 16;
        uint8_t *nibbles = out->nibbles + group / 8 * 64 + quarter % 2 * 32 + start;
        uint8_t *pairs = out->pairs + group / 8 * 32 + start;
        out->scales[group] = (int8_t)scales.small[group];
        for (int i = 0; i < 16; i++) {
            int value = q[16 * group + i] + 32;
            nibbles[i] |= (uint8_t)((value & 15) << quarter / 2 * 4);
            pairs[i] |= (uint8_t)(value >> 4 << quarter * 2);
        }
    }
}

/* ---- The whole. */

static void round_f16(const float *x, size_t count, uint16_t *out) {
    for (size_t i = 0; i < count; i++)
        out[i] = f16_from_f32(x[i]);
}

static void round_bf16(const float *x, size_t count, uint16_t *out) {
    for (size_t i = 0; i < count; i++)
        out[i] = bf16_from_f32(x[i]);
}

#define QUANTISE_BLOCKS(NAME, WIDTH)                                                               \
    do {                                                                                           \
        struct block_##NAME *block = out;                                                          \
        for (size_t at = 0; at < count; at += WIDTH)                                               \
            quantise_##NAME(x + at, block++);                                                      \
    } while (0)

bool block_quantise_has(enum weight_format format) {
    static const bool HAS[WEIGHT_FORMAT_COUNT] = {
        [WEIGHT_F32] = true,  [WEIGHT_F16] = true,  [WEIGHT_BF16] = true, [WEIGHT_Q4_0] = true,
        [WEIGHT_Q5_0] = true, [WEIGHT_Q5_1] = true, [WEIGHT_Q8_0] = true, [WEIGHT_Q4_K] = true,
        [WEIGHT_Q5_K] = true, [WEIGHT_Q6_K] = true,
    };
    return HAS[format];
}

void block_quantise(enum weight_format format, const float *x, size_t count, void *out) {
    switch (format) {
    case WEIGHT_F16:
        round_f16(x, count, out);
        break;
    case WEIGHT_BF16:
        round_bf16(x, count, out);
        break;
    case WEIGHT_Q4_0:
        QUANTISE_BLOCKS(q4_0, 32);
        break;
    case WEIGHT_Q5_0:
        QUANTISE_BLOCKS(q5_0, 32);
        break;
    case WEIGHT_Q5_1:
        QUANTISE_BLOCKS(q5_1, 32);
        break;
    case WEIGHT_Q8_0:
        QUANTISE_BLOCKS(q8_0, 32);
        break;
    case WEIGHT_Q4_K:
        QUANTISE_BLOCKS(q4_k, 256);
        break;
    case WEIGHT_Q5_K:
        QUANTISE_BLOCKS(q5_k, 256);
        break;
    case WEIGHT_Q6_K:
        QUANTISE_BLOCKS(q6_k, 256);
        break;
    default: /* F32 */
        memcpy(out, x, count * sizeof *x);
    }
}
