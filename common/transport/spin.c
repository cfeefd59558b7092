/* Waits are cut off at twice the bound before they count, so that after a long pause a few short
 * waits make looking possible again. A trial that changes nothing doubles the time to the next one:
 * where looking takes the processor from the one who is to answer, that is two waits in a thousand.
 */
#include "common/transport/spin.h"

#include "common/cluster_limits.h"

#define WAIT_NS_MAX  (2u * SPIN_NS_MAX)
#define TRIAL_WAITS  8u
#define INTERVAL_MIN 64u
#define INTERVAL_MAX 4096u
/* The mean moves by an eighth of what a wait differs from it. */
#define MEAN_SHARE 8

void spin_init(struct spin *spin, unsigned processors) {
    *spin = (struct spin){.allowed = processors > 1, .interval = INTERVAL_MIN};
}

static enum spin_way other_way(enum spin_way way) {
    return way == SPIN_SLEEP ? SPIN_LOOK : SPIN_SLEEP;
}

uint64_t spin_begin(struct spin *spin) {
    if (!spin->allowed || spin->mean_ns > SPIN_NS_MAX) {
        spin->kept = SPIN_SLEEP;
        spin->waits = 0;
        spin->trial_ns = 0;
    }
    spin->current = spin->waits < spin->interval ? spin->kept : other_way(spin->kept);
    if (spin->current == SPIN_SLEEP)
        return 0;
    return 2 * spin->mean_ns < SPIN_NS_MAX ? 2 * spin->mean_ns : SPIN_NS_MAX;
}

static void conclude_trial(struct spin *spin) {
    uint64_t trial_mean_ns = spin->trial_ns / TRIAL_WAITS;
    if (trial_mean_ns < spin->mean_ns) {
        spin->kept = spin->current;
        spin->mean_ns = trial_mean_ns;
        spin->interval = INTERVAL_MIN;
    } else if (spin->interval < INTERVAL_MAX) {
        spin->interval *= 2;
    }
    spin->waits = 0;
    spin->trial_ns = 0;
}

void spin_end(struct spin *spin, uint64_t waited_ns) {
    uint64_t waited = waited_ns < WAIT_NS_MAX ? waited_ns : WAIT_NS_MAX;
    spin->waits++;
    if (spin->current != spin->kept) {
        spin->trial_ns += waited;
        if (spin->waits == spin->interval + TRIAL_WAITS)
            conclude_trial(spin);
    } else if (spin->mean_ns == 0) {
        spin->mean_ns = waited;
    } else {
        spin->mean_ns -= spin->mean_ns / MEAN_SHARE;
        spin->mean_ns += waited / MEAN_SHARE;
    }
}
