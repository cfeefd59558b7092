/* A token's bytes first wait until they form whole characters, then the characters wait until they
 * cannot be the start of a stop string. For the second, every stop string has a Knuth-Morris-Pratt
 * state: how much of it the text's end matches. So each byte is looked at once, and what is shown
 * does not depend on how the text was cut into tokens: the stop string that is complete first wins,
 * of those that end together the longest. */
#include "coordinator/stream.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/utf8.h"

struct stop {
    char *text;
    size_t bytes;
    size_t matched;   /* of `text`, by the end of what has been shown and held */
    size_t *fallback; /* (bytes) the longest proper start of text[0..i] that also ends it */
};

/* Bytes that grow; `bytes` never includes the terminating NUL, for which there is always room. */
struct buffer {
    char *text;
    size_t bytes, capacity;
};

struct stream {
    const struct tokenizer *tokenizer;
    bool show_special;
    bool stopped;
    struct buffer partial; /* tokens' bytes that are not yet whole characters */
    struct buffer held;    /* characters that may be the start of a stop string */
    struct buffer shown;
    size_t stop_count;
    struct stop stops[];
};

static enum status buffer_append(struct buffer *buffer, const char *text, size_t bytes) {
    size_t needed = buffer->bytes + bytes + 1;
    if (needed > buffer->capacity) {
        size_t capacity = needed < 64 ? 64 : 2 * needed;
        char *grown = realloc(buffer->text, capacity);
        if (!grown) {
            log_error("no memory for %zu bytes of the answer; free some and try again", capacity);
            return STATUS_NO_MEMORY;
        }
        buffer->text = grown;
        buffer->capacity = capacity;
    }
    memcpy(buffer->text + buffer->bytes, text, bytes);
    buffer->bytes += bytes;
    buffer->text[buffer->bytes] = '\0';
    return STATUS_OK;
}

static void buffer_remove_front(struct buffer *buffer, size_t bytes) {
    buffer->bytes -= bytes;
    memmove(buffer->text, buffer->text + bytes, buffer->bytes + 1);
}

static void fill_fallback(struct stop *stop) {
    size_t matched = 0;
    for (size_t i = 1; i < stop->bytes; i++) {
        while (matched > 0 && stop->text[i] != stop->text[matched])
            matched = stop->fallback[matched - 1];
        matched += stop->text[i] == stop->text[matched];
        stop->fallback[i] = matched;
    }
}

/* An empty stop string would end every answer before it starts, and one that is not UTF-8 can never
 * be part of the text. */
static enum status check_stop(const char *text, size_t index) {
    size_t bytes = strlen(text), at = 0;
    for (size_t length; at < bytes && utf8_next(text + at, bytes - at, &length) == UTF8_VALID;)
        at += length;
    if (bytes > 0 && at == bytes)
        return STATUS_OK;
    log_error("stop string %zu is %s; give some valid UTF-8 text", index + 1,
              bytes ? "not valid UTF-8" : "empty");
    return STATUS_USAGE;
}

static enum status init_stop(struct stop *stop, const char *text, size_t index) {
    enum status status = check_stop(text, index);
    if (status != STATUS_OK)
        return status;
    stop->bytes = strlen(text);
    stop->text = strdup(text);
    stop->fallback = calloc(stop->bytes, sizeof *stop->fallback);
    if (!stop->text || !stop->fallback) {
        log_error("no memory for stop string %zu of %zu bytes; free some and try again", index + 1,
                  stop->bytes);
        return STATUS_NO_MEMORY;
    }
    fill_fallback(stop);
    return STATUS_OK;
}

enum status stream_create(const struct stream_options *options, struct stream **out) {
    struct stream *stream = calloc(1, sizeof *stream + options->stop_count * sizeof *stream->stops);
    if (!stream) {
        log_error("no memory for %zu stop strings; free some and try again", options->stop_count);
        return STATUS_NO_MEMORY;
    }
    stream->tokenizer = options->tokenizer;
    stream->show_special = options->show_special;
    stream->stop_count = options->stop_count;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < options->stop_count && status == STATUS_OK; i++)
        status = init_stop(&stream->stops[i], options->stops[i], i);
    if (status == STATUS_OK)
        status = buffer_append(&stream->held, "", 0);
    if (status == STATUS_OK)
        status = buffer_append(&stream->shown, "", 0);
    if (status != STATUS_OK) {
        stream_destroy(stream);
        return status;
    }
    *out = stream;
    return STATUS_OK;
}

