/* Bytes go straight into the posted buffer. Only what follows a message that was shorter than the
 * one before it is moved, into `ahead` and from there into the next buffer; the kernel is asked
 * again when `ahead` is empty, so its bound holds. */
#include "common/transport/stream.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

enum status stream_init(struct stream *stream) {
    *stream = (struct stream){.ahead = malloc(TRANSPORT_AHEAD_BYTES_MAX)};
    return stream->ahead ? STATUS_OK : STATUS_NO_MEMORY;
}

void stream_cleanup(struct stream *stream) {
    free(stream->ahead);
}

struct span stream_next_send(struct stream *stream, struct connection *connection) {
    if (!connection->sends.count)
        return (struct span){0};
    const struct posted *item = queue_first(&connection->sends);
    return (struct span){item->buffer + stream->sent, item->bytes - stream->sent, false};
}

void stream_take_sent(struct stream *stream, struct transport *transport,
                      struct connection *connection, size_t count) {
    size_t bytes = queue_first(&connection->sends)->bytes;
    stream->sent += count;
    if (stream->sent < bytes)
        return;
    stream->sent = 0;
    transport_complete(transport, connection, TRANSPORT_SEND, STATUS_OK, bytes);
}

/* The header of the message at hand is complete: learns its length and whether it fits. */
static enum status begin_message(struct stream *stream, const struct transport *transport,
                                 struct connection *connection) {
    const struct posted *item = queue_first(&connection->receives);
    size_t bytes;
    enum status status = transport->options.message_bytes(item->buffer, connection->peer, &bytes);
    if (status)
        return status;
    if (bytes > item->bytes || bytes < transport->options.header_bytes) {
        log_error(
            "%s: a message of %zu bytes where at most %zu were agreed; install the same release on "
            "both machines",
            connection->peer, bytes, item->bytes);
        return STATUS_PROTOCOL;
    }
    stream->message = bytes;
    return STATUS_OK;
}

enum status stream_take_received(struct stream *stream, struct transport *transport,
                                 struct connection *connection, size_t count) {
    const uint8_t *buffer = queue_first(&connection->receives)->buffer;
    stream->received += count;
    if (!stream->message && stream->received >= transport->options.header_bytes) {
        enum status status = begin_message(stream, transport, connection);
        if (status)
            return status;
    }
    if (!stream->message || stream->received < stream->message)
        return STATUS_OK;
    size_t extra = stream->received - stream->message;
    if (extra) {
        assert(stream->ahead_begin == stream->ahead_end && extra <= TRANSPORT_AHEAD_BYTES_MAX);
        memcpy(stream->ahead, buffer + stream->message, extra);
        stream->ahead_begin = 0;
        stream->ahead_end = extra;
    }
    stream->usual = stream->message;
    stream->received = stream->message = 0;
    transport_complete(transport, connection, TRANSPORT_RECEIVE, STATUS_OK, stream->usual);
    return STATUS_OK;
}

/* How far the buffer at hand is to be filled, with bytes of this message alone if `exact`. */
static size_t fill_target(const struct stream *stream, const struct transport *transport,
                          const struct posted *item, bool exact) {
    size_t target = transport->options.header_bytes;
    if (stream->message)
        return stream->message;
    if (!exact && stream->usual > target)
        target =
            stream->usual < TRANSPORT_AHEAD_BYTES_MAX ? stream->usual : TRANSPORT_AHEAD_BYTES_MAX;
    return target < item->bytes ? target : item->bytes;
}

enum status stream_next_receive(struct stream *stream, struct transport *transport,
                                struct connection *connection, struct span *out) {
    *out = (struct span){0};
    while (connection->receives.count) {
        const struct posted *item = queue_first(&connection->receives);
        size_t there = stream->ahead_end - stream->ahead_begin;
        size_t wanted = fill_target(stream, transport, item, there > 0) - stream->received;
        if (!there) {
            *out = (struct span){item->buffer + stream->received, wanted, stream->message > 0};
            break;
        }
        size_t count = there < wanted ? there : wanted;
        memcpy(item->buffer + stream->received, stream->ahead + stream->ahead_begin, count);
        stream->ahead_begin += count;
        enum status status = stream_take_received(stream, transport, connection, count);
        if (status)
            return status;
    }
    return STATUS_OK;
}
