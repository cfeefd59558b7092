/* The header is a plain struct whose layout the assertions below pin down; both supported machines
 * are little-endian, so encoding is a copy. Bounds are checked in 64 bits before any size is used.
 */
#include "proto/wire.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/cluster_limits.h"
#include "common/kernel/half.h"
#include "common/kernel/q8_rows.h"
#include "common/log.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are little-endian");
static_assert(offsetof(struct wire_header, magic) == 0, "wire layout");
static_assert(offsetof(struct wire_header, version) == 4, "wire layout");
static_assert(offsetof(struct wire_header, type) == 6, "wire layout");
static_assert(offsetof(struct wire_header, format) == 7, "wire layout");
static_assert(offsetof(struct wire_header, sequence) == 8, "wire layout");
static_assert(offsetof(struct wire_header, layer) == 16, "wire layout");
static_assert(offsetof(struct wire_header, rows) == 20, "wire layout");
static_assert(offsetof(struct wire_header, entries) == 24, "wire layout");
static_assert(offsetof(struct wire_header, hidden) == 28, "wire layout");
static_assert(offsetof(struct wire_header, payload_bytes) == 32, "wire layout");
static_assert(offsetof(struct wire_header, busy_us) == 40, "wire layout");
static_assert(offsetof(struct wire_header, checksum) == 44, "wire layout");
static_assert(sizeof(struct wire_header) == 48, "wire layout");
static_assert(sizeof(struct wire_entry) == 12, "wire layout");
static_assert(sizeof(struct wire_span) == 12, "wire layout");

static size_t round_up(size_t bytes) {
    return (bytes + WIRE_ALIGNMENT - 1) / WIRE_ALIGNMENT * WIRE_ALIGNMENT;
}

size_t wire_row_bytes(enum wire_format format, uint32_t hidden) {
    switch (format) {
    case WIRE_BF16:
        return hidden * sizeof(uint16_t);
    case WIRE_Q8:
        return q8_row_bytes(hidden);
    default:
        return hidden * sizeof(float);
    }
}

enum wire_format wire_answer_format(enum wire_format format) {
    return format == WIRE_Q8 ? WIRE_BF16 : format;
}

const char *wire_format_name(enum wire_format format) {
    static const char *const names[WIRE_FORMAT_COUNT] = {
        [WIRE_F32] = "f32", [WIRE_BF16] = "bf16", [WIRE_Q8] = "q8"};
    return names[format];
}

static size_t rows_bytes(uint32_t rows, uint32_t hidden, enum wire_format format) {
    return rows * wire_row_bytes(format, hidden);
}

/* Where the rows of a DISPATCH frame begin. */
static size_t dispatch_rows_offset(uint32_t entries) {
    return round_up(sizeof(struct wire_header) + (size_t)entries * sizeof(struct wire_entry));
}

uint32_t wire_checksum(const void *data, size_t bytes) {
    const uint8_t *byte = data;
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ byte[i]) * 16777619u;
    return hash;
}

size_t wire_dispatch_bytes(uint32_t rows, uint32_t entries, uint32_t hidden,
                           enum wire_format format) {
    return dispatch_rows_offset(entries) + rows_bytes(rows, hidden, format);
}

size_t wire_combine_bytes(uint32_t rows, uint32_t hidden, enum wire_format format, uint32_t spans) {
    size_t bytes = round_up(sizeof(struct wire_header)) + rows_bytes(rows, hidden, format);
    return spans ? round_up(bytes) + spans * sizeof(struct wire_span) : bytes;
}

struct wire_entry *wire_dispatch_entries(void *frame) {
    return (struct wire_entry *)((uint8_t *)frame + sizeof(struct wire_header));
}

void *wire_dispatch_rows(void *frame) {
    struct wire_header header;
    memcpy(&header, frame, sizeof header);
    return (uint8_t *)frame + dispatch_rows_offset(header.entries);
}

void *wire_combine_rows(void *frame) {
    return (uint8_t *)frame + round_up(sizeof(struct wire_header));
}

struct wire_span *wire_combine_spans(void *frame) {
    struct wire_header header;
    memcpy(&header, frame, sizeof header);
    size_t rows_end =
        wire_combine_bytes(header.rows, header.hidden, (enum wire_format)header.format, 0);
    return (struct wire_span *)((uint8_t *)frame + round_up(rows_end));
}

void wire_store(enum wire_format format, const float *values, size_t count, void *out) {
    uint16_t *rounded = out;
    if (format == WIRE_F32)
        memcpy(out, values, count * sizeof *values);
    else if (format == WIRE_Q8)
        q8_row_store(values, count, out);
    else
        for (size_t i = 0; i < count; i++)
            rounded[i] = bf16_from_f32(values[i]);
}

void wire_load(enum wire_format format, const void *values, size_t count, float *out) {
    const uint16_t *rounded = values;
    if (format == WIRE_F32)
        memcpy(out, values, count * sizeof *out);
    else if (format == WIRE_Q8)
        q8_row_load(values, count, out);
    else
        for (size_t i = 0; i < count; i++)
            out[i] = f32_from_bf16(rounded[i]);
}

