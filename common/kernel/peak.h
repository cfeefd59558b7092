/* What an instruction set can do at most: loops that read or multiply and do nothing else, against
 * which the real ones are measured. Each kernel's table points to its own; used by `bench`. All
 * functions are pure and thread-safe. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is multiplied. Sums are f32, or int32 for INT8. */
enum peak_unit { PEAK_F32, PEAK_BF16, PEAK_INT8, PEAK_UNIT_COUNT };

/* A multiplier of the processor, kept busy out of registers. */
struct peak_multiplier {
    enum peak_unit unit;
    /* Whether this processor has it; NULL: it comes with the instruction set. */
    bool (*is_present)(void);
    /* Of one round; a multiplication and the addition that follows it count as two. */
    uint32_t operations;
    /* Adds up products of ones: the result is rounds * operations / 2, as long as each lane's sum
     * is exact (rounds up to 2^20). */
    double (*run)(size_t rounds);
};

struct peak {
    /* The sum of `count` values, a multiple of 128, through plain loads of the widest kind. What
     * lies `ahead_bytes` farther on, 0 for nothing, is asked for into the second cache. */
    float (*read)(const float *values, size_t count, size_t ahead_bytes);
    const struct peak_multiplier *multipliers; /* (multiplier_count) */
    size_t multiplier_count;
};
