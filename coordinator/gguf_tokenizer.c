/* The objects are those of Hugging Face's files with the keys that tokenizer.c and its parts read.
 * A GGUF file names its pre-tokenizer ("deepseek-v3") and does not describe it, so what the
 * published tokenizer.json files say stands here. */
#include "coordinator/gguf_tokenizer.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "common/log.h"
#include "coordinator/gguf_keys.h"

/* Tokens that no merge makes: the 256 bytes. */
#define BYTE_TOKENS 256

/* ---- Pre-tokenizers. */

#define SPLITS_MAX 5

/* Patterns are cut at in order; `digits`: then at each digit. */
struct known_pretokenizer {
    const char *name;
    const char *splits[SPLITS_MAX];
    bool digits;
};

#define CJK_PATTERN "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+"

static const struct known_pretokenizer KNOWN_PRETOKENIZERS[] = {
    {"deepseek-llm",
     {"[\r\n]",
      /* Letters of the scripts that have case. */
      "\\s?[A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293"
      "\u0295-\u02AF\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C"
      "\u038E-\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0"
      "-\u13F5\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-"
      "\u1D9A\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B"
      "\u1F5D\u1F5F-\u1F7D\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-"
      "\u1FD3\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113"
      "\u2115\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F"
      "\u2145-\u2149\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3"
      "\uA640-\uA66D\uA680-\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00"
      "-\uFB06\uFB13-\uFB17\uFF21-\uFF3A\uFF41-\uFF5A\U00010400-\U0001044F\U000104B0-"
      "\U000104D3\U000104D8-\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-"
      "\U000118DF\U0001E900-\U0001E943]+",
      "\\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+", "\\s+$", CJK_PATTERN},
     true},
    {"deepseek-coder", {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK_PATTERN}, true},
    {"deepseek-v3",
     {"\\p{N}{1,3}", "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+",
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?["
      "\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
     false},
};

static const struct known_pretokenizer *find_pretokenizer(const char *name) {
    for (size_t i = 0; i < sizeof KNOWN_PRETOKENIZERS / sizeof *KNOWN_PRETOKENIZERS; i++)
        if (strcmp(KNOWN_PRETOKENIZERS[i].name, name) == 0)
            return &KNOWN_PRETOKENIZERS[i];
    return NULL;
}

static json_t *describe_pretokenizer(const struct known_pretokenizer *known) {
    json_t *steps = json_array();
    for (size_t i = 0; i < SPLITS_MAX && known->splits[i]; i++)
        json_array_append_new(steps, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split",
                                               "pattern", "Regex", known->splits[i], "behavior",
                                               "Isolated", "invert", 0));
    if (known->digits)
        json_array_append_new(steps,
                              json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1));
    json_array_append_new(steps, json_pack("{s:s, s:b, s:b}", "type", "ByteLevel",
                                           "add_prefix_space", 0, "use_regex", 0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps);
}

/* What a step of a pre-tokenizer does, with the defaults of tokenizer.json put in. */
static bool same_step(const json_t *a, const json_t *b) {
    static const struct {
        const char *key;
        bool fallback;
    } FLAGS[] = {{"invert", false},
                 {"individual_digits", false},
                 {"add_prefix_space", true},
                 {"use_regex", true}};
    for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++) {
        const json_t *left = json_object_get(a, FLAGS[i].key);
        const json_t *right = json_object_get(b, FLAGS[i].key);
        if ((left ? json_is_true(left) : FLAGS[i].fallback) !=
            (right ? json_is_true(right) : FLAGS[i].fallback))
            return false;
    }
    const json_t *left = json_object_get(a, "behavior"), *right = json_object_get(b, "behavior");
    return json_equal(json_object_get(a, "type"), json_object_get(b, "type")) &&
           (left == right || json_equal(left, right)) &&
           json_equal(json_object_get(a, "pattern"), json_object_get(b, "pattern")) ==
               (json_object_get(a, "pattern") != NULL);
}

