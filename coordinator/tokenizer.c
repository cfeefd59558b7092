/* Added tokens are found first, in two passes as Hugging Face does it; what is left goes through
 * the pre-tokenizer word by word, and each word through the merges. Everything works on the text's
 * bytes; the byte characters of tokenizer.json exist only while it is read. */
#include "coordinator/tokenizer.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/utf8.h"
#include "coordinator/added_tokens.h"
#include "coordinator/bpe.h"
#include "coordinator/pretokenizer.h"
#include "coordinator/vocabulary.h"

struct tokenizer {
    struct vocabulary vocabulary;
    struct added_tokens *added;
    struct pretokenizer *pretokenizer;
    struct bpe *bpe;
    char *chat_template;
    uint32_t bos, eos; /* TOKEN_NONE: not named */
};

enum status token_list_push(struct token_list *list, uint32_t id) {
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        uint32_t *ids = realloc(list->ids, capacity * sizeof *ids);
        if (!ids) {
            log_error("no memory for %zu token ids; free some and try again", capacity);
            return STATUS_NO_MEMORY;
        }
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->count++] = id;
    return STATUS_OK;
}

/* ---- tokenizer.json. */

static enum status check_normalizer(const json_t *normalizer, const char *path) {
    if (!normalizer || json_is_null(normalizer))
        return STATUS_OK;
    const char *type = json_string_value(json_object_get(normalizer, "type"));
    if (type && strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(normalizer, "normalizers");
        if (json_is_array(list) && json_array_size(list) == 0)
            return STATUS_OK;
        type = json_string_value(json_object_get(json_array_get(list, 0), "type"));
    }
    log_error("%s: normalizer \"%.40s\" is not supported; it must be null or an empty Sequence",
              path, type ? type : "(unnamed)");
    return STATUS_UNSUPPORTED;
}

static enum status read_parts(struct tokenizer *tokenizer, const json_t *root, const char *path) {
    enum status status = check_normalizer(json_object_get(root, "normalizer"), path);
    if (status == STATUS_OK)
        status = pretokenizer_read(json_object_get(root, "pre_tokenizer"), path,
                                   &tokenizer->pretokenizer);
    if (status == STATUS_OK)
        status =
            bpe_read(json_object_get(root, "model"), path, &tokenizer->vocabulary, &tokenizer->bpe);
    if (status == STATUS_OK)
        status = added_tokens_read(json_object_get(root, "added_tokens"), path,
                                   &tokenizer->vocabulary, &tokenizer->added);
    return status;
}

/* ---- tokenizer_config.json. */

/* The string in `value`, which is one or an object with "content"; NULL if it is neither. */
static const char *token_text(const json_t *value) {
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

static enum status read_named_token(const struct tokenizer *tokenizer, const json_t *root,
                                    const char *path, const char *key, uint32_t *out) {
    const json_t *value = json_object_get(root, key);
    if (!value || json_is_null(value))
        return STATUS_OK;
    const char *text = token_text(value);
    if (!text) {
        log_error("%s: %s must be a string or an object with \"content\"", path, key);
        return STATUS_FORMAT;
    }
    if (!tokenizer_find(tokenizer, text, out)) {
        log_error("%s: %s \"%.64s\" is no token of tokenizer.json; the two files do not belong "
                  "together",
                  path, key, text);
        return STATUS_FORMAT;
    }
    return STATUS_OK;
}

/* The template's source: a string, or of a list of named ones the "default", else the first. */
static const json_t *find_template(const json_t *value) {
    if (!json_is_array(value))
        return value;
    const json_t *found = json_object_get(json_array_get(value, 0), "template");
    size_t index;
    json_t *item;
    json_array_foreach(value, index, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && strcmp(name, "default") == 0)
            found = json_object_get(item, "template");
    }
    return found;
}

