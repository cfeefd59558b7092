/* Whatever is read is read before the model is opened, so that a mistake is found at once; a text
 * then waits for the model's tokenizer. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/json.h"
#include "common/log.h"
#include "coordinator/command.h"
#include "coordinator/options.h"
#include "coordinator/perplexity.h"
#include "coordinator/prompt.h"
#include "coordinator/runtime.h"

struct evaluation {
    const struct perplexity_text_options *options;
    struct prompt_text text; /* empty where ids were given */
    struct token_list tokens;
    struct runtime *runtime;
    struct perplexity result;
    double elapsed_s;
};

static enum status read_ids(struct evaluation *evaluation) {
    struct model_shape shape;
    enum status status = model_shape_read(evaluation->options->model.path, &shape);
    if (status)
        return status;
    return json_read_ids(evaluation->options->ids, shape.vocabulary, &evaluation->tokens.ids,
                         &evaluation->tokens.count);
}

static enum status encode_text(struct evaluation *evaluation) {
    const struct tokenizer *tokenizer = runtime_tokenizer(evaluation->runtime);
    if (!tokenizer) {
        log_error("%s has no tokenizer, so skein cannot read a text; give token ids with --ids",
                  evaluation->options->model.path);
        return STATUS_NOT_FOUND;
    }
    return tokenizer_encode(tokenizer, evaluation->text.bytes, evaluation->text.count, false,
                            &evaluation->tokens);
}

static enum status check_count(const struct evaluation *evaluation) {
    const struct perplexity_text_options *options = evaluation->options;
    if (evaluation->tokens.count >= 2)
        return STATUS_OK;
    log_error("%s has %zu tokens; a perplexity needs at least 2",
              options->ids ? options->ids : options->file, evaluation->tokens.count);
    return STATUS_USAGE;
}

static enum status open_all(struct evaluation *evaluation) {
    const struct perplexity_text_options *options = evaluation->options;
    struct runtime_options runtime = options_for_runtime(&options->model);
    enum status status;
    if (options->ids) {
        if ((status = read_ids(evaluation)) || (status = check_count(evaluation)))
            return status;
        return runtime_open(&runtime, &evaluation->runtime);
    }
    if ((status = prompt_read_file(options->file, &evaluation->text)) ||
        (status = runtime_open(&runtime, &evaluation->runtime)) ||
        (status = encode_text(evaluation)))
        return status;
    return check_count(evaluation);
}

/* One line on the terminal, rewritten in place. */
static void show_progress(void *context, size_t ids_done, const struct perplexity *now) {
    const struct evaluation *evaluation = context;
    fprintf(stderr, "\rscoring  %3.0f%%  %zu of %zu tokens  perplexity %.4f ",
            100.0 * (double)ids_done / (double)evaluation->tokens.count, ids_done,
            evaluation->tokens.count, now->value);
    fflush(stderr);
}

static enum status measure(struct evaluation *evaluation) {
    const struct perplexity_text_options *options = evaluation->options;
    bool shows = !options->model.quiet && isatty(STDERR_FILENO);
    const struct perplexity_options perplexity = {
        .ids = evaluation->tokens.ids,
        .count = evaluation->tokens.count,
        .window = options->model.context,
        .threads = runtime_threads(evaluation->runtime),
        .observer = shows ? show_progress : NULL,
        .context = evaluation,
    };
    uint64_t started_ns = clock_now_ns();
    enum status status =
        perplexity_measure(runtime_engine(evaluation->runtime), &perplexity, &evaluation->result);
    evaluation->elapsed_s = clock_elapsed_s(started_ns);
    if (shows)
        fprintf(stderr, "\r\033[K");
    return status;
}

static enum status print(const struct evaluation *evaluation) {
    const struct perplexity *result = &evaluation->result;
    double tokens_per_s = (double)evaluation->tokens.count / evaluation->elapsed_s;
    if (evaluation->options->json) {
        json_t *object = json_pack("{s:f, s:f, s:I, s:f}", "perplexity", result->value,
                                   "standard_error", result->standard_error, "tokens",
                                   (json_int_t)result->tokens, "tokens_per_s", tokens_per_s);
        if (!object)
            return STATUS_NO_MEMORY;
        json_dumpf(object, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(object);
    } else {
        printf("perplexity %.4f +/- %.4f over %zu tokens, %.1f tokens/s\n", result->value,
               result->standard_error, result->tokens, tokens_per_s);
    }
    if (fflush(stdout) || ferror(stdout)) {
        log_error("cannot write to standard output: %s", strerror(errno));
        return STATUS_IO;
    }
    return STATUS_OK;
}

int command_perplexity(int argc, char **argv) {
    struct perplexity_text_options options;
    struct option_table table;
    struct config *config = config_create();
    if (!config)
        return status_exit_code(STATUS_NO_MEMORY);
    options_describe_perplexity(&options, &table);
    bool done;
    enum status status = config_parse_arguments(config, &table.command, argc, argv, &done);
    if (status == STATUS_OK && !done)
        status = options_check_perplexity(&options);
    if (status == STATUS_OK && !done) {
        options_set_log(&options.model);
        options_set_cache(config, &options.model.cache_directory);
        struct evaluation evaluation = {.options = &options};
        if (!(status = open_all(&evaluation)) && !(status = measure(&evaluation)))
            status = print(&evaluation);
        runtime_close(evaluation.runtime);
        free(evaluation.tokens.ids);
        free(evaluation.text.bytes);
    }
    config_destroy(config);
    return status_exit_code(status);
}
