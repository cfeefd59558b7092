/* What each sub-command takes: one struct of values and one table that fills it.
 *
 * The tables are built per call over the caller's struct, so nothing here is file-scope state. Used
 * by the sub-commands, and by main and the completion script, which only read the descriptions. */
#pragma once

#include "common/config.h"
#include "common/limits.h"
#include "coordinator/runtime.h"
#include "coordinator/sampler.h"

/* Shared by all commands that run a model. */
struct model_options {
    const char *path;
    const char *workers; /* HOST:PORT,HOST:PORT; NULL: none */
    const char *cluster;
    uint32_t local_workers;
    uint32_t worker_timeout_s;
    uint64_t memory_bytes; /* for routed experts of this process beside workers */
    uint32_t threads;
    const char *isa;
    const char *placement, *optimize, *replicas, *offload;
    const char *popularity; /* path of statistics, or NULL */
    const char *wire, *overlap, *transport;
    const char *trace;  /* path to write, or NULL */
    uint32_t nodes_max; /* 0: no limit */
    uint32_t batch_tokens;
    uint32_t context;
    const char *activations;
    const char *kv_cache;
    bool verbose, quiet;
    const char *cache_directory;
};

struct run_options {
    struct model_options model;
    const char *prompt, *prompt_ids, *file;
    bool raw;
    const char *chat_format; /* NULL: the model's */
    const char *system;
    bool think;
    uint32_t tokens_max; /* 0: until the context is full */
    bool ignore_eos;
    struct sampler_options sampling;
    struct option_list stops;
    bool json;
};

struct logits_options {
    struct model_options model;
    const char *ids, *out, *routes, *mtp;
};

struct inspect_options {
    const char *path;
    bool json;
};

struct plan_options {
    const char *path, *cluster;
    const char *type; /* NULL: as the files have it */
    uint64_t memory_bytes;
    const char *placement, *optimize, *replicas, *offload;
    const char *popularity;
    const char *cache_directory;
    uint32_t batch_tokens, context;
    bool json;
};

struct bench_options {
    struct model_options model;
    uint32_t prompt_tokens, decode_tokens, depth, sequences, repetitions;
    bool json;
};

/* Here model.context is the length of a window. */
struct perplexity_text_options {
    struct model_options model;
    const char *file, *ids;
    bool json;
};

struct quantize_options {
    const char *in, *out; /* operands */
    const char *type;     /* a recipe's name */
    uint32_t threads;
    bool verbose, quiet;
};

struct drain_options {
    const char *worker; /* operand: HOST:PORT */
};

/* One command with its options; `command.options` points into this struct, so it must not be moved.
 */
struct option_table {
    struct command command;
    struct option options[OPTIONS_MAX];
    struct operand operands[OPERANDS_MAX];
};

/* Set the defaults in `options` and fill `table` with options that point there. */
void options_describe_run(struct run_options *options, struct option_table *table);
void options_describe_logits(struct logits_options *options, struct option_table *table);
void options_describe_inspect(struct inspect_options *options, struct option_table *table);
void options_describe_plan(struct plan_options *options, struct option_table *table);
void options_describe_bench(struct bench_options *options, struct option_table *table);
void options_describe_perplexity(struct perplexity_text_options *options,
                                 struct option_table *table);
void options_describe_quantize(struct quantize_options *options, struct option_table *table);
void options_describe_drain(struct drain_options *options, struct option_table *table);
void options_describe_completion(struct option_table *table);

/* All commands, for lists of them. */
#define OPTION_TABLES 9
struct option_catalogue {
    struct run_options run;
    struct logits_options logits;
    struct inspect_options inspect;
    struct plan_options plan;
    struct bench_options bench;
    struct perplexity_text_options perplexity;
    struct quantize_options quantize;
    struct drain_options drain;
    struct option_table tables[OPTION_TABLES];
    const struct command *commands[OPTION_TABLES];
};
void options_describe_all(struct option_catalogue *catalogue);

/* Check what no single option can. Errors: STATUS_USAGE with one line
 * (no --model, options that exclude each other). */
enum status options_check_model(const struct model_options *options);
enum status options_check_run(const struct run_options *options);
enum status options_check_logits(const struct logits_options *options);
enum status options_check_inspect(const struct inspect_options *options);
enum status options_check_plan(const struct plan_options *options);
enum status options_check_bench(const struct bench_options *options);
enum status options_check_perplexity(const struct perplexity_text_options *options);
enum status options_check_quantize(const struct quantize_options *options);
enum status options_check_drain(const struct drain_options *options);

/* Sets the log's level by --verbose and --quiet, for the whole process. */
void options_set_log(const struct model_options *options);

/* Where figures of this machine are remembered, unless *directory says so already. */
void options_set_cache(struct config *config, const char **directory);

/* The same values as the runtime takes them. */
struct runtime_options options_for_runtime(const struct model_options *options);
