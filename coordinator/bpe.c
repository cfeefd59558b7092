/* A word starts as a chain of single-byte tokens. A queue holds every neighbouring pair that can
 * merge, ordered by rank and then by position; the best pair is merged and its new neighbours are
 * queued. Pairs that have changed in the meantime are recognised when they come up, by looking
 * them up again: symbols only grow, so a pair with the same rank at the same place is the same. */
#include "coordinator/bpe.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"

struct merge {
    uint64_t pair; /* left id, right id */
    uint32_t rank; /* RANK_NONE: an empty slot */
    uint32_t id;   /* what the two become */
};

#define RANK_NONE UINT32_MAX

struct bpe {
    const struct vocabulary *vocabulary;
    bool ignore_merges; /* a word that is a token is not taken apart */
    size_t slot_count;  /* a power of two, at least twice the merges */
    struct merge *slots;
};

struct bpe_symbol {
    uint32_t id;             /* TOKEN_NONE: merged into the one before */
    uint32_t previous, next; /* positions; LINK_NONE at the ends */
};

#define LINK_NONE UINT32_MAX

static uint64_t pair_of(uint32_t left, uint32_t right) {
    return (uint64_t)left << 32 | right;
}

/* The slot of this pair, or the empty one where it belongs. */
static struct merge *find_merge(const struct bpe *bpe, uint64_t pair) {
    uint64_t hash = pair * 0x9e3779b97f4a7c15u;
    size_t mask = bpe->slot_count - 1;
    for (size_t at = (hash ^ hash >> 32) & mask;; at = (at + 1) & mask)
        if (bpe->slots[at].rank == RANK_NONE || bpe->slots[at].pair == pair)
            return &bpe->slots[at];
}

/* ---- Reading. */

static enum status check_options(const json_t *model, const char *path) {
    const char *type = json_string_value(json_object_get(model, "type"));
    if (!type || strcmp(type, "BPE") != 0) {
        log_error("%s: model.type \"%.40s\" is not supported; it must be \"BPE\"", path,
                  type ? type : "(none)");
        return STATUS_UNSUPPORTED;
    }
    static const char *const KEYS[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix",
                                       "byte_fallback"};
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
        const json_t *value = json_object_get(model, KEYS[i]);
        bool unset = !value || json_is_null(value) || json_is_false(value) ||
                     (json_is_string(value) && json_string_length(value) == 0) ||
                     (json_is_number(value) && json_number_value(value) == 0.0);
        if (!unset) {
            log_error("%s: model.%s is not supported; it must be null, false or absent", path,
                      KEYS[i]);
            return STATUS_UNSUPPORTED;
        }
    }
    return STATUS_OK;
}

