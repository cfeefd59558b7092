/* One control connection on a libuv loop: messages in, messages out, health both ways.
 *
 * Owned by whoever opened it (the worker's session, the coordinator's cluster) until on_end, which
 * is always the last call and comes exactly once. Everything happens on the loop's thread. A
 * channel sends Health by itself every HEALTH_INTERVAL_MS; a peer from which HEALTH_MISSED_MAX
 * intervals in a row bring nothing at all is gone. */
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "common/status.h"
#include "proto/control.h"

struct channel;

struct channel_handlers {
    /* A message other than Health, valid during the call. An error ends the channel with it. */
    enum status (*on_message)(void *context, const Control__Message *message);

    /* A message has left; NULL if nobody waits for that. */
    void (*on_written)(void *context);

    /* The channel is closed and freed after this call. STATUS_OK: by channel_finish or
     * channel_close. STATUS_PROTOCOL: by the peer's bytes or by on_message (already logged).
     * STATUS_CONNECTION: the peer closed or reset; STATUS_TIMEOUT: it fell silent; STATUS_NO_MEMORY
     * (these are not logged). */
    void (*on_end)(void *context, enum status status);
};

/* Takes over the connected socket `fd` (closed also on error). `peer` names it in messages; copied.
 * It accepts messages of CONTROL_GREETING_BYTES_MAX until channel_trust. Errors: STATUS_NO_MEMORY,
 * STATUS_IO; logged, and on_end does not come. */
enum status channel_open(uv_loop_t *loop, int fd, const char *peer,
                         const struct channel_handlers *handlers, void *context,
                         struct channel **out);

/* From now on messages of CONTROL_MESSAGE_BYTES_MAX are accepted. */
void channel_trust(struct channel *channel);

/* Sends a copy of `message`. On a channel that is ending nothing happens; a failure ends the
 * channel. */
void channel_send(struct channel *channel, const Control__Message *message);

/* Whether HEALTH_SILENT_MAX intervals in a row have brought nothing. */
bool channel_is_silent(const struct channel *channel);

/* Messages that were sent and have not left yet. */
size_t channel_pending(const struct channel *channel);

/* Ends the channel: after what was sent has left and the peer has closed (or FINISH_TIMEOUT_MS are
 * over); or at once. What comes in meanwhile is dropped. */
void channel_finish(struct channel *channel);
void channel_close(struct channel *channel);

const char *channel_peer(const struct channel *channel);
