/* Asks a worker to end as soon as nobody needs it. Used by the command `drain`. */
#pragma once

#include "common/status.h"

/* Returns when the worker at `address` (HOST:PORT) has ended; that may take as long as others need
 * to load its shards, or, where nobody can, until its coordinator ends. Errors: STATUS_USAGE (not
 * an address), STATUS_CONNECTION, STATUS_PROTOCOL, STATUS_NO_MEMORY; one line each. */
enum status drain_worker(const char *address);
