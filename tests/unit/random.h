/* Reproducible numbers for tests. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct random {
    uint64_t state;
};

static inline uint32_t random_bits(struct random *random) {
    random->state = random->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random->state >> 33);
}

static inline uint32_t random_below(struct random *random, uint32_t bound) {
    return random_bits(random) % bound;
}

/* Uniform in [-scale, scale]. */
static inline float random_float(struct random *random, float scale) {
    return ((float)random_bits(random) / 1073741824.0f - 1.0f) * scale;
}

static inline void random_fill(struct random *random, float scale, size_t count, float *out) {
    for (size_t i = 0; i < count; i++)
        out[i] = random_float(random, scale);
}