static bool same_steps(const json_t *a, const json_t *b) {
    const json_t *left = json_object_get(a, "pretokenizers");
    const json_t *right = json_object_get(b, "pretokenizers");
    bool same = json_array_size(left) == json_array_size(right);
    for (size_t i = 0; i < json_array_size(left) && same; i++)
        same = same_step(json_array_get(left, i), json_array_get(right, i));
    return same;
}

const char *gguf_pretokenizer_name(const json_t *pretokenizer) {
    for (size_t i = 0; i < sizeof KNOWN_PRETOKENIZERS / sizeof *KNOWN_PRETOKENIZERS; i++) {
        json_t *known = describe_pretokenizer(&KNOWN_PRETOKENIZERS[i]);
        bool same = same_steps(known, pretokenizer);
        json_decref(known);
        if (same)
            return KNOWN_PRETOKENIZERS[i].name;
    }
    return NULL;
}

/* ---- The vocabulary. */

struct source {
    const char *path;
    const json_t *metadata;
    const json_t *tokens, *types, *merges; /* arrays; types may be NULL */
};

static enum status report(const struct source *source, const char *key, const char *problem) {
    log_error("%s: tokenizer.ggml.%s %s; the file is damaged, download it again", source->path, key,
              problem);
    return STATUS_FORMAT;
}

static const json_t *find(const struct source *source, const char *key) {
    return json_object_get(source->metadata, key);
}

/* "model" of tokenizer.json, and the list of added tokens. Every token enters the vocabulary under
 * its id; of several with one text the first counts. */
static enum status describe_tokens(const struct source *source, json_t *vocabulary, json_t *added) {
    size_t index;
    json_t *token;
    json_array_foreach(source->tokens, index, token) {
        const char *text = json_string_value(token);
        json_int_t type = json_integer_value(json_array_get(source->types, index));
        if (!text) {
            log_error("%s: tokenizer.ggml.tokens[%zu] is no UTF-8 text; the file is damaged, "
                      "download it again",
                      source->path, index);
            return STATUS_FORMAT;
        }
        if (type == TYPE_UNUSED || *text == '\0' || json_object_get(vocabulary, text))
            continue;
        json_object_set_new(vocabulary, text, json_integer((json_int_t)index));
        if (type == TYPE_CONTROL || type == TYPE_USER_DEFINED)
            json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b}", "id", (int)index,
                                                   "content", text, "special", type == TYPE_CONTROL,
                                                   "normalized", 0));
    }
    return STATUS_OK;
}

/* The token that the id in `key` names, as tokenizer_config.json does; null if there is none. */
static enum status describe_named_token(const struct source *source, const char *key,
                                        json_t **out) {
    const json_t *id = find(source, key);
    const json_t *token = NULL;
    if (json_is_integer(id) && json_integer_value(id) >= 0)
        token = json_array_get(source->tokens, (size_t)json_integer_value(id));
    if (id && !json_is_string(token)) {
        log_error(
            "%s: %s is no id of tokenizer.ggml.tokens; the file is damaged, download it again",
            source->path, key);
        return STATUS_FORMAT;
    }
    *out = token ? json_copy((json_t *)token) : json_null();
    return STATUS_OK;
}

static enum status describe_config(const struct source *source, json_t **out) {
    json_t *bos = NULL, *eos = NULL;
    enum status status = describe_named_token(source, KEY_BOS, &bos);
    if (status == STATUS_OK)
        status = describe_named_token(source, KEY_EOS, &eos);
    if (status != STATUS_OK) {
        json_decref(bos);
        return status;
    }
    const json_t *template = find(source, KEY_CHAT_TEMPLATE);
    *out = json_pack("{s:o, s:o, s:o}", "bos_token", bos, "eos_token", eos, "chat_template",
                     template ? json_copy((json_t *)template) : json_null());
    return STATUS_OK;
}

