/* Experts are moved in the order of how often they are needed, but the most needed one of each
 * layer before the second of any, so that the layers keep their balance. A copy is a whole expert;
 * dispatch then takes the copy whose holders have less to do, so what is reckoned here, that all
 * uses move, is the least that it brings. */
#include "coordinator/rebalance.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"

/* Of the window, below which a holder has not done enough to tell how fast it is. */
#define BUSY_PART_MIN 0.01

enum status load_window_create(uint32_t holders, uint32_t layers, uint32_t experts,
                               struct load_window **out) {
    struct load_window *window = calloc(1, sizeof *window);
    if (!window)
        return STATUS_NO_MEMORY;
    *window = (struct load_window){.holders = holders, .layers = layers, .experts = experts};
    window->busy_s = calloc(holders, sizeof *window->busy_s);
    window->read_bytes = calloc(holders, sizeof *window->read_bytes);
    window->uses = calloc((size_t)layers * experts, sizeof *window->uses);
    if (!window->busy_s || !window->read_bytes || !window->uses) {
        load_window_destroy(window);
        return STATUS_NO_MEMORY;
    }
    load_window_reopen(window);
    *out = window;
    return STATUS_OK;
}

void load_window_destroy(struct load_window *window) {
    if (!window)
        return;
    free(window->uses);
    free(window->read_bytes);
    free(window->busy_s);
    free(window);
}

void load_window_reopen(struct load_window *window) {
    memset(window->busy_s, 0, window->holders * sizeof *window->busy_s);
    memset(window->read_bytes, 0, window->holders * sizeof *window->read_bytes);
    memset(window->uses, 0, (size_t)window->layers * window->experts * sizeof *window->uses);
    window->since_ns = clock_now_ns();
}

void load_window_rates(const struct load_window *window, double window_s, double *rates) {
    for (uint32_t h = 0; h < window->holders; h++)
        if (window->busy_s[h] > BUSY_PART_MIN * window_s && window->read_bytes[h] > 0)
            rates[h] = window->read_bytes[h] / window->busy_s[h];
}

/* An expert that might get a copy. */
struct candidate {
    uint32_t layer, expert, uses;
    uint32_t rank; /* among those of its layer, the most needed first */
    bool chosen;
};

struct rebalance {
    struct placement *placement;
    const struct rebalance_input *input;
    struct rebalance_result result;
    struct candidate *candidates; /* (layers * experts) */
    size_t count;
    double *busy_s;  /* (holders) in the window, with the copies that were chosen so far */
    size_t *cursors; /* (holders) candidates before it are chosen or not of that holder */
};

static int by_layer(const void *a, const void *b) {
    const struct candidate *left = a, *right = b;
    if (left->layer != right->layer)
        return left->layer < right->layer ? -1 : 1;
    if (left->uses != right->uses)
        return left->uses > right->uses ? -1 : 1;
    return left->expert < right->expert ? -1 : left->expert > right->expert;
}

static int by_rank(const void *a, const void *b) {
    const struct candidate *left = a, *right = b;
    if (left->rank != right->rank)
        return left->rank < right->rank ? -1 : 1;
    if (left->uses != right->uses)
        return left->uses > right->uses ? -1 : 1;
    return left->layer < right->layer ? -1 : left->layer > right->layer;
}

static bool is_on(const struct expert_places *places, uint32_t holder) {
    for (uint32_t i = 0; i < places->count; i++)
        if (places->parts[i].holder == holder)
            return true;
    return false;
}

static const struct expert_places *places_of(const struct rebalance *rebalance,
                                             const struct candidate *candidate) {
    return placement_find(rebalance->placement, candidate->layer, candidate->expert);
}

static void list_candidates(struct rebalance *rebalance) {
    const struct load_window *window = rebalance->input->window;
    for (uint32_t layer = 0; layer < window->layers; layer++)
        for (uint32_t expert = 0; expert < window->experts; expert++) {
            uint32_t uses = window->uses[(size_t)layer * window->experts + expert];
            if (uses == 0)
                continue;
            const struct expert_places *places =
                placement_find(rebalance->placement, layer, expert);
            if (placement_copy_end(places, 0) == places->count &&
                !is_on(places, rebalance->result.to))
                rebalance->candidates[rebalance->count++] =
                    (struct candidate){.layer = layer, .expert = expert, .uses = uses};
        }
    struct candidate *all = rebalance->candidates;
    qsort(all, rebalance->count, sizeof *all, by_layer);
    for (size_t i = 1; i < rebalance->count; i++)
        all[i].rank = all[i].layer == all[i - 1].layer ? all[i - 1].rank + 1 : 0;
    qsort(all, rebalance->count, sizeof *all, by_rank);
}

static uint64_t whole_bytes(const struct rebalance *rebalance, uint32_t layer) {
    const struct shard_layout *layout = &rebalance->placement->layouts[layer];
    const struct shard whole = {.begin = 0, .end = layout->inner};
    return shard_bytes(layout, &whole);
}

