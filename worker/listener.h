/* The worker's one listening port: accepts, finds out what each connection is, hands it on.
 *
 * A data connection opens with a WIRE_OPEN frame, everything else is taken for control messages.
 * Owned by the daemon; everything happens on the loop's thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/status.h"

struct listener;

struct listener_handlers {
    /* Both take over `fd`. On a data connection the WIRE_OPEN frame has been read. */
    void (*on_control)(void *context, int fd, const char *peer);
    void (*on_data)(void *context, int fd, uint64_t session_id, const char *peer);
};

/* Listens on `address` (HOST:PORT, port 0 for any free one). Without `insecure` only addresses that
 * nobody but this machine can reach are taken. Errors: STATUS_USAGE (malformed, or not loopback),
 * STATUS_CONNECTION (cannot be resolved, taken, not ours), STATUS_NO_MEMORY; one line each. */
enum status listener_create(uv_loop_t *loop, const char *address, bool insecure,
                            const struct listener_handlers *handlers, void *context,
                            struct listener **out);

/* The address it listens on, HOST:PORT with the real port. */
const char *listener_address(const struct listener *listener);

/* Closes the port and every connection that was not yet handed on; the memory is freed by the loop,
 * which must run once more. NULL is allowed. */
void listener_close(struct listener *listener);
