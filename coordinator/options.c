/* Tables are written as lists of rows that are copied into the caller's table: the rows shared by
 * all model commands first, then the command's own. Descriptions live beside the options they
 * explain. */
#include "coordinator/options.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

#include "common/kernel/kernel.h"
#include "common/log.h"
#include "common/transport/transport.h"
#include "common/weights/gguf.h"
#include "coordinator/outline.h"
#include "coordinator/planning.h"
#include "coordinator/recipe.h"

#define BATCH_TOKENS_DEFAULT      512
#define PERPLEXITY_WINDOW_DEFAULT 512
#define PLAN_CONTEXT_DEFAULT      2048

static void begin_table(struct option_table *table, const char *name, const char *summary,
                        const char *usage, const char *details) {
    table->command = (struct command){.program = "skein",
                                      .name = name,
                                      .summary = summary,
                                      .usage = usage,
                                      .details = details,
                                      .options = table->options};
}

static void add_rows(struct option_table *table, const struct option *rows, size_t count) {
    assert(table->command.option_count + count <= OPTIONS_MAX);
    memcpy(table->options + table->command.option_count, rows, count * sizeof *rows);
    table->command.option_count += count;
}

#define ADD_ROWS(table, rows) add_rows(table, rows, sizeof(rows) / sizeof *(rows))

/* Where experts go, for everything that plans. */
struct plan_rows {
    uint64_t *memory_bytes;
    const char **placement, **optimize, **replicas, **offload, **popularity;
};

static void add_plan_rows(const struct plan_rows *targets, struct option_table *table) {
    const struct option rows[] = {
        {.name = "memory",
         .type = OPTION_SIZE,
         .target = targets->memory_bytes,
         .argument = "SIZE",
         .help = "Memory for routed experts that the coordinator computes itself, beside workers; "
                 "without it, what is left."},
        {.name = "placement",
         .type = OPTION_CHOICE,
         .target = targets->placement,
         .argument = "KIND",
         .choices = PLANNING_KINDS,
         .help = "auto: whatever is predicted to be fastest; experts: whole experts on all "
                 "machines; slices: every expert sliced over all machines."},
        {.name = "optimize",
         .type = OPTION_CHOICE,
         .target = targets->optimize,
         .argument = "WORK",
         .choices = PLANNING_OBJECTIVES,
         .help = "What is to be fast: answers, prompts, or both (answers a quarter as long as "
                 "prompts)."},
        {.name = "replicas",
         .type = OPTION_CHOICE,
         .target = targets->replicas,
         .argument = "WHEN",
         .choices = PLANNING_REPLICAS,
         .help = "Further copies of experts in spare memory: where they make it faster, never, or "
                 "wherever there is room, so that a machine may fail."},
        {.name = "offload",
         .type = OPTION_CHOICE,
         .target = targets->offload,
         .argument = "WHEN",
         .choices = PLANNING_OFFLOADS,
         .help =
             "Slices of shared experts, dense layers and output head for workers: where it makes "
             "it faster, never, or always. The coordinator keeps all of it in memory as well."},
        {.name = "popularity",
         .type = OPTION_PATH,
         .target = targets->popularity,
         .argument = "FILE.json",
         .help = "How often each expert is chosen; without it all are as likely."},
    };
    ADD_ROWS(table, rows);
}