/* Takes the expert off its holders and puts it on the helper, in the reckoning. */
static void move_load(struct rebalance *rebalance, const struct candidate *candidate) {
    const struct rebalance_input *input = rebalance->input;
    const struct expert_places *places = places_of(rebalance, candidate);
    for (uint32_t i = 0; i < places->count; i++) {
        const struct placed_shard *part = &places->parts[i];
        const struct shard shard = {.begin = part->begin, .end = part->end};
        rebalance->busy_s[part->holder] -=
            candidate->uses *
            (double)shard_bytes(&rebalance->placement->layouts[candidate->layer], &shard) /
            input->rates[part->holder];
    }
    rebalance->busy_s[rebalance->result.to] += candidate->uses *
                                               (double)whole_bytes(rebalance, candidate->layer) /
                                               input->rates[rebalance->result.to];
}

static uint32_t busiest(const double *busy_s, uint32_t holders) {
    uint32_t found = 0;
    for (uint32_t h = 1; h < holders; h++)
        if (busy_s[h] > busy_s[found])
            found = h;
    return found;
}

/* The next candidate that relieves `holder`; NULL: there is none. */
static struct candidate *next_of(struct rebalance *rebalance, uint32_t holder) {
    for (size_t *i = &rebalance->cursors[holder]; *i < rebalance->count;) {
        struct candidate *candidate = &rebalance->candidates[(*i)++];
        if (!candidate->chosen && is_on(places_of(rebalance, candidate), holder))
            return candidate;
    }
    return NULL;
}

/* Relieves whoever is busiest, as long as the helper stays behind. */
static void choose(struct rebalance *rebalance) {
    struct rebalance_result *result = &rebalance->result;
    const struct rebalance_input *input = rebalance->input;
    uint64_t held = rebalance->placement->held[result->to].bytes;
    uint64_t free_bytes =
        input->memory_bytes[result->to] > held ? input->memory_bytes[result->to] - held : 0;
    for (;;) {
        uint32_t from = busiest(rebalance->busy_s, rebalance->placement->holders);
        struct candidate *candidate = next_of(rebalance, from);
        if (!candidate)
            break;
        uint64_t bytes = whole_bytes(rebalance, candidate->layer);
        double added_s = candidate->uses * (double)bytes / input->rates[result->to];
        if (rebalance->busy_s[result->to] + added_s > rebalance->busy_s[from])
            break;
        if (bytes > free_bytes - result->bytes)
            continue;
        move_load(rebalance, candidate);
        candidate->chosen = true;
        result->bytes += bytes;
        result->copies++;
    }
    result->arrival_s = (double)result->bytes / input->arrival_rates[result->to];
}

/* The busiest holder, and the least busy one that takes copies; false: there is none. */
static bool find_pair(struct rebalance *rebalance) {
    const struct rebalance_input *input = rebalance->input;
    uint32_t from = busiest(rebalance->busy_s, rebalance->placement->holders), to = UINT32_MAX;
    for (uint32_t h = 0; h < rebalance->placement->holders; h++)
        if (h != from && input->arrival_rates[h] > 0 &&
            (to == UINT32_MAX || rebalance->busy_s[h] < rebalance->busy_s[to]))
            to = h;
    rebalance->result.from = from;
    rebalance->result.to = to;
    return to != UINT32_MAX;
}

static enum status add_copies(struct rebalance *rebalance) {
    enum status status = STATUS_OK;
    for (size_t i = 0; i < rebalance->count && !status; i++) {
        const struct candidate *candidate = &rebalance->candidates[i];
        const struct shard whole = {candidate->layer, candidate->expert, 0,
                                    rebalance->placement->layouts[candidate->layer].inner};
        if (candidate->chosen)
            status = placement_add(rebalance->placement, &whole, rebalance->result.to);
    }
    return status;
}

static enum status decide(struct rebalance *rebalance) {
    const struct rebalance_input *input = rebalance->input;
    struct rebalance_result *result = &rebalance->result;
    uint32_t holders = rebalance->placement->holders;
    if (!find_pair(rebalance))
        return STATUS_OK;
    double before_s = rebalance->busy_s[result->from];
    list_candidates(rebalance);
    choose(rebalance);
    result->saved_s = before_s - rebalance->busy_s[busiest(rebalance->busy_s, holders)];
    double saved_part = result->saved_s / input->window_s;
    if (saved_part >= REBALANCE_GAIN_MIN && result->arrival_s <= saved_part * REBALANCE_PAYBACK_S)
        return add_copies(rebalance);
    result->copies = 0;
    return STATUS_OK;
}

enum status rebalance_placement(struct placement *placement, const struct rebalance_input *input,
                                struct rebalance_result *out) {
    size_t experts = (size_t)placement->layers * placement->experts;
    struct rebalance rebalance = {.placement = placement, .input = input};
    enum status status = STATUS_NO_MEMORY;
    rebalance.candidates = calloc(experts, sizeof *rebalance.candidates);
    rebalance.busy_s = calloc(placement->holders, sizeof *rebalance.busy_s);
    rebalance.cursors = calloc(placement->holders, sizeof *rebalance.cursors);
    if (rebalance.candidates && rebalance.busy_s && rebalance.cursors) {
        memcpy(rebalance.busy_s, input->window->busy_s,
               placement->holders * sizeof *rebalance.busy_s);
        status = decide(&rebalance);
    }
    if (status)
        log_error("no memory to balance the load of workers; end other programs");
    else
        *out = rebalance.result.copies ? rebalance.result : (struct rebalance_result){0};
    free(rebalance.cursors);
    free(rebalance.busy_s);
    free(rebalance.candidates);
    return status;
}
