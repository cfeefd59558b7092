/* What a token costs whatever the machine: bytes of weights to read and multiplications to make, by
 * the formats that the model is stored in. Norms, biases, the router's choice and what attention
 * does with the KV cache are not counted; all of them together are small in a short context. Used
 * by `bench`. */
#pragma once

#include <stdint.h>

#include "common/kernel/peak.h"
#include "common/machine.h"
#include "coordinator/outline.h"
#include "coordinator/shape.h"

struct workload {
    uint64_t own_bytes;    /* the coordinator's matrices, each once */
    uint64_t expert_bytes; /* one routed expert of each layer */
    uint32_t experts, experts_per_token;
    /* Of one token through all layers, by the widest multiplier for the weights' format; products
     * and additions count separately. */
    double operations[PEAK_UNIT_COUNT];
    double head_operations[PEAK_UNIT_COUNT]; /* of one row of logits */
};

/* The draft module is left out. */
void workload_count(const struct outline *outline, const struct model_shape *shape,
                    struct workload *out);

/* Bytes that a step of one token reads. */
uint64_t workload_decode_bytes(const struct workload *workload);

/* Seconds that `tokens`, `logits` of them with their logits, take at least where all multipliers
 * are busy, or where they go in steps of at most `step_tokens`, each of which reads what it needs
 * once; tokens choose experts evenly. */
double workload_multiply_s(const struct workload *workload, const struct machine_peak *rates,
                           uint32_t tokens, uint32_t logits);
double workload_read_s(const struct workload *workload, const struct machine_peak *rates,
                       uint32_t tokens, uint32_t step_tokens);
