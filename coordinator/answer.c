/* The scheduler calls back for every token; what goes wrong there is kept in `status` and ends the
 * request, because a callback can only say stop. */
#include "coordinator/answer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "coordinator/interrupt.h"
#include "coordinator/stream.h"

struct writer {
    const struct answer_options *options;
    struct stream *stream; /* NULL without a tokenizer */
    struct token_list tokens;
    enum status status;
};

static enum status write_text(FILE *stream, const char *text, size_t bytes) {
    if (!stream || !bytes)
        return STATUS_OK;
    if (fwrite(text, 1, bytes, stream) == bytes && !fflush(stream))
        return STATUS_OK;
    log_error("cannot write the answer to standard output: %s", strerror(errno));
    return STATUS_IO;
}

static enum status write_id(const struct writer *writer, uint32_t id) {
    char text[16];
    int bytes = snprintf(text, sizeof text, "%s%u", writer->tokens.count > 1 ? " " : "", id);
    return write_text(writer->options->stream, text, (size_t)bytes);
}

static bool take_token(void *context, uint32_t id) {
    struct writer *writer = context;
    const char *text;
    size_t bytes;
    bool stopped = false;
    writer->status = token_list_push(&writer->tokens, id);
    if (writer->status != STATUS_OK)
        return false;
    if (!writer->stream) {
        writer->status = write_id(writer, id);
        return writer->status == STATUS_OK;
    }
    writer->status = stream_push(writer->stream, id, &text, &bytes, &stopped);
    if (writer->status == STATUS_OK)
        writer->status = write_text(writer->options->stream, text, bytes);
    return writer->status == STATUS_OK && !stopped;
}

static bool is_cancelled(void *context) {
    (void)context;
    return interrupt_is_requested();
}

static enum status open_stream(const struct answer_options *options, struct stream **out) {
    *out = NULL;
    if (!options->tokenizer)
        return STATUS_OK;
    const struct stream_options stream_options = {
        .tokenizer = options->tokenizer,
        .stops = options->stops,
        .stop_count = options->stop_count,
        .show_special = options->show_special,
    };
    return stream_create(&stream_options, out);
}

static enum status flush_stream(const struct writer *writer) {
    const char *text;
    size_t bytes;
    enum status status = stream_flush(writer->stream, &text, &bytes);
    return status == STATUS_OK ? write_text(writer->options->stream, text, bytes) : status;
}

enum status answer_generate(struct scheduler *scheduler, const struct answer_options *options,
                            const struct token_list *prompt, struct answer *out) {
    struct writer writer = {.options = options};
    struct request_result result;
    char *text = NULL;
    enum status status = open_stream(options, &writer.stream);
    if (status != STATUS_OK)
        return status;
    const struct request_options request = {
        .prompt = prompt->ids,
        .prompt_count = prompt->count,
        .sampling = options->sampling,
        .tokens_max = options->tokens_max ? options->tokens_max : UINT32_MAX,
        .eos_id = options->eos_id,
        .on_token = take_token,
        .is_cancelled = is_cancelled,
        .context = &writer,
    };
    status = scheduler_run(scheduler, &request, &result);
    if (status == STATUS_OK)
        status = writer.status;
    if (status == STATUS_OK && writer.stream)
        status = flush_stream(&writer);
    if (status == STATUS_OK) {
        text = strdup(writer.stream ? stream_text(writer.stream) : "");
        status = text ? STATUS_OK : STATUS_NO_MEMORY;
    }
    stream_destroy(writer.stream);
    if (status != STATUS_OK) {
        free(writer.tokens.ids);
        return status;
    }
    *out = (struct answer){.tokens = writer.tokens,
                           .text = text,
                           .result = result,
                           .interrupted = interrupt_is_requested()};
    return STATUS_OK;
}

void answer_cleanup(struct answer *answer) {
    free(answer->tokens.ids);
    free(answer->text);
    *answer = (struct answer){.text = NULL};
}