static enum status read_vocab(const json_t *vocab, const char *path,
                              struct vocabulary *vocabulary) {
    if (!json_is_object(vocab)) {
        log_error("%s: model.vocab must be an object {\"token\": id, ...}", path);
        return STATUS_FORMAT;
    }
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)vocab, text, id) {
        if (!json_is_integer(id)) {
            log_error("%s: the id of token \"%.64s\" in model.vocab must be a whole number", path,
                      text);
            return STATUS_FORMAT;
        }
        enum status status =
            vocabulary_add_word(vocabulary, path, text, strlen(text), json_integer_value(id));
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

/* Every text must be encodable. The thirteen bytes that UTF-8 never contains may lack: V1 and V2
 * have no tokens for them. */
static enum status check_bytes(const struct vocabulary *vocabulary, const char *path) {
    for (unsigned byte = 0; byte < 256; byte++) {
        bool occurs = byte != 0xc0 && byte != 0xc1 && byte < 0xf5;
        if (occurs && vocabulary->byte_ids[byte] == TOKEN_NONE) {
            log_error("%s: model.vocab has no token for byte 0x%02x, so that some texts could not "
                      "be encoded; fetch the file again",
                      path, byte);
            return STATUS_FORMAT;
        }
    }
    return STATUS_OK;
}

/* Splits a merge, "left right" or ["left", "right"], in two; false if it is neither. */
static bool split_merge(const json_t *value, const char *parts[2], size_t bytes[2]) {
    if (json_is_array(value)) {
        for (size_t i = 0; i < 2; i++) {
            parts[i] = json_string_value(json_array_get(value, i));
            bytes[i] = json_string_length(json_array_get(value, i));
        }
        return json_array_size(value) == 2 && parts[0] && parts[1];
    }
    const char *text = json_string_value(value);
    const char *blank = text ? strchr(text, ' ') : NULL;
    if (!blank || strchr(blank + 1, ' '))
        return false;
    parts[0] = text;
    bytes[0] = (size_t)(blank - text);
    parts[1] = blank + 1;
    bytes[1] = strlen(blank + 1);
    return true;
}

/* The ids of both parts and of the whole. */
static enum status resolve_merge(const struct vocabulary *vocabulary, const char *path,
                                 size_t index, const json_t *value, uint32_t ids[3]) {
    const char *parts[2];
    size_t bytes[2], used = 0;
    char buffer[TOKEN_BYTES_MAX];
    if (!split_merge(value, parts, bytes) || bytes[0] + bytes[1] > sizeof buffer) {
        log_error(
            "%s: model.merges[%zu] must be \"left right\" or [\"left\", \"right\"], at most %d "
            "bytes together",
            path, index, TOKEN_BYTES_MAX);
        return STATUS_FORMAT;
    }
    for (size_t i = 0; i < 2; i++) {
        size_t decoded = 0;
        bool is_word = vocabulary_decode_characters(parts[i], bytes[i], buffer + used, &decoded);
        ids[i] = is_word ? vocabulary_find(vocabulary, buffer + used, decoded) : TOKEN_NONE;
        if (ids[i] == TOKEN_NONE) {
            log_error("%s: model.merges[%zu] names \"%.*s\", which is not in model.vocab; fetch "
                      "the file again",
                      path, index, (int)(bytes[i] < 64 ? bytes[i] : 64), parts[i]);
            return STATUS_FORMAT;
        }
        used += decoded;
    }
    ids[2] = vocabulary_find(vocabulary, buffer, used);
    if (ids[2] == TOKEN_NONE) {
        log_error("%s: model.merges[%zu] makes a token that is not in model.vocab; fetch the file "
                  "again",
                  path, index);
        return STATUS_FORMAT;
    }
    return STATUS_OK;
}

static enum status fill_merges(struct bpe *bpe, const json_t *merges, const char *path) {
    for (size_t i = 0; i < json_array_size(merges); i++) {
        uint32_t ids[3];
        enum status status =
            resolve_merge(bpe->vocabulary, path, i, json_array_get(merges, i), ids);
        if (status != STATUS_OK)
            return status;
        uint64_t pair = pair_of(ids[0], ids[1]);
        *find_merge(bpe, pair) = (struct merge){.pair = pair, .rank = (uint32_t)i, .id = ids[2]};
    }
    return STATUS_OK;
}

static enum status read_merges(struct bpe *bpe, const json_t *merges, const char *path) {
    if (!json_is_array(merges)) {
        log_error("%s: model.merges must be a list", path);
        return STATUS_FORMAT;
    }
    bpe->slot_count = 16;
    while (bpe->slot_count < 2 * json_array_size(merges))
        bpe->slot_count *= 2;
    bpe->slots = malloc(bpe->slot_count * sizeof *bpe->slots);
    if (!bpe->slots) {
        log_error("no memory for the %zu merges of %s; free some and try again",
                  json_array_size(merges), path);
        return STATUS_NO_MEMORY;
    }
    for (size_t i = 0; i < bpe->slot_count; i++)
        bpe->slots[i].rank = RANK_NONE;
    return fill_merges(bpe, merges, path);
}

enum status bpe_read(const json_t *model, const char *path, struct vocabulary *vocabulary,
                     struct bpe **out) {
    enum status status = check_options(model, path);
    if (status == STATUS_OK)
        status = read_vocab(json_object_get(model, "vocab"), path, vocabulary);
    if (status == STATUS_OK)
        status = check_bytes(vocabulary, path);
    if (status != STATUS_OK)
        return status;
    struct bpe *bpe = calloc(1, sizeof *bpe);
    if (!bpe) {
        log_error("%s: no memory to read the tokenizer; free some and try again", path);
        return STATUS_NO_MEMORY;
    }
    bpe->vocabulary = vocabulary;
    bpe->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    status = read_merges(bpe, json_object_get(model, "merges"), path);
    if (status != STATUS_OK) {
        bpe_destroy(bpe);
        return status;
    }
    *out = bpe;
    return STATUS_OK;
}

void bpe_destroy(struct bpe *bpe) {
    if (!bpe)
        return;
    free(bpe->slots);
    free(bpe);
}

/* ---- Encoding. */

void bpe_scratch_cleanup(struct bpe_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->queue);
    *scratch = (struct bpe_scratch){0};
}