void stream_destroy(struct stream *stream) {
    if (!stream)
        return;
    for (size_t i = 0; i < stream->stop_count; i++) {
        free(stream->stops[i].text);
        free(stream->stops[i].fallback);
    }
    free(stream->partial.text);
    free(stream->held.text);
    free(stream->shown.text);
    free(stream);
}

/* Moves the state of `stop` on by one byte; true when it is complete. */
static bool advance_stop(struct stop *stop, char byte) {
    while (stop->matched > 0 && byte != stop->text[stop->matched])
        stop->matched = stop->fallback[stop->matched - 1];
    stop->matched += byte == stop->text[stop->matched];
    return stop->matched == stop->bytes;
}

/* Adds one whole character to what is held. When it completes a stop string, the string is taken
 * off again and stream->stopped set. */
static enum status hold_character(struct stream *stream, const char *text, size_t bytes) {
    enum status status = buffer_append(&stream->held, text, bytes);
    if (status != STATUS_OK)
        return status;
    size_t complete_bytes = 0;
    for (size_t i = 0; i < stream->stop_count; i++) {
        struct stop *stop = &stream->stops[i];
        bool complete = false;
        for (size_t j = 0; j < bytes; j++)
            complete = advance_stop(stop, text[j]);
        if (complete && stop->bytes > complete_bytes)
            complete_bytes = stop->bytes;
    }
    stream->held.bytes -= complete_bytes;
    stream->stopped = complete_bytes > 0;
    return STATUS_OK;
}

/* Takes whole characters out of `partial`; at the end of the answer also one that lacks bytes. */
static enum status take_characters(struct stream *stream, bool is_end) {
    size_t at = 0;
    enum status status = STATUS_OK;
    while (at < stream->partial.bytes && !stream->stopped && status == STATUS_OK) {
        const char *text = stream->partial.text + at;
        size_t length;
        enum utf8_kind kind = utf8_next(text, stream->partial.bytes - at, &length);
        if (kind == UTF8_INCOMPLETE && !is_end)
            break;
        status = kind == UTF8_VALID
                     ? hold_character(stream, text, length)
                     : hold_character(stream, UTF8_REPLACEMENT, UTF8_REPLACEMENT_BYTES);
        at += length;
    }
    if (at > 0)
        buffer_remove_front(&stream->partial, at);
    return status;
}

/* Shows all that is held but its last `keep` bytes. */
static enum status show(struct stream *stream, size_t keep, const char **text, size_t *bytes) {
    size_t count = stream->held.bytes - keep;
    size_t before = stream->shown.bytes;
    enum status status = buffer_append(&stream->shown, stream->held.text, count);
    if (status != STATUS_OK)
        return status;
    buffer_remove_front(&stream->held, count);
    *text = stream->shown.text + before;
    *bytes = count;
    return STATUS_OK;
}

/* The longest start of a stop string that the text ends with. */
static size_t longest_match(const struct stream *stream) {
    size_t longest = 0;
    for (size_t i = 0; i < stream->stop_count; i++)
        if (stream->stops[i].matched > longest)
            longest = stream->stops[i].matched;
    return longest;
}

enum status stream_push(struct stream *stream, uint32_t id, const char **text, size_t *bytes,
                        bool *stopped) {
    size_t token_bytes;
    bool special;
    const char *token = tokenizer_token_bytes(stream->tokenizer, id, &token_bytes, &special);
    enum status status = STATUS_OK;
    if (!stream->stopped && (stream->show_special || !special))
        status = buffer_append(&stream->partial, token, token_bytes);
    if (status == STATUS_OK)
        status = take_characters(stream, false);
    if (status == STATUS_OK)
        status = show(stream, stream->stopped ? 0 : longest_match(stream), text, bytes);
    if (status == STATUS_OK)
        *stopped = stream->stopped;
    return status;
}

enum status stream_flush(struct stream *stream, const char **text, size_t *bytes) {
    enum status status = take_characters(stream, true);
    for (size_t i = 0; i < stream->stop_count; i++)
        stream->stops[i].matched = 0; /* nothing is held any more that they could have matched */
    return status == STATUS_OK ? show(stream, 0, text, bytes) : status;
}

const char *stream_text(const struct stream *stream) {
    return stream->shown.text;
}