static enum status read_template(struct tokenizer *tokenizer, const json_t *root,
                                 const char *path) {
    const json_t *value = json_object_get(root, "chat_template");
    const json_t *source = value ? find_template(value) : NULL;
    if (value && !json_is_null(value) && !json_is_string(source)) {
        log_error("%s: chat_template must be a string, or a list of objects with \"name\" and "
                  "\"template\"",
                  path);
        return STATUS_FORMAT;
    }
    tokenizer->chat_template = strdup(json_is_string(source) ? json_string_value(source) : "");
    if (!tokenizer->chat_template) {
        log_error("%s: no memory for the chat template; free some and try again", path);
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

/* `root` may be NULL: no such file. */
static enum status read_config(struct tokenizer *tokenizer, const json_t *root, const char *path) {
    tokenizer->bos = tokenizer->eos = TOKEN_NONE;
    enum status status = read_template(tokenizer, root, path);
    if (status == STATUS_OK)
        status = read_named_token(tokenizer, root, path, "bos_token", &tokenizer->bos);
    if (status == STATUS_OK)
        status = read_named_token(tokenizer, root, path, "eos_token", &tokenizer->eos);
    return status;
}

/* ---- Loading. */

static enum status read_object(const char *directory, const char *name, char path[PATH_MAX],
                               json_t **out) {
    if (snprintf(path, PATH_MAX, "%s/%s", directory, name) >= PATH_MAX) {
        log_error("the path %.64s... is too long; move the model to a shorter one", directory);
        return STATUS_USAGE;
    }
    return json_read_file(path, true, out);
}

enum status tokenizer_parse(const struct tokenizer_source *source, uint32_t vocabulary,
                            struct tokenizer **out) {
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) {
        log_error("no memory for the tokenizer of %s; free some and try again",
                  source->tokenizer_place);
        return STATUS_NO_MEMORY;
    }
    enum status status = vocabulary_init(&tokenizer->vocabulary, vocabulary);
    if (status == STATUS_OK)
        status = read_parts(tokenizer, source->tokenizer, source->tokenizer_place);
    if (status == STATUS_OK)
        status = read_config(tokenizer, source->config, source->config_place);
    if (status != STATUS_OK) {
        tokenizer_destroy(tokenizer);
        return status;
    }
    *out = tokenizer;
    return STATUS_OK;
}

enum status tokenizer_load(const char *directory, uint32_t vocabulary, struct tokenizer **out) {
    char tokenizer_path[PATH_MAX], config_path[PATH_MAX];
    json_t *root, *config = NULL;
    enum status status = read_object(directory, "tokenizer.json", tokenizer_path, &root);
    if (status != STATUS_OK)
        return status;
    status = read_object(directory, "tokenizer_config.json", config_path, &config);
    if (status == STATUS_OK || status == STATUS_NOT_FOUND) {
        struct tokenizer_source source = {root, tokenizer_path, config, config_path};
        status = tokenizer_parse(&source, vocabulary, out);
    }
    json_decref(root);
    json_decref(config);
    return status;
}

void tokenizer_destroy(struct tokenizer *tokenizer) {
    if (!tokenizer)
        return;
    free(tokenizer->chat_template);
    added_tokens_destroy(tokenizer->added);
    bpe_destroy(tokenizer->bpe);
    pretokenizer_destroy(tokenizer->pretokenizer);
    vocabulary_cleanup(&tokenizer->vocabulary);
    free(tokenizer);
}

/* ---- Encoding. */

/* One call of tokenizer_encode. */
struct encoder {
    const struct tokenizer *tokenizer;
    bool control; /* special tokens in the text are matched */
    struct bpe_scratch scratch;
    struct token_list *out;
};

static enum status encode_word(void *context, const char *word, size_t bytes) {
    struct encoder *encoder = context;
    return bpe_encode_word(encoder->tokenizer->bpe, &encoder->scratch, word, bytes, encoder->out);
}

/* Finds the added tokens of `pass` and hands what lies between them to the next pass; after the
 * last, to the pre-tokenizer. */
static enum status encode_from_pass(struct encoder *encoder, enum added_pass pass, const char *text,
                                    size_t bytes) {
    const struct tokenizer *tokenizer = encoder->tokenizer;
    if (pass == ADDED_PASS_COUNT)
        return pretokenizer_cut(tokenizer->pretokenizer, text, bytes, encode_word, encoder);
    struct added_match match;
    enum status status = STATUS_OK;
    while (status == STATUS_OK &&
           added_tokens_find(tokenizer->added, pass, encoder->control, text, bytes, &match)) {
        status = encode_from_pass(encoder, pass + 1, text, match.start);
        if (status == STATUS_OK)
            status = token_list_push(encoder->out, match.id);
        text += match.end;
        bytes -= match.end;
    }
    return status == STATUS_OK ? encode_from_pass(encoder, pass + 1, text, bytes) : status;
}

/* How many bytes of the text's start are valid UTF-8. */
static size_t valid_prefix(const char *text, size_t bytes) {
    size_t at = 0;
    for (size_t length; at < bytes && utf8_next(text + at, bytes - at, &length) == UTF8_VALID;)
        at += length;
    return at;
}

/* A copy of `text` with each invalid piece replaced by U+FFFD; the caller frees *out. */
static enum status repair_text(const char *text, size_t bytes, char **out, size_t *out_bytes) {
    char *copy = malloc(bytes * UTF8_REPLACEMENT_BYTES);
    if (!copy) {
        log_error("no memory to encode a text of %zu bytes; free some and try again", bytes);
        return STATUS_NO_MEMORY;
    }
    size_t used = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        bool valid = utf8_next(text + at, bytes - at, &length) == UTF8_VALID;
        size_t written = valid ? length : UTF8_REPLACEMENT_BYTES;
        memcpy(copy + used, valid ? text + at : UTF8_REPLACEMENT, written);
        used += written;
    }
    *out = copy;
    *out_bytes = used;
    return STATUS_OK;
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                             bool parse_special, struct token_list *out) {
    if (bytes > TEXT_BYTES_MAX) {
        log_error("a text of %zu bytes is too long to encode; at most %u bytes are", bytes,
                  TEXT_BYTES_MAX);
        return STATUS_UNSUPPORTED;
    }
    char *repaired = NULL;
    if (valid_prefix(text, bytes) < bytes) {
        enum status status = repair_text(text, bytes, &repaired, &bytes);
        if (status != STATUS_OK)
            return status;
    }
    size_t count_before = out->count;
    struct encoder encoder = {.tokenizer = tokenizer, .control = parse_special, .out = out};
    enum status status =
        encode_from_pass(&encoder, ADDED_PASS_RAW, repaired ? repaired : text, bytes);
    if (status != STATUS_OK)
        out->count = count_before;
    bpe_scratch_cleanup(&encoder.scratch);
    free(repaired);
    return status;
}