static enum status reserve_scratch(struct bpe_scratch *scratch, size_t bytes) {
    if (bytes <= scratch->capacity)
        return STATUS_OK;
    bpe_scratch_cleanup(scratch);
    size_t capacity = bytes < 256 ? 256 : bytes;
    scratch->symbols = malloc(capacity * sizeof *scratch->symbols);
    scratch->queue = malloc(2 * capacity * sizeof *scratch->queue);
    if (!scratch->symbols || !scratch->queue) {
        bpe_scratch_cleanup(scratch);
        log_error("no memory to encode a word of %zu bytes; free some and try again", bytes);
        return STATUS_NO_MEMORY;
    }
    scratch->capacity = capacity;
    return STATUS_OK;
}

/* A binary heap of (rank, position) with the smallest on top. Each merge takes one out and puts at
 * most two in, so it never holds more than twice the word's bytes. */
struct queue {
    uint64_t *items;
    size_t count;
};

static void queue_push(struct queue *queue, uint64_t item) {
    size_t at = queue->count++;
    while (at > 0 && queue->items[(at - 1) / 2] > item) {
        queue->items[at] = queue->items[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    queue->items[at] = item;
}

static uint64_t queue_pop(struct queue *queue) {
    uint64_t top = queue->items[0], moved = queue->items[--queue->count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < queue->count; at = child) {
        if (child + 1 < queue->count && queue->items[child + 1] < queue->items[child])
            child++;
        if (queue->items[child] >= moved)
            break;
        queue->items[at] = queue->items[child];
    }
    queue->items[at] = moved;
    return top;
}

/* The merge of the symbol at `at` with its successor, NULL if there is none. */
static const struct merge *merge_at(const struct bpe *bpe, const struct bpe_symbol *symbols,
                                    uint32_t at) {
    if (at == LINK_NONE || symbols[at].id == TOKEN_NONE || symbols[at].next == LINK_NONE)
        return NULL;
    const struct merge *merge =
        find_merge(bpe, pair_of(symbols[at].id, symbols[symbols[at].next].id));
    return merge->rank == RANK_NONE ? NULL : merge;
}

static void enqueue_pair(const struct bpe *bpe, const struct bpe_symbol *symbols, uint32_t at,
                         struct queue *queue) {
    const struct merge *merge = merge_at(bpe, symbols, at);
    if (merge)
        queue_push(queue, (uint64_t)merge->rank << 32 | at);
}

static void merge_symbols(const struct bpe *bpe, struct bpe_symbol *symbols, struct queue *queue) {
    while (queue->count) {
        uint64_t item = queue_pop(queue);
        uint32_t at = (uint32_t)item;
        const struct merge *merge = merge_at(bpe, symbols, at);
        if (!merge || merge->rank != item >> 32)
            continue;
        uint32_t gone = symbols[at].next;
        symbols[at].id = merge->id;
        symbols[at].next = symbols[gone].next;
        symbols[gone].id = TOKEN_NONE;
        if (symbols[at].next != LINK_NONE)
            symbols[symbols[at].next].previous = at;
        enqueue_pair(bpe, symbols, symbols[at].previous, queue);
        enqueue_pair(bpe, symbols, at, queue);
    }
}

enum status bpe_encode_word(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word,
                            size_t bytes, struct token_list *out) {
    if (bytes == 0)
        return STATUS_OK;
    uint32_t whole =
        bpe->ignore_merges ? vocabulary_find(bpe->vocabulary, word, bytes) : TOKEN_NONE;
    if (whole != TOKEN_NONE)
        return token_list_push(out, whole);
    enum status status = reserve_scratch(scratch, bytes);
    if (status != STATUS_OK)
        return status;
    struct bpe_symbol *symbols = scratch->symbols;
    struct queue queue = {.items = scratch->queue};
    for (uint32_t i = 0; i < bytes; i++)
        symbols[i] = (struct bpe_symbol){.id = bpe->vocabulary->byte_ids[(uint8_t)word[i]],
                                         .previous = i ? i - 1 : LINK_NONE,
                                         .next = i + 1 < bytes ? i + 1 : LINK_NONE};
    for (uint32_t i = 0; i < bytes; i++)
        enqueue_pair(bpe, symbols, i, &queue);
    merge_symbols(bpe, symbols, &queue);
    for (uint32_t at = 0; at != LINK_NONE && status == STATUS_OK; at = symbols[at].next)
        status = token_list_push(out, symbols[at].id);
    return status;
}
