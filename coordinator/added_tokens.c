/* The tokens are kept sorted by their bytes. All tokens that begin with a given prefix are then
 * neighbours, and reading one byte more of the text narrows that range by two binary searches: a
 * trie without nodes. Nearly all positions of a text end at the table of first bytes. */
#include "coordinator/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"

struct entry {
    const char *text; /* in the vocabulary */
    uint32_t bytes;
    uint32_t id;
    enum added_pass pass;
    bool control;
};

struct added_tokens {
    size_t count;
    uint32_t first[257]; /* entries that start with byte b: first[b] to first[b + 1] */
    struct entry entries[];
};

static int compare_entries(const void *left, const void *right) {
    const struct entry *a = left, *b = right;
    int order = memcmp(a->text, b->text, a->bytes < b->bytes ? a->bytes : b->bytes);
    return order ? order : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

/* `value[key]`, which must be true or false; `otherwise` where it is missing. */
static enum status read_flag(const json_t *value, const char *key, const char *path, size_t index,
                             bool otherwise, bool *out) {
    const json_t *flag = json_object_get(value, key);
    if (flag && !json_is_boolean(flag)) {
        log_error("%s: added_tokens[%zu].%s must be true or false", path, index, key);
        return STATUS_FORMAT;
    }
    *out = flag ? json_is_true(flag) : otherwise;
    return STATUS_OK;
}

/* Options of a token that DeepSeek's tokenizers do not use. */
static enum status refuse_options(const json_t *value, const char *path, size_t index) {
    static const char *const KEYS[] = {"single_word", "lstrip", "rstrip"};
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
        bool wanted;
        enum status status = read_flag(value, KEYS[i], path, index, false, &wanted);
        if (status != STATUS_OK)
            return status;
        if (wanted) {
            log_error("%s: added_tokens[%zu].%s = true is not supported; it must be false", path,
                      index, KEYS[i]);
            return STATUS_UNSUPPORTED;
        }
    }
    return STATUS_OK;
}

static enum status read_entry(const json_t *value, const char *path, size_t index,
                              struct vocabulary *vocabulary, struct entry *out) {
    const json_t *content = json_object_get(value, "content");
    const json_t *id = json_object_get(value, "id");
    size_t bytes = json_string_length(content);
    if (!bytes || !json_is_integer(id)) {
        log_error("%s: added_tokens[%zu] needs a \"content\" that is not empty and a whole \"id\"",
                  path, index);
        return STATUS_FORMAT;
    }
    bool special, normalized;
    enum status status = refuse_options(value, path, index);
    if (status == STATUS_OK)
        status = read_flag(value, "special", path, index, false, &special);
    if (status == STATUS_OK)
        status = read_flag(value, "normalized", path, index, !special, &normalized);
    const char *text = json_string_value(content);
    if (status == STATUS_OK)
        status =
            vocabulary_add_added(vocabulary, path, text, bytes, json_integer_value(id), special);
    if (status != STATUS_OK)
        return status;
    bool bracketed = text[0] == '<' && text[bytes - 1] == '>';
    *out = (struct entry){.bytes = (uint32_t)bytes,
                          .id = (uint32_t)json_integer_value(id),
                          .pass = normalized ? ADDED_PASS_NORMALIZED : ADDED_PASS_RAW,
                          .control = special || bracketed};
    return STATUS_OK;
}

/* Sorts the entries and fills the table of first bytes. The texts are taken only now, because the
 * vocabulary's text moves while it grows. */
static enum status index_entries(struct added_tokens *added, const char *path,
                                 const struct vocabulary *vocabulary) {
    struct entry *entries = added->entries;
    for (size_t i = 0; i < added->count; i++)
        entries[i].text = vocabulary->text + vocabulary->tokens[entries[i].id].offset;
    qsort(entries, added->count, sizeof *entries, compare_entries);
    for (size_t i = 0; i + 1 < added->count; i++)
        if (compare_entries(&entries[i], &entries[i + 1]) == 0) {
            log_error("%s: added token \"%.*s\" has the ids %u and %u; it must have one", path,
                      (int)entries[i].bytes, entries[i].text, entries[i].id, entries[i + 1].id);
            return STATUS_FORMAT;
        }
    size_t at = 0;
    for (unsigned byte = 0; byte <= 256; byte++) {
        while (at < added->count && (uint8_t)entries[at].text[0] < byte)
            at++;
        added->first[byte] = (uint32_t)at;
    }
    return STATUS_OK;
}

enum status added_tokens_read(const json_t *list, const char *path, struct vocabulary *vocabulary,
                              struct added_tokens **out) {
    if (list && !json_is_null(list) && !json_is_array(list)) {
        log_error("%s: added_tokens must be a list", path);
        return STATUS_FORMAT;
    }
    size_t count = json_array_size(list);
    struct added_tokens *added = calloc(1, sizeof *added + count * sizeof *added->entries);
    if (!added) {
        log_error("no memory for the %zu added tokens of %s; free some and try again", count, path);
        return STATUS_NO_MEMORY;
    }
    enum status status = STATUS_OK;
    for (; added->count < count && status == STATUS_OK; added->count++)
        status = read_entry(json_array_get(list, added->count), path, added->count, vocabulary,
                            &added->entries[added->count]);
    if (status == STATUS_OK)
        status = index_entries(added, path, vocabulary);
    if (status != STATUS_OK) {
        added_tokens_destroy(added);
        return status;
    }
    *out = added;
    return STATUS_OK;
}

void added_tokens_destroy(struct added_tokens *added) {
    free(added);
}

/* The first entry of [low, high) whose byte at `depth` is at least `byte`. All of them agree before
 * `depth`; one that ends there sorts first. */
static size_t lower_bound(const struct added_tokens *added, size_t low, size_t high, size_t depth,
                          unsigned byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct entry *entry = &added->entries[middle];
        if (entry->bytes <= depth || (uint8_t)entry->text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest admissible entry that `text` starts with, NULL if there is none. */
static const struct entry *match_here(const struct added_tokens *added, enum added_pass pass,
                                      bool control, const char *text, size_t bytes) {
    const struct entry *best = NULL;
    size_t low = added->first[(uint8_t)text[0]], high = added->first[(uint8_t)text[0] + 1];
    for (size_t depth = 1; low < high; depth++) {
        const struct entry *entry = &added->entries[low];
        if (entry->bytes == depth && entry->pass == pass && (control || !entry->control))
            best = entry;
        if (depth == bytes)
            break;
        uint8_t byte = (uint8_t)text[depth];
        low = lower_bound(added, low, high, depth, byte);
        high = lower_bound(added, low, high, depth, byte + 1u);
    }
    return best;
}

bool added_tokens_find(const struct added_tokens *added, enum added_pass pass, bool control,
                       const char *text, size_t bytes, struct added_match *out) {
    for (size_t at = 0; at < bytes; at++) {
        const struct entry *entry = match_here(added, pass, control, text + at, bytes - at);
        if (entry) {
            *out = (struct added_match){.start = at, .end = at + entry->bytes, .id = entry->id};
            return true;
        }
    }
    return false;
}

uint32_t added_tokens_id(const struct added_tokens *added, const char *text, size_t bytes) {
    struct entry wanted = {.text = text, .bytes = (uint32_t)bytes};
    const struct entry *found = bytes <= UINT32_MAX ? bsearch(&wanted, added->entries, added->count,
                                                              sizeof wanted, compare_entries)
                                                    : NULL;
    return found ? found->id : TOKEN_NONE;
}