static void add_placement_rows(struct model_options *options, struct option_table *table) {
    const struct option rows[] = {
        {.name = "workers",
         .type = OPTION_STRING,
         .target = &options->workers,
         .argument = "HOST:PORT,...",
         .help = "Worker daemons that hold the routed experts; without any they run in process."},
        {.name = "cluster",
         .type = OPTION_PATH,
         .target = &options->cluster,
         .argument = "FILE.yaml",
         .help = "The same from a file: a list of HOST:PORT under the key workers."},
        {.name = "local-workers",
         .type = OPTION_COUNT,
         .target = &options->local_workers,
         .argument = "N",
         .maximum = WORKERS_MAX,
         .help = "Start N worker daemons on this machine and end them afterwards."},
        {.name = "worker-timeout",
         .type = OPTION_COUNT,
         .target = &options->worker_timeout_s,
         .argument = "SECONDS",
         .maximum = WORKER_TIMEOUT_MAX_S,
         .help = "How long to wait for others to take over a lost worker's experts, or for its "
                 "return; 0: end at once."},
        {.name = "max-nodes",
         .type = OPTION_COUNT,
         .target = &options->nodes_max,
         .argument = "M",
         .maximum = HOLDERS_MAX,
         .help =
             "Most machines that a token visits in a layer, its best ones by the sum of scores; "
             "0: as many as its experts are on. Changes the answer."},
        {.name = "trace",
         .type = OPTION_PATH,
         .target = &options->trace,
         .argument = "FILE.json",
         .help = "Write when each layer's parts ran, here and on each worker, as a Chrome trace."},
        {.name = "wire",
         .type = OPTION_CHOICE,
         .target = &options->wire,
         .argument = "FORMAT",
         .choices = PLANNING_WIRES,
         .help =
             "What rows travel to other machines as; their sums come back in the same, for q8 in "
             "bf16. auto takes q8 for quantised experts where that is predicted to gain."},
        {.name = "overlap",
         .type = OPTION_CHOICE,
         .target = &options->overlap,
         .argument = "WHEN",
         .choices = "auto|on|2|off",
         .help = "Steps of several rows in parts, of which one computes here while workers have "
                 "others: two or four where that is predicted to gain, always four, always two, or "
                 "never."},
        {.name = "transport",
         .type = OPTION_CHOICE,
         .target = &options->transport,
         .argument = "NAME",
         .choices = TRANSPORT_CHOICES,
         .help = "How frames travel to workers and back; auto takes io_uring where the system "
                 "allows it."},
    };
    const struct plan_rows plan = {&options->memory_bytes, &options->placement,
                                   &options->optimize,     &options->replicas,
                                   &options->offload,      &options->popularity};
    ADD_ROWS(table, rows);
    add_plan_rows(&plan, table);
}

static struct option cache_row(const char **directory) {
    return (struct option){.name = "cache",
                           .type = OPTION_PATH,
                           .target = directory,
                           .argument = "DIR",
                           .help = "Where measured figures of this machine are remembered; without "
                                   "it ~/.cache/skein."};
}

static void set_model_defaults(struct model_options *options) {
    *options = (struct model_options){
        .isa = "auto",
        .worker_timeout_s = WORKER_TIMEOUT_DEFAULT_S,
        .wire = "auto",
        .overlap = "auto",
        .transport = "auto",
        .memory_bytes = PLANNING_MEMORY_AUTO,
        .placement = "auto",
        .optimize = "balanced",
        .replicas = "auto",
        .offload = "auto",
        .batch_tokens = BATCH_TOKENS_DEFAULT,
        .activations = "auto",
        .kv_cache = "auto",
    };
}

static void add_model_rows(struct model_options *options, struct option_table *table) {
    set_model_defaults(options);
    const struct option rows[] = {
        {.name = "model",
         .letter = 'm',
         .type = OPTION_PATH,
         .target = &options->path,
         .argument = "PATH",
         .help = "The model: a Hugging Face directory or a GGUF file."},
        {.name = "threads",
         .letter = 't',
         .type = OPTION_COUNT,
         .target = &options->threads,
         .argument = "N",
         .maximum = THREADS_MAX,
         .help = "Threads that compute; 0 takes one for each core."},
        {.name = "isa",
         .type = OPTION_CHOICE,
         .target = &options->isa,
         .argument = "NAME",
         .choices = KERNEL_CHOICES,
         .help = "Instruction set of the kernels; auto takes the widest there is."},
        {.name = "batch-tokens",
         .letter = 'b',
         .type = OPTION_COUNT,
         .target = &options->batch_tokens,
         .argument = "N",
         .minimum = 1,
         .maximum = BATCH_ROWS_MAX,
         .help = "Tokens of the prompt that are computed in one step."},
        {.name = "activations",
         .type = OPTION_CHOICE,
         .target = &options->activations,
         .argument = "FORMAT",
         .choices = "auto|f32|q8",
         .help = "What weights are multiplied with: auto and q8 round to 8 bits for quantised "
                 "formats (bf16 in large batches with AMX), f32 keeps unrounded values for every "
                 "format."},
        {.name = "kv-cache",
         .type = OPTION_CHOICE,
         .target = &options->kv_cache,
         .argument = "FORMAT",
         .choices = "auto|f32|f16|bf16|q8",
         .help =
             "How keys and values of past tokens are kept; auto: f16 beside quantised weights, f32 "
             "beside others and with --activations f32."},
        cache_row(&options->cache_directory),
        {.name = "verbose",
         .letter = 'v',
         .type = OPTION_FLAG,
         .target = &options->verbose,
         .help = "Log more; print figures by layer, too, and after every answer of a chat."},
        {.name = "quiet",
         .letter = 'q',
         .type = OPTION_FLAG,
         .target = &options->quiet,
         .help = "Log errors only; no progress and no figures."},
    };
    ADD_ROWS(table, rows);
    add_placement_rows(options, table);
}

