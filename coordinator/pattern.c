/* PCRE2 and Oniguruma (Ruby's syntax) agree on what tokenizers use, but for a few spellings. Those
 * with a PCRE2 equivalent are rewritten, all others refused: a pattern that silently matches
 * something else would give a model token ids that it was not trained on.
 *
 * - \s is the Unicode property White_Space there; PCRE2's own \s also has U+180E.
 * - $ and ^ match at lines, so PCRE2_MULTILINE is set, with LF as the only newline.
 * - \p{Han} is the script there, and the script's extensions in PCRE2: rewritten as \p{sc:Han}.
 * - Refused: \w \W \b \B \h \H \v \Z \R \X \G \k, back references and other letters; an unescaped [
 *   or && inside a class (nested classes); groups other than (?: (?= (?! (?<= (?<! (?> (?i: ; the
 *   quantifiers {,n} and {n}+; verbs.
 *
 * "\s+$" alone would look at every blank of a run that is not at the end of a line, from each blank
 * again: where PCRE2 has to interpret it, a million blanks do not end. Its rewritten form skips
 * such a run at once. */
#include "coordinator/pattern.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"

/* The longest rewriting, of \s, is 15 bytes for 2. */
enum { GROWTH_MAX = 8 };

struct translation {
    const char *place;
    const char *source;
    size_t bytes, at;
    bool in_class;
    size_t class_start; /* where the class's content starts: a ] there is literal */
    char *out;
    size_t out_bytes;
};

static enum status refuse(const struct translation *translation, const char *what) {
    log_error("%s: %s at byte %zu of the pattern is not supported; write it with \\p{...} classes",
              translation->place, what, translation->at);
    return STATUS_UNSUPPORTED;
}

static void emit(struct translation *translation, const char *text, size_t bytes) {
    memcpy(translation->out + translation->out_bytes, text, bytes);
    translation->out_bytes += bytes;
}

/* Copies `count` bytes of the source. */
static void copy(struct translation *translation, size_t count) {
    emit(translation, translation->source + translation->at, count);
    translation->at += count;
}

static bool starts_with(const struct translation *translation, const char *text) {
    size_t length = strlen(text);
    return translation->bytes - translation->at >= length &&
           memcmp(translation->source + translation->at, text, length) == 0;
}

/* \p{...}, \P{...} and \x{...}, whose braces are no quantifier. Names longer than a general
 * category's are taken as scripts, which PCRE2 would otherwise read as script extensions. */
static enum status translate_braced_escape(struct translation *translation) {
    const char *start = translation->source + translation->at;
    size_t left = translation->bytes - translation->at;
    const char *close = left > 2 && start[2] == '{' ? memchr(start, '}', left) : NULL;
    if (!close)
        return refuse(translation, "an escape without braces");
    size_t length = (size_t)(close - start) + 1;
    size_t name_bytes = length - strlen("\\p{}") - (start[3] == '^');
    size_t prefix_bytes = length - 1 - name_bytes;
    copy(translation, prefix_bytes);
    if (start[1] != 'x' && name_bytes > strlen("Lu"))
        emit(translation, "sc:", strlen("sc:"));
    copy(translation, length - prefix_bytes);
    return STATUS_OK;
}

static enum status translate_escape(struct translation *translation) {
    if (translation->bytes - translation->at < 2) {
        log_error("%s: the pattern ends with a backslash; complete or remove it",
                  translation->place);
        return STATUS_FORMAT;
    }
    char letter = translation->source[translation->at + 1];
    bool is_word = (letter >= '0' && letter <= '9') || (letter >= 'A' && letter <= 'Z') ||
                   (letter >= 'a' && letter <= 'z');
    if (letter == 's' || letter == 'S') {
        const char *text = letter == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
        emit(translation, text, strlen(text));
        translation->at += 2;
    } else if (letter == 'p' || letter == 'P' || letter == 'x') {
        return translate_braced_escape(translation);
    } else if (!is_word || strchr("nrtfaedDAz", letter)) {
        copy(translation, 2);
    } else {
        char what[] = {'\\', letter, '\0'};
        return refuse(translation, what);
    }
    return STATUS_OK;
}

