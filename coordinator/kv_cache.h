/* What attention remembers of past positions, in pages that sequences take as they grow.
 *
 * A position's row is `width` values for each layer: for latent attention the compressed vector and
 * the rotated shared key, for multi-head attention all keys, then all values. They are written and
 * read as f32 and kept in one of four formats. Pages come from one pool that is reserved at
 * start-up and only becomes memory when written. Changed by the engine thread; the rows of
 * different positions may be written and read by different threads at once. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/weights/matrix.h"
#include "coordinator/shape.h"

/* Positions of one page. */
#define KV_PAGE_POSITIONS 128u

struct kv_cache;

struct kv_cache_options {
    uint32_t layers;        /* the draft layer counts where it is used */
    uint32_t positions_max; /* of all sequences together */
    uint32_t sequences_max;
    enum weight_format format; /* F32, F16, BF16, or Q8_0: 32 values of 8 bits with an f16 scale */
};

/* Errors: STATUS_NO_MEMORY. */
enum status kv_cache_create(const struct model_shape *shape, const struct kv_cache_options *options,
                            struct kv_cache **out);
void kv_cache_destroy(struct kv_cache *cache);

/* Bytes of one position of one layer in a cache of that shape and format. */
size_t kv_cache_position_bytes(const struct model_shape *shape, enum weight_format format);

/* Values of one row. */
uint32_t kv_cache_width(const struct kv_cache *cache);

/* Bytes of one position of one layer. */
size_t kv_cache_row_bytes(const struct kv_cache *cache);

/* Positions of one sequence at most. */
uint32_t kv_cache_positions_max(const struct kv_cache *cache);

/* A new empty sequence. Errors: STATUS_NO_MEMORY when all are taken. */
enum status kv_cache_open(struct kv_cache *cache, uint32_t *sequence);
void kv_cache_close(struct kv_cache *cache, uint32_t sequence);

/* Positions the sequence has room for already given out. */
uint32_t kv_cache_length(const struct kv_cache *cache, uint32_t sequence);

/* Makes room for `positions` more; their rows are unset until attention writes them. Errors:
 * STATUS_NO_MEMORY, with a line that says how long the context is. */
enum status kv_cache_extend(struct kv_cache *cache, uint32_t sequence, uint32_t positions);

/* Forgets everything from position `length` on. */
void kv_cache_truncate(struct kv_cache *cache, uint32_t sequence, uint32_t length);

/* Consecutive positions of one sequence in one layer. */
struct kv_run {
    uint32_t layer, sequence;
    uint32_t position, count;
};

/* Stores one position's row (width), rounded to the format; what is too large for it saturates. */
void kv_cache_write(struct kv_cache *cache, uint32_t layer, uint32_t sequence, uint32_t position,
                    const float *row);

/* A row is read in parts: latent attention's is one, multi-head attention's are the keys of each
 * head, then the values of each head. */
uint32_t kv_cache_part_width(const struct kv_cache *cache);

/* Room that a part takes when read: its width, rounded up to whole blocks of the format. */
uint32_t kv_cache_part_floats(const struct kv_cache *cache);

/* The `part`-th part of every position of the run, all of which have been written: (run->count,
 * kv_cache_part_floats), `stride` floats apart. */
void kv_cache_read(const struct kv_cache *cache, const struct kv_run *run, uint32_t part,
                   float *out, size_t stride);
