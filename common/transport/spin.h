/* Whether a wait looks for news for a moment before it sleeps, and for how long.
 *
 * Falling asleep and being woken costs several microseconds, which matters where an answer takes a
 * hundred. Looking costs a processor, which whoever is to answer may need. So the choice is made by
 * what was seen: the other way is tried now and then and kept if its waits were shorter. Where
 * waits are long, or there is one processor only, nobody looks. Pure bookkeeping for one waiting
 * thread; the transport does the waiting. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum spin_way { SPIN_SLEEP, SPIN_LOOK };

struct spin {
    bool allowed;          /* there is more than one processor */
    enum spin_way kept;    /* the better way, as far as is known */
    enum spin_way current; /* what the wait under way does */
    uint64_t mean_ns;      /* moving mean of waits with the kept way; 0: none yet */
    uint64_t trial_ns;     /* sum of the waits of the trial under way */
    uint32_t waits;        /* since the last trial */
    uint32_t interval;     /* waits from one trial to the next */
};

/* `processors` is how many the thread may run on. */
void spin_init(struct spin *spin, unsigned processors);

/* A wait begins: how long to look before sleeping, at most SPIN_NS_MAX; 0 is not at all. */
uint64_t spin_begin(struct spin *spin);

/* That wait is over. */
void spin_end(struct spin *spin, uint64_t waited_ns);
