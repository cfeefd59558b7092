/* The loops of peak.h, written once over a vector type: each variant's file defines LANES, VEC,
 * LOAD, SET, ADD, FMA and SUM as for simd.h and includes this file.
 *
 * Ten independent sums keep two multipliers busy whose results take four or five cycles, and leave
 * registers for the operands. What sums start from is read from a volatile variable each time: the
 * compiler would otherwise see that all sums are one and the same. */
#include "common/kernel/peak.h"

#define PEAK_SUMS 10u

/* double NAME(rounds): in each round sum = STEP(sum, a, b) for ten sums of type TYPE, with a and b
 * of type OPERAND. ATTRIBUTE names instructions beyond those the file is compiled for. */
#define DEFINE_MULTIPLIER(NAME, ATTRIBUTE, TYPE, START, OPERAND, ONES, STEP, TOTAL)                \
    ATTRIBUTE static double NAME(size_t rounds) {                                                  \
        volatile int zero = 0, one = 1;                                                            \
        TYPE s0 = START(zero), s1 = START(zero), s2 = START(zero), s3 = START(zero);               \
        TYPE s4 = START(zero), s5 = START(zero), s6 = START(zero), s7 = START(zero);               \
        TYPE s8 = START(zero), s9 = START(zero);                                                   \
        OPERAND a = ONES(one), b = ONES(one);                                                      \
        for (size_t round = 0; round < rounds; round++) {                                          \
            s0 = STEP(s0, a, b);                                                                   \
            s1 = STEP(s1, a, b);                                                                   \
            s2 = STEP(s2, a, b);                                                                   \
            s3 = STEP(s3, a, b);                                                                   \
            s4 = STEP(s4, a, b);                                                                   \
            s5 = STEP(s5, a, b);                                                                   \
            s6 = STEP(s6, a, b);                                                                   \
            s7 = STEP(s7, a, b);                                                                   \
            s8 = STEP(s8, a, b);                                                                   \
            s9 = STEP(s9, a, b);                                                                   \
        }                                                                                          \
        return TOTAL(s0) + TOTAL(s1) + TOTAL(s2) + TOTAL(s3) + TOTAL(s4) + TOTAL(s5) + TOTAL(s6) + \
               TOTAL(s7) + TOTAL(s8) + TOTAL(s9);                                                  \
    }

#define START_F32(zero)     SET((float)(zero))
#define ONES_F32(one)       SET((float)(one))
#define STEP_F32(sum, a, b) FMA(a, b, sum)
#define TOTAL_F32(sum)      (double)SUM(sum)

DEFINE_MULTIPLIER(multiply_f32, , VEC, START_F32, VEC, ONES_F32, STEP_F32, TOTAL_F32)

#define MULTIPLIER_F32                                                                             \
    { PEAK_F32, NULL, 2 * LANES *PEAK_SUMS, multiply_f32 }

/* Eight loads are under way at a time, each sum waits for its own. */
static float read_values(const float *values, size_t count, size_t ahead_bytes) {
    VEC s0 = SET(0), s1 = SET(0), s2 = SET(0), s3 = SET(0);
    VEC s4 = SET(0), s5 = SET(0), s6 = SET(0), s7 = SET(0);
    for (size_t i = 0; i < count; i += 8 * LANES) {
        for (size_t at = 0; ahead_bytes && at < 8 * LANES * sizeof(float); at += 64)
            __builtin_prefetch((const char *)(values + i) + ahead_bytes + at, 0, 2);
        s0 = ADD(s0, LOAD(values + i));
        s1 = ADD(s1, LOAD(values + i + LANES));
        s2 = ADD(s2, LOAD(values + i + 2 * LANES));
        s3 = ADD(s3, LOAD(values + i + 3 * LANES));
        s4 = ADD(s4, LOAD(values + i + 4 * LANES));
        s5 = ADD(s5, LOAD(values + i + 5 * LANES));
        s6 = ADD(s6, LOAD(values + i + 6 * LANES));
        s7 = ADD(s7, LOAD(values + i + 7 * LANES));
    }
    return SUM(ADD(ADD(ADD(s0, s1), ADD(s2, s3)), ADD(ADD(s4, s5), ADD(s6, s7))));
}

#define PEAK(MULTIPLIERS)                                                                          \
    {                                                                                              \
        .read = read_values, .multipliers = MULTIPLIERS,                                           \
        .multiplier_count = sizeof(MULTIPLIERS) / sizeof *(MULTIPLIERS),                           \
    }
