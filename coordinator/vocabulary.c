/* Byte-level BPE writes each byte as a printable character: the printable ones of Latin-1 as
 * themselves, the other 68 as U+0100 onwards, in order. The map is undone while loading, so that
 * encoding and decoding work on plain bytes and never see it.
 *
 * A raw token keeps its UTF-8 text: such are special tokens that model.vocab lists too. They stay
 * out of the hash table, since no text can become one by merging. */
#include "coordinator/vocabulary.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/utf8.h"

enum { REMAPPED_FIRST = 0x100, REMAPPED_COUNT = 68 };

static bool is_printable(unsigned byte) {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* The byte for U+0100 + `index`. */
static uint8_t remapped_byte(unsigned index) {
    unsigned byte = 0;
    for (unsigned seen = 0;; byte++)
        if (!is_printable(byte) && seen++ == index)
            return (uint8_t)byte;
}

bool vocabulary_decode_characters(const char *text, size_t bytes, char *out, size_t *out_bytes) {
    size_t used = 0;
    for (size_t i = 0; i < bytes;) {
        size_t length;
        if (utf8_next(text + i, bytes - i, &length) != UTF8_VALID || length > 2)
            return false;
        unsigned code = (uint8_t)text[i];
        if (length == 2)
            code = (code & 0x1f) << 6 | ((uint8_t)text[i + 1] & 0x3f);
        if (code >= REMAPPED_FIRST && code < REMAPPED_FIRST + REMAPPED_COUNT)
            code = remapped_byte(code - REMAPPED_FIRST);
        else if (code >= REMAPPED_FIRST || !is_printable(code))
            return false;
        out[used++] = (char)code;
        i += length;
    }
    *out_bytes = used;
    return true;
}

enum status vocabulary_init(struct vocabulary *vocabulary, uint32_t size) {
    *vocabulary = (struct vocabulary){.size = size, .slot_count = 16};
    while (vocabulary->slot_count < 2 * size)
        vocabulary->slot_count *= 2;
    vocabulary->tokens = calloc(size, sizeof *vocabulary->tokens);
    vocabulary->slots = malloc(vocabulary->slot_count * sizeof *vocabulary->slots);
    if (!vocabulary->tokens || !vocabulary->slots) {
        log_error("no memory for a vocabulary of %u tokens; free some and try again", size);
        vocabulary_cleanup(vocabulary);
        return STATUS_NO_MEMORY;
    }
    memset(vocabulary->slots, 0xff, vocabulary->slot_count * sizeof *vocabulary->slots);
    memset(vocabulary->byte_ids, 0xff, sizeof vocabulary->byte_ids);
    return STATUS_OK;
}

void vocabulary_cleanup(struct vocabulary *vocabulary) {
    free(vocabulary->tokens);
    free(vocabulary->slots);
    free(vocabulary->text);
    *vocabulary = (struct vocabulary){0};
}

static uint64_t hash_bytes(const char *bytes, size_t count) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ (uint8_t)bytes[i]) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

/* The slot that holds these bytes, or the empty one where they belong. The table is at most half
 * full, so there is always an empty one. */
static uint32_t *find_slot(const struct vocabulary *vocabulary, const char *bytes, size_t count) {
    uint32_t mask = vocabulary->slot_count - 1;
    for (uint32_t at = (uint32_t)hash_bytes(bytes, count) & mask;; at = (at + 1) & mask) {
        uint32_t *slot = &vocabulary->slots[at];
        if (*slot == TOKEN_NONE)
            return slot;
        const struct token *token = &vocabulary->tokens[*slot];
        if (token->bytes == count && memcmp(vocabulary->text + token->offset, bytes, count) == 0)
            return slot;
    }
}

uint32_t vocabulary_find(const struct vocabulary *vocabulary, const char *bytes, size_t count) {
    return count ? *find_slot(vocabulary, bytes, count) : TOKEN_NONE;
}

