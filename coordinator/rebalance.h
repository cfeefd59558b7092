/* Moves load between machines by what was measured while they worked: a machine on which others
 * wait gets help from one that has time and memory, by copies of experts.
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
};

/* All zero: nothing is to change. */
struct rebalance_result {
    uint32_t from, to; /* the holder that computed longest, and the one that gets copies */
    uint32_t copies;
    uint64_t bytes;   /* of the copies */
    double saved_s;   /* that the busiest holder would have computed less in the window */
    double arrival_s; /* until the copies are there */
};

/* Adds copies of experts on the holder that computed least, so that it and the busiest ones would
 * have computed equally long, as far as memory allows. Experts that have copies already are left
 * alone. Nothing changes unless a REBALANCE_GAIN_MIN part of the time is saved and the copies
 * arrive within the time that they save in REBALANCE_PAYBACK_S. Errors: STATUS_NO_MEMORY (of this
 * process). */
enum status rebalance_placement(struct placement *placement, const struct rebalance_input *input,
                                struct rebalance_result *out);

#define REBALANCE_GAIN_MIN  0.05
#define REBALANCE_PAYBACK_S 120.0
