/* Memory that is taken piece by piece and given back all at once.
 *
 * Owns large anonymous mappings. Used for model weights, engine and worker scratch: whatever lives
 * exactly as long as its owner. One thread at a time. */
#pragma once

#include <stddef.h>

struct arena;

/* Creates an empty arena that grows by mappings of at least `chunk_bytes` (0: a sensible default).
 * Returns NULL when memory is out. The caller destroys it. */
struct arena *arena_create(size_t chunk_bytes);

/* The same for weights: what is taken will be written and read as a whole, so it comes in huge
 * pages where the system has them. */
struct arena *arena_create_dense(void);

/* Unmaps everything that was taken from it. NULL is allowed. */
void arena_destroy(struct arena *arena);

/* Takes `count` items of `item_bytes`, zeroed and aligned to 64 bytes. Valid until arena_destroy.
 * Returns NULL when memory is out or the product overflows. */
void *arena_take(struct arena *arena, size_t count, size_t item_bytes);

/* Bytes mapped so far. */
size_t arena_bytes(const struct arena *arena);