/* Makes room for a token of at most `bytes` bytes. The file's bound keeps offsets below 32 bits. */
static enum status reserve_text(struct vocabulary *vocabulary, size_t bytes) {
    static_assert(2ull * JSON_FILE_BYTES_MAX < UINT32_MAX, "offsets have 32 bits");
    size_t needed = vocabulary->text_bytes + bytes;
    if (needed <= vocabulary->text_capacity)
        return STATUS_OK;
    size_t capacity = needed < 4096 ? 4096 : 2 * needed;
    char *text = realloc(vocabulary->text, capacity);
    if (!text) {
        log_error("no memory for %zu bytes of token texts; free some and try again", capacity);
        return STATUS_NO_MEMORY;
    }
    vocabulary->text = text;
    vocabulary->text_capacity = capacity;
    return STATUS_OK;
}

static enum status check_id(const struct vocabulary *vocabulary, const char *path, const char *text,
                            long long id) {
    if (id >= 0 && id < (long long)vocabulary->size)
        return STATUS_OK;
    log_error("%s: token \"%.64s\" has id %lld, but the model's ids go from 0 to %u; the tokenizer "
              "does not belong to this model",
              path, text, id, vocabulary->size - 1);
    return STATUS_FORMAT;
}

static enum status report_second_use(const char *path, const char *text, long long id) {
    log_error("%s: id %lld of token \"%.64s\" belongs to another token already; fetch the file "
              "again",
              path, id, text);
    return STATUS_FORMAT;
}

enum status vocabulary_add_word(struct vocabulary *vocabulary, const char *path, const char *text,
                                size_t bytes, long long id) {
    enum status status = check_id(vocabulary, path, text, id);
    if (status == STATUS_OK)
        status = reserve_text(vocabulary, bytes);
    if (status != STATUS_OK)
        return status;
    struct token *token = &vocabulary->tokens[id];
    if (token->kind != TOKEN_UNUSED)
        return report_second_use(path, text, id);
    char *at = vocabulary->text + vocabulary->text_bytes;
    size_t decoded_bytes = bytes;
    bool is_word = vocabulary_decode_characters(text, bytes, at, &decoded_bytes);
    if (!is_word)
        memcpy(at, text, bytes);
    *token = (struct token){.offset = (uint32_t)vocabulary->text_bytes,
                            .bytes = (uint32_t)decoded_bytes,
                            .kind = is_word ? TOKEN_WORD : TOKEN_RAW};
    vocabulary->text_bytes += decoded_bytes;
    if (!is_word || decoded_bytes == 0)
        return STATUS_OK;
    *find_slot(vocabulary, at, decoded_bytes) = (uint32_t)id;
    if (decoded_bytes == 1)
        vocabulary->byte_ids[(uint8_t)*at] = (uint32_t)id;
    return STATUS_OK;
}

enum status vocabulary_add_added(struct vocabulary *vocabulary, const char *path, const char *text,
                                 size_t bytes, long long id, bool special) {
    enum status status = check_id(vocabulary, path, text, id);
    if (status == STATUS_OK)
        status = reserve_text(vocabulary, 2 * bytes);
    if (status != STATUS_OK)
        return status;
    struct token *token = &vocabulary->tokens[id];
    char *at = vocabulary->text + vocabulary->text_bytes;
    size_t decoded_bytes;
    bool is_word = vocabulary_decode_characters(text, bytes, at + bytes, &decoded_bytes);
    const char *wanted = is_word && token->kind == TOKEN_WORD ? at + bytes : text;
    size_t wanted_bytes = wanted == text ? bytes : decoded_bytes;
    bool repeats = (token->kind == TOKEN_WORD || token->kind == TOKEN_RAW) &&
                   token->bytes == wanted_bytes &&
                   memcmp(vocabulary->text + token->offset, wanted, wanted_bytes) == 0;
    if (token->kind != TOKEN_UNUSED && !repeats)
        return report_second_use(path, text, id);
    memcpy(at, text, bytes);
    *token = (struct token){.offset = (uint32_t)vocabulary->text_bytes,
                            .bytes = (uint32_t)bytes,
                            .kind = special ? TOKEN_SPECIAL : TOKEN_ADDED};
    vocabulary->text_bytes += bytes;
    return STATUS_OK;
}
