/* Memory is laid out (layer, page, position, width), so that one page of one layer is contiguous
 * and goes through one matrix product. The pool is one mapping; a free list hands out pages, and
 * each sequence has a table of its pages. Truncation and closing return pages at once. */
#include "coordinator/kv_cache.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common/arena.h"
#include "common/log.h"

struct sequence {
    bool open;
    uint32_t length;
    uint32_t page_count;
    uint32_t *pages; /* (pages_max) */
};

struct kv_cache {
    struct arena *arena;
    uint32_t width, pages_max, sequences_max;
    float *rows; /* (layers, pages_max, KV_PAGE_POSITIONS, width) */
    struct sequence *sequences;
    uint32_t *free_pages; /* (free_count) */
    uint32_t free_count;
};

static uint32_t row_width(const struct model_shape *shape) {
    if (shape->attention == ATTENTION_LATENT)
        return shape->kv_rank + shape->rope_dim;
    return 2 * shape->kv_heads * shape->head_dim;
}

static uint32_t pages_for(uint32_t positions) {
    return (uint32_t)(((uint64_t)positions + KV_PAGE_POSITIONS - 1) / KV_PAGE_POSITIONS);
}

enum status kv_cache_create(const struct model_shape *shape, uint32_t layers,
                            uint32_t positions_max, uint32_t sequences_max, struct kv_cache **out) {
    struct kv_cache *cache = calloc(1, sizeof *cache);
    if (!cache || !(cache->arena = arena_create(0)))
        goto err_memory;
    cache->width = row_width(shape);
    cache->pages_max = pages_for(positions_max);
    cache->sequences_max = sequences_max;
    cache->sequences = arena_take(cache->arena, sequences_max, sizeof *cache->sequences);
    cache->free_pages = arena_take(cache->arena, cache->pages_max, sizeof *cache->free_pages);
    size_t page_bytes = (size_t)KV_PAGE_POSITIONS * cache->width * sizeof(float);
    cache->rows = arena_take(cache->arena, (size_t)layers * cache->pages_max, page_bytes);
    if (!cache->sequences || !cache->free_pages || !cache->rows)
        goto err_memory;
    for (uint32_t s = 0; s < sequences_max; s++)
        if (!(cache->sequences[s].pages =
                  arena_take(cache->arena, cache->pages_max, sizeof(uint32_t))))
            goto err_memory;
    /* Handed out from the end, so page 0 comes first. */
    for (uint32_t page = cache->pages_max; page-- > 0;)
        cache->free_pages[cache->free_count++] = page;
    *out = cache;
    return STATUS_OK;
err_memory:
    log_error("not enough memory for a KV cache of %u positions; lower --context", positions_max);
    kv_cache_destroy(cache);
    return STATUS_NO_MEMORY;
}

void kv_cache_destroy(struct kv_cache *cache) {
    if (!cache)
        return;
    arena_destroy(cache->arena);
    free(cache);
}

uint32_t kv_cache_width(const struct kv_cache *cache) {
    return cache->width;
}

uint32_t kv_cache_positions_max(const struct kv_cache *cache) {
    return cache->pages_max * KV_PAGE_POSITIONS;
}

enum status kv_cache_open(struct kv_cache *cache, uint32_t *sequence) {
    for (uint32_t s = 0; s < cache->sequences_max; s++) {
        if (cache->sequences[s].open)
            continue;
        cache->sequences[s].open = true;
        *sequence = s;
        return STATUS_OK;
    }
    log_error("all %u sequences of the KV cache are in use", cache->sequences_max);
    return STATUS_NO_MEMORY;
}

void kv_cache_close(struct kv_cache *cache, uint32_t sequence) {
    kv_cache_truncate(cache, sequence, 0);
    cache->sequences[sequence].open = false;
}

uint32_t kv_cache_length(const struct kv_cache *cache, uint32_t sequence) {
    return cache->sequences[sequence].length;
}

enum status kv_cache_extend(struct kv_cache *cache, uint32_t sequence, uint32_t positions) {
    struct sequence *s = &cache->sequences[sequence];
    assert(s->open);
    uint64_t length = (uint64_t)s->length + positions;
    if (length > kv_cache_positions_max(cache) ||
        pages_for((uint32_t)length) > s->page_count + cache->free_count) {
        log_error(
            "the context is full: %llu positions are needed, the KV cache has room for %u; raise "
            "--context or shorten the prompt",
            (unsigned long long)length, (s->page_count + cache->free_count) * KV_PAGE_POSITIONS);
        return STATUS_NO_MEMORY;
    }
    while (s->page_count < pages_for((uint32_t)length))
        s->pages[s->page_count++] = cache->free_pages[--cache->free_count];
    s->length = (uint32_t)length;
    return STATUS_OK;
}

void kv_cache_truncate(struct kv_cache *cache, uint32_t sequence, uint32_t length) {
    struct sequence *s = &cache->sequences[sequence];
    assert(length <= s->length);
    while (s->page_count > pages_for(length))
        cache->free_pages[cache->free_count++] = s->pages[--s->page_count];
    s->length = length;
}

float *kv_cache_row(const struct kv_cache *cache, uint32_t layer, uint32_t sequence,
                    uint32_t position) {
    const struct sequence *s = &cache->sequences[sequence];
    assert(position < s->length);
    size_t page = (size_t)layer * cache->pages_max + s->pages[position / KV_PAGE_POSITIONS];
    return cache->rows + (page * KV_PAGE_POSITIONS + position % KV_PAGE_POSITIONS) * cache->width;
}
