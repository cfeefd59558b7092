/* Whatever can be wrong with the prompt is found before gigabytes are loaded, as far as it can be
 * known without the tokenizer. A single prompt and a chat differ only in where questions come from
 * and how the end is shown; the answering itself is in answer.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cluster_limits.h"
#include "common/json.h"
#include "common/log.h"
#include "common/weights/gguf.h"
#include "coordinator/answer.h"
#include "coordinator/chat_session.h"
#include "coordinator/command.h"
#include "coordinator/figures.h"
#include "coordinator/interrupt.h"
#include "coordinator/options.h"
#include "coordinator/prompt.h"
#include "coordinator/runtime.h"

struct run {
    const struct run_options *options;
    struct config *config;
    bool chat;               /* questions are typed on a terminal */
    struct prompt_text text; /* of a single prompt, unless it was given as ids */
    struct token_list prompt;
    struct runtime *runtime;
    struct scheduler *scheduler;
    bool interrupted;
};

static enum status read_ids(struct run *run) {
    struct model_shape shape;
    enum status status = model_shape_read(run->options->model.path, &shape);
    if (status == STATUS_OK)
        status = json_read_ids(run->options->prompt_ids, shape.vocabulary, &run->prompt.ids,
                               &run->prompt.count);
    if (status == STATUS_OK && run->prompt.count == 0) {
        log_error("%s is an empty list; a prompt needs at least one id", run->options->prompt_ids);
        status = STATUS_USAGE;
    }
    return status;
}

static enum status copy_prompt(const char *prompt, struct prompt_text *out) {
    char *copy = strdup(prompt);
    if (!copy)
        return STATUS_NO_MEMORY;
    *out = (struct prompt_text){copy, strlen(copy)};
    return STATUS_OK;
}

/* Finds out where the prompt comes from and reads it. */
static enum status read_prompt(struct run *run) {
    const struct run_options *options = run->options;
    enum status status;
    if (options->prompt_ids)
        return read_ids(run);
    if (options->prompt) {
        status = copy_prompt(options->prompt, &run->text);
    } else if (options->file) {
        status = prompt_read_file(options->file, &run->text);
    } else if (!isatty(STDIN_FILENO)) {
        status = prompt_read_stream(stdin, "standard input", &run->text);
    } else if (options->json || options->raw) {
        log_error("--%s needs a prompt: give --prompt, --file, --prompt-ids or standard input",
                  options->json ? "json" : "raw");
        return STATUS_USAGE;
    } else {
        run->chat = true;
        return STATUS_OK;
    }
    if (status != STATUS_OK)
        return status;
    if (!options->raw && !options->prompt)
        prompt_trim(&run->text);
    if (run->text.count == 0) {
        log_error("the prompt is empty; give a text with --prompt, --file or standard input");
        return STATUS_USAGE;
    }
    return STATUS_OK;
}

/* A model without a tokenizer answers ids with ids. */
static enum status check_tokenizer(const struct run *run) {
    const struct run_options *options = run->options;
    if (runtime_tokenizer(run->runtime))
        return STATUS_OK;
    if (options->prompt_ids && options->stops.count == 0)
        return STATUS_OK;
    const char *wanted = options->prompt_ids ? "--stop" : "a text prompt";
    const char *instead = options->prompt_ids ? "" : " or give token ids with --prompt-ids";
    if (gguf_is_path(options->model.path))
        log_error("%s has no tokenizer, so skein cannot read %s; take another conversion%s",
                  options->model.path, wanted, instead);
    else
        log_error(
            "%s/tokenizer.json does not exist, so skein cannot read %s; copy the file there%s",
            options->model.path, wanted, instead);
    return STATUS_NOT_FOUND;
}

static enum chat_format format_of(const struct run *run) {
    const struct run_options *options = run->options;
    enum chat_format format;
    if (!options->chat_format || !chat_format_parse(options->chat_format, &format))
        format = chat_format_detect(runtime_tokenizer(run->runtime), runtime_shape(run->runtime));
    if (options->think && format != CHAT_V3_1)
        log_warning("--think has no effect: the chat format is %s, only v3.1 knows it",
                    chat_format_name(format));
    return format;
}

static enum status encode_prompt(struct run *run) {
    const struct run_options *options = run->options;
    const struct tokenizer *tokenizer = runtime_tokenizer(run->runtime);
    if (options->prompt_ids)
        return STATUS_OK;
    if (options->raw)
        return prompt_encode_raw(tokenizer, &run->text, &run->prompt);
    const struct chat_message messages[] = {{CHAT_SYSTEM, options->system},
                                            {CHAT_USER, run->text.bytes}};
    bool has_system = options->system != NULL;
    return chat_encode(tokenizer, format_of(run), options->think, messages + !has_system,
                       1 + has_system, &run->prompt);
}

static struct answer_options answer_options_of(const struct run *run) {
    const struct run_options *options = run->options;
    const struct tokenizer *tokenizer = runtime_tokenizer(run->runtime);
    uint32_t eos_id = runtime_shape(run->runtime)->eos_id;
    if (tokenizer)
        tokenizer_eos(tokenizer, &eos_id);
    return (struct answer_options){
        .tokenizer = tokenizer,
        .sampling = options->sampling,
        .tokens_max = options->tokens_max,
        .eos_id = options->ignore_eos ? UINT32_MAX : eos_id,
        .stops = options->stops.items,
        .stop_count = options->stops.count,
        .show_special = options->raw,
        .stream = options->json ? NULL : stdout,
    };
}

