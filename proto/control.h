/* Control messages on a stream: a u32 little-endian length, then one Control__Message
 * (control.proto).
 *
 * Used by both sides through proto/channel, and alone by tests. Nothing that a peer sends can make
 * it take more memory than the bounds in common/limits.h. One thread at a time for each reader. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "proto/control.pb-c.h"

/* Of the messages in control.proto. Peers with another version part with an Error. */
#define CONTROL_VERSION 4u

#define CONTROL_PREFIX_BYTES 4u

/* Bytes of `message` on the wire, prefix included. */
size_t control_encoded_bytes(const Control__Message *message);

/* Writes control_encoded_bytes() bytes to `out`. */
void control_encode(const Control__Message *message, uint8_t *out);

/* Decodes one message of `bytes` bytes (without the prefix). The caller frees *out with
 * control_message_free. Errors: STATUS_PROTOCOL (malformed, unknown kind, or it would unpack to
 * more than CONTROL_UNPACKED_BYTES_MAX), with one line that names `peer`. */
enum status control_decode(const uint8_t *data, size_t bytes, const char *peer,
                           Control__Message **out);
void control_message_free(Control__Message *message);

/* The name of the message's kind, e.g. "Assign". Never NULL. */
const char *control_kind_name(const Control__Message *message);

/* Assembles messages from a byte stream. Memory grows with the bytes that have come, not with the
 * length that a prefix claims. */
struct control_reader {
    uint8_t *buffer;
    size_t begin, end; /* bytes that wait in the buffer */
    size_t capacity;
    uint32_t message_bytes_max; /* a longer message is refused; may be changed between messages */
};

/* An empty reader; control_reader_cleanup frees what it holds. */
void control_reader_init(struct control_reader *reader, uint32_t message_bytes_max);
void control_reader_cleanup(struct control_reader *reader);

/* Room for incoming bytes: *out is valid until the next call. Errors: STATUS_NO_MEMORY, not logged.
 */
enum status control_reader_reserve(struct control_reader *reader, uint8_t **out, size_t *bytes);

/* Takes note that `bytes` bytes were written to the reserved room. */
void control_reader_commit(struct control_reader *reader, size_t bytes);

/* The next whole message, which the caller frees, or NULL in *out when more bytes are needed.
 * Errors: STATUS_PROTOCOL (too long, malformed), with one line that names `peer`; the stream is
 * then lost. */
enum status control_reader_next(struct control_reader *reader, const char *peer,
                                Control__Message **out);
