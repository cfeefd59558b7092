/* Data-plane frames: fixed little-endian header, then the payload. docs/protocol.md is the full
 * text.
 *
 * Used by coordinator (dispatch, combine) and worker (service). Nothing here allocates; decoding
 * checks every count against the bytes that are there before anything is touched. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define WIRE_MAGIC   0x4e494b53u /* "SKIN" */
#define WIRE_VERSION 1u

enum wire_type {
    WIRE_OPEN = 1,        /* coordinator -> worker: first frame; sequence is the session's id */
    WIRE_DISPATCH = 2,    /* coordinator -> worker: rows and what to do with them */
    WIRE_COMBINE = 3,     /* worker -> coordinator: one partial sum for each row */
    WIRE_ERROR = 4,       /* worker -> coordinator: payload is a sentence in UTF-8 */
    WIRE_PROBE = 5,       /* coordinator -> worker: any payload, to measure the link with */
    WIRE_PROBE_REPLY = 6, /* worker -> coordinator: as much payload as the probe asks for */
};

/* What the values of rows are sent as. */
enum wire_format {
    WIRE_F32,
    WIRE_BF16, /* rounded to the nearest */
    WIRE_Q8,   /* common/kernel/q8_rows.h; only DISPATCH: sums are not rounded so coarsely */
    WIRE_FORMAT_COUNT
};

/* Every frame starts with this. `sequence` ties a reply to its dispatch. */
struct wire_header {
    uint32_t magic;         /* WIRE_MAGIC */
    uint16_t version;       /* WIRE_VERSION */
    uint8_t type;           /* enum wire_type */
    uint8_t format;         /* enum wire_format, of the rows; of COMBINE wire_answer_format */
    uint64_t sequence;      /* of the ticket; for WIRE_OPEN the session */
    uint32_t layer;         /* model layer of the rows */
    uint32_t rows;          /* activation rows in the payload */
    uint32_t entries;       /* DISPATCH: (row, slot, weight) entries in the payload; COMBINE: spans
                               in it; PROBE: bytes of payload that the answer is to have; else 0 */
    uint32_t hidden;        /* values in a row; in the answer to a head's slot its rows */
    uint64_t payload_bytes; /* bytes behind the header */
    uint32_t busy_us;       /* COMBINE: microseconds the worker computed; else 0 */
    uint32_t checksum;      /* wire_checksum of the bytes before this field */
};

/* One row through one shard: out[row] += weight * shard(x[row]). Entries of one slot stand
 * together, in the order of rows. */
struct wire_entry {
    uint32_t row;  /* of this frame */
    uint32_t slot; /* of the worker's assignment */
    float weight;  /* gate weight */
};

/* A slot with rows of the output head stands alone in its frame, with one entry for each row, and
 * is answered with the logits of its rows in f32.
 *
 * DISPATCH payload: wire_entry[entries], padding to 64 bytes, x (rows, hidden). COMBINE payload:
 * sums (rows, hidden), behind the header padded to 64 bytes: the first row is always 64-byte
 * aligned; where the assignment asked for spans, padding to 64 bytes and wire_span[entries]. */
#define WIRE_ALIGNMENT 64u

/* When another thread than the first computed, in microseconds from the moment at which the worker
 * began with the frame, and how much of that time it had work. The first of them is of thread 1. */
struct wire_span {
    uint32_t begin_us, end_us, busy_us;
};

/* FNV-1a over `bytes`. */
uint32_t wire_checksum(const void *data, size_t bytes);

/* Bytes of a whole frame. */
size_t wire_dispatch_bytes(uint32_t rows, uint32_t entries, uint32_t hidden,
                           enum wire_format format);
size_t wire_combine_bytes(uint32_t rows, uint32_t hidden, enum wire_format format, uint32_t spans);

/* Bytes of one row of `hidden` values. */
size_t wire_row_bytes(enum wire_format format, uint32_t hidden);

/* What the answer to rows in this format has its sums in: the same, for q8 bf16. */
enum wire_format wire_answer_format(enum wire_format format);

/* "f32", "bf16" or "q8". */
const char *wire_format_name(enum wire_format format);

/* Where the parts of a frame lie, given its first byte (64-byte aligned) and its valid header; rows
 * in the frame's format. */
struct wire_entry *wire_dispatch_entries(void *frame);
void *wire_dispatch_rows(void *frame);
void *wire_combine_rows(void *frame);
struct wire_span *wire_combine_spans(void *frame);

/* Rounds one row of `count` values to the format, and back. */
void wire_store(enum wire_format format, const float *values, size_t count, void *out);
void wire_load(enum wire_format format, const void *values, size_t count, float *out);

/* Completes `header` (magic, version, payload_bytes by type and counts, checksum) and writes it to
 * the first bytes of `frame`. For ERROR, PROBE and PROBE_REPLY payload_bytes must be set. */
void wire_encode_header(const struct wire_header *header, void *frame);

/* Reads and checks the header: magic, version, checksum, known type, counts in bounds, and
 * payload_bytes equal to what type and counts imply. STATUS_PROTOCOL otherwise, with a logged line
 * naming `peer`. */
enum status wire_decode_header(const void *frame, const char *peer, struct wire_header *out);

/* For transport_options.message_bytes. */
enum status wire_message_bytes(const void *header, const char *peer, size_t *out);

/* Checks the entries of a DISPATCH frame: rows below header->rows, slots below `slots`, ascending
 * rows where a slot follows itself, finite weights. STATUS_PROTOCOL otherwise, with a logged line
 * naming `peer`. */
enum status wire_check_entries(const void *frame, const struct wire_header *header, uint32_t slots,
                               const char *peer);
