/* Every kind of pre-tokenizer is reduced to one step: cut at the matches of a pattern, which become
 * words of their own. Digits is the pattern \p{N} (or \p{N}+), ByteLevel's own regex is GPT-2's. A
 * word goes through all remaining steps before the next one is cut, so nothing is stored; a
 * pattern sees only its word, so that $ and look-around end where the word ends. */
#include "coordinator/pretokenizer.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/utf8.h"
#include "coordinator/pattern.h"

struct pretokenizer {
    size_t step_count;
    pcre2_code *steps[PRETOKENIZER_STEPS_MAX];
    bool closed;       /* ByteLevel was read: nothing may follow */
    bool prefix_space; /* words that do not start with a blank get one, before the last step */
    size_t prefix_step;
};

/* Room for the place in error lines: "PATH: pre_tokenizer.pretokenizers[3]". */
enum { PLACE_BYTES = 512 };

static const char GPT2_PATTERN[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static enum status add_step(struct pretokenizer *pretokenizer, const char *place,
                            const char *pattern, size_t bytes, bool literal) {
    if (pretokenizer->step_count == PRETOKENIZER_STEPS_MAX) {
        log_error("%s: more than %d steps; real tokenizers have under ten", place,
                  PRETOKENIZER_STEPS_MAX);
        return STATUS_UNSUPPORTED;
    }
    enum status status = pattern_compile(place, pattern, bytes, literal,
                                         &pretokenizer->steps[pretokenizer->step_count]);
    if (status == STATUS_OK)
        pretokenizer->step_count++;
    return status;
}

static enum status read_flag(const json_t *value, const char *place, const char *key,
                             bool otherwise, bool *out) {
    const json_t *flag = json_object_get(value, key);
    if (flag && !json_is_boolean(flag)) {
        log_error("%s.%s must be true or false", place, key);
        return STATUS_FORMAT;
    }
    *out = flag ? json_is_true(flag) : otherwise;
    return STATUS_OK;
}

static enum status read_split(struct pretokenizer *pretokenizer, const json_t *value,
                              const char *place) {
    const char *behavior = json_string_value(json_object_get(value, "behavior"));
    if (!behavior || strcmp(behavior, "Isolated") != 0) {
        log_error("%s: behavior \"%.40s\" is not supported; only \"Isolated\" is", place,
                  behavior ? behavior : "");
        return STATUS_UNSUPPORTED;
    }
    bool invert;
    enum status status = read_flag(value, place, "invert", false, &invert);
    if (status != STATUS_OK)
        return status;
    if (invert) {
        log_error("%s: invert = true is not supported; it must be false", place);
        return STATUS_UNSUPPORTED;
    }
    const json_t *pattern = json_object_get(value, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *source = regex ? regex : json_object_get(pattern, "String");
    if (!json_is_string(source)) {
        log_error("%s: pattern must be {\"Regex\": \"...\"} or {\"String\": \"...\"}", place);
        return STATUS_FORMAT;
    }
    return add_step(pretokenizer, place, json_string_value(source), json_string_length(source),
                    !regex);
}

static enum status read_digits(struct pretokenizer *pretokenizer, const json_t *value,
                               const char *place) {
    bool individual;
    enum status status = read_flag(value, place, "individual_digits", false, &individual);
    if (status != STATUS_OK)
        return status;
    const char *pattern = individual ? "\\p{N}" : "\\p{N}+";
    return add_step(pretokenizer, place, pattern, strlen(pattern), false);
}

static enum status read_byte_level(struct pretokenizer *pretokenizer, const json_t *value,
                                   const char *place) {
    bool use_regex;
    enum status status =
        read_flag(value, place, "add_prefix_space", true, &pretokenizer->prefix_space);
    if (status == STATUS_OK)
        status = read_flag(value, place, "use_regex", true, &use_regex);
    if (status != STATUS_OK)
        return status;
    pretokenizer->prefix_step = pretokenizer->step_count;
    pretokenizer->closed = true;
    return use_regex ? add_step(pretokenizer, place, GPT2_PATTERN, strlen(GPT2_PATTERN), false)
                     : STATUS_OK;
}

static enum status read_one(struct pretokenizer *pretokenizer, const json_t *value,
                            const char *place) {
    static const struct {
        const char *type;
        enum status (*read)(struct pretokenizer *, const json_t *, const char *);
    } KINDS[] = {{"Split", read_split}, {"Digits", read_digits}, {"ByteLevel", read_byte_level}};
    const char *type = json_string_value(json_object_get(value, "type"));
    if (pretokenizer->closed) {
        log_error("%s: a pre-tokenizer after ByteLevel is not supported; ByteLevel must be last",
                  place);
        return STATUS_UNSUPPORTED;
    }
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (type && strcmp(type, KINDS[i].type) == 0)
            return KINDS[i].read(pretokenizer, value, place);
    log_error("%s: type \"%.40s\" is not supported; Split, Digits and ByteLevel are", place,
              type ? type : "(none)");
    return STATUS_UNSUPPORTED;
}

static enum status read_sequence(struct pretokenizer *pretokenizer, const json_t *value,
                                 const char *path) {
    const json_t *list = json_object_get(value, "pretokenizers");
    if (!json_is_array(list)) {
        log_error("%s: pre_tokenizer.pretokenizers must be a list", path);
        return STATUS_FORMAT;
    }
    size_t index;
    json_t *item;
    json_array_foreach(list, index, item) {
        char place[PLACE_BYTES];
        snprintf(place, sizeof place, "%.400s: pre_tokenizer.pretokenizers[%zu]", path, index);
        enum status status = read_one(pretokenizer, item, place);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static enum status read_all(struct pretokenizer *pretokenizer, const json_t *value,
                            const char *path) {
    const char *type = json_string_value(json_object_get(value, "type"));
    char place[PLACE_BYTES];
    snprintf(place, sizeof place, "%.400s: pre_tokenizer", path);
    enum status status = type && strcmp(type, "Sequence") == 0
                             ? read_sequence(pretokenizer, value, path)
                             : read_one(pretokenizer, value, place);
    if (status == STATUS_OK && !pretokenizer->closed) {
        log_error("%s: there is no ByteLevel at its end; only byte-level tokenizers are supported",
                  place);
        return STATUS_UNSUPPORTED;
    }
    return status;
}

enum status pretokenizer_read(const json_t *value, const char *path, struct pretokenizer **out) {
    struct pretokenizer *pretokenizer = calloc(1, sizeof *pretokenizer);
    if (!pretokenizer) {
        log_error("%s: no memory for the pre-tokenizer; free some and try again", path);
        return STATUS_NO_MEMORY;
    }
    enum status status = read_all(pretokenizer, value, path);
    if (status != STATUS_OK) {
        pretokenizer_destroy(pretokenizer);
        return status;
    }
    *out = pretokenizer;
    return STATUS_OK;
}

void pretokenizer_destroy(struct pretokenizer *pretokenizer) {
    if (!pretokenizer)
        return;
    for (size_t i = 0; i < pretokenizer->step_count; i++)
        pcre2_code_free(pretokenizer->steps[i]);
    free(pretokenizer);
}

/* One call of pretokenizer_cut. */
struct cut {
    const struct pretokenizer *pretokenizer;
    pcre2_match_data *match;
    char *prefixed; /* the word with a blank in front */
    size_t prefixed_capacity;
    pretokenizer_sink sink;
    void *context;
};

/* Finds the next match at or after `from`. *found is false at the end of the word. */
static enum status find_match(struct cut *cut, size_t step, const char *word, size_t bytes,
                              size_t from, bool *found) {
    const pcre2_code *code = cut->pretokenizer->steps[step];
    /* The text was checked once by the caller; checking it for each match would take quadratic
     * time. Generated code has a small stack: what outgrows it is interpreted. */
    int count =
        pcre2_match(code, (PCRE2_SPTR)word, bytes, from, PCRE2_NO_UTF_CHECK, cut->match, NULL);
    if (count == PCRE2_ERROR_JIT_STACKLIMIT)
        count = pcre2_match(code, (PCRE2_SPTR)word, bytes, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                            cut->match, NULL);
    if (count < 0 && count != PCRE2_ERROR_NOMATCH) {
        PCRE2_UCHAR message[160];
        pcre2_get_error_message(count, message, sizeof message);
        log_error("the tokenizer's pattern %zu fails on this text at byte %zu of a word of %zu "
                  "bytes: %s; shorten the text",
                  step, from, bytes, (const char *)message);
        return STATUS_UNSUPPORTED;
    }
    *found = count >= 0;
    return STATUS_OK;
}

static enum status cut_word(struct cut *cut, size_t step, const char *word, size_t bytes);

/* Cuts at the matches of step's pattern. An empty match cuts too, but not where the one before
 * ended. */
static enum status cut_at_matches(struct cut *cut, size_t step, const char *word, size_t bytes) {
    size_t done = 0, from = 0;
    bool is_first = true;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && from <= bytes) {
        bool found;
        status = find_match(cut, step, word, bytes, from, &found);
        if (status != STATUS_OK || !found)
            break;
        size_t start = pcre2_get_ovector_pointer(cut->match)[0];
        size_t end = pcre2_get_ovector_pointer(cut->match)[1];
        if (start == end && !is_first && end == done) {
            size_t length = 1;
            if (from < bytes)
                utf8_next(word + from, bytes - from, &length);
            from += length;
            continue;
        }
        is_first = false;
        status = cut_word(cut, step + 1, word + done, start - done);
        if (status == STATUS_OK)
            status = cut_word(cut, step + 1, word + start, end - start);
        done = from = end;
    }
    return status == STATUS_OK ? cut_word(cut, step + 1, word + done, bytes - done) : status;
}

/* `word` with a blank in front, in the buffer of `cut`. Only one word needs it at a time, since it
 * is made before the last step. */
static enum status add_prefix_space(struct cut *cut, const char **word, size_t *bytes) {
    if (cut->prefixed_capacity < *bytes + 1) {
        char *grown = realloc(cut->prefixed, 2 * *bytes + 1);
        if (!grown) {
            log_error("no memory to encode a word of %zu bytes; free some and try again", *bytes);
            return STATUS_NO_MEMORY;
        }
        cut->prefixed = grown;
        cut->prefixed_capacity = 2 * *bytes + 1;
    }
    cut->prefixed[0] = ' ';
    memcpy(cut->prefixed + 1, *word, *bytes);
    *word = cut->prefixed;
    (*bytes)++;
    return STATUS_OK;
}

/* Takes one word through the steps from `step` on. */
static enum status cut_word(struct cut *cut, size_t step, const char *word, size_t bytes) {
    const struct pretokenizer *pretokenizer = cut->pretokenizer;
    if (bytes == 0)
        return STATUS_OK;
    if (pretokenizer->prefix_space && step == pretokenizer->prefix_step && word[0] != ' ') {
        enum status status = add_prefix_space(cut, &word, &bytes);
        if (status != STATUS_OK)
            return status;
    }
    if (step == pretokenizer->step_count)
        return cut->sink(cut->context, word, bytes);
    return cut_at_matches(cut, step, word, bytes);
}

enum status pretokenizer_cut(const struct pretokenizer *pretokenizer, const char *text,
                             size_t bytes, pretokenizer_sink sink, void *context) {
    struct cut cut = {.pretokenizer = pretokenizer,
                      .match = pcre2_match_data_create(1, NULL),
                      .sink = sink,
                      .context = context};
    if (!cut.match) {
        log_error("no memory to encode a text of %zu bytes; free some and try again", bytes);
        return STATUS_NO_MEMORY;
    }
    enum status status = cut_word(&cut, 0, text, bytes);
    free(cut.prefixed);
    pcre2_match_data_free(cut.match);
    return status;
}
