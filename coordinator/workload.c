/* Sums of the outline's matrices, each in its own format, so one that changes from layer to layer
 * is counted right. */
#include "coordinator/workload.h"

#include <math.h>

/* What multiplies weights of a format fastest without losing any of their digits: FP8 fits in
 * BF16, F16 only in F32, and values in integer blocks are multiplied as integers. */
static enum peak_unit unit_of(enum weight_format format) {
    switch (format) {
    case WEIGHT_F32:
    case WEIGHT_F16:
        return PEAK_F32;
    case WEIGHT_BF16:
    case WEIGHT_FP8_E4M3:
        return PEAK_BF16;
    default:
        return PEAK_INT8;
    }
}

static void add_operations(enum weight_format format, double values, double *operations) {
    operations[unit_of(format)] += 2 * values;
}

static void add_sum(struct workload *workload, const struct matrix_sum *sum) {
    workload->own_bytes += matrix_sum_bytes(sum);
    for (size_t f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        add_operations((enum weight_format)f, (double)sum->values[f], workload->operations);
}

static void add_routed(struct workload *workload, const struct shard_layout *layout) {
    const struct shard whole = {.end = layout->inner};
    double values = (double)layout->inner * layout->hidden * workload->experts_per_token;
    workload->expert_bytes += shard_bytes(layout, &whole);
    add_operations(layout->gate, values, workload->operations);
    add_operations(layout->up, values, workload->operations);
    add_operations(layout->down, values, workload->operations);
}

void workload_count(const struct outline *outline, const struct model_shape *shape,
                    struct workload *out) {
    *out =
        (struct workload){.experts = shape->experts, .experts_per_token = shape->experts_per_token};
    for (uint32_t l = 0; l < shape->layers; l++) {
        const struct outline_layer *layer = &outline->layers[l];
        add_sum(out, &layer->attention);
        add_sum(out, &layer->local_ffn);
        add_sum(out, &layer->router);
        if (shape->is_expert_layer[l])
            add_routed(out, &layer->routed);
    }
    out->own_bytes += matrix_sum_bytes(&outline->head);
    for (size_t f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        add_operations((enum weight_format)f, (double)outline->head.values[f],
                       out->head_operations);
}

uint64_t workload_decode_bytes(const struct workload *workload) {
    return workload->own_bytes + workload->expert_bytes * workload->experts_per_token;
}

/* A processor without the unit multiplies the values as f32, which every one can. */
static double rate_of(const struct machine_peak *rates, size_t unit) {
    double narrow = rates->operations_per_s[unit], f32 = rates->operations_per_s[PEAK_F32];
    return narrow > f32 ? narrow : f32;
}

double workload_multiply_s(const struct workload *workload, const struct machine_peak *rates,
                           uint32_t tokens, uint32_t logits) {
    double seconds = 0;
    for (size_t unit = 0; unit < PEAK_UNIT_COUNT; unit++)
        seconds +=
            (tokens * workload->operations[unit] + logits * workload->head_operations[unit]) /
            rate_of(rates, unit);
    return seconds;
}

/* An expert is left out by one token with probability 1 - k / experts. */
static double step_bytes(const struct workload *workload, uint32_t tokens) {
    double left_out = pow(1 - (double)workload->experts_per_token / workload->experts, tokens);
    return (double)workload->own_bytes +
           (double)workload->expert_bytes * workload->experts * (1 - left_out);
}

double workload_read_s(const struct workload *workload, const struct machine_peak *rates,
                       uint32_t tokens, uint32_t step_tokens) {
    double bytes = tokens / step_tokens * step_bytes(workload, step_tokens);
    if (tokens % step_tokens)
        bytes += step_bytes(workload, tokens % step_tokens);
    return bytes / rates->read_bytes_per_s;
}