/* ---- Looking up. */

const char *tokenizer_token_bytes(const struct tokenizer *tokenizer, uint32_t id, size_t *bytes,
                                  bool *special) {
    const struct vocabulary *vocabulary = &tokenizer->vocabulary;
    const struct token unused = {0};
    const struct token *token = id < vocabulary->size ? &vocabulary->tokens[id] : &unused;
    *bytes = token->bytes;
    *special = token->kind == TOKEN_SPECIAL;
    return token->bytes ? vocabulary->text + token->offset : "";
}

bool tokenizer_find(const struct tokenizer *tokenizer, const char *text, uint32_t *out) {
    size_t bytes = strlen(text);
    uint32_t id = added_tokens_id(tokenizer->added, text, bytes);
    if (id == TOKEN_NONE)
        id = vocabulary_find(&tokenizer->vocabulary, text, bytes);
    if (id == TOKEN_NONE)
        return false;
    *out = id;
    return true;
}

const char *tokenizer_chat_template(const struct tokenizer *tokenizer) {
    return tokenizer->chat_template;
}

/* Sets *out to `id` if there is such a token. */
static bool give_id(uint32_t id, uint32_t *out) {
    if (id == TOKEN_NONE)
        return false;
    *out = id;
    return true;
}

bool tokenizer_bos(const struct tokenizer *tokenizer, uint32_t *out) {
    return give_id(tokenizer->bos, out);
}

bool tokenizer_eos(const struct tokenizer *tokenizer, uint32_t *out) {
    return give_id(tokenizer->eos, out);
}