static void add_context_row(struct model_options *options, struct option_table *table) {
    const struct option rows[] = {
        {.name = "context",
         .letter = 'c',
         .type = OPTION_COUNT,
         .target = &options->context,
         .argument = "N",
         .maximum = CONTEXT_MAX,
         .help =
             "Positions to keep memory for, rounded up to a multiple of 128; 0: 8192, or what the "
             "model was trained for if that is less."},
    };
    ADD_ROWS(table, rows);
}

static void add_sampling_rows(struct run_options *options, struct option_table *table) {
    struct sampler_options *sampling = &options->sampling;
    *sampling = (struct sampler_options){.top_p = 1, .repetition_penalty = 1};
    const struct option rows[] = {
        {.name = "temperature",
         .type = OPTION_REAL,
         .target = &sampling->temperature,
         .argument = "T",
         .maximum = 100,
         .help = "0 always takes the best token."},
        {.name = "top-k",
         .type = OPTION_COUNT,
         .target = &sampling->top_k,
         .argument = "K",
         .maximum = VOCABULARY_MAX,
         .help = "Draw from the K best tokens; 0 is off."},
        {.name = "top-p",
         .type = OPTION_REAL,
         .target = &sampling->top_p,
         .argument = "P",
         .minimum = 0,
         .maximum = 1,
         .help = "Draw from the best tokens that together have probability P; 1 is off."},
        {.name = "min-p",
         .type = OPTION_REAL,
         .target = &sampling->min_p,
         .argument = "P",
         .maximum = 1,
         .help = "Leave out tokens below P times the best one's probability; 0 is off."},
        {.name = "repetition-penalty",
         .type = OPTION_REAL,
         .target = &sampling->repetition_penalty,
         .argument = "R",
         .minimum = 0.01,
         .maximum = 100,
         .help = "Makes tokens that were there already less likely when over 1."},
        {.name = "seed",
         .type = OPTION_SEED,
         .target = &sampling->seed,
         .argument = "N",
         .help = "The same seed draws the same tokens, on every machine."},
    };
    ADD_ROWS(table, rows);
}

static void add_prompt_rows(struct run_options *options, struct option_table *table) {
    const struct option rows[] = {
        {.name = "prompt",
         .letter = 'p',
         .type = OPTION_STRING,
         .target = &options->prompt,
         .argument = "TEXT",
         .help = "The question."},
        {.name = "file",
         .letter = 'f',
         .type = OPTION_PATH,
         .target = &options->file,
         .argument = "FILE",
         .help = "Read the question from a file."},
        {.name = "prompt-ids",
         .type = OPTION_PATH,
         .target = &options->prompt_ids,
         .argument = "FILE.json",
         .help = "A JSON list of token ids, which are used as they are."},
        {.name = "raw",
         .type = OPTION_FLAG,
         .target = &options->raw,
         .help = "Continue the text itself instead of answering it in the chat format."},
        {.name = "chat-format",
         .type = OPTION_CHOICE,
         .target = &options->chat_format,
         .argument = "NAME",
         .choices = "v2|v3|r1|v3.1",
         .help = "Chat format; without it the one that the model was trained on."},
        {.name = "system",
         .type = OPTION_STRING,
         .target = &options->system,
         .argument = "TEXT",
         .help = "System message that opens the conversation."},
        {.name = "think",
         .type = OPTION_FLAG,
         .target = &options->think,
         .help = "Ask a V3.1 model to think before it answers."},
    };
    ADD_ROWS(table, rows);
}

static const char RUN_DETAILS[] =
    "The prompt comes from --prompt, --file or --prompt-ids; else from standard input; and when "
    "that\n"
    "is a terminal, skein opens a chat with line editing and history.\n"
    "\n"
    "The answer goes to standard output as it comes, everything else to standard error. Ctrl-C "
    "ends\n"
    "the answer (in a chat: not the chat), a second Ctrl-C ends skein at once.\n"
    "\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage, 130 the answer was ended with Ctrl-C.\n"
    "\n"
    "Examples:\n"
    "  skein run --model deploy/demo-model --prompt \"What is 37 plus 58?\"\n"
    "  skein run --model MODEL --workers 10.0.0.2:7070,10.0.0.3:7070 < question.txt\n"
    "  skein run --model MODEL --prompt-ids ids.json --max-tokens 12 --json\n";

