/* Logits -> token, seeded and reproducible on every machine. One sampler per sequence. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct sampler;

struct sampler_options {
    float temperature;        /* 0: the best token, always (greedy; lowest id wins a tie) */
    uint32_t top_k;           /* 0: off */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off; keeps tokens with p >= min_p * p_best */
    float repetition_penalty; /* 1: off; divides positive logits of tokens seen, else multiplies */
    uint64_t seed;
};

/* Takes all the memory it will need. Errors: STATUS_NO_MEMORY. */
enum status sampler_create(const struct sampler_options *options, uint32_t vocabulary,
                           struct sampler **out);
void sampler_destroy(struct sampler *sampler);

/* Tells the sampler that `id` is part of the sequence (prompt or answer), for the repetition
 * penalty. */
void sampler_accept(struct sampler *sampler, uint32_t id);

/* Chooses a token from `logits` (vocabulary), which it may change. Order: penalty, temperature,
 * top-k, top-p, min-p, draw. Does not call sampler_accept. Allocates nothing. */
uint32_t sampler_choose(struct sampler *sampler, float *logits);
