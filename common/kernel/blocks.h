/* The formats whose values are stored in blocks with their own scales: expanding, adding and dot
 * products in plain C, for the kernel tables. Signatures and contracts are those of kernel.h. */
#pragma once

#include <stddef.h>

#include "common/weights/matrix.h"

/* Calls APPLY(format's suffix, function's suffix) for each such format. */
#define BLOCK_FORMATS(APPLY)                                                                       \
    APPLY(Q4_0, q4_0)                                                                              \
    APPLY(Q4_1, q4_1)                                                                              \
    APPLY(Q5_0, q5_0)                                                                              \
    APPLY(Q5_1, q5_1)                                                                              \
    APPLY(Q8_0, q8_0)                                                                              \
    APPLY(Q2_K, q2_k)                                                                              \
    APPLY(Q3_K, q3_k)                                                                              \
    APPLY(Q4_K, q4_k)                                                                              \
    APPLY(Q5_K, q5_k)                                                                              \
    APPLY(Q6_K, q6_k)                                                                              \
    APPLY(IQ4_NL, iq4_nl)                                                                          \
    APPLY(IQ4_XS, iq4_xs)

#define BLOCK_DECLARE(FORMAT, NAME)                                                                \
    void blocks_expand_##NAME(const void *values, size_t count, float scale, float *out);          \
    void blocks_add_##NAME(const void *values, size_t count, float scale, float *y);               \
    float blocks_dot_##NAME(const void *values, const float *x, size_t count);

BLOCK_FORMATS(BLOCK_DECLARE)

/* Entries of a kernel table's `expand`, `add` and `dot`. */
#define BLOCK_EXPAND_ENTRY(FORMAT, NAME) [WEIGHT_##FORMAT] = blocks_expand_##NAME,
#define BLOCK_ADD_ENTRY(FORMAT, NAME)    [WEIGHT_##FORMAT] = blocks_add_##NAME,
#define BLOCK_DOT_ENTRY(FORMAT, NAME)    [WEIGHT_##FORMAT] = blocks_dot_##NAME,