static enum status describe_tokenizer(const struct source *source,
                                      const struct known_pretokenizer *known, json_t **out) {
    json_t *vocabulary = json_object(), *added = json_array();
    enum status status = describe_tokens(source, vocabulary, added);
    if (status != STATUS_OK) {
        json_decref(vocabulary);
        json_decref(added);
        return status;
    }
    *out = json_pack("{s:o, s:o, s:{s:s, s:o, s:O}}", "pre_tokenizer", describe_pretokenizer(known),
                     "added_tokens", added, "model", "type", "BPE", "vocab", vocabulary, "merges",
                     source->merges);
    return STATUS_OK;
}

/* ---- The whole. */

static enum status check_model(const struct source *source) {
    const char *model = json_string_value(find(source, KEY_TOKENIZER_MODEL));
    if (model && strcmp(model, TOKENIZER_BPE) == 0)
        return STATUS_OK;
    log_error("%s: tokenizer.ggml.model is \"%.40s\": it must be \"gpt2\" (byte-level BPE), other "
              "tokenizers are not supported",
              source->path, model ? model : "");
    return STATUS_UNSUPPORTED;
}

static enum status check_lists(const struct source *source) {
    size_t count = json_array_size(source->tokens);
    if (count == 0)
        return report(source, "tokens", "is no list of tokens");
    if (source->types && json_array_size(source->types) != count)
        return report(source, "token_type", "is no list of as many types as there are tokens");
    if (source->merges && !json_is_array(source->merges))
        return report(source, "merges", "is no list");
    return STATUS_OK;
}

/* In byte-level BPE nearly every token is made by one merge. A file with next to none has
 * placeholders in the tokens' place. */
static bool is_placeholder(const struct source *source) {
    size_t tokens = json_array_size(source->tokens), merges = json_array_size(source->merges);
    return tokens <= BYTE_TOKENS || merges < (tokens - BYTE_TOKENS) / 2;
}

static enum status find_known_pretokenizer(const struct source *source,
                                           const struct known_pretokenizer **out) {
    const char *name = json_string_value(find(source, KEY_TOKENIZER_PRE));
    *out = name ? find_pretokenizer(name) : NULL;
    if (*out)
        return STATUS_OK;
    log_error("%s: tokenizer.ggml.pre is \"%.40s\": it must be \"deepseek-llm\", "
              "\"deepseek-coder\" or \"deepseek-v3\", other pre-tokenizers are not supported",
              source->path, name ? name : "");
    return STATUS_UNSUPPORTED;
}

enum status gguf_tokenizer_read(const struct weights *weights, json_t **tokenizer,
                                json_t **config) {
    struct source source = {.path = weights_path(weights), .metadata = weights_metadata(weights)};
    source.tokens = find(&source, KEY_TOKENS);
    source.types = find(&source, KEY_TOKEN_TYPES);
    source.merges = find(&source, KEY_MERGES);
    if (!source.tokens) {
        log_warning("%s has no tokenizer: the model takes and gives token ids only", source.path);
        return STATUS_NOT_FOUND;
    }
    const struct known_pretokenizer *known;
    enum status status;
    if ((status = check_model(&source)) || (status = check_lists(&source)) ||
        (status = find_known_pretokenizer(&source, &known)))
        return status;
    if (is_placeholder(&source)) {
        log_warning("%s has %zu tokens and %zu merges, placeholders for a tokenizer: the model "
                    "takes and gives token ids only",
                    source.path, json_array_size(source.tokens), json_array_size(source.merges));
        return STATUS_NOT_FOUND;
    }
    json_t *described;
    status = describe_tokenizer(&source, known, &described);
    if (status != STATUS_OK)
        return status;
    status = describe_config(&source, config);
    if (status != STATUS_OK) {
        json_decref(described);
        return status;
    }
    *tokenizer = described;
    return STATUS_OK;
}
