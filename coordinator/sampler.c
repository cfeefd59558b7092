/* The tokens' probabilities stay unnormalised: weight = exp((logit - best) / temperature), so the
 * best has weight 1 and the total is summed where it is needed. Filters need the best tokens in
 * order, but only as many as they keep: these are taken off a heap one by one, which costs far less
 * than sorting a vocabulary of 129,280.
 *
 * The same seed must give the same tokens on every machine. Hence a generator and an exponential of
 * our own, made of additions and multiplications that IEEE 754 defines to the last bit: the C
 * library's exp differs between its versions and processors. */
#include "coordinator/sampler.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

struct candidate {
    float logit;
    uint32_t id;
    double weight;
};

struct sampler {
    struct sampler_options options;
    uint32_t vocabulary;
    uint64_t state[4];
    bool *seen;                   /* (vocabulary) */
    struct candidate *candidates; /* (vocabulary) */
};

/* ---- Numbers. */

/* SplitMix64, which spreads any seed over the generator's state. */
static uint64_t next_seed(uint64_t *seed) {
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t rotate_left(uint64_t value, unsigned count) {
    return value << count | value >> (64 - count);
}

/* xoshiro256**: uniform in [0, 1), in steps of 2^-53. */
static double next_uniform(uint64_t state[4]) {
    uint64_t result = rotate_left(state[1] * 5, 7) * 9, shifted = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = rotate_left(state[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

/* exp(x) for x <= 0, to about 1e-15: 2^n times the series of the rest, |rest| <= ln 2 / 2. */
static double exp_negative(double x) {
    if (!(x >= -700.0)) /* also where infinite logits and temperatures made it no number */
        return 0.0;
    double n = floor(x * 0x1.71547652b82fep+0 + 0.5);
    double rest = x - n * 0x1.62e42fee00000p-1 - n * 0x1.a39ef35793c76p-33;
    double sum = 1.0;
    for (int i = 13; i > 0; i--)
        sum = 1.0 + rest / i * sum;
    return ldexp(sum, (int)n);
}

/* ---- The best candidates first. */

/* A higher logit is better, of equals the lower id. */
static bool is_better(const struct candidate *a, const struct candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void sift_down(struct candidate *heap, size_t count, size_t at) {
    struct candidate moved = heap[at];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && is_better(&heap[child + 1], &heap[child]))
            child++;
        if (!is_better(&heap[child], &moved))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static void make_heap(struct candidate *heap, size_t count) {
    for (size_t at = count / 2; at-- > 0;)
        sift_down(heap, count, at);
}

/* Moves the best of heap[0, count) to heap[count - 1]. */
static void take_best(struct candidate *heap, size_t count) {
    struct candidate best = heap[0];
    heap[0] = heap[count - 1];
    heap[count - 1] = best;
    sift_down(heap, count - 1, 0);
}

/* ---- Choosing. */

enum status sampler_create(const struct sampler_options *options, uint32_t vocabulary,
                           struct sampler **out) {
    struct sampler *sampler = calloc(1, sizeof *sampler);
    if (!sampler)
        goto err_report;
    sampler->options = *options;
    sampler->vocabulary = vocabulary;
    uint64_t seed = options->seed;
    for (size_t i = 0; i < 4; i++)
        sampler->state[i] = next_seed(&seed);
    sampler->seen = calloc(vocabulary, sizeof *sampler->seen);
    sampler->candidates = calloc(vocabulary, sizeof *sampler->candidates);
    if (!sampler->seen || !sampler->candidates)
        goto err_destroy_sampler;
    *out = sampler;
    return STATUS_OK;

err_destroy_sampler:
    sampler_destroy(sampler);
err_report:
    log_error("no memory for a sampler over %u tokens; free some and try again", vocabulary);
    return STATUS_NO_MEMORY;
}

void sampler_destroy(struct sampler *sampler) {
    if (!sampler)
        return;
    free(sampler->seen);
    free(sampler->candidates);
    free(sampler);
}

void sampler_accept(struct sampler *sampler, uint32_t id) {
    if (id < sampler->vocabulary)
        sampler->seen[id] = true;
}

/* Penalises tokens seen, and makes every logit comparable: what is not a number is never chosen,
 * infinity is the largest number. Returns the best token. */
static uint32_t prepare_logits(const struct sampler *sampler, float *logits) {
    float penalty = sampler->options.repetition_penalty;
    uint32_t best = 0;
    for (uint32_t id = 0; id < sampler->vocabulary; id++) {
        float logit = logits[id];
        if (sampler->seen[id] && penalty > 0.0f && penalty != 1.0f)
            logit = logit > 0.0f ? logit / penalty : logit * penalty;
        if (isnan(logit))
            logit = -INFINITY;
        logits[id] = logit > FLT_MAX ? FLT_MAX : logit;
        if (logits[id] > logits[best])
            best = id;
    }
    return best;
}

/* Fills the candidates, in the order of their ids. Returns how many can be chosen at all. */
static size_t fill_candidates(struct sampler *sampler, const float *logits, float best) {
    size_t count = 0;
    double temperature = (double)sampler->options.temperature;
    for (uint32_t id = 0; id < sampler->vocabulary; id++) {
        double weight = exp_negative(((double)logits[id] - (double)best) / temperature);
        if (weight > 0.0)
            sampler->candidates[count++] = (struct candidate){logits[id], id, weight};
    }
    return count;
}

static double total_weight(const struct candidate *candidates, size_t count) {
    double total = 0.0;
    for (size_t i = 0; i < count; i++)
        total += candidates[i].weight;
    return total;
}

/* Applies top-k, top-p and min-p to `count` candidates. The kept ones are *out, *kept of them. */
static void filter_candidates(const struct sampler *sampler, size_t count,
                              const struct candidate **out, size_t *kept) {
    const struct sampler_options *options = &sampler->options;
    struct candidate *heap = sampler->candidates;
    bool has_top_k = options->top_k > 0 && options->top_k < count;
    bool has_top_p = options->top_p < 1.0f;
    size_t limit = has_top_k ? options->top_k : count;
    size_t taken = 0;
    /* Top-p's share is one of the tokens that top-k keeps, so these are needed first. */
    double total = has_top_p && !has_top_k ? total_weight(heap, count) : 0.0;
    make_heap(heap, count);
    for (; has_top_k && taken < limit; taken++)
        take_best(heap, count - taken);
    if (has_top_p && has_top_k)
        total = total_weight(heap + count - taken, taken);
    double share = 0.0;
    size_t used = 0;
    for (; used < limit && (used == 0 || !has_top_p || share < (double)options->top_p * total);
         used++) {
        if (used == taken) {
            take_best(heap, count - taken);
            taken++;
        }
        const struct candidate *next = &heap[count - 1 - used];
        if (used > 0 && next->weight < (double)options->min_p)
            break;
        share += next->weight;
    }
    *out = heap + count - used;
    *kept = used;
}

static uint32_t draw(struct sampler *sampler, const struct candidate *candidates, size_t count) {
    double target = next_uniform(sampler->state) * total_weight(candidates, count);
    double sum = 0.0;
    for (size_t i = 0; i + 1 < count; i++) {
        sum += candidates[i].weight;
        if (sum > target)
            return candidates[i].id;
    }
    return candidates[count - 1].id;
}

uint32_t sampler_choose(struct sampler *sampler, float *logits) {
    uint32_t best = prepare_logits(sampler, logits);
    /* Written so that a temperature that is not a number is greedy too. Where no logit is a number
     * there is nothing to choose from. */
    if (!(sampler->options.temperature > 0.0f) || logits[best] == -INFINITY)
        return best;
    const struct candidate *candidates = sampler->candidates;
    size_t count = fill_candidates(sampler, logits, logits[best]);
    bool filtered = sampler->options.top_k > 0 || sampler->options.top_p < 1.0f ||
                    sampler->options.min_p > 0.0f;
    if (filtered)
        filter_candidates(sampler, count, &candidates, &count);
    return draw(sampler, candidates, count);
}