void options_describe_run(struct run_options *options, struct option_table *table) {
    *options = (struct run_options){.raw = false};
    begin_table(table, "run", "Answer a prompt, or chat on a terminal.",
                "--model PATH [--prompt TEXT | --file FILE | --prompt-ids FILE] [options]",
                RUN_DETAILS);
    add_model_rows(&options->model, table);
    add_context_row(&options->model, table);
    add_prompt_rows(options, table);
    const struct option rows[] = {
        {.name = "max-tokens",
         .letter = 'n',
         .type = OPTION_COUNT,
         .target = &options->tokens_max,
         .argument = "N",
         .maximum = CONTEXT_MAX,
         .help = "Longest answer; 0: until the model ends it or the context is full."},
        {.name = "ignore-eos",
         .type = OPTION_FLAG,
         .target = &options->ignore_eos,
         .help = "Go on when the model ends its answer."},
        {.name = "stop",
         .type = OPTION_LIST,
         .target = &options->stops,
         .argument = "TEXT",
         .help = "End the answer before this text; may be given several times."},
        {.name = "json",
         .type = OPTION_FLAG,
         .target = &options->json,
         .help = "Print one JSON object with ids, text and figures."},
    };
    ADD_ROWS(table, rows);
    add_sampling_rows(options, table);
}

static const char LOGITS_DETAILS[] =
    "Computes the logits at every position of a list of token ids, for comparisons with other\n"
    "implementations. Files: --out (ids, vocabulary) and --mtp (ids - 1, vocabulary) are float32 "
    "NumPy\n"
    "arrays; --routes is a JSON list with one object for each mixture-of-experts layer:\n"
    "{\"layer\": L, \"ids\": [[...]], \"weights\": [[...]]}.\n"
    "\n"
    "Example:\n"
    "  skein logits --model MODEL --ids ids.json --out logits.npy --routes routes.json\n";

void options_describe_logits(struct logits_options *options, struct option_table *table) {
    *options = (struct logits_options){.ids = NULL};
    begin_table(table, "logits", "Write the logits of given token ids to a file.",
                "--model PATH --ids FILE.json --out FILE.npy [options]", LOGITS_DETAILS);
    add_model_rows(&options->model, table);
    add_context_row(&options->model, table);
    const struct option rows[] = {
        {.name = "ids",
         .type = OPTION_PATH,
         .target = &options->ids,
         .argument = "FILE.json",
         .help = "A JSON list of token ids."},
        {.name = "out",
         .letter = 'o',
         .type = OPTION_PATH,
         .target = &options->out,
         .argument = "FILE.npy",
         .help = "Where the logits go."},
        {.name = "routes",
         .type = OPTION_PATH,
         .target = &options->routes,
         .argument = "FILE.json",
         .help = "Also write the experts that each token chose."},
        {.name = "mtp",
         .type = OPTION_PATH,
         .target = &options->mtp,
         .argument = "FILE.npy",
         .help = "Also write the logits of the draft module."},
    };
    ADD_ROWS(table, rows);
}

void options_describe_inspect(struct inspect_options *options, struct option_table *table) {
    *options = (struct inspect_options){.path = NULL};
    begin_table(table, "inspect", "Print a model's architecture, memory and formats.",
                "--model PATH [--json]",
                "Reads the headers of the files only, so it is quick for models of any size.\n");
    const struct option rows[] = {
        {.name = "model",
         .letter = 'm',
         .type = OPTION_PATH,
         .target = &options->path,
         .argument = "PATH",
         .help = "The model: a Hugging Face directory or a GGUF file."},
        {.name = "json",
         .type = OPTION_FLAG,
         .target = &options->json,
         .help = "Print one JSON object."},
    };
    ADD_ROWS(table, rows);
}