static enum status translate_in_class(struct translation *translation) {
    char byte = translation->source[translation->at];
    if (byte == '[')
        return refuse(translation, "a nested class");
    if (starts_with(translation, "&&"))
        return refuse(translation, "an intersection of classes (&&)");
    if (byte == ']' && translation->at > translation->class_start)
        translation->in_class = false;
    copy(translation, 1);
    return STATUS_OK;
}

static enum status translate_group(struct translation *translation) {
    static const char *const GROUPS[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    bool known = !starts_with(translation, "(?") && !starts_with(translation, "(*");
    for (size_t i = 0; i < sizeof GROUPS / sizeof *GROUPS && !known; i++)
        known = starts_with(translation, GROUPS[i]);
    if (!known)
        return refuse(translation, "this kind of group");
    copy(translation, 1);
    return STATUS_OK;
}

static enum status translate_quantifier(struct translation *translation) {
    const char *start = translation->source + translation->at;
    size_t left = translation->bytes - translation->at;
    const char *close = memchr(start, '}', left);
    size_t length = close ? (size_t)(close - start) + 1 : left;
    if (!close || length < 3 || start[1] == ',' || (length < left && start[length] == '+'))
        return refuse(translation, "this form of {}");
    copy(translation, length);
    return STATUS_OK;
}

static enum status translate_next(struct translation *translation) {
    char byte = translation->source[translation->at];
    if (byte == '\\')
        return translate_escape(translation);
    if (translation->in_class)
        return translate_in_class(translation);
    if (byte == '(')
        return translate_group(translation);
    if (byte == '{')
        return translate_quantifier(translation);
    copy(translation, 1);
    if (byte == '[') {
        translation->in_class = true;
        if (starts_with(translation, "^"))
            copy(translation, 1);
        translation->class_start = translation->at;
    }
    return STATUS_OK;
}

/* Rewrites the whole pattern; the caller frees translation->out. */
static enum status translate(struct translation *translation) {
    static const char TRAILING[] = "\\s+$";
    static const char TRAILING_LINEAR[] = "\\p{White_Space}+$|\\p{White_Space}++(*SKIP)(*FAIL)";
    size_t capacity = translation->bytes * GROWTH_MAX + sizeof TRAILING_LINEAR;
    translation->out = malloc(capacity);
    if (!translation->out) {
        log_error("%s: no memory for the pattern; free some and try again", translation->place);
        return STATUS_NO_MEMORY;
    }
    if (translation->bytes == strlen(TRAILING) && starts_with(translation, TRAILING)) {
        emit(translation, TRAILING_LINEAR, strlen(TRAILING_LINEAR));
        return STATUS_OK;
    }
    enum status status = STATUS_OK;
    while (status == STATUS_OK && translation->at < translation->bytes)
        status = translate_next(translation);
    return status;
}

static enum status compile(const char *place, const char *text, size_t bytes, uint32_t options,
                           pcre2_code **out) {
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) {
        log_error("%s: no memory for the pattern; free some and try again", place);
        return STATUS_NO_MEMORY;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error;
    PCRE2_SIZE offset;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)text, bytes, options | PCRE2_UTF, &error, &offset, context);
    pcre2_compile_context_free(context);
    if (!code) {
        PCRE2_UCHAR message[160];
        pcre2_get_error_message(error, message, sizeof message);
        size_t read = offset < bytes ? offset : bytes, shown = read < 24 ? read : 24;
        log_error("%s: not a valid pattern: %s, after \"%.*s\"; correct it", place,
                  (const char *)message, (int)shown, text + read - shown);
        return STATUS_FORMAT;
    }
    /* Where the system allows no generated code, PCRE2 interprets the pattern instead. */
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    *out = code;
    return STATUS_OK;
}

enum status pattern_compile(const char *place, const char *source, size_t bytes, bool literal,
                            pcre2_code **out) {
    if (bytes == 0) {
        log_error("%s: the pattern is empty; it must match something", place);
        return STATUS_FORMAT;
    }
    if (literal)
        return compile(place, source, bytes, PCRE2_LITERAL, out);
    struct translation translation = {.place = place, .source = source, .bytes = bytes};
    enum status status = translate(&translation);
    if (status == STATUS_OK)
        status = compile(place, translation.out, translation.out_bytes, PCRE2_UCP | PCRE2_MULTILINE,
                         out);
    free(translation.out);
    return status;
}
