/* The data plane's contract: completion-based message exchange over connected peers.
 *
 * A transport owns a set of connections and one completion queue; it is used from one thread (only
 * transport_wake may be called from others). Posting never blocks: a send or receive is taken note
 * of, and transport_poll says when it is done. It knows nothing of models; how long a message is,
 * it asks of `message_bytes`, so that a stream (TCP) and a message device (RDMA) look alike.
 *
 * Errors that a completion carries: STATUS_CONNECTION (the peer closed or reset), STATUS_PROTOCOL
 * (the header was refused, or the message does not fit the posted buffer). After an error
 * completion the connection is dead: everything else posted on it completes with STATUS_CONNECTION,
 * then nothing. A buffer whose operation has completed is the caller's again, whatever the status.
 *
 * The process must ignore SIGPIPE. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

/* What can carry messages; auto is io_uring, and plain sockets where the system refuses it. */
#define TRANSPORT_CHOICES "auto|uring|sockets"

struct transport;
struct connection;

struct transport_options {
    size_t header_bytes; /* what message_bytes needs to see */
    /* Length in bytes of the whole message (header included) that opens with `header`. Checks the
     * header and logs what is wrong with it (naming `peer`); an error ends the connection. */
    enum status (*message_bytes)(const void *header, const char *peer, size_t *out);
    const char *backend; /* one of TRANSPORT_CHOICES; NULL is auto */
};

enum transport_operation { TRANSPORT_SEND, TRANSPORT_RECEIVE };

struct completion {
    struct connection *connection;
    enum transport_operation operation;
    enum status status;
    void *buffer; /* as posted */
    size_t bytes; /* of the message received or sent */
};

/* Creates an empty transport. Errors: STATUS_NO_MEMORY, STATUS_IO (also: the system refuses the
 * backend that was asked for). */
enum status transport_create(const struct transport_options *options, struct transport **out);

/* Closes every connection and frees the transport; by the thread that uses it, or when that has
 * ended. NULL is allowed. */
void transport_destroy(struct transport *transport);

/* Says that buffers will be posted from [base, base + bytes), so that the kernel can be told of
 * them once and not in every step. The memory must stay until transport_destroy. Where the system's
 * limits do not allow it, posting from there works as it does from any other memory. */
void transport_register(struct transport *transport, void *base, size_t bytes);

/* Takes over the connected stream socket `fd` (closed with the connection, also on error). `peer`
 * names it in messages; copied. Errors: STATUS_NO_MEMORY, STATUS_IO. */
enum status transport_add(struct transport *transport, int fd, const char *peer,
                          struct connection **out);

/* Closes one connection. What was posted on it completes no more; its completions that were not yet
 * polled are dropped. Its buffers are the caller's again. */
void transport_remove(struct transport *transport, struct connection *connection);

/* The peer's name as given to transport_add. */
const char *connection_peer(const struct connection *connection);

/* Posts one message for sending. `buffer` must stay unchanged until the completion. Messages of one
 * connection leave in the order of posting, at the latest with the next transport_flush or
 * transport_poll. Errors: STATUS_NO_MEMORY when too many are posted. */
enum status transport_post_send(struct transport *transport, struct connection *connection,
                                const void *buffer, size_t bytes);

/* Posts a buffer for one incoming message of at most `capacity` bytes (at least header_bytes).
 * Buffers of one connection fill in the order of posting; what lies behind the message may be
 * overwritten. Errors: STATUS_NO_MEMORY when too many are posted. */
enum status transport_post_receive(struct transport *transport, struct connection *connection,
                                   void *buffer, size_t capacity);

/* Sends what was posted on all connections on its way, together. For callers that compute before
 * they poll. */
void transport_flush(struct transport *transport);

/* Moves data and hands out at most `max` completions. Waits up to `timeout_ms` (0: not at all, -1:
 * for ever) for the first one; returns their number, which is 0 on timeout or after transport_wake.
 * Before it sleeps it looks for a moment, where earlier waits were short and looking paid. */
size_t transport_poll(struct transport *transport, struct completion *out, size_t max,
                      int timeout_ms);

/* Makes a transport_poll that waits, or the next one, return at once. From any thread. */
void transport_wake(struct transport *transport);
