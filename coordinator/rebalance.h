/* Moves load between machines by what was measured while they worked: a machine on which others
 * wait gets help from those that have time and memory, by copies of experts. A copy is either
 * whole, or an expert's slices in other widths.
 *
 * A window counts what holders do for some seconds; the decision is arithmetic on it, without
 * sockets or clock, like planner and repair. Used by dispatch, combine and failover, on the
 * engine's thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "coordinator/placement.h"

/* What holders did since the window was opened. */
struct load_window {
    uint32_t holders, layers, experts;
    uint64_t since_ns;
    double *busy_s;     /* (holders) that they computed */
    double *read_bytes; /* (holders) of weights that they read for that */
    uint32_t *uses;     /* (layers, experts) batches that the expert was needed for */
};

/* Opened now. The caller destroys it. Errors: STATUS_NO_MEMORY, not logged. */
enum status load_window_create(uint32_t holders, uint32_t layers, uint32_t experts,
                               struct load_window **out);
void load_window_destroy(struct load_window *window);

/* Counts from now on. */
void load_window_reopen(struct load_window *window);

/* How fast each holder reads weights while it computes, into `rates` (holders), where the window
 * shows it: those that did nothing to speak of keep what is there. */
void load_window_rates(const struct load_window *window, double window_s, double *rates);

struct rebalance_input {
    const struct load_window *window;
    double window_s;
    const double *rates;          /* (holders) bytes of weights read for each second of computing;
                                     above 0 */
    const double *arrival_rates;  /* (holders) bytes of new shards for each second; 0: takes none */
    const uint64_t *memory_bytes; /* (holders) for shards, those that are there included */
    const uint32_t *served;       /* (holders) as in placement_copy_is_served; other copies are not
                                     reckoned with */
    uint32_t suspect;             /* of the result for the window before; REBALANCE_NOBODY */
};

/* Nothing is to change where both copies and cuts are 0; then all but `suspect` is 0. */
struct rebalance_result {
    uint32_t from, to; /* the holder that computed longest, and the one that computed least */
    uint32_t copies;   /* whole experts that the latter gets */
    uint32_t cuts;     /* experts of which `from` has less in a further copy, and others more */
    uint64_t bytes;    /* to be loaded for that */
    double saved_s;    /* that the busiest holder would have computed less in the window */
    double arrival_s;  /* until all is loaded */
    uint32_t suspect;  /* whose slices become narrower if the next window says so again, or
                          REBALANCE_NOBODY */
};

/* Adds copies of experts so that the busiest holders and those that help would have computed
 * equally long, as far as memory allows. Whole ones on the holder that computed least, where that
 * does enough; experts that have further copies already are left alone. Else sliced experts are cut
 * anew: a part of the busiest one's slices goes to all that computed less, if two windows in a row
 * ask for it, and for an expert until it has REBALANCE_COPIES_MAX copies. Nothing changes unless a
 * REBALANCE_GAIN_MIN part of the time is saved and the copies arrive within the time that they save
 * in REBALANCE_PAYBACK_S. Errors: STATUS_NO_MEMORY (of this process). */
enum status rebalance_placement(struct placement *placement, const struct rebalance_input *input,
                                struct rebalance_result *out);

/* At the end of a window: counts for each copy that rebalance_placement added in how many windows
 * in a row its expert was needed and another copy was taken (`idle`). Whether that are more than
 * REBALANCE_IDLE_MAX for some, which release_copies then lets go of. */
bool rebalance_note_idle(struct placement *placement, const struct load_window *window);

#define REBALANCE_NOBODY     UINT32_MAX
#define REBALANCE_GAIN_MIN   0.05
#define REBALANCE_PAYBACK_S  120.0
#define REBALANCE_COPIES_MAX 4
#define REBALANCE_IDLE_MAX   12
