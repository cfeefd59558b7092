/* The peak of plain C, one value at a time as far as the compiler sees. */
#include "common/kernel/variants.h"

#define LANES        1u
#define VEC          float
#define LOAD(p)      (*(p))
#define SET(a)       ((float)(a))
#define ADD(a, b)    ((a) + (b))
#define FMA(a, b, c) ((a) * (b) + (c))
#define SUM(v)       (v)

#include "common/kernel/peak_simd.h"

static const struct peak_multiplier MULTIPLIERS[] = {MULTIPLIER_F32};

const struct peak PEAK_REFERENCE = PEAK(MULTIPLIERS);
