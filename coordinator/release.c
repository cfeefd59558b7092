#include "coordinator/release.h"

#include <stdbool.h>

#include "common/log.h"
#include "coordinator/rebalance.h"

/* Where the expert's last copy begins before `end`. */
static uint32_t copy_before(const struct expert_places *places, uint32_t end) {
    uint32_t first = end - 1;
    while (places->parts[first].begin > 0)
        first--;
    return first;
}

/* Whether the copy that begins at `first` may go. */
static bool is_dispensable(const struct expert_places *places, uint32_t first,
                           const uint32_t *served) {
    uint32_t planned = 0, others = 0, others_for_load = 0; /* the latter two are served */
    for (uint32_t i = 0; i < places->count; i = placement_copy_end(places, i)) {
        planned += places->parts[i].origin == COPY_PLANNED;
        if (i == first || !placement_copy_is_served(places, i, served))
            continue;
        others++;
        others_for_load += places->parts[i].origin == COPY_BALANCE;
    }
    switch ((enum copy_origin)places->parts[first].origin) {
    case COPY_PLANNED:
        return false;
    case COPY_REPAIR:
        return others - others_for_load >= planned;
    case COPY_BALANCE:
        return others > 0 && places->parts[first].idle > REBALANCE_IDLE_MAX;
    }
    return false;
}

static enum status release_expert(struct placement *placement, uint32_t layer, uint32_t expert,
                                  const uint32_t *served, uint32_t *removed) {
    const struct expert_places *places = placement_find(placement, layer, expert);
    for (uint32_t first, end = places->count; end > 0; end = first) {
        first = copy_before(places, end);
        if (!is_dispensable(places, first, served))
            continue;
        enum status status = placement_remove(placement, layer, expert, first);
        if (status)
            return status;
        ++*removed;
    }
    return STATUS_OK;
}

enum status release_copies(struct placement *placement, const uint32_t *served, uint32_t *removed) {
    enum status status = STATUS_OK;
    for (uint32_t layer = 0; layer < placement->layers && !status; layer++)
        for (uint32_t expert = 0; expert < placement->experts && !status; expert++)
            status = release_expert(placement, layer, expert, served, removed);
    if (status)
        log_error("no memory to let copies of experts go; end other programs");
    return status;
}
