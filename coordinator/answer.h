/* One answer from prompt ids to the end: runs the request, turns tokens into text as they come, and
 * ends it at a stop string, at Ctrl-C or when nobody reads any more. Used by `run`, for a single
 * prompt and for every turn of a chat; on the main thread. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "common/status.h"
#include "coordinator/sampler.h"
#include "coordinator/scheduler.h"
#include "coordinator/tokenizer.h"

struct answer_options {
    const struct tokenizer *tokenizer; /* NULL: the answer is ids only */
    struct sampler_options sampling;
    uint32_t tokens_max; /* 0: until the context is full */
    uint32_t eos_id;     /* UINT32_MAX: none, or ignored */
    const char *const *stops;
    size_t stop_count;
    bool show_special; /* special tokens appear in the text */
    FILE *stream;      /* text goes there as it comes (ids without a tokenizer); NULL: nowhere */
};

/* Zero-initialise; free with answer_cleanup. */
struct answer {
    struct token_list tokens; /* without the prompt and without EOS */
    char *text;               /* "" without a tokenizer */
    struct request_result result;
    bool interrupted; /* Ctrl-C */
};

/* Generates an answer. Errors: STATUS_IO (the stream cannot be written), STATUS_NO_MEMORY, those of
 * scheduler_run. */
enum status answer_generate(struct scheduler *scheduler, const struct answer_options *options,
                            const struct token_list *prompt, struct answer *out);
void answer_cleanup(struct answer *answer);
