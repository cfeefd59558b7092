/* Memory is laid out (layer, page, position, row), so that one page of one layer is contiguous. The
 * pool is one mapping; a free list hands out pages, and each sequence has a table of its pages.
 * Truncation and closing return pages at once.
 *
 * A row is one or more parts, each of which starts with a block of its own: a head is then read
 * without its neighbours. Reading is the kernels' expansion of weights; writing happens once for
 * each position and layer and is plain C. */
#include "coordinator/kv_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/kernel/half.h"
#include "common/kernel/kernel.h"
#include "common/kernel/q8_rows.h"
#include "common/log.h"

struct sequence {
    bool open;
    uint32_t length;
    uint32_t page_count;
    uint32_t *pages; /* (pages_max) */
};

struct kv_cache {
    struct arena *arena;
    enum weight_format format;
    uint32_t parts, part_width;
    size_t part_bytes, row_bytes;
    uint32_t pages_max, sequences_max;
    uint8_t *rows; /* (layers, pages_max, KV_PAGE_POSITIONS, row_bytes) */
    struct sequence *sequences;
    uint32_t *free_pages; /* (free_count) */
    uint32_t free_count;
};

static uint32_t pages_for(uint32_t positions) {
    return (uint32_t)(((uint64_t)positions + KV_PAGE_POSITIONS - 1) / KV_PAGE_POSITIONS);
}

static uint32_t parts_of(const struct model_shape *shape) {
    return shape->attention == ATTENTION_LATENT ? 1 : 2 * shape->kv_heads;
}

static uint32_t part_width_of(const struct model_shape *shape) {
    return shape->attention == ATTENTION_LATENT ? shape->kv_rank + shape->rope_dim
                                                : shape->head_dim;
}

size_t kv_cache_position_bytes(const struct model_shape *shape, enum weight_format format) {
    return parts_of(shape) * weight_row_bytes(format, part_width_of(shape));
}

enum status kv_cache_create(const struct model_shape *shape, const struct kv_cache_options *options,
                            struct kv_cache **out) {
    uint32_t sequences_max = options->sequences_max;
    struct kv_cache *cache = calloc(1, sizeof *cache);
    if (!cache || !(cache->arena = arena_create(0)))
        goto err_memory;
    cache->format = options->format;
    cache->parts = parts_of(shape);
    cache->part_width = part_width_of(shape);
    cache->part_bytes = weight_row_bytes(cache->format, cache->part_width);
    cache->row_bytes = cache->parts * cache->part_bytes;
    cache->pages_max = pages_for(options->positions_max);
    cache->sequences_max = sequences_max;
    cache->sequences = arena_take(cache->arena, sequences_max, sizeof *cache->sequences);
    cache->free_pages = arena_take(cache->arena, cache->pages_max, sizeof *cache->free_pages);
    size_t page_bytes = KV_PAGE_POSITIONS * cache->row_bytes;
    cache->rows = arena_take(cache->arena, (size_t)options->layers * cache->pages_max, page_bytes);
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
    log_error("not enough memory for a KV cache of %u positions; lower --context",
              options->positions_max);
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
    return cache->parts * cache->part_width;
}

size_t kv_cache_row_bytes(const struct kv_cache *cache) {
    return cache->row_bytes;
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

static uint8_t *row_at(const struct kv_cache *cache, uint32_t layer, uint32_t sequence,
                       uint32_t position) {
    const struct sequence *s = &cache->sequences[sequence];
    assert(position < s->length);
    size_t page = (size_t)layer * cache->pages_max + s->pages[position / KV_PAGE_POSITIONS];
    return cache->rows +
           (page * KV_PAGE_POSITIONS + position % KV_PAGE_POSITIONS) * cache->row_bytes;
}

static void write_part(enum weight_format format, const float *x, uint32_t count, void *out) {
    uint16_t *halves = out;
    if (format == WEIGHT_F32)
        memcpy(out, x, count * sizeof *x);
    else if (format == WEIGHT_Q8_0)
        q8_row_store(x, count, out);
    else
        for (uint32_t i = 0; i < count; i++)
            halves[i] = format == WEIGHT_F16 ? f16_from_f32(x[i]) : bf16_from_f32(x[i]);
}

void kv_cache_write(struct kv_cache *cache, uint32_t layer, uint32_t sequence, uint32_t position,
                    const float *row) {
    uint8_t *out = row_at(cache, layer, sequence, position);
    for (uint32_t part = 0; part < cache->parts; part++)
        write_part(cache->format, row + (size_t)part * cache->part_width, cache->part_width,
                   out + part * cache->part_bytes);
}

uint32_t kv_cache_part_width(const struct kv_cache *cache) {
    return cache->part_width;
}

uint32_t kv_cache_part_floats(const struct kv_cache *cache) {
    uint32_t block = weight_is_blocked(cache->format) ? weight_block(cache->format) : 1;
    return (cache->part_width + block - 1) / block * block;
}

void kv_cache_read(const struct kv_cache *cache, const struct kv_run *run, uint32_t part,
                   float *out, size_t stride) {
    const struct kernel *kernel = kernel_get();
    uint32_t floats = kv_cache_part_floats(cache);
    const uint8_t *row = NULL;
    for (uint32_t i = 0; i < run->count; i++, row += cache->row_bytes) {
        uint32_t position = run->position + i;
        if (i == 0 || position % KV_PAGE_POSITIONS == 0)
            row = row_at(cache, run->layer, run->sequence, position);
        kernel->expand[cache->format](row + part * cache->part_bytes, floats, 1.0f,
                                      out + i * stride);
    }
}
