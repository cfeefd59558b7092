/* Connects a TCP socket without blocking: resolves the name, tries its addresses in turn.
 *
 * Used by the cluster for control and data connections, and by workers for control connections to
 * one another, on their loop's thread. */
#pragma once

#include <uv.h>

#include "common/address.h"
#include "common/status.h"

struct dial;

/* The last call of a dial: `fd` is connected, non-blocking and the callee's; or -1 with the reason
 * as a phrase ("connection refused"). */
typedef void (*dial_done)(void *context, int fd, const char *reason);

/* Begins. `done` comes later, never from within. Errors: STATUS_NO_MEMORY, STATUS_IO (not logged).
 */
enum status dial_start(uv_loop_t *loop, const struct address *address, dial_done done,
                       void *context, struct dial **out);

/* Ends a dial whose `done` has not come; it comes no more. The loop frees the memory. */
void dial_cancel(struct dial *dial);