/* What the counts imply for payload_bytes; some types state it themselves. */
static uint64_t payload_bytes(const struct wire_header *header) {
    switch (header->type) {
    case WIRE_DISPATCH:
        return wire_dispatch_bytes(header->rows, header->entries, header->hidden,
                                   (enum wire_format)header->format) -
               sizeof *header;
    case WIRE_COMBINE:
        return wire_combine_bytes(header->rows, header->hidden, (enum wire_format)header->format,
                                  header->entries) -
               sizeof *header;
    case WIRE_ERROR:
    case WIRE_PROBE:
    case WIRE_PROBE_REPLY:
        return header->payload_bytes;
    default:
        return 0;
    }
}

static uint64_t payload_bytes_max(const struct wire_header *header) {
    switch (header->type) {
    case WIRE_ERROR:
        return WIRE_ERROR_BYTES_MAX;
    case WIRE_PROBE:
    case WIRE_PROBE_REPLY:
        return WIRE_PROBE_BYTES_MAX;
    default:
        return WIRE_PAYLOAD_BYTES_MAX;
    }
}

static uint32_t entries_max(const struct wire_header *header) {
    switch (header->type) {
    case WIRE_PROBE:
        return WIRE_PROBE_BYTES_MAX;
    case WIRE_COMBINE:
        return THREADS_MAX;
    default:
        return header->rows * ENTRIES_PER_ROW_MAX;
    }
}

/* Logits are as long as a part of the vocabulary. */
static uint32_t hidden_max(const struct wire_header *header) {
    return header->type == WIRE_COMBINE ? VOCABULARY_MAX : HIDDEN_MAX;
}

void wire_encode_header(const struct wire_header *header, void *frame) {
    struct wire_header out = *header;
    out.magic = WIRE_MAGIC;
    out.version = WIRE_VERSION;
    out.payload_bytes = payload_bytes(header);
    out.checksum = wire_checksum(&out, offsetof(struct wire_header, checksum));
    memcpy(frame, &out, sizeof out);
}

enum status wire_decode_header(const void *frame, const char *peer, struct wire_header *out) {
    struct wire_header header;
    memcpy(&header, frame, sizeof header);
    if (header.magic != WIRE_MAGIC) {
        log_error(
            "%s: not a skein data frame (starts with %08x); is another program using this port?",
            peer, header.magic);
        return STATUS_PROTOCOL;
    }
    if (header.version != WIRE_VERSION) {
        log_error(
            "%s: data frames of version %u, this program speaks %u; install the same release on "
            "both machines",
            peer, header.version, WIRE_VERSION);
        return STATUS_PROTOCOL;
    }
    if (header.checksum != wire_checksum(&header, offsetof(struct wire_header, checksum))) {
        log_error(
            "%s: damaged frame header (checksum %08x does not fit); check the network hardware",
            peer, header.checksum);
        return STATUS_PROTOCOL;
    }
    if (header.type < WIRE_OPEN || header.type > WIRE_PROBE_REPLY ||
        header.format >= WIRE_FORMAT_COUNT ||
        (header.type == WIRE_COMBINE && header.format == WIRE_Q8) || header.rows > BATCH_ROWS_MAX ||
        header.hidden > hidden_max(&header) || header.layer >= LAYERS_MAX ||
        header.entries > entries_max(&header) ||
        header.payload_bytes > payload_bytes_max(&header) ||
        header.payload_bytes != payload_bytes(&header)) {
        log_error("%s: frame out of bounds (type %u, format %u, layer %u, %u rows of %u, %u "
                  "entries, %llu bytes); "
                  "install the same release on both machines",
                  peer, header.type, header.format, header.layer, header.rows, header.hidden,
                  header.entries, (unsigned long long)header.payload_bytes);
        return STATUS_PROTOCOL;
    }
    *out = header;
    return STATUS_OK;
}

enum status wire_message_bytes(const void *header, const char *peer, size_t *out) {
    struct wire_header decoded;
    enum status status = wire_decode_header(header, peer, &decoded);
    if (status == STATUS_OK)
        *out = sizeof decoded + decoded.payload_bytes;
    return status;
}

enum status wire_check_entries(const void *frame, const struct wire_header *header, uint32_t slots,
                               const char *peer) {
    const struct wire_entry *entries = wire_dispatch_entries((void *)frame);
    for (uint32_t i = 0; i < header->entries; i++) {
        const struct wire_entry *entry = &entries[i];
        bool ordered =
            i == 0 || entries[i - 1].slot != entry->slot || entries[i - 1].row < entry->row;
        if (entry->row >= header->rows || entry->slot >= slots || !ordered ||
            !isfinite(entry->weight)) {
            log_error(
                "%s: entry %u of %u is not valid (row %u of %u, slot %u of %u, weight %g); install "
                "the same release on both machines",
                peer, i, header->entries, entry->row, header->rows, entry->slot, slots,
                (double)entry->weight);
            return STATUS_PROTOCOL;
        }
    }
    return STATUS_OK;
}
