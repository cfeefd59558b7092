/* The directory's tokenizer is loaded as for running, which checks all of it; tokens are then taken
 * from the file again, since GGUF writes them as tokenizer.json does and not as bytes. */
#include "coordinator/gguf_vocabulary.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/log.h"
#include "coordinator/gguf_keys.h"
#include "coordinator/gguf_tokenizer.h"
#include "coordinator/tokenizer.h"

struct source {
    char tokenizer_path[PATH_MAX], config_path[PATH_MAX];
    json_t *root;   /* of tokenizer.json */
    json_t *config; /* of tokenizer_config.json; NULL: there is none */
    struct tokenizer *tokenizer;
    const struct model_shape *shape;
};

static enum status read_file(const char *directory, const char *name, char path[PATH_MAX],
                             json_t **out) {
    if (snprintf(path, PATH_MAX, "%s/%s", directory, name) >= PATH_MAX) {
        log_error("the path %.64s... is too long; move the model to a shorter one", directory);
        return STATUS_USAGE;
    }
    return json_read_file(path, true, out);
}

static void source_cleanup(struct source *source) {
    tokenizer_destroy(source->tokenizer);
    json_decref(source->root);
    json_decref(source->config);
}

static enum status source_read(const char *directory, struct source *source) {
    enum status status =
        read_file(directory, "tokenizer.json", source->tokenizer_path, &source->root);
    if (status != STATUS_OK)
        return status;
    status = read_file(directory, "tokenizer_config.json", source->config_path, &source->config);
    if (status != STATUS_OK && status != STATUS_NOT_FOUND)
        return status;
    struct tokenizer_source parts = {source->root, source->tokenizer_path, source->config,
                                     source->config_path};
    return tokenizer_parse(&parts, source->shape->vocabulary, &source->tokenizer);
}

static enum status report_no_memory(const struct source *source) {
    log_error("no memory for the tokens of %s; free some and try again", source->tokenizer_path);
    return STATUS_NO_MEMORY;
}

/* ---- Tokens. */

/* Ids that tokenizer.json leaves free get a name that no text has. */
static json_t *name_unused(uint32_t count) {
    json_t *tokens = json_array();
    for (uint32_t id = 0; id < count; id++) {
        char name[32];
        snprintf(name, sizeof name, "[PAD%" PRIu32 "]", id);
        json_array_append_new(tokens, json_string(name));
    }
    return tokens;
}

/* The ids were checked when the tokenizer was loaded. */
static void place_tokens(const struct source *source, json_t *tokens, int32_t *types) {
    const char *text;
    json_t *id;
    json_object_foreach(json_object_get(json_object_get(source->root, "model"), "vocab"), text,
                        id) {
        json_array_set_new(tokens, (size_t)json_integer_value(id), json_string_nocheck(text));
        types[json_integer_value(id)] = TYPE_NORMAL;
    }
    size_t index;
    json_t *added;
    json_array_foreach(json_object_get(source->root, "added_tokens"), index, added) {
        size_t place = (size_t)json_integer_value(json_object_get(added, "id"));
        json_array_set(tokens, place, json_object_get(added, "content"));
        types[place] =
            json_is_true(json_object_get(added, "special")) ? TYPE_CONTROL : TYPE_USER_DEFINED;
    }
}

static enum status write_tokens(const struct source *source, struct gguf_writer *writer) {
    uint32_t count = source->shape->vocabulary;
    json_t *tokens = name_unused(count);
    int32_t *types = malloc(count * sizeof *types);
    enum status status = STATUS_OK;
    if (types && json_array_size(tokens) == count) {
        for (uint32_t id = 0; id < count; id++)
            types[id] = TYPE_UNUSED;
        place_tokens(source, tokens, types);
        gguf_writer_add_strings(writer, KEY_TOKENS, tokens);
        gguf_writer_add_i32s(writer, KEY_TOKEN_TYPES, types, count);
    } else
        status = report_no_memory(source);
    json_decref(tokens);
    free(types);
    return status;
}

/* tokenizer.json has "a b" or, in newer files, ["a", "b"]. */
static json_t *join_merge(const json_t *merge) {
    return json_is_array(merge) ? json_sprintf("%s %s", json_string_value(json_array_get(merge, 0)),
                                               json_string_value(json_array_get(merge, 1)))
                                : json_copy((json_t *)merge);
}

