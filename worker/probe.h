/* Answers the probes with which a coordinator measures its link, on a data connection of their own,
 * before the worker has an assignment.
 *
 * Owned by the session; runs on one of libuv's threads, over the same transport as the service, so
 * that what is measured is what frames will meet. It touches neither store nor pool. */
#pragma once

#include <uv.h>

#include "common/status.h"

struct probe;

/* The last call of a probe, on the loop's thread: the connection is closed. */
typedef void (*probe_done)(void *context);

/* Serves the connected socket `fd`, whose WIRE_OPEN frame has been read, until the peer closes it
 * or breaks the protocol, or until probe_stop; takes it over (closed also on error). `peer` names
 * it in messages; copied. `transport` is one of TRANSPORT_CHOICES, NULL is auto. Errors:
 * STATUS_NO_MEMORY, STATUS_IO, with one line; `done` then does not come. */
enum status probe_start(uv_loop_t *loop, int fd, const char *peer, const char *transport,
                        probe_done done, void *context, struct probe **out);

/* Makes it end soon. On the loop's thread, before `done`. */
void probe_stop(struct probe *probe);
