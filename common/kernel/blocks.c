/* Block formats in plain C. A dot product adds up some blocks at a time, which also keeps the sum
 * of a long row more exact than one running sum. */
#include "common/kernel/blocks.h"

#include "common/kernel/block_expand.h"

/* y += scale * the block's values. */
#define DEFINE_ADD_BLOCK(FORMAT, NAME)                                                             \
    static inline void add_block_##NAME(const struct block_##NAME *block, float scale, float *y) { \
        float values[BLOCK_VALUES_MAX];                                                            \
        expand_block_##NAME(block, values);                                                        \
        for (uint32_t i = 0; i < weight_block(WEIGHT_##FORMAT); i++)                               \
            y[i] += values[i] * scale;                                                             \
    }

static float sum_products(const float *values, const float *x, size_t count) {
    float sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i] * x[i];
    return sum;
}

#define DEFINE_LOOPS(FORMAT, NAME)                                                                 \
    DEFINE_ADD_BLOCK(FORMAT, NAME)                                                                 \
    BLOCK_EXPAND_LOOP(, blocks_expand_##NAME, FORMAT, NAME, expand_block_##NAME)                   \
    BLOCK_ADD_LOOP(, blocks_add_##NAME, FORMAT, NAME, add_block_##NAME)                            \
    BLOCK_DOT_LOOP(, blocks_dot_##NAME, FORMAT, NAME, expand_block_##NAME, sum_products)

BLOCK_FORMATS(DEFINE_LOOPS)