static bool has_workers(const struct run *run) {
    const struct model_options *model = &run->options->model;
    return model->workers || model->cluster || model->local_workers;
}

static void predict(const struct run *run, const struct request_result *result,
                    struct figures *figures) {
    const struct planning *planning = runtime_planning(run->runtime);
    uint32_t prompt = (uint32_t)(result->prompt_tokens - result->reused_tokens);
    const struct planning_request request = {
        .prompt_tokens = prompt ? prompt : 1,
        .before = (uint32_t)result->reused_tokens,
        .batch_rows = run->options->model.batch_tokens,
        .sequences = 1,
        .decode_context = (uint32_t)(result->prompt_tokens + result->answer_tokens / 2),
    };
    if (has_workers(run) && planning_rate(planning, &request, &figures->predicted))
        figures->placement = planning_plan(planning)->options[0].name;
}

static struct figures figures_of(const struct run *run, const struct request_result *result,
                                 struct holder_stats holders[HOLDERS_MAX]) {
    size_t count = 0;
    if (has_workers(run))
        count = runtime_holder_stats(run->runtime, holders, HOLDERS_MAX);
    struct figures figures = {
        .result = *result,
        .holders = holders,
        .holder_count = count < HOLDERS_MAX ? count : HOLDERS_MAX,
        .statistics = runtime_statistics(run->runtime),
        .by_layer = run->options->model.verbose,
    };
    predict(run, result, &figures);
    return figures;
}

static json_t *ids_to_json(const struct token_list *tokens) {
    json_t *ids = json_array();
    for (size_t i = 0; i < tokens->count; i++)
        if (json_array_append_new(ids, json_integer(tokens->ids[i]))) {
            json_decref(ids);
            return NULL;
        }
    return ids;
}

static enum status print_json(const struct answer *answer, const struct figures *figures) {
    json_t *object = json_pack("{s:o, s:s, s:o}", "ids", ids_to_json(&answer->tokens), "text",
                               answer->text, "stats", figures_to_json(figures));
    if (!object)
        return STATUS_NO_MEMORY;
    enum status status = STATUS_OK;
    if (json_dumpf(object, stdout, JSON_COMPACT) || putchar('\n') < 0 || fflush(stdout)) {
        log_error("cannot write the answer to standard output: %s", strerror(errno));
        status = STATUS_IO;
    }
    json_decref(object);
    return status;
}

static enum status answer_once(struct run *run) {
    struct answer answer = {.text = NULL};
    struct answer_options options = answer_options_of(run);
    enum status status = encode_prompt(run);
    if (status != STATUS_OK)
        return status;
    interrupt_arm();
    status = answer_generate(run->scheduler, &options, &run->prompt, &answer);
    interrupt_disarm();
    if (status != STATUS_OK)
        return status;
    struct holder_stats holders[HOLDERS_MAX];
    struct figures figures = figures_of(run, &answer.result, holders);
    if (run->options->json) {
        status = print_json(&answer, &figures);
    } else {
        putchar('\n');
        fflush(stdout);
        if (!run->options->model.quiet)
            figures_print(&figures, stderr);
    }
    run->interrupted = answer.interrupted;
    answer_cleanup(&answer);
    return status;
}

/* Workers count since the start, not since this question, so a chat shows rates only. */
static void print_rates(void *context, const struct request_result *result) {
    const struct run *run = context;
    figures_print(
        &(struct figures){.result = *result, .statistics = runtime_statistics(run->runtime)},
        stderr);
}

static void attend(void *context) {
    const struct run *run = context;
    runtime_attend(run->runtime);
}

static enum status chat(struct run *run) {
    const struct run_options *options = run->options;
    struct answer_options answer = answer_options_of(run);
    return chat_session_run(&(struct chat_session_options){
        .scheduler = run->scheduler,
        .answer = &answer,
        .format = format_of(run),
        .thinking = options->think,
        .system = options->system,
        .history_directory = config_state_directory(run->config, "skein"),
        .quiet = options->model.quiet,
        .on_answer = options->model.verbose ? print_rates : NULL,
        .on_wake = has_workers(run) ? attend : NULL,
        .context = run,
        .wake_fd = runtime_wake_fd(run->runtime),
    });
}

static enum status run_model(struct run *run) {
    struct runtime_options runtime = options_for_runtime(&run->options->model);
    runtime.follows_cluster = true;
    enum status status;
    if ((status = read_prompt(run)) || (status = runtime_open(&runtime, &run->runtime)) ||
        (status = check_tokenizer(run)) ||
        (status = scheduler_create(runtime_engine(run->runtime), &run->scheduler)))
        return status;
    return run->chat ? chat(run) : answer_once(run);
}

int command_run(int argc, char **argv) {
    struct run_options options;
    struct option_table table;
    struct config *config = config_create();
    if (!config)
        return status_exit_code(STATUS_NO_MEMORY);
    options_describe_run(&options, &table);
    bool done;
    enum status status = config_parse_arguments(config, &table.command, argc, argv, &done);
    struct run run = {.options = &options, .config = config};
    if (status == STATUS_OK && !done) {
        options_set_log(&options.model);
        options_set_cache(config, &options.model.cache_directory);
        status = options_check_run(&options);
        if (status == STATUS_OK)
            status = run_model(&run);
    }
    scheduler_destroy(run.scheduler);
    runtime_close(run.runtime);
    free(run.prompt.ids);
    free(run.text.bytes);
    config_destroy(config);
    return status == STATUS_OK && run.interrupted ? EXIT_INTERRUPTED : status_exit_code(status);
}
