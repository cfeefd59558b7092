/* Experts are moved in the order of how often they are needed, but the most needed one of each
 * layer before the second of any, so that the layers keep their balance. Dispatch then takes the
 * copy whose holders have less to do, so what is reckoned here, that all uses move, is the least
 * that a whole copy brings.
 *
 * Cutting anew takes the same fraction of each of the busiest holder's slices. A further copy
 * shares all other slices with the one that it is made from; what is loaded is the narrower slice
 * and the pieces that were cut off. Pieces are few and whole blocks, so what a helper got too
 * little of one expert it gets of the next one of the layer. The earlier copy stays, and is taken
 * again once its holder is fast again; this one then goes after a while. */
#include "coordinator/rebalance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/log.h"

/* Of the window, below which a holder has not done enough to tell how fast it is. */
#define BUSY_PART_MIN 0.01
/* Pieces that a slice is cut into where blocks are small: each is one more product. */
#define PIECES_WANTED 4
/* Halvings of the time in which the level is sought to which holders are filled. */
#define LEVEL_STEPS 40

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

/* What a holder can take still. */
struct room {
    uint64_t bytes;
    uint32_t slots;
};

struct rebalance {
    struct placement *placement;
    const struct rebalance_input *input;
    struct rebalance_result result;
    struct candidate *candidates; /* (layers * experts) */
    size_t count;
    double *busy_s;  /* (holders) in the window, with the copies that were chosen so far */
    size_t *cursors; /* (holders) candidates before it are chosen or not of that holder */
    /* For slices that are cut anew: */
    double fraction;             /* of each that goes to others */
    double *shares;              /* (holders) of that; 0: takes nothing */
    double *due;                 /* (layers, holders) columns to get; below 0: got in advance */
    double *copy_s;              /* (holders) all 0 between two uses */
    struct room *rooms;          /* (holders) */
    struct placed_shard *pieces; /* (holders + 1) that take the place of a slice */
    uint32_t piece_count;
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

static bool is_served(const struct rebalance *rebalance, const struct expert_places *places,
                      uint32_t first) {
    return placement_copy_is_served(places, first, rebalance->input->served);
}

/* How many copies are served, and in *found the first part of the last one. */
static uint32_t count_served(const struct rebalance *rebalance, const struct expert_places *places,
                             uint32_t *found) {
    uint32_t copies = 0;
    for (uint32_t first = 0; first < places->count; first = placement_copy_end(places, first))
        if (is_served(rebalance, places, first)) {
            *found = first;
            copies++;
        }
    return copies;
}

/* Whether the holder has a part of the copy from `first` on. */
static bool has_part(const struct expert_places *places, uint32_t first, uint32_t holder) {
    for (uint32_t i = first; i < placement_copy_end(places, first); i++)
        if (places->parts[i].holder == holder)
            return true;
    return false;
}

/* Whether a whole copy on the one that computed least helps. */
static bool may_be_copied(struct rebalance *rebalance, uint32_t layer,
                          const struct expert_places *places) {
    (void)layer;
    uint32_t only;
    return count_served(rebalance, places, &only) == 1 && !is_on(places, rebalance->result.to);
}

static void list_candidates(struct rebalance *rebalance,
                            bool (*is_wanted)(struct rebalance *, uint32_t layer,
                                              const struct expert_places *)) {
    const struct load_window *window = rebalance->input->window;
    rebalance->count = 0;
    for (uint32_t layer = 0; layer < window->layers; layer++)
        for (uint32_t expert = 0; expert < window->experts; expert++) {
            uint32_t uses = window->uses[(size_t)layer * window->experts + expert];
            if (uses == 0)
                continue;
            const struct expert_places *places =
                placement_find(rebalance->placement, layer, expert);
            if (is_wanted(rebalance, layer, places))
                rebalance->candidates[rebalance->count++] =
                    (struct candidate){.layer = layer, .expert = expert, .uses = uses};
        }
    struct candidate *all = rebalance->candidates;
    qsort(all, rebalance->count, sizeof *all, by_layer);
    for (size_t i = 1; i < rebalance->count; i++)
        all[i].rank = all[i].layer == all[i - 1].layer ? all[i - 1].rank + 1 : 0;
    qsort(all, rebalance->count, sizeof *all, by_rank);
}

static uint64_t range_bytes(const struct rebalance *rebalance, uint32_t layer, uint32_t begin,
                            uint32_t end) {
    const struct shard shard = {.begin = begin, .end = end};
    return shard_bytes(&rebalance->placement->layouts[layer], &shard);
}

static uint64_t whole_bytes(const struct rebalance *rebalance, uint32_t layer) {
    return range_bytes(rebalance, layer, 0, rebalance->placement->layouts[layer].inner);
}

static uint64_t free_memory(const struct rebalance *rebalance, uint32_t holder) {
    uint64_t held = rebalance->placement->held[holder].bytes;
    uint64_t memory = rebalance->input->memory_bytes[holder];
    return memory > held ? memory - held : 0;
}

/* Takes the expert off its holders and puts it on the helper, in the reckoning. */
static void move_load(struct rebalance *rebalance, const struct candidate *candidate) {
    const struct rebalance_input *input = rebalance->input;
    const struct expert_places *places = places_of(rebalance, candidate);
    uint32_t only = 0;
    count_served(rebalance, places, &only);
    for (uint32_t i = only; i < placement_copy_end(places, only); i++) {
        const struct placed_shard *part = &places->parts[i];
        rebalance->busy_s[part->holder] -=
            candidate->uses *
            (double)range_bytes(rebalance, candidate->layer, part->begin, part->end) /
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
        const struct expert_places *places = places_of(rebalance, candidate);
        uint32_t only = 0;
        count_served(rebalance, places, &only);
        if (!candidate->chosen && has_part(places, only, holder))
            return candidate;
    }
    return NULL;
}

/* Relieves whoever is busiest, as long as the helper stays behind. */
static void choose(struct rebalance *rebalance) {
    struct rebalance_result *result = &rebalance->result;
    const struct rebalance_input *input = rebalance->input;
    uint64_t free_bytes = free_memory(rebalance, result->to);
    uint32_t slots = placement_slots_left(rebalance->placement, result->to);
    while (result->copies < slots) {
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
            status = placement_add_more(rebalance->placement, &whole, rebalance->result.to,
                                        COPY_BALANCE);
    }
    return status;
}

/* Whether the result, with all that was chosen, is worth its cost. */
static bool pays(struct rebalance *rebalance) {
    struct rebalance_result *result = &rebalance->result;
    const struct rebalance_input *input = rebalance->input;
    uint32_t last = busiest(rebalance->busy_s, rebalance->placement->holders);
    result->saved_s = input->window->busy_s[result->from] - rebalance->busy_s[last];
    double saved_part = result->saved_s / input->window_s;
    return saved_part >= REBALANCE_GAIN_MIN &&
           result->arrival_s <= saved_part * REBALANCE_PAYBACK_S;
}

/* The served copy whose busiest holder reads for the shortest time, as its first part. */
static uint32_t fastest_copy(struct rebalance *rebalance, uint32_t layer,
                             const struct expert_places *places) {
    uint32_t best = 0;
    double least = INFINITY;
    for (uint32_t first = 0, end; first < places->count; first = end) {
        double longest = 0;
        end = placement_copy_end(places, first);
        if (!is_served(rebalance, places, first))
            continue;
        for (uint32_t i = first; i < end; i++) {
            const struct placed_shard *part = &places->parts[i];
            double *copy_s = &rebalance->copy_s[part->holder];
            *copy_s += (double)range_bytes(rebalance, layer, part->begin, part->end) /
                       rebalance->input->rates[part->holder];
            longest = *copy_s > longest ? *copy_s : longest;
        }
        for (uint32_t i = first; i < end; i++)
            rebalance->copy_s[places->parts[i].holder] = 0;
        if (longest < least) {
            least = longest;
            best = first;
        }
    }
    return best;
}

/* The widest part of the copy from `first` on that the busiest holder has, and in *columns what all
 * of them have together; UINT32_MAX: it has none. */
static uint32_t widest_part(const struct rebalance *rebalance, const struct expert_places *places,
                            uint32_t first, uint32_t *columns) {
    uint32_t widest = UINT32_MAX, most = 0;
    *columns = 0;
    for (uint32_t i = first; i < placement_copy_end(places, first); i++) {
        const struct placed_shard *part = &places->parts[i];
        uint32_t width = part->end - part->begin;
        if (part->holder != rebalance->result.from)
            continue;
        *columns += width;
        if (width > most) {
            most = width;
            widest = i;
        }
    }
    return widest;
}

/* Whether it is sliced, and the busiest holder has one of the slices that are in use. */
static bool may_be_cut(struct rebalance *rebalance, uint32_t layer,
                       const struct expert_places *places) {
    uint32_t copies = 0, columns, any;
    for (uint32_t first = 0; first < places->count; first = placement_copy_end(places, first))
        copies++;
    if (copies >= REBALANCE_COPIES_MAX || count_served(rebalance, places, &any) == 0)
        return false;
    uint32_t base = fastest_copy(rebalance, layer, places);
    return placement_copy_end(places, base) > base + 1 &&
           widest_part(rebalance, places, base, &columns) != UINT32_MAX;
}

/* Bytes that a helper would have read more if it had computed for `level_s`. */
static double room_below(const struct rebalance *rebalance, uint32_t holder, double level_s) {
    const struct rebalance_input *input = rebalance->input;
    double spare_s = level_s - input->window->busy_s[holder];
    bool helps = holder != rebalance->result.from && input->arrival_rates[holder] > 0;
    return helps && spare_s > 0 ? spare_s * input->rates[holder] : 0;
}

/* How long all would compute if helpers took off the busiest holder what makes them equal. */
static double find_level(const struct rebalance *rebalance) {
    uint32_t from = rebalance->result.from;
    double most_s = rebalance->input->window->busy_s[from], low_s = 0, high_s = most_s;
    for (int step = 0; step < LEVEL_STEPS; step++) {
        double level_s = (low_s + high_s) / 2, room = 0;
        for (uint32_t h = 0; h < rebalance->placement->holders; h++)
            room += room_below(rebalance, h, level_s);
        if (room < (most_s - level_s) * rebalance->input->rates[from])
            low_s = level_s;
        else
            high_s = level_s;
    }
    return high_s;
}

/* What fraction of its slices the busiest holder is to give away for that, and the helpers' shares
 * of it; false: nothing can be moved. */
static bool divide_surplus(struct rebalance *rebalance, double level_s) {
    const struct rebalance_input *input = rebalance->input;
    uint32_t from = rebalance->result.from, holders = rebalance->placement->holders;
    double surplus = (input->window->busy_s[from] - level_s) * input->rates[from];
    double movable = 0, room = 0;
    for (size_t i = 0; i < rebalance->count; i++) {
        const struct candidate *candidate = &rebalance->candidates[i];
        const struct expert_places *places = places_of(rebalance, candidate);
        uint32_t columns, base = fastest_copy(rebalance, candidate->layer, places);
        widest_part(rebalance, places, base, &columns);
        movable += candidate->uses * (double)range_bytes(rebalance, candidate->layer, 0, columns);
    }
    for (uint32_t h = 0; h < holders; h++)
        room += rebalance->shares[h] = room_below(rebalance, h, level_s);
    if (room <= 0 || movable <= 0)
        return false;
    for (uint32_t h = 0; h < holders; h++)
        rebalance->shares[h] /= room;
    rebalance->fraction = surplus < movable ? surplus / movable : 1;
    return true;
}

static bool has_shard(const struct expert_places *places, const struct placed_shard *piece) {
    for (uint32_t i = 0; i < places->count; i++)
        if (places->parts[i].holder == piece->holder && places->parts[i].begin == piece->begin &&
            places->parts[i].end == piece->end)
            return true;
    return false;
}

/* Whether the holder can take one more shard of so many bytes into the copy from `first` on. */
static bool has_room(const struct rebalance *rebalance, const struct expert_places *places,
                     uint32_t first, uint32_t holder, uint64_t bytes) {
    uint32_t parts = 0;
    for (uint32_t i = first; i < placement_copy_end(places, first); i++)
        parts += places->parts[i].holder == holder;
    return parts < PARTS_PER_HOLDER_MAX && bytes <= rebalance->rooms[holder].bytes &&
           rebalance->rooms[holder].slots > 0;
}

static double *due_in(const struct rebalance *rebalance, uint32_t layer) {
    return rebalance->due + (size_t)layer * rebalance->placement->holders;
}

/* The helper that most is due of this layer, and in *all_due what all are; UINT32_MAX: no helper is
 * due anything. */
static uint32_t neediest(const struct rebalance *rebalance, uint32_t layer, double *all_due) {
    const double *due = due_in(rebalance, layer);
    uint32_t found = UINT32_MAX;
    *all_due = 0;
    for (uint32_t h = 0; h < rebalance->placement->holders; h++) {
        *all_due += due[h];
        if (due[h] > 0 && (found == UINT32_MAX || due[h] > due[found]))
            found = h;
    }
    return found;
}

/* The piece of a helper, whose `end` is its width still. */
static struct placed_shard *piece_of(struct rebalance *rebalance, uint32_t holder) {
    for (uint32_t i = 1; i < rebalance->piece_count; i++)
        if (rebalance->pieces[i].holder == holder)
            return &rebalance->pieces[i];
    struct placed_shard *piece = &rebalance->pieces[rebalance->piece_count];
    *piece = (struct placed_shard){.holder = holder};
    return piece;
}

/* Cuts off the end of `part` what helpers are due, `unit` columns at a time, each for the one that
 * most is due: the pieces that take the part's place, the first one of its own holder. Who has no
 * room is due nothing any more, so that its share stays where it is. */
static void cut_part(struct rebalance *rebalance, const struct candidate *candidate, uint32_t first,
                     const struct placed_shard *part, double wanted) {
    const struct expert_places *places = places_of(rebalance, candidate);
    uint32_t quantum = shard_quantum(&rebalance->placement->layouts[candidate->layer]);
    uint32_t unit = (uint32_t)(wanted / PIECES_WANTED / quantum) * quantum, h;
    uint32_t left = (part->end - part->begin + quantum - 1) / quantum * quantum;
    double *due = due_in(rebalance, candidate->layer), all_due;
    struct placed_shard *pieces = rebalance->pieces;
    rebalance->piece_count = 1;
    unit = unit ? unit : quantum;
    while (left > 0 && (h = neediest(rebalance, candidate->layer, &all_due)) != UINT32_MAX &&
           all_due >= unit / 2.0) {
        struct placed_shard *piece = piece_of(rebalance, h);
        uint32_t width = unit < left ? unit : left;
        uint64_t bytes = range_bytes(rebalance, candidate->layer, 0, piece->end + width);
        if (!has_room(rebalance, places, first, h, bytes)) {
            due[h] = 0;
            continue;
        }
        rebalance->piece_count += piece == &pieces[rebalance->piece_count];
        piece->end += width;
        due[h] -= width;
        left -= width;
    }
    uint32_t begin = part->begin + left;
    pieces[0] = (struct placed_shard){.begin = part->begin, .end = begin, .holder = part->holder};
    for (uint32_t i = 1; i < rebalance->piece_count; i++) {
        pieces[i].begin = begin;
        begin += pieces[i].end;
        pieces[i].end = begin < part->end ? begin : part->end;
    }
}

/* The pieces are not to be: helpers are still due what they would have got. */
static void drop_pieces(struct rebalance *rebalance, uint32_t layer) {
    for (uint32_t i = 1; i < rebalance->piece_count; i++) {
        const struct placed_shard *piece = &rebalance->pieces[i];
        due_in(rebalance, layer)[piece->holder] += piece->end - piece->begin;
    }
    rebalance->piece_count = 1;
}

/* The part as a whole to the helper that most is due, if all are due half of it: where its holder
 * has no memory for narrower ones, others get some of its slices instead of a part of each. */
static void give_part(struct rebalance *rebalance, const struct candidate *candidate,
                      uint32_t first, const struct placed_shard *part) {
    uint64_t bytes = range_bytes(rebalance, candidate->layer, part->begin, part->end);
    double all_due;
    uint32_t to = neediest(rebalance, candidate->layer, &all_due);
    if (to == UINT32_MAX || all_due < (part->end - part->begin) / 2.0)
        return;
    if (!has_room(rebalance, places_of(rebalance, candidate), first, to, bytes)) {
        due_in(rebalance, candidate->layer)[to] = 0;
        return;
    }
    due_in(rebalance, candidate->layer)[to] -= part->end - part->begin;
    rebalance->pieces[0] =
        (struct placed_shard){.begin = part->begin, .end = part->begin, .holder = part->holder};
    rebalance->pieces[1] =
        (struct placed_shard){.begin = part->begin, .end = part->end, .holder = to};
    rebalance->piece_count = 2;
}

/* Whether the pieces arrive within what the move saves in the time that it may take. */
static bool pieces_pay(const struct rebalance *rebalance, const struct candidate *candidate,
                       const struct placed_shard *part) {
    const struct rebalance_input *input = rebalance->input;
    double arrival_s = 0, moved = 0;
    for (uint32_t i = 0; i < rebalance->piece_count; i++) {
        const struct placed_shard *piece = &rebalance->pieces[i];
        double bytes = (double)range_bytes(rebalance, candidate->layer, piece->begin, piece->end);
        arrival_s += bytes / input->arrival_rates[piece->holder];
        moved += i > 0 ? bytes : 0;
    }
    double saved_s = candidate->uses * moved / input->rates[part->holder];
    return arrival_s <= saved_s / input->window_s * REBALANCE_PAYBACK_S;
}

/* Counts the pieces as loaded and in use instead of the part. */
static void take_pieces(struct rebalance *rebalance, const struct candidate *candidate,
                        const struct placed_shard *part) {
    const struct rebalance_input *input = rebalance->input;
    struct rebalance_result *result = &rebalance->result;
    for (uint32_t i = 0; i < rebalance->piece_count; i++) {
        const struct placed_shard *piece = &rebalance->pieces[i];
        uint64_t bytes = range_bytes(rebalance, candidate->layer, piece->begin, piece->end);
        if (i > 0) {
            rebalance->busy_s[part->holder] -=
                candidate->uses * (double)bytes / input->rates[part->holder];
            rebalance->busy_s[piece->holder] +=
                candidate->uses * (double)bytes / input->rates[piece->holder];
        }
        if (piece->begin == piece->end || has_shard(places_of(rebalance, candidate), piece))
            continue;
        rebalance->rooms[piece->holder].bytes -= bytes;
        rebalance->rooms[piece->holder].slots--;
        result->bytes += bytes;
        result->arrival_s += (double)bytes / input->arrival_rates[piece->holder];
    }
    result->cuts++;
}

/* A further copy: the one from `first` on with the pieces in place of part `at`. */
static enum status add_cut(struct rebalance *rebalance, const struct candidate *candidate,
                           uint32_t first, uint32_t at) {
    const struct expert_places *places = places_of(rebalance, candidate);
    uint32_t end = placement_copy_end(places, first);
    enum status status = STATUS_OK;
    for (uint32_t i = first; i < end; i++) {
        const struct placed_shard part = places->parts[i];
        const struct placed_shard *pieces = i == at ? rebalance->pieces : &part;
        for (uint32_t p = 0; p < (i == at ? rebalance->piece_count : 1) && !status; p++) {
            const struct shard shard = {candidate->layer, candidate->expert, pieces[p].begin,
                                        pieces[p].end};
            if (shard.begin < shard.end)
                status = placement_add_more(rebalance->placement, &shard, pieces[p].holder,
                                            COPY_BALANCE);
        }
    }
    return status;
}

/* Whether the busiest holder has room for what it keeps. */
static bool rest_fits(const struct rebalance *rebalance, const struct candidate *candidate) {
    const struct placed_shard *rest = &rebalance->pieces[0];
    const struct room *room = &rebalance->rooms[rest->holder];
    if (rest->begin == rest->end || has_shard(places_of(rebalance, candidate), rest))
        return true;
    return room->slots > 0 &&
           range_bytes(rebalance, candidate->layer, rest->begin, rest->end) <= room->bytes;
}

static enum status cut_expert(struct rebalance *rebalance, const struct candidate *candidate,
                              bool adds) {
    const struct expert_places *places = places_of(rebalance, candidate);
    uint32_t first = fastest_copy(rebalance, candidate->layer, places), columns;
    uint32_t at = widest_part(rebalance, places, first, &columns);
    const struct placed_shard part = places->parts[at];
    double wanted = rebalance->fraction * columns;
    for (uint32_t h = 0; h < rebalance->placement->holders; h++)
        due_in(rebalance, candidate->layer)[h] += wanted * rebalance->shares[h];
    cut_part(rebalance, candidate, first, &part, wanted);
    if (!rest_fits(rebalance, candidate)) {
        drop_pieces(rebalance, candidate->layer);
        give_part(rebalance, candidate, first, &part);
    }
    if (rebalance->piece_count > 1 && !pieces_pay(rebalance, candidate, &part))
        drop_pieces(rebalance, candidate->layer);
    if (rebalance->piece_count == 1)
        return STATUS_OK;
    take_pieces(rebalance, candidate, &part);
    return adds ? add_cut(rebalance, candidate, first, at) : STATUS_OK;
}

/* Goes through all candidates; with `adds` false only the reckoning changes. */
static enum status cut_experts(struct rebalance *rebalance, bool adds) {
    struct rebalance_result *result = &rebalance->result;
    uint32_t holders = rebalance->placement->holders;
    enum status status = STATUS_OK;
    result->cuts = 0;
    result->bytes = 0;
    result->arrival_s = 0;
    memcpy(rebalance->busy_s, rebalance->input->window->busy_s, holders * sizeof(double));
    memset(rebalance->due, 0, (size_t)rebalance->placement->layers * holders * sizeof(double));
    for (uint32_t h = 0; h < holders; h++)
        rebalance->rooms[h] =
            (struct room){free_memory(rebalance, h), placement_slots_left(rebalance->placement, h)};
    for (size_t i = 0; i < rebalance->count && !status; i++)
        status = cut_expert(rebalance, &rebalance->candidates[i], adds);
    return status;
}

/* Reckons first, and changes the placement where that pays and the window before agrees: what
 * passes soon is not worth loading anything, and the first window after a change tells how copies
 * do that were chosen before it. */
static enum status decide_widths(struct rebalance *rebalance) {
    const struct rebalance_input *input = rebalance->input;
    struct rebalance_result *result = &rebalance->result;
    double level_s = find_level(rebalance), most_s = input->window->busy_s[result->from];
    if (input->arrival_rates[result->from] <= 0 ||
        most_s - level_s < REBALANCE_GAIN_MIN * input->window_s)
        return STATUS_OK;
    list_candidates(rebalance, may_be_cut);
    if (!divide_surplus(rebalance, level_s))
        return STATUS_OK;
    cut_experts(rebalance, false);
    if (result->cuts > 0 && pays(rebalance)) {
        if (input->suspect == result->from)
            return cut_experts(rebalance, true);
        result->suspect = result->from;
    }
    result->cuts = 0;
    return STATUS_OK;
}

static enum status decide(struct rebalance *rebalance) {
    struct rebalance_result *result = &rebalance->result;
    if (!find_pair(rebalance))
        return STATUS_OK;
    list_candidates(rebalance, may_be_copied);
    choose(rebalance);
    if (result->copies > 0 && pays(rebalance))
        return add_copies(rebalance);
    result->copies = 0;
    return decide_widths(rebalance);
}

static bool take_lists(struct rebalance *rebalance) {
    const struct placement *placement = rebalance->placement;
    size_t holders = placement->holders;
    rebalance->candidates =
        calloc((size_t)placement->layers * placement->experts, sizeof *rebalance->candidates);
    rebalance->busy_s = calloc(holders, sizeof *rebalance->busy_s);
    rebalance->cursors = calloc(holders, sizeof *rebalance->cursors);
    rebalance->shares = calloc(holders, sizeof *rebalance->shares);
    rebalance->due = calloc(placement->layers * holders, sizeof *rebalance->due);
    rebalance->copy_s = calloc(holders, sizeof *rebalance->copy_s);
    rebalance->rooms = calloc(holders, sizeof *rebalance->rooms);
    rebalance->pieces = calloc(holders + 1, sizeof *rebalance->pieces);
    return rebalance->candidates && rebalance->busy_s && rebalance->cursors && rebalance->shares &&
           rebalance->due && rebalance->copy_s && rebalance->rooms && rebalance->pieces;
}

enum status rebalance_placement(struct placement *placement, const struct rebalance_input *input,
                                struct rebalance_result *out) {
    struct rebalance rebalance = {.placement = placement, .input = input};
    enum status status = STATUS_NO_MEMORY;
    rebalance.result.suspect = REBALANCE_NOBODY;
    if (take_lists(&rebalance)) {
        memcpy(rebalance.busy_s, input->window->busy_s,
               placement->holders * sizeof *rebalance.busy_s);
        status = decide(&rebalance);
    }
    struct rebalance_result nothing = {.suspect = rebalance.result.suspect};
    if (status)
        log_error("no memory to balance the load of workers; end other programs");
    else
        *out = rebalance.result.copies || rebalance.result.cuts ? rebalance.result : nothing;
    free(rebalance.pieces);
    free(rebalance.rooms);
    free(rebalance.copy_s);
    free(rebalance.due);
    free(rebalance.shares);
    free(rebalance.cursors);
    free(rebalance.busy_s);
    free(rebalance.candidates);
    return status;
}

bool rebalance_note_idle(struct placement *placement, const struct load_window *window) {
    bool found = false;
    for (uint32_t layer = 0; layer < window->layers; layer++)
        for (uint32_t expert = 0; expert < window->experts; expert++) {
            const struct expert_places *places = placement_find(placement, layer, expert);
            bool is_needed = window->uses[(size_t)layer * window->experts + expert] > 0;
            for (uint32_t first = 0; first < places->count && is_needed;
                 first = placement_copy_end(places, first)) {
                struct placed_shard *part = &places->parts[first];
                if (part->origin != COPY_BALANCE)
                    continue;
                part->idle += part->idle <= REBALANCE_IDLE_MAX;
                found |= part->idle > REBALANCE_IDLE_MAX;
            }
        }
    return found;
}