static const char PLAN_DETAILS[] =
    "Says where experts would go, what each machine would hold, how fast the model would be and\n"
    "what would limit it, before anything is loaded or bought. The cluster file names machines "
    "that\n"
    "run a worker, or describes machines by memory, GB/s, GOPS and link:\n"
    "\n"
    "  workers:\n"
    "    - {name: mini, count: 3, memory: 16G, read_gb_per_s: 40, gops: 300}\n"
    "    - {name: server, memory: 64G, read_gb_per_s: 90, gops: {q4_k: 900, bf16: 400},\n"
    "       link_gbit_per_s: 10, round_trip_us: 60}\n"
    "  coordinator: {memory: 32G, read_gb_per_s: 60, gops: 500}\n"
    "  link: {gbit_per_s: 1, round_trip_us: 150}\n"
    "\n"
    "A worker's memory is what it gives to experts, the coordinator's what all its weights and "
    "the\n"
    "KV cache may take. gops are what skein reaches, a multiplication and an addition counting as\n"
    "two: `skein bench` measures them.\n"
    "\n"
    "Examples:\n"
    "  skein plan --model MODEL --cluster cluster.yaml\n"
    "  skein plan --model DIRECTORY-WITH-config.json --type q4_k --cluster cluster.yaml --json\n";

void options_describe_plan(struct plan_options *options, struct option_table *table) {
    *options = (struct plan_options){
        .memory_bytes = PLANNING_MEMORY_AUTO,
        .placement = "auto",
        .optimize = "balanced",
        .replicas = "auto",
        .offload = "auto",
        .batch_tokens = BATCH_TOKENS_DEFAULT,
        .context = PLAN_CONTEXT_DEFAULT,
    };
    begin_table(table, "plan", "Predict a model's speed on machines that need not exist yet.",
                "--model PATH --cluster FILE.yaml [--type TYPE] [--json] [options]", PLAN_DETAILS);
    const struct option rows[] = {
        {.name = "model",
         .letter = 'm',
         .type = OPTION_PATH,
         .target = &options->path,
         .argument = "PATH",
         .help = "The model: a Hugging Face directory or a GGUF file; with --type a directory with "
                 "config.json is enough."},
        {.name = "cluster",
         .type = OPTION_PATH,
         .target = &options->cluster,
         .argument = "FILE.yaml",
         .help = "The machines."},
        {.name = "type",
         .type = OPTION_CHOICE,
         .target = &options->type,
         .argument = "TYPE",
         .choices = OUTLINE_TYPE_CHOICES,
         .help = "Plan as if weights were of this type, as quantize writes them; without it, as "
                 "they are."},
        {.name = "batch-tokens",
         .letter = 'b',
         .type = OPTION_COUNT,
         .target = &options->batch_tokens,
         .argument = "N",
         .minimum = 1,
         .maximum = BATCH_ROWS_MAX,
         .help = "Tokens of the prompt that are computed in one step."},
        {.name = "context",
         .letter = 'c',
         .type = OPTION_COUNT,
         .target = &options->context,
         .argument = "N",
         .minimum = 1,
         .maximum = CONTEXT_MAX,
         .help = "Positions of the KV cache; decoding looks back at half of them."},
        cache_row(&options->cache_directory),
        {.name = "json",
         .type = OPTION_FLAG,
         .target = &options->json,
         .help = "Print one JSON object."},
    };
    const struct plan_rows plan = {&options->memory_bytes, &options->placement,
                                   &options->optimize,     &options->replicas,
                                   &options->offload,      &options->popularity};
    ADD_ROWS(table, rows);
    add_plan_rows(&plan, table);
}

static const char BENCH_DETAILS[] =
    "Measures this machine, then the model, then the machine again. The table and --json give\n"
    "medians over the repetitions with the slowest and fastest one, and what the machine would\n"
    "reach at most: for decoding, reading the weights of each token at full bandwidth; for the\n"
    "prompt, multiplying at full rate or reading all weights that are used, whatever takes "
    "longer.\n"
    "With workers, the machine's figures are those of the coordinator.\n"
    "\n"
    "Examples:\n"
    "  skein bench --model MODEL\n"
    "  skein bench --model MODEL -p 512 -n 64 -d 4096 --json\n";

