/* Written so that compilers turn the loops over a block into vector instructions: the largest
 * magnitude is that of the largest bits, and rounding is an addition. */
#include "common/kernel/q8_rows.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "common/kernel/block_formats.h"
#include "common/kernel/half.h"
#include "common/kernel/kernel.h"

#define BLOCK     32
#define SCALE_MAX 65504.0f

/* Adding and subtracting this leaves the nearest whole number of anything below 2^22. */
#define ROUNDING 0x1.8p23f

static void store_block(const float x[BLOCK], struct block_q8_0 *out) {
    int32_t bits[BLOCK], largest_bits = 0;
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < BLOCK; i++) {
        int32_t magnitude = bits[i] & INT32_MAX;
        largest_bits = magnitude > largest_bits ? magnitude : largest_bits;
    }
    out->scale = f16_from_f32(fminf(f32_from_bits((uint32_t)largest_bits) / 127, SCALE_MAX));
    float scale = f32_from_f16(out->scale), inverse = scale > 0 ? 1 / scale : 0;
    for (int i = 0; i < BLOCK; i++) {
        float value = x[i] * inverse; /* beyond 127 where f16 rounded the scale down or cut it */
        value = value <= 127 ? value : 127;
        value = value >= -127 ? value : -127;
        out->values[i] = (int8_t)(int32_t)(value + ROUNDING - ROUNDING);
    }
}

size_t q8_row_bytes(size_t count) {
    return (count + BLOCK - 1) / BLOCK * sizeof(struct block_q8_0);
}

void q8_row_store(const float *x, size_t count, void *out) {
    struct block_q8_0 *block = out;
    for (; count >= BLOCK; x += BLOCK, count -= BLOCK)
        store_block(x, block++);
    if (count == 0)
        return;
    float last[BLOCK] = {0};
    memcpy(last, x, count * sizeof *x);
    store_block(last, block);
}

void q8_row_load(const void *row, size_t count, float *out) {
    size_t whole = count / BLOCK * BLOCK;
    const uint8_t *rest = (const uint8_t *)row + q8_row_bytes(whole);
    kernel_get()->expand[WEIGHT_Q8_0](row, whole, 1.0f, out);
    if (whole == count)
        return;
    float last[BLOCK];
    kernel_get()->expand[WEIGHT_Q8_0](rest, BLOCK, 1.0f, last);
    memcpy(out + whole, last, (count - whole) * sizeof *out);
}
