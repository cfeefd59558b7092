/* Frequencies are formed in double as models are trained with exact tables: an f32 product of a
 * position of 100,000 and a frequency is off by thousandths of a turn. */
#include "coordinator/rope.h"

#include <math.h>
#include <stdlib.h>

#include "common/arena.h"

struct rope {
    struct arena *arena;
    uint32_t pairs;       /* half the rotated dimensions */
    bool consecutive;     /* pairs (2i, 2i + 1), else (i, i + pairs) */
    float magnitude;      /* factor on cosine and sine */
    double *frequencies;  /* (pairs), radians per position */
    float *cosine, *sine; /* (rows_max, pairs) */
};

static double yarn_m(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/* The dimension at which a wavelength makes `turns` turns over the original context. */
static double yarn_dimension(const struct rope_shape *shape, double dims, double turns) {
    return dims * log(shape->original_positions / (turns * 2 * M_PI)) / (2 * log(shape->theta));
}

/* Long wavelengths are stretched by the factor, short ones kept, with a ramp between. */
static void stretch_frequencies(const struct rope_shape *shape, double *frequencies,
                                uint32_t pairs) {
    double dims = 2.0 * pairs;
    double low = fmax(floor(yarn_dimension(shape, dims, shape->beta_fast)), 0);
    double high = fmin(ceil(yarn_dimension(shape, dims, shape->beta_slow)), dims - 1);
    if (low == high)
        high += 0.001;
    for (uint32_t i = 0; i < pairs; i++) {
        double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        frequencies[i] = frequencies[i] / shape->factor * ramp + frequencies[i] * (1 - ramp);
    }
}

enum status rope_create(const struct model_shape *shape, uint32_t rows_max, struct rope **out) {
    struct rope *rope = calloc(1, sizeof *rope);
    if (!rope || !(rope->arena = arena_create(0)))
        goto err_memory;
    bool latent = shape->attention == ATTENTION_LATENT;
    uint32_t dims = latent ? shape->rope_dim : shape->head_dim;
    rope->pairs = dims / 2;
    rope->consecutive = shape->rope_consecutive;
    rope->frequencies = arena_take(rope->arena, rope->pairs, sizeof *rope->frequencies);
    rope->cosine = arena_take(rope->arena, (size_t)rows_max * rope->pairs, sizeof(float));
    rope->sine = arena_take(rope->arena, (size_t)rows_max * rope->pairs, sizeof(float));
    if (!rope->frequencies || !rope->cosine || !rope->sine)
        goto err_memory;
    for (uint32_t i = 0; i < rope->pairs; i++)
        rope->frequencies[i] = pow(shape->rope.theta, -2.0 * i / dims);
    rope->magnitude = 1;
    if (shape->rope.yarn) {
        stretch_frequencies(&shape->rope, rope->frequencies, rope->pairs);
        rope->magnitude = (float)(yarn_m(shape->rope.factor, shape->rope.mscale) /
                                  yarn_m(shape->rope.factor, shape->rope.mscale_all_dim));
    }
    *out = rope;
    return STATUS_OK;
err_memory:
    rope_destroy(rope);
    return STATUS_NO_MEMORY;
}

void rope_destroy(struct rope *rope) {
    if (!rope)
        return;
    arena_destroy(rope->arena);
    free(rope);
}

void rope_begin(struct rope *rope, const struct batch *batch) {
    for (uint32_t s = 0; s < batch->segment_count; s++) {
        const struct batch_segment *segment = &batch->segments[s];
        for (uint32_t r = 0; r < segment->rows; r++) {
            float *cosine = rope->cosine + (size_t)(segment->row + r) * rope->pairs;
            float *sine = rope->sine + (size_t)(segment->row + r) * rope->pairs;
            for (uint32_t i = 0; i < rope->pairs; i++) {
                double angle = (double)(segment->position + r) * rope->frequencies[i];
                cosine[i] = (float)cos(angle) * rope->magnitude;
                sine[i] = (float)sin(angle) * rope->magnitude;
            }
        }
    }
}

void rope_rotate(const struct rope *rope, uint32_t row, float *x) {
    const float *cosine = rope->cosine + (size_t)row * rope->pairs;
    const float *sine = rope->sine + (size_t)row * rope->pairs;
    uint32_t step = rope->consecutive ? 2 : 1;
    float *first = x, *second = rope->consecutive ? x + 1 : x + rope->pairs;
    for (uint32_t i = 0; i < rope->pairs; i++) {
        float a = first[i * step], b = second[i * step];
        first[i * step] = a * cosine[i] - b * sine[i];
        second[i * step] = a * sine[i] + b * cosine[i];
    }
}

float rope_score_scale(const struct model_shape *shape) {
    if (shape->attention == ATTENTION_MULTI_HEAD)
        return (float)(1 / sqrt(shape->head_dim));
    double scale = 1 / sqrt((double)shape->nope_dim + shape->rope_dim);
    if (shape->rope.yarn && shape->rope.mscale_all_dim != 0) {
        double m = yarn_m(shape->rope.factor, shape->rope.mscale_all_dim);
        scale *= m * m;
    }
    return (float)scale;
}