void options_describe_bench(struct bench_options *options, struct option_table *table) {
    *options = (struct bench_options){
        .prompt_tokens = 128, .decode_tokens = 32, .sequences = 1, .repetitions = 3};
    begin_table(table, "bench", "Measure this machine and the model's speed on it.",
                "--model PATH [-p N] [-n N] [-s N] [-r N] [-d DEPTH] [--json] [options]",
                BENCH_DETAILS);
    add_model_rows(&options->model, table);
    add_context_row(&options->model, table);
    const struct option rows[] = {
        {.name = "prompt-tokens",
         .letter = 'p',
         .type = OPTION_COUNT,
         .target = &options->prompt_tokens,
         .argument = "N",
         .minimum = 1,
         .maximum = CONTEXT_MAX,
         .help = "Length of the prompt."},
        {.name = "decode-tokens",
         .letter = 'n',
         .type = OPTION_COUNT,
         .target = &options->decode_tokens,
         .argument = "N",
         .minimum = 1,
         .maximum = CONTEXT_MAX,
         .help = "Tokens that are computed one by one."},
        {.name = "sequences",
         .letter = 's',
         .type = OPTION_COUNT,
         .target = &options->sequences,
         .argument = "N",
         .minimum = 1,
         .maximum = SEQUENCES_MAX,
         .help = "Answers that are decoded side by side, one token of each in a step."},
        {.name = "repetitions",
         .letter = 'r',
         .type = OPTION_COUNT,
         .target = &options->repetitions,
         .argument = "N",
         .minimum = 1,
         .maximum = BENCH_REPETITIONS_MAX,
         .help = "How often both are measured."},
        {.name = "depth",
         .letter = 'd',
         .type = OPTION_COUNT,
         .target = &options->depth,
         .argument = "DEPTH",
         .maximum = CONTEXT_MAX,
         .help = "Positions that the KV cache holds before either begins."},
        {.name = "json",
         .type = OPTION_FLAG,
         .target = &options->json,
         .help = "Print one JSON object."},
    };
    ADD_ROWS(table, rows);
}

static const char PERPLEXITY_DETAILS[] =
    "How well the model predicts a text: e to the mean negative log-likelihood of its tokens; "
    "lower\n"
    "is better. Each window of --context tokens starts from nothing, and all its tokens but the\n"
    "first count. Figures of two formats of one model are comparable with the same text and\n"
    "--context.\n"
    "\n"
    "Example:\n"
    "  skein perplexity --model MODEL --file text.txt\n";

void options_describe_perplexity(struct perplexity_text_options *options,
                                 struct option_table *table) {
    *options = (struct perplexity_text_options){.file = NULL};
    begin_table(table, "perplexity", "Measure how well the model predicts a text.",
                "--model PATH (--file TEXT | --ids FILE.json) [options]", PERPLEXITY_DETAILS);
    add_model_rows(&options->model, table);
    options->model.context = PERPLEXITY_WINDOW_DEFAULT;
    const struct option rows[] = {
        {.name = "context",
         .letter = 'c',
         .type = OPTION_COUNT,
         .target = &options->model.context,
         .argument = "N",
         .minimum = 2,
         .maximum = CONTEXT_MAX,
         .help = "Tokens of one window."},
        {.name = "file",
         .letter = 'f',
         .type = OPTION_PATH,
         .target = &options->file,
         .argument = "TEXT",
         .help = "The text."},
        {.name = "ids",
         .type = OPTION_PATH,
         .target = &options->ids,
         .argument = "FILE.json",
         .help = "A JSON list of token ids instead of a text."},
        {.name = "json",
         .type = OPTION_FLAG,
         .target = &options->json,
         .help = "Print one JSON object."},
    };
    ADD_ROWS(table, rows);
}

static const char QUANTIZE_DETAILS[] =
    "IN is a Hugging Face directory or a GGUF file (any one of several parts). The file that is\n"
    "written loads in skein and in other GGUF software. Its weights have the format --type names,\n"
    "except that\n"
    "  - norms, biases and the router stay F32,\n"
    "  - the head is Q6_K with q4_0, q4_k, q4_k_m and q5_k,\n"
    "  - q4_k_m is Q4_K with Q6_K for the values of attention and the down projections in half of\n"
    "    the layers,\n"
    "  - matrices whose rows are no whole blocks get the nearest format that fits; the log counts "
    "them.\n"
    "\n"
    "The file has a temporary name, OUT.gguf.part, until it is complete; Ctrl-C leaves nothing.\n"
    "\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage, 130 ended with Ctrl-C.\n"
    "\n"
    "Example:\n"
    "  skein quantize deploy/demo-model demo-q4.gguf --type q4_k_m\n";

