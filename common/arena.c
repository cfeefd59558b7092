/* Chunks are anonymous mappings in a list; a piece that does not fit the current chunk gets a new
 * one, at least as large as the piece. Mappings are zero and untouched pages cost nothing, so a
 * generous chunk is not a copy of anything. */
#include "common/arena.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "common/memory.h"

#define ARENA_ALIGNMENT     64u
#define ARENA_CHUNK_DEFAULT ((size_t)1 << 20)

struct chunk {
    struct chunk *next;
    size_t bytes; /* of the mapping, this header included */
};

struct arena {
    struct chunk *chunks;
    size_t chunk_bytes;
    bool dense;  /* see arena_create_dense */
    size_t used; /* bytes of the newest chunk that are taken */
    size_t total_bytes;
};

static size_t round_up(size_t value, size_t unit) {
    return (value + unit - 1) / unit * unit;
}

struct arena *arena_create(size_t chunk_bytes) {
    struct arena *arena = calloc(1, sizeof *arena);
    if (arena)
        arena->chunk_bytes = chunk_bytes ? chunk_bytes : ARENA_CHUNK_DEFAULT;
    return arena;
}

struct arena *arena_create_dense(void) {
    struct arena *arena = arena_create(0);
    if (arena)
        arena->dense = true;
    return arena;
}

void arena_destroy(struct arena *arena) {
    if (!arena)
        return;
    for (struct chunk *chunk = arena->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        memory_unmap(chunk, chunk->bytes);
    }
    free(arena);
}

/* Memory that may never be touched is not reserved either. */
static void *map_sparse(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static int add_chunk(struct arena *arena, size_t piece_bytes) {
    size_t bytes = piece_bytes + ARENA_ALIGNMENT;
    bytes = round_up(bytes > arena->chunk_bytes ? bytes : arena->chunk_bytes, 4096);
    struct chunk *chunk = arena->dense ? memory_map(bytes) : map_sparse(bytes);
    if (!chunk)
        return -1;
    chunk->next = arena->chunks;
    chunk->bytes = bytes;
    arena->chunks = chunk;
    arena->used = ARENA_ALIGNMENT;
    arena->total_bytes += bytes;
    return 0;
}

void *arena_take(struct arena *arena, size_t count, size_t item_bytes) {
    size_t bytes;
    if (__builtin_mul_overflow(count, item_bytes, &bytes) || bytes > SIZE_MAX / 2)
        return NULL;
    bytes = round_up(bytes ? bytes : 1, ARENA_ALIGNMENT);
    if (!arena->chunks || bytes > arena->chunks->bytes - arena->used)
        if (add_chunk(arena, bytes))
            return NULL;
    void *piece = (char *)arena->chunks + arena->used;
    arena->used += bytes;
    return piece;
}

size_t arena_bytes(const struct arena *arena) {
    return arena->total_bytes;
}
