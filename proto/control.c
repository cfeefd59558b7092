/* The generated protobuf-c code parses; this file frames and bounds it. protobuf-c's unpacker takes
 * up to 24 times the message's bytes for hostile input, so it gets an allocator with a budget. */
#include "proto/control.h"

#include <stdlib.h>
#include <string.h>

#include "common/cluster_limits.h"
#include "common/log.h"

#define READ_ROOM_BYTES (64u << 10)

/* A drained buffer larger than this is given back: an assignment comes once, chunks come often. */
#define READ_KEEP_BYTES (2u * SHIP_CHUNK_BYTES + READ_ROOM_BYTES)

static uint32_t load_u32(const uint8_t *bytes) {
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

size_t control_encoded_bytes(const Control__Message *message) {
    return CONTROL_PREFIX_BYTES + control__message__get_packed_size(message);
}

void control_encode(const Control__Message *message, uint8_t *out) {
    size_t bytes = control__message__pack(message, out + CONTROL_PREFIX_BYTES);
    for (unsigned i = 0; i < CONTROL_PREFIX_BYTES; i++)
        out[i] = (uint8_t)(bytes >> (8 * i));
}

static void *budget_alloc(void *context, size_t bytes) {
    size_t *budget = context;
    if (bytes > *budget)
        return NULL;
    *budget -= bytes;
    return malloc(bytes);
}

static void budget_free(void *context, void *memory) {
    (void)context;
    free(memory);
}

enum status control_decode(const uint8_t *data, size_t bytes, const char *peer,
                           Control__Message **out) {
    size_t budget = CONTROL_UNPACKED_BYTES_MAX;
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    Control__Message *message = control__message__unpack(&allocator, bytes, data);
    if (!message || message->kind_case == CONTROL__MESSAGE__KIND__NOT_SET) {
        log_error(
            "%s sent a control message of %zu bytes that cannot be read; is a skein of another "
            "version running there?",
            peer, bytes);
        control_message_free(message);
        return STATUS_PROTOCOL;
    }
    *out = message;
    return STATUS_OK;
}

void control_message_free(Control__Message *message) {
    ProtobufCAllocator allocator = {budget_alloc, budget_free, NULL};
    if (message)
        control__message__free_unpacked(message, &allocator);
}

const char *control_kind_name(const Control__Message *message) {
    switch (message->kind_case) {
    case CONTROL__MESSAGE__KIND_HELLO:
        return "Hello";
    case CONTROL__MESSAGE__KIND_WELCOME:
        return "Welcome";
    case CONTROL__MESSAGE__KIND_ERROR:
        return "Error";
    case CONTROL__MESSAGE__KIND_ASSIGN:
        return "Assign";
    case CONTROL__MESSAGE__KIND_NEED:
        return "Need";
    case CONTROL__MESSAGE__KIND_SHARD_DATA:
        return "ShardData";
    case CONTROL__MESSAGE__KIND_PROGRESS:
        return "Progress";
    case CONTROL__MESSAGE__KIND_READY:
        return "Ready";
    case CONTROL__MESSAGE__KIND_HEALTH:
        return "Health";
    case CONTROL__MESSAGE__KIND_GOODBYE:
        return "Goodbye";
    case CONTROL__MESSAGE__KIND_MEASURE:
        return "Measure";
    case CONTROL__MESSAGE__KIND_FIGURES:
        return "Figures";
    case CONTROL__MESSAGE__KIND_DRAIN:
        return "Drain";
    case CONTROL__MESSAGE__KIND_SOURCE:
        return "Source";
    case CONTROL__MESSAGE__KIND_FETCH:
        return "Fetch";
    case CONTROL__MESSAGE__KIND_PACKED:
        return "Packed";
    default:
        return "nothing";
    }
}

void control_reader_init(struct control_reader *reader, uint32_t message_bytes_max) {
    *reader = (struct control_reader){.message_bytes_max = message_bytes_max};
}

void control_reader_cleanup(struct control_reader *reader) {
    free(reader->buffer);
    control_reader_init(reader, reader->message_bytes_max);
}

enum status control_reader_reserve(struct control_reader *reader, uint8_t **out, size_t *bytes) {
    size_t waiting = reader->end - reader->begin;
    if (waiting == 0 && reader->capacity > READ_KEEP_BYTES)
        control_reader_cleanup(reader);
    if (reader->capacity - reader->end < READ_ROOM_BYTES && reader->begin > 0) {
        memmove(reader->buffer, reader->buffer + reader->begin, waiting);
        reader->begin = 0;
        reader->end = waiting;
    }
    if (reader->capacity - reader->end < READ_ROOM_BYTES) {
        /* Doubling keeps the copying linear; messages are bounded, so the buffer is. */
        size_t capacity = reader->capacity * 2 + READ_ROOM_BYTES;
        uint8_t *buffer = realloc(reader->buffer, capacity);
        if (!buffer)
            return STATUS_NO_MEMORY;
        reader->buffer = buffer;
        reader->capacity = capacity;
    }
    *out = reader->buffer + reader->end;
    *bytes = reader->capacity - reader->end;
    return STATUS_OK;
}

void control_reader_commit(struct control_reader *reader, size_t bytes) {
    reader->end += bytes;
}

enum status control_reader_next(struct control_reader *reader, const char *peer,
                                Control__Message **out) {
    size_t waiting = reader->end - reader->begin;
    const uint8_t *data = reader->buffer + reader->begin;
    uint32_t bytes = waiting < CONTROL_PREFIX_BYTES ? 0 : load_u32(data);
    if (bytes > reader->message_bytes_max) {
        log_error("%s announced a control message of %u bytes, at most %u are allowed; it does not "
                  "speak skein's control protocol",
                  peer, bytes, reader->message_bytes_max);
        return STATUS_PROTOCOL;
    }
    if (waiting < CONTROL_PREFIX_BYTES || waiting - CONTROL_PREFIX_BYTES < bytes) {
        *out = NULL;
        return STATUS_OK;
    }
    enum status status = control_decode(data + CONTROL_PREFIX_BYTES, bytes, peer, out);
    if (status)
        return status;
    reader->begin += CONTROL_PREFIX_BYTES + bytes;
    if (reader->begin == reader->end)
        reader->begin = reader->end = 0;
    return STATUS_OK;
}