void options_describe_quantize(struct quantize_options *options, struct option_table *table) {
    *options = (struct quantize_options){.in = NULL};
    begin_table(table, "quantize", "Write a model as a GGUF file in another precision.",
                "IN OUT.gguf --type TYPE [options]", QUANTIZE_DETAILS);
    table->operands[0] = (struct operand){"IN", &options->in};
    table->operands[1] = (struct operand){"OUT.gguf", &options->out};
    table->command.operands = table->operands;
    table->command.operand_count = 2;
    const struct option rows[] = {
        {.name = "type",
         .type = OPTION_CHOICE,
         .target = &options->type,
         .argument = "TYPE",
         .choices = RECIPE_CHOICES,
         .help = "Format of the weights."},
        {.name = "threads",
         .letter = 't',
         .type = OPTION_COUNT,
         .target = &options->threads,
         .argument = "N",
         .maximum = THREADS_MAX,
         .help = "Threads that compute; 0 takes one for each core."},
        {.name = "verbose",
         .letter = 'v',
         .type = OPTION_FLAG,
         .target = &options->verbose,
         .help = "Log more."},
        {.name = "quiet",
         .letter = 'q',
         .type = OPTION_FLAG,
         .target = &options->quiet,
         .help = "Log errors only; no progress and no summary."},
    };
    ADD_ROWS(table, rows);
}

static const char DRAIN_DETAILS[] =
    "The worker takes no new coordinator. The one that it serves has other workers load what this\n"
    "one holds, beside generating, and lets it go; then it ends, and so does this command. Where\n"
    "the others have no memory for that, it ends together with the coordinator's work.\n"
    "\n"
    "Example:\n"
    "  skein drain 192.168.0.2:7717\n";

void options_describe_drain(struct drain_options *options, struct option_table *table) {
    *options = (struct drain_options){.worker = NULL};
    begin_table(table, "drain", "Have a worker end without disturbing anybody.", "HOST:PORT",
                DRAIN_DETAILS);
    table->operands[0] = (struct operand){"HOST:PORT", &options->worker};
    table->command.operands = table->operands;
    table->command.operand_count = 1;
}

void options_describe_completion(struct option_table *table) {
    begin_table(table, "completion", "Print the completion script for bash.", "[--help]",
                "Load it into the running shell with\n  source <(skein completion)\n"
                "or keep it for later ones with\n"
                "  skein completion > ~/.local/share/bash-completion/completions/skein\n");
}

void options_describe_all(struct option_catalogue *catalogue) {
    options_describe_run(&catalogue->run, &catalogue->tables[0]);
    options_describe_logits(&catalogue->logits, &catalogue->tables[1]);
    options_describe_inspect(&catalogue->inspect, &catalogue->tables[2]);
    options_describe_plan(&catalogue->plan, &catalogue->tables[3]);
    options_describe_bench(&catalogue->bench, &catalogue->tables[4]);
    options_describe_perplexity(&catalogue->perplexity, &catalogue->tables[5]);
    options_describe_quantize(&catalogue->quantize, &catalogue->tables[6]);
    options_describe_drain(&catalogue->drain, &catalogue->tables[7]);
    options_describe_completion(&catalogue->tables[8]);
    for (size_t i = 0; i < OPTION_TABLES; i++)
        catalogue->commands[i] = &catalogue->tables[i].command;
}

static enum status require(const char *value, const char *name, const char *argument) {
    if (value && *value)
        return STATUS_OK;
    log_error("--%s %s is missing", name, argument);
    return STATUS_USAGE;
}

enum status options_check_model(const struct model_options *options) {
    enum status status = require(options->path, "model", "PATH");
    if (status != STATUS_OK)
        return status;
    if (options->verbose && options->quiet) {
        log_error("--verbose and --quiet exclude each other; give one of them");
        return STATUS_USAGE;
    }
    return STATUS_OK;
}

enum status options_check_run(const struct run_options *options) {
    enum status status = options_check_model(&options->model);
    if (status != STATUS_OK)
        return status;
    if (!!options->prompt + !!options->prompt_ids + !!options->file > 1) {
        log_error("--prompt, --prompt-ids and --file exclude each other; give one of them");
        return STATUS_USAGE;
    }
    bool shapes_text = options->chat_format || options->system || options->think;
    if ((options->raw || options->prompt_ids) && shapes_text) {
        log_error("--chat-format, --system and --think shape a conversation; they do nothing with "
                  "%s, leave them out",
                  options->raw ? "--raw" : "--prompt-ids");
        return STATUS_USAGE;
    }
    for (size_t i = 0; i < options->stops.count; i++)
        if (!*options->stops.items[i]) {
            log_error("--stop needs a text; an empty one would end every answer at once");
            return STATUS_USAGE;
        }
    return STATUS_OK;
}

