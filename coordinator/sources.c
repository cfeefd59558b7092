/* A decision is made when a worker can take the next shard, not before: two workers that need the
 * same shards at once are then sent different ones, and exchange them. The shard that one of them
 * is being sent the others wait for.
 *
 * As soon as somebody has a shard, it is news for those who want it: they are told before they are
 * sent anything else, so that links between workers are busy from the beginning.
 *
 * Holders of one expert form a list, from which those with another range are sorted out on the way.
 * There are as many as copies and slices of an expert, so lists are short. */
#include "coordinator/sources.h"

#include <stdlib.h>

#include "common/cluster_limits.h"

/* Routed experts, SHARD_HEAD and SHARD_FFN. */
#define HEADS_PER_LAYER (EXPERTS_MAX + 2)

enum place_state {
    PLACE_UNKNOWN, /* assigned; the worker reads what it has itself */
    PLACE_WANTED,  /* the worker lacks it */
    PLACE_SENDING, /* it is being sent from here */
    PLACE_NAMED,   /* a peer was named for it */
    PLACE_HELD,    /* the worker has it, or the last bytes are on their way */
};

/* A slot of a worker. */
struct place {
    struct shard shard;
    uint32_t worker, slot;
    enum place_state state;
    uint32_t peer;  /* that was named */
    uint32_t next;  /* place of the same expert, + 1; 0: none */
    uint32_t newer; /* place in the list of news, + 1; 0: none */
    bool is_news;   /* it is in that list */
    bool is_spilled;
};

#define NO_PLACE UINT32_MAX

struct worker_places {
    uint32_t *places; /* (count) by slot; NO_PLACE: it has nothing */
    uint32_t count, capacity;
    uint32_t cursor; /* slot at which the search for the next one goes on */
    uint32_t news;   /* place that it wants and that somebody has since, + 1; 0: none */
    uint32_t named;  /* shards for which it is named at present */
    struct source_health health;
};

struct sources {
    uint32_t workers;
    struct worker_places *of; /* (workers) */
    bool *avoids;         /* (workers, workers) peers that failed the first one in this session */
    struct place *places; /* (count) */
    uint32_t count, capacity;
    uint32_t vacant; /* place that nobody has any more, and by `next` all others, + 1; 0: none */
    uint32_t *heads; /* (LAYERS_MAX, HEADS_PER_LAYER) first place of each expert, + 1 */
};

enum status sources_create(uint32_t workers, struct sources **out) {
    struct sources *sources = calloc(1, sizeof *sources);
    if (!sources)
        return STATUS_NO_MEMORY;
    sources->workers = workers;
    sources->of = calloc((size_t)workers + 1, sizeof *sources->of);
    sources->avoids = calloc((size_t)workers * workers + 1, sizeof *sources->avoids);
    sources->heads = calloc((size_t)LAYERS_MAX * HEADS_PER_LAYER, sizeof *sources->heads);
    if (!sources->of || !sources->avoids || !sources->heads) {
        sources_destroy(sources);
        return STATUS_NO_MEMORY;
    }
    *out = sources;
    return STATUS_OK;
}

void sources_destroy(struct sources *sources) {
    if (!sources)
        return;
    for (uint32_t i = 0; sources->of && i < sources->workers; i++)
        free(sources->of[i].places);
    free(sources->of);
    free(sources->avoids);
    free(sources->places);
    free(sources->heads);
    free(sources);
}

/* The list of those who have, or are to have, any of the shard's expert. */
static uint32_t *head_of(const struct sources *sources, const struct shard *shard) {
    uint32_t index =
        shard->expert < SHARD_HEAD ? shard->expert : EXPERTS_MAX + (shard->expert - SHARD_HEAD);
    return &sources->heads[(size_t)shard->layer * HEADS_PER_LAYER + index];
}

/* NULL: the slot has nothing. */
static struct place *place_at(const struct sources *sources, uint32_t worker, uint32_t slot) {
    const struct worker_places *of = &sources->of[worker];
    uint32_t place = slot < of->count ? of->places[slot] : NO_PLACE;
    return place == NO_PLACE ? NULL : &sources->places[place];
}

static bool *avoids(const struct sources *sources, uint32_t worker, uint32_t peer) {
    return &sources->avoids[(size_t)worker * sources->workers + peer];
}

/* Room for `count` of `size` bytes each in `*list`. */
static enum status reserve(void **list, uint32_t count, uint32_t *capacity, size_t size) {
    if (count <= *capacity)
        return STATUS_OK;
    uint32_t wanted = 2 * *capacity > count ? 2 * *capacity : count > 256 ? count : 256;
    void *larger = realloc(*list, wanted * size);
    if (!larger)
        return STATUS_NO_MEMORY;
    *list = larger;
    *capacity = wanted;
    return STATUS_OK;
}