static enum status write_merges(const struct source *source, struct gguf_writer *writer) {
    const json_t *merges = json_object_get(json_object_get(source->root, "model"), "merges");
    json_t *joined = json_array();
    size_t index;
    json_t *merge;
    json_array_foreach(merges, index, merge) json_array_append_new(joined, join_merge(merge));
    enum status status = STATUS_OK;
    if (json_array_size(joined) == json_array_size(merges))
        gguf_writer_add_strings(writer, KEY_MERGES, joined);
    else
        status = report_no_memory(source);
    json_decref(joined);
    return status;
}

/* ---- The rest. */

static enum status write_pretokenizer(const struct source *source, struct gguf_writer *writer) {
    const char *name = gguf_pretokenizer_name(json_object_get(source->root, "pre_tokenizer"));
    if (!name) {
        log_error("%s: GGUF has no name for this \"pre_tokenizer\": it must be the one of a "
                  "DeepSeek LLM, Coder or V3 tokenizer, others cannot be written",
                  source->tokenizer_path);
        return STATUS_UNSUPPORTED;
    }
    gguf_writer_add_string(writer, KEY_TOKENIZER_PRE, name);
    return STATUS_OK;
}

static void write_id(const struct source *source, const char *name, uint32_t fallback,
                     const char *key, struct gguf_writer *writer) {
    const json_t *value = json_object_get(source->config, name);
    const char *text =
        json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    uint32_t id = fallback;
    if (text)
        tokenizer_find(source->tokenizer, text, &id);
    if (id != UINT32_MAX)
        gguf_writer_add_u32(writer, key, id);
}

static void write_flag(const struct source *source, const char *name, const char *key,
                       struct gguf_writer *writer) {
    const json_t *value = json_object_get(source->config, name);
    if (json_is_boolean(value))
        gguf_writer_add_bool(writer, key, json_is_true(value));
}

static enum status write_all(const struct source *source, struct gguf_writer *writer) {
    gguf_writer_add_string(writer, KEY_TOKENIZER_MODEL, TOKENIZER_BPE);
    enum status status = write_pretokenizer(source, writer);
    if (status == STATUS_OK)
        status = write_tokens(source, writer);
    if (status == STATUS_OK)
        status = write_merges(source, writer);
    if (status != STATUS_OK)
        return status;
    write_id(source, "bos_token", source->shape->bos_id, KEY_BOS, writer);
    write_id(source, "eos_token", source->shape->eos_id, KEY_EOS, writer);
    write_id(source, "pad_token", UINT32_MAX, KEY_PADDING, writer);
    write_flag(source, "add_bos_token", KEY_ADD_BOS, writer);
    write_flag(source, "add_eos_token", KEY_ADD_EOS, writer);
    const char *template = tokenizer_chat_template(source->tokenizer);
    if (*template)
        gguf_writer_add_string(writer, KEY_CHAT_TEMPLATE, template);
    return STATUS_OK;
}

/* Ids alone, for models that come without a tokenizer. */
static void write_none(const struct model_shape *shape, struct gguf_writer *writer) {
    gguf_writer_add_string(writer, KEY_TOKENIZER_MODEL, TOKENIZER_NONE);
    if (shape->bos_id != UINT32_MAX)
        gguf_writer_add_u32(writer, KEY_BOS, shape->bos_id);
    if (shape->eos_id != UINT32_MAX)
        gguf_writer_add_u32(writer, KEY_EOS, shape->eos_id);
}

enum status gguf_vocabulary_write(const char *directory, const struct model_shape *shape,
                                  struct gguf_writer *writer) {
    struct source source = {.shape = shape};
    enum status status = source_read(directory, &source);
    if (status == STATUS_OK)
        status = write_all(&source, writer);
    else if (status == STATUS_NOT_FOUND) {
        log_warning("%s has no tokenizer.json: the file that is written will take and give token "
                    "ids only",
                    directory);
        write_none(shape, writer);
        status = STATUS_OK;
    }
    source_cleanup(&source);
    return status;
}
