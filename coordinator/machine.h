/* What this machine can do at most, measured: how fast all threads read memory and how fast they
 * multiply with the instruction set in use. Used by `bench`, on the thread that owns the pool. */
#pragma once

#include <stddef.h>

#include "common/kernel/peak.h"
#include "common/status.h"
#include "common/threads.h"

/* Enough to be out of reach of every cache but the largest servers'. */
#define MACHINE_READ_BYTES (256u << 20)

/* Of all threads together. */
struct machine_rates {
    double read_bytes_per_s;
    double operations_per_s[PEAK_UNIT_COUNT]; /* 0: there is no multiplier of this kind */
};

/* Measures for about a second and raises `rates` (zero at first) to the best that it sees, so
 * that a second call makes up for a moment in which the machine was busy. `read_bytes`, a multiple
 * of 4 MiB, are taken and given back. Errors: STATUS_NO_MEMORY. */
enum status machine_measure(struct threads *threads, size_t read_bytes,
                            struct machine_rates *rates);
