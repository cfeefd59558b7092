/* Block formats in plain C. A dot product adds up some blocks at a time, which also keeps the sum
 * of a long row more exact than one running sum. */
#include "common/kernel/blocks.h"

#include "common/kernel/block_expand.h"

static float sum_products(const float *values, const float *x, size_t count) {
    float sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i] * x[i];
    return sum;
}

#define DEFINE_LOOPS(FORMAT, NAME)                                                                 \
    BLOCK_EXPAND_LOOP(, blocks_expand_##NAME, FORMAT, NAME)                                        \
    BLOCK_DOT_LOOP(, blocks_dot_##NAME, FORMAT, NAME, sum_products)

BLOCK_FORMATS(DEFINE_LOOPS)
