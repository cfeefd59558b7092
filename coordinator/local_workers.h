/* Worker daemons on loopback, started for one run and ended with it: skein --local-workers N.
 *
 * Owned by main and used from the main thread alone: the system ends the workers when the thread
 * that started them ends, however that happens. */
#pragma once

#include <stdint.h>

#include "common/status.h"

struct local_workers;

/* Starts `count` (1 to WORKERS_MAX) skein-worker processes, the program next to our own, with
 * `threads_each` threads (0: one for each core), an equal part of the available memory, `model` as
 * their copy, the kernels `isa` and the data plane `transport`, and waits until they listen.
 * Errors: STATUS_USAGE (count), STATUS_NOT_FOUND (no skein-worker there), STATUS_IO (one ended or
 * says nothing), STATUS_NO_MEMORY; one line. */
enum status local_workers_start(uint32_t count, unsigned threads_each, const char *model,
                                const char *isa, const char *transport, struct local_workers **out);

/* (count) HOST:PORT; valid until local_workers_stop. */
const char *const *local_workers_addresses(const struct local_workers *workers);

/* Ends all of them and waits until they are gone. NULL is allowed. */
void local_workers_stop(struct local_workers *workers);