/* A place that nobody has; there has to be room for one. */
static uint32_t take_place(struct sources *sources) {
    uint32_t place = sources->vacant;
    if (place == 0)
        return sources->count++;
    sources->vacant = sources->places[place - 1].next;
    return place - 1;
}

enum status sources_assign(struct sources *sources, uint32_t worker, uint32_t slot,
                           const struct shard *shard) {
    struct worker_places *of = &sources->of[worker];
    if (place_at(sources, worker, slot))
        return STATUS_OK; /* as sources_forget left it */
    if (reserve((void **)&of->places, slot + 1, &of->capacity, sizeof *of->places) ||
        reserve((void **)&sources->places, sources->count + 1, &sources->capacity,
                sizeof *sources->places))
        return STATUS_NO_MEMORY;
    while (of->count <= slot)
        of->places[of->count++] = NO_PLACE;
    uint32_t *head = head_of(sources, shard), place = take_place(sources);
    sources->places[place] = (struct place){
        .shard = *shard, .worker = worker, .slot = slot, .state = PLACE_UNKNOWN, .next = *head};
    of->places[slot] = place;
    *head = place + 1;
    return STATUS_OK;
}

void sources_spill(struct sources *sources, uint32_t worker, uint32_t slot) {
    place_at(sources, worker, slot)->is_spilled = true;
}

void sources_set_health(struct sources *sources, uint32_t worker, struct source_health health) {
    sources->of[worker].health = health;
}

static void set_state(struct sources *sources, struct place *place, enum place_state state) {
    if (place->state == PLACE_NAMED)
        sources->of[place->peer].named--;
    place->state = state;
}

/* Takes the place out of the list of news of its worker. */
static void unlink_news(struct sources *sources, struct place *place) {
    uint32_t *link = &sources->of[place->worker].news;
    while (place->is_news && &sources->places[*link - 1] != place)
        link = &sources->places[*link - 1].newer;
    if (place->is_news)
        *link = place->newer;
    place->is_news = false;
}

void sources_release(struct sources *sources, uint32_t worker, uint32_t slot) {
    struct place *place = place_at(sources, worker, slot);
    if (!place)
        return;
    uint32_t number = sources->of[worker].places[slot] + 1;
    uint32_t *link = head_of(sources, &place->shard);
    set_state(sources, place, PLACE_UNKNOWN); /* nobody is named for it any more */
    unlink_news(sources, place);
    while (*link != number)
        link = &sources->places[*link - 1].next;
    *link = place->next;
    place->next = sources->vacant;
    sources->vacant = number;
    sources->of[worker].places[slot] = NO_PLACE;
}

bool sources_need(struct sources *sources, uint32_t worker, const uint32_t *begin,
                  const uint32_t *end, size_t count) {
    uint32_t slots = sources->of[worker].count, last = 0;
    if (count == 0)
        return false;
    for (size_t i = 0; i < count; i++) {
        if (begin[i] < last || begin[i] >= end[i] || end[i] > slots)
            return false;
        last = end[i];
        for (uint32_t slot = begin[i]; slot < end[i]; slot++) {
            const struct place *place = place_at(sources, worker, slot);
            if (!place || (place->state != PLACE_UNKNOWN && place->state != PLACE_NAMED))
                return false;
        }
    }
    for (size_t i = 0; i < count; i++)
        for (uint32_t slot = begin[i]; slot < end[i]; slot++) {
            struct place *place = place_at(sources, worker, slot);
            if (place->state == PLACE_NAMED)
                *avoids(sources, worker, place->peer) = true;
            set_state(sources, place, PLACE_WANTED);
        }
    for (uint32_t slot = 0; slot < slots; slot++) {
        struct place *place = place_at(sources, worker, slot);
        if (place && place->state == PLACE_UNKNOWN)
            set_state(sources, place, PLACE_HELD);
    }
    return true;
}

static bool may_ask(const struct sources *sources, uint32_t worker, uint32_t peer) {
    const struct source_health *mine = &sources->of[worker].health,
                               *theirs = &sources->of[peer].health;
    return peer != worker && theirs->usable && (mine->is_local || !theirs->is_local) &&
           !*avoids(sources, worker, peer);
}

/* Whether `a` is rather to be asked than `b`, which may be NULL: those that stay, then those that
 * give least to others. */
