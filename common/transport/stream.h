/* Messages over a byte stream: which bytes of what is posted come next, in either direction.
 *
 * Part of a connection of each backend over TCP, which asks where bytes go or come from and says
 * how many were moved. A message's header tells its length; so that a message still costs one call
 * of the kernel, as many bytes are asked for as the one before it had. What then belongs to later
 * messages waits in `ahead`. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/transport/backend.h"

struct stream {
    size_t sent;     /* bytes of the first posted send that have left */
    size_t received; /* bytes that are in the first posted receive buffer */
    size_t message;  /* length of the message in there; 0 until its header has come */
    size_t usual;    /* length of the message before */
    uint8_t *ahead;  /* (TRANSPORT_AHEAD_BYTES_MAX) received, of later messages */
    size_t ahead_begin, ahead_end;
};

/* A run of bytes to send, or to receive into. */
struct span {
    uint8_t *bytes;
    size_t count; /* 0: nothing to do */
    bool exact;   /* receive: all of them belong to the message at hand, which needs them all */
};

/* Errors: STATUS_NO_MEMORY. */
enum status stream_init(struct stream *stream);
void stream_cleanup(struct stream *stream);

/* What is to be sent next. */
struct span stream_next_send(struct stream *stream, struct connection *connection);

/* `count` of those bytes have left: completes the message if they were its last. */
void stream_take_sent(struct stream *stream, struct transport *transport,
                      struct connection *connection, size_t count);

/* Fills posted buffers with bytes that were received ahead, then says where further ones are to go.
 * Errors: STATUS_PROTOCOL (a header is refused, or a message does not fit its buffer; one line). */
enum status stream_next_receive(struct stream *stream, struct transport *transport,
                                struct connection *connection, struct span *out);

/* `count` bytes have come into the span: completes a message that is whole. Errors: as above. */
enum status stream_take_received(struct stream *stream, struct transport *transport,
                                 struct connection *connection, size_t count);
