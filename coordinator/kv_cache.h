/* What attention remembers of past positions, in pages that sequences take as they grow.
 *
 * A position's row is `width` floats for each layer: for latent attention the compressed vector and
 * the rotated shared key, for multi-head attention all keys, then all values. Pages come from one
 * pool that is reserved at start-up and only becomes memory when written. Used by the engine
 * thread. */
#pragma once

#include <stdint.h>

#include "common/status.h"
#include "coordinator/shape.h"

/* Positions of one page. */
#define KV_PAGE_POSITIONS 128u

struct kv_cache;

/* Room for `positions_max` positions in all, of at most `sequences_max` sequences. `layers` counts
 * the draft layer where it is used. Errors: STATUS_NO_MEMORY. */
enum status kv_cache_create(const struct model_shape *shape, uint32_t layers,
                            uint32_t positions_max, uint32_t sequences_max, struct kv_cache **out);
void kv_cache_destroy(struct kv_cache *cache);

/* Floats of one row. */
uint32_t kv_cache_width(const struct kv_cache *cache);

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

/* The row of one position: (width). Rows of positions in the same page lie one behind the other. */
float *kv_cache_row(const struct kv_cache *cache, uint32_t layer, uint32_t sequence,
                    uint32_t position);