static bool is_better(const struct sources *sources, const struct place *a, const struct place *b) {
    if (!b)
        return true;
    const struct worker_places *left = &sources->of[a->worker], *right = &sources->of[b->worker];
    if (left->health.is_leaving != right->health.is_leaving)
        return right->health.is_leaving;
    return left->named < right->named;
}

/* Who has the place's shard; NULL: nobody. *is_coming: somebody will have it soon. */
static const struct place *find_holder(const struct sources *sources, const struct place *wanted,
                                       bool *is_coming) {
    const struct place *found = NULL;
    uint32_t next = *head_of(sources, &wanted->shard);
    *is_coming = false;
    for (; next > 0 && !wanted->is_spilled; next = sources->places[next - 1].next) {
        const struct place *place = &sources->places[next - 1];
        if (place->is_spilled || place->shard.begin != wanted->shard.begin ||
            place->shard.end != wanted->shard.end ||
            !may_ask(sources, wanted->worker, place->worker))
            continue;
        *is_coming |= place->state == PLACE_SENDING;
        if (place->state == PLACE_HELD && is_better(sources, place, found))
            found = place;
    }
    return found;
}

/* Names a holder of the place's shard, if there is one. */
static bool name_holder(struct sources *sources, struct place *place, uint32_t *slot,
                        uint32_t *peer, bool *is_coming) {
    const struct place *holder = find_holder(sources, place, is_coming);
    if (!holder)
        return false;
    set_state(sources, place, PLACE_NAMED);
    sources->of[holder->worker].named++;
    place->peer = holder->worker;
    *slot = place->slot;
    *peer = holder->worker;
    return true;
}

/* The same for those whose shards have come to somebody since they were looked at. */
static bool name_news(struct sources *sources, struct worker_places *of, uint32_t *slot,
                      uint32_t *peer) {
    while (of->news > 0) {
        struct place *place = &sources->places[of->news - 1];
        bool is_coming;
        of->news = place->newer;
        place->is_news = false;
        if (place->state == PLACE_WANTED && name_holder(sources, place, slot, peer, &is_coming))
            return true;
    }
    return false;
}

enum source sources_next(struct sources *sources, uint32_t worker, uint32_t *slot, uint32_t *peer) {
    struct worker_places *of = &sources->of[worker];
    enum source nothing = SOURCE_NONE;
    if (name_news(sources, of, slot, peer))
        return SOURCE_PEER;
    for (uint32_t i = 0; i < of->count; i++) {
        uint32_t s = (of->cursor + i) % of->count;
        struct place *place = place_at(sources, worker, s);
        bool is_coming;
        if (!place || place->state != PLACE_WANTED)
            continue;
        bool is_named = name_holder(sources, place, slot, peer, &is_coming);
        if (!is_named && is_coming) {
            nothing = SOURCE_LATER;
            continue;
        }
        of->cursor = s + 1;
        if (is_named)
            return SOURCE_PEER;
        set_state(sources, place, PLACE_SENDING);
        *slot = s;
        return SOURCE_HERE;
    }
    return nothing;
}

void sources_note_sent(struct sources *sources, uint32_t worker, uint32_t slot) {
    struct place *sent = place_at(sources, worker, slot);
    set_state(sources, sent, PLACE_HELD);
    uint32_t next = *head_of(sources, &sent->shard);
    for (; next > 0; next = sources->places[next - 1].next) {
        struct place *place = &sources->places[next - 1];
        struct worker_places *of = &sources->of[place->worker];
        if (place->state != PLACE_WANTED || place->is_news ||
            place->shard.begin != sent->shard.begin || place->shard.end != sent->shard.end)
            continue;
        place->is_news = true;
        place->newer = of->news;
        of->news = next;
    }
}

uint32_t sources_note_ready(struct sources *sources, uint32_t worker) {
    uint32_t given = 0;
    for (uint32_t slot = 0; slot < sources->of[worker].count; slot++) {
        struct place *place = place_at(sources, worker, slot);
        given += place && place->state == PLACE_NAMED;
        if (place)
            set_state(sources, place, PLACE_HELD);
    }
    return given;
}

void sources_forget(struct sources *sources, uint32_t worker) {
    for (uint32_t slot = 0; slot < sources->of[worker].count; slot++) {
        struct place *place = place_at(sources, worker, slot);
        if (place)
            set_state(sources, place, PLACE_UNKNOWN);
    }
    for (uint32_t peer = 0; peer < sources->workers; peer++)
        *avoids(sources, worker, peer) = false;
    sources->of[worker].cursor = 0;
    sources->of[worker].health = (struct source_health){0};
}