enum status options_check_logits(const struct logits_options *options) {
    enum status status = options_check_model(&options->model);
    if (status == STATUS_OK)
        status = require(options->ids, "ids", "FILE.json");
    if (status == STATUS_OK)
        status = require(options->out, "out", "FILE.npy");
    return status;
}

enum status options_check_inspect(const struct inspect_options *options) {
    return require(options->path, "model", "PATH");
}

enum status options_check_plan(const struct plan_options *options) {
    enum status status = require(options->path, "model", "PATH");
    return status ? status : require(options->cluster, "cluster", "FILE.yaml");
}

enum status options_check_bench(const struct bench_options *options) {
    enum status status = options_check_model(&options->model);
    if (status != STATUS_OK)
        return status;
    uint32_t longer = options->prompt_tokens > options->decode_tokens ? options->prompt_tokens
                                                                      : options->decode_tokens;
    if (options->depth > CONTEXT_MAX - longer) {
        log_error("--depth %u and %u tokens behind it are over the longest context, %d",
                  options->depth, longer, CONTEXT_MAX);
        return STATUS_USAGE;
    }
    if (options->sequences > options->model.batch_tokens) {
        log_error("--sequences %u do not fit into a step of %u rows; raise --batch-tokens",
                  options->sequences, options->model.batch_tokens);
        return STATUS_USAGE;
    }
    return STATUS_OK;
}

enum status options_check_perplexity(const struct perplexity_text_options *options) {
    enum status status = options_check_model(&options->model);
    if (status != STATUS_OK)
        return status;
    if (!options->file == !options->ids) {
        log_error("give either a text with --file or token ids with --ids");
        return STATUS_USAGE;
    }
    return STATUS_OK;
}

enum status options_check_quantize(const struct quantize_options *options) {
    if (!options->in || !*options->in || !options->out || !*options->out) {
        log_error("skein quantize needs a model to read and a file to write: IN OUT.gguf");
        return STATUS_USAGE;
    }
    enum status status = require(options->type, "type", "TYPE");
    if (status != STATUS_OK)
        return status;
    if (!gguf_is_path(options->out) || gguf_count_parts(options->out) > 1) {
        log_error("%s: the name of the file to write must end in .gguf, and not like a part's",
                  options->out);
        return STATUS_USAGE;
    }
    if (options->verbose && options->quiet) {
        log_error("--verbose and --quiet exclude each other; give one of them");
        return STATUS_USAGE;
    }
    return STATUS_OK;
}

void options_set_log(const struct model_options *options) {
    enum log_level level = options->quiet ? LOG_ERROR : LOG_WARNING;
    log_init("skein", options->verbose ? LOG_DEBUG : level, NULL);
}

void options_set_cache(struct config *config, const char **directory) {
    if (!*directory)
        *directory = config_cache_directory(config, "skein");
}

struct runtime_options options_for_runtime(const struct model_options *options) {
    return (struct runtime_options){
        .model_path = options->path,
        .workers = options->workers,
        .cluster = options->cluster,
        .exact = strcmp(options->activations, "f32") == 0,
        .local_workers = options->local_workers,
        .worker_timeout_s = options->worker_timeout_s,
        .memory_bytes = options->memory_bytes,
        .threads = options->threads,
        .isa = options->isa,
        .placement = options->placement,
        .optimize = options->optimize,
        .replicas = options->replicas,
        .offload = options->offload,
        .popularity = options->popularity,
        .cache_directory = options->cache_directory,
        .wire = options->wire,
        .overlap = options->overlap,
        .trace = options->trace,
        .nodes_max = options->nodes_max,
        .transport = options->transport,
        .batch_rows = options->batch_tokens,
        .context = options->context,
        .kv_cache = options->kv_cache,
        .show_progress = !options->quiet && isatty(STDERR_FILENO),
    };
}

enum status options_check_drain(const struct drain_options *options) {
    if (options->worker)
        return STATUS_OK;
    log_error("no worker; write skein drain HOST:PORT");
    return STATUS_USAGE;
}
