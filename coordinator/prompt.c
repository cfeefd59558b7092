/* Standard input has no size to ask for, so reading doubles its buffer up to the bound; files are
 * read the same way, since they may be pipes too. */
#include "coordinator/prompt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"

#define READ_BYTES_FIRST 4096u

/* Makes room for more and for the final NUL. */
static enum status grow(struct prompt_text *text, size_t *capacity) {
    if (text->count + 1 < *capacity)
        return STATUS_OK;
    size_t larger = *capacity ? 2 * *capacity : READ_BYTES_FIRST;
    char *bytes = realloc(text->bytes, larger);
    if (!bytes)
        return STATUS_NO_MEMORY;
    text->bytes = bytes;
    *capacity = larger;
    return STATUS_OK;
}

static enum status check_text(const struct prompt_text *text, FILE *stream, const char *name) {
    if (ferror(stream)) {
        log_error("cannot read the prompt from %s: %s", name, strerror(errno));
        return STATUS_IO;
    }
    if (text->count > PROMPT_BYTES_MAX) {
        log_error("the prompt in %s is over %u MiB; no model's context holds that", name,
                  PROMPT_BYTES_MAX >> 20);
        return STATUS_UNSUPPORTED;
    }
    const char *zero = memchr(text->bytes, '\0', text->count);
    if (zero) {
        log_error("the prompt in %s has a zero byte at offset %zu; it must be UTF-8 text", name,
                  (size_t)(zero - text->bytes));
        return STATUS_FORMAT;
    }
    return STATUS_OK;
}

enum status prompt_read_stream(FILE *stream, const char *name, struct prompt_text *out) {
    struct prompt_text text = {.bytes = NULL};
    size_t capacity = 0;
    enum status status;
    do {
        status = grow(&text, &capacity);
        if (status != STATUS_OK)
            break;
        text.count += fread(text.bytes + text.count, 1, capacity - 1 - text.count, stream);
    } while (!feof(stream) && !ferror(stream) && text.count <= PROMPT_BYTES_MAX);
    if (status == STATUS_OK)
        status = check_text(&text, stream, name);
    if (status != STATUS_OK) {
        free(text.bytes);
        return status;
    }
    text.bytes[text.count] = '\0';
    *out = text;
    return STATUS_OK;
}

enum status prompt_read_file(const char *path, struct prompt_text *out) {
    FILE *file = fopen(path, "re");
    if (!file) {
        enum status missing = errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO;
        log_error("cannot open the prompt's file %s: %s; check --file", path, strerror(errno));
        return missing;
    }
    enum status status = prompt_read_stream(file, path, out);
    fclose(file);
    return status;
}

void prompt_trim(struct prompt_text *text) {
    while (text->count && strchr("\r\n", text->bytes[text->count - 1]))
        text->bytes[--text->count] = '\0';
}

enum status prompt_encode_raw(const struct tokenizer *tokenizer, const struct prompt_text *text,
                              struct token_list *out) {
    uint32_t bos;
    size_t first = out->count;
    bool has_bos = tokenizer_bos(tokenizer, &bos);
    enum status status = has_bos ? token_list_push(out, bos) : STATUS_OK;
    if (status == STATUS_OK)
        status = tokenizer_encode(tokenizer, text->bytes, text->count, true, out);
    if (status != STATUS_OK)
        return status;
    if (has_bos && out->count > first + 1 && out->ids[first + 1] == bos) {
        memmove(out->ids + first, out->ids + first + 1,
                (out->count - first - 1) * sizeof *out->ids);
        out->count--;
    }
    return STATUS_OK;
}
