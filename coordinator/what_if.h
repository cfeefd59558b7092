/* What a plan would gain by one more machine, by a faster coordinator or by faster links, and what
 * it would take to fit where it does not: so that who plans sees what to add. Used by `plan`. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "coordinator/planning.h"

/* Kinds of workers that are tried, the first ones of the list. */
#define WHAT_IF_KINDS_MAX 6
#define WHAT_IF_MAX       (WHAT_IF_KINDS_MAX + 2)

enum what_if_change {
    WHAT_IF_MACHINES,    /* `more` workers like `like` */
    WHAT_IF_COORDINATOR, /* it reads and multiplies twice as fast */
    WHAT_IF_LINKS,       /* twice the bytes/s and half the round trip, of all workers */
};

struct what_if {
    enum what_if_change change;
    const char *like;
    uint32_t more;
    bool fits;
    double decode_tokens_per_s, prefill_tokens_per_s; /* 0 where it does not fit */
    double gain; /* the part of the workload's time that it saves; 0: no faster */
};

struct what_ifs {
    struct what_if list[WHAT_IF_MAX]; /* machines first, the best of them at the beginning */
    uint32_t count;
};

/* Plans for each change, by the ways that `planning`, which was made from `input`, found best.
 * `kinds` (input->worker_count): what each worker is called, which must outlive *out. Workers whose
 * figures are much the same count as one kind. Nothing is listed where figures of a machine are not
 * known. Errors: STATUS_NO_MEMORY. */
enum status what_if_find(const struct planning_input *input, const struct planning *planning,
                         const char *const *kinds, struct what_ifs *out);

/* For machines that do not suffice: with how many more like the one that takes most the experts
 * fit, and what that plan would give. `list[0].fits` is false where no number is found.
 * Errors: STATUS_NO_MEMORY. */
enum status what_if_fit(const struct planning_input *input, const char *const *kinds,
                        struct what_ifs *out);
