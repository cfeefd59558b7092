/* Writing a model as one GGUF file in another precision, streaming: never more of it in memory than
 * a buffer of EXPORT_CHUNK_VALUES values, in and out.
 *
 * Called by command_quantize, on the main thread; uses the thread pool. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/threads.h"
#include "coordinator/recipe.h"

struct export_options {
    const char *in;  /* a Hugging Face directory or a GGUF file */
    const char *out; /* ends in .gguf */
    const struct recipe *recipe;
    struct threads *threads;
    bool show_progress;
};

struct export_figures {
    uint64_t in_bytes;  /* of the tensors read */
    uint64_t out_bytes; /* of the file */
    uint64_t values;    /* weights in it */
};

/* Writes options->out. On any error there is no such file, or the one that was there before.
 * Kernels must be selected. Errors: STATUS_USAGE (`out` is a file of `in`, or a directory),
 * STATUS_FORMAT (also: a weight that is no finite number), STATUS_UNSUPPORTED, STATUS_IO,
 * STATUS_NO_MEMORY, STATUS_CANCELLED (Ctrl-C, which must be armed); one line each but for the last.
 */
enum status export_model(const struct export_options *options, struct export_figures *out);
