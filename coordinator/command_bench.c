/* The machine is measured right before each timing of the model and the two are compared, because
 * on a machine that others use too its rates at another moment say little. Figures are for people
 * as a table and for programs as one JSON object; nothing is printed before all are there. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/cluster_limits.h"
#include "common/json.h"
#include "common/kernel/kernel.h"
#include "common/log.h"
#include "common/machine.h"
#include "common/spread.h"
#include "coordinator/command.h"
#include "coordinator/figures.h"
#include "coordinator/measure.h"
#include "coordinator/options.h"
#include "coordinator/runtime.h"
#include "coordinator/worker_report.h"
#include "coordinator/workload.h"

/* What is known of each repetition, and printed as the median of all. */
enum figure {
    READ_RATE,                                     /* of the machine, before decoding */
    MULTIPLY_RATE,                                 /* PEAK_UNIT_COUNT of them, before prompts */
    MODEL_RATE = MULTIPLY_RATE + PEAK_UNIT_COUNT,  /* MEASURE_KIND_COUNT of them */
    BOUND = MODEL_RATE + MEASURE_KIND_COUNT,       /* the same at the machine's rates */
    REACHED = BOUND + MEASURE_KIND_COUNT,          /* what the model reaches of that */
    REACHED_OF_ONE = REACHED + MEASURE_KIND_COUNT, /* of multiplying, or of reading alone */
    FIGURE_COUNT = REACHED_OF_ONE + MEASURE_KIND_COUNT
};

struct bench {
    const struct bench_options *options;
    struct runtime *runtime;
    unsigned threads;
    struct workload workload;
    double *values[FIGURE_COUNT]; /* (repetitions), in a piece that the first one owns */
    struct spread figures[FIGURE_COUNT];
    struct spread step_s; /* of all decode steps */
    /* With workers: what the placement was predicted to give; a name of "" where nothing was. */
    char placement[PLAN_NAME_BYTES];
    struct planning_rates planned;
};

/* Positions that all sequences take together, in whole pages. */
static uint64_t count_positions(const struct bench_options *options) {
    uint64_t answers = options->depth + (uint64_t)options->decode_tokens;
    uint64_t prompt = options->depth + (uint64_t)options->prompt_tokens;
    answers = (answers / KV_PAGE_POSITIONS + 1) * KV_PAGE_POSITIONS;
    uint64_t others = (options->depth / KV_PAGE_POSITIONS + 1) * KV_PAGE_POSITIONS;
    uint64_t filled = prompt + (options->sequences - 1) * others;
    uint64_t decoded = options->sequences * answers;
    return filled > decoded ? filled : decoded;
}

/* A step is held back by multiplying or by reading, whatever takes longer. */
static enum status measure_machine(void *context, enum measure_kind kind, uint32_t repetition) {
    struct bench *bench = context;
    const struct bench_options *options = bench->options;
    struct machine_peak machine;
    enum status status =
        machine_measure_peak(runtime_threads(bench->runtime), MACHINE_MEASURE_BYTES, &machine);
    if (status)
        return status;
    bool is_prefill = kind == MEASURE_PREFILL;
    uint32_t tokens = is_prefill ? options->prompt_tokens : options->sequences;
    uint32_t logits = is_prefill ? 1 : tokens;
    uint32_t step_tokens = is_prefill ? options->model.batch_tokens : tokens;
    double multiply_s = workload_multiply_s(&bench->workload, &machine, tokens, logits);
    double read_s = workload_read_s(&bench->workload, &machine, tokens, step_tokens);
    bench->values[BOUND + kind][repetition] = tokens / fmax(multiply_s, read_s);
    bench->values[REACHED_OF_ONE + kind][repetition] = tokens / (is_prefill ? multiply_s : read_s);
    if (!is_prefill)
        bench->values[READ_RATE][repetition] = machine.read_bytes_per_s;
    for (size_t unit = 0; is_prefill && unit < PEAK_UNIT_COUNT; unit++)
        bench->values[MULTIPLY_RATE + unit][repetition] = machine.operations_per_s[unit];
    return STATUS_OK;
}

/* Holds the model against the machine, in each repetition, and sums them up. */
static void summarise(struct bench *bench) {
    uint32_t count = bench->options->repetitions;
    for (int kind = 0; kind < MEASURE_KIND_COUNT; kind++)
        for (uint32_t i = 0; i < count; i++) {
            double rate = bench->values[MODEL_RATE + kind][i];
            double *of_one = &bench->values[REACHED_OF_ONE + kind][i];
            bench->values[REACHED + kind][i] = rate / bench->values[BOUND + kind][i];
            *of_one = rate / *of_one;
        }
    for (int f = 0; f < FIGURE_COUNT; f++)
        bench->figures[f] = spread_of(bench->values[f], count);
}

static void ask_plan(struct bench *bench) {
    const struct bench_options *options = bench->options;
    const struct model_options *model = &options->model;
    const struct planning *planning = runtime_planning(bench->runtime);
    const struct planning_request request = {
        .prompt_tokens = options->prompt_tokens,
        .before = options->depth,
        .batch_rows = model->batch_tokens,
        .sequences = options->sequences,
        .decode_context = options->depth + options->decode_tokens / 2,
    };
    if (runtime_cluster(bench->runtime) && planning_rate(planning, &request, &bench->planned))
        memcpy(bench->placement, planning_plan(planning)->options[0].name, PLAN_NAME_BYTES);
}

static enum status measure_all(struct bench *bench) {
    const struct bench_options *options = bench->options;
    struct measure_options measure = {
        .prefill_tokens = options->prompt_tokens,
        .decode_tokens = options->decode_tokens,
        .depth = options->depth,
        .sequences = options->sequences,
        .repetitions = options->repetitions,
        .before = measure_machine,
        .context = bench,
    };
    size_t repetitions = options->repetitions, steps = repetitions * options->decode_tokens;
    double *values = malloc((FIGURE_COUNT * repetitions + steps) * sizeof *values);
    if (!values) {
        log_error("no memory for the times of %zu steps; lower --decode-tokens or --repetitions",
                  steps);
        return STATUS_NO_MEMORY;
    }
    for (int f = 0; f < FIGURE_COUNT; f++)
        bench->values[f] = values + f * repetitions;
    measure.steps_s = values + FIGURE_COUNT * repetitions;
    bench->threads = threads_count(runtime_threads(bench->runtime));
    workload_count(runtime_outline(bench->runtime), runtime_shape(bench->runtime),
                   &bench->workload);
    enum status status =
        measure_model(runtime_engine(bench->runtime), &measure, &bench->values[MODEL_RATE]);
    if (status)
        return status;
    summarise(bench);
    bench->step_s = spread_of(measure.steps_s, steps);
    ask_plan(bench);
    return STATUS_OK;
}

static enum status measure(struct bench *bench) {
    const struct bench_options *options = bench->options;
    struct runtime_options runtime_options = options_for_runtime(&options->model);
    uint64_t positions = count_positions(options);
    if (positions > CONTEXT_MAX) {
        log_error("the sequences take %" PRIu64 " positions, over the longest context, %d; lower "
                  "--depth or --sequences",
                  positions, CONTEXT_MAX);
        return STATUS_USAGE;
    }
    runtime_options.sequences = options->sequences;
    if (runtime_options.context < positions)
        runtime_options.context = (uint32_t)positions;
    enum status status = runtime_open(&runtime_options, &bench->runtime);
    return status ? status : measure_all(bench);
}

/* 0 without workers. */
static uint32_t count_workers(const struct bench *bench) {
    const struct cluster *cluster = runtime_cluster(bench->runtime);
    return cluster ? cluster_size(cluster) : 0;
}

/* Of everything since the start, so of all repetitions and what is not timed. */
static size_t take_loads(const struct bench *bench, struct holder_stats holders[HOLDERS_MAX]) {
    size_t count = runtime_holder_stats(bench->runtime, holders, HOLDERS_MAX);
    return count < HOLDERS_MAX ? count : HOLDERS_MAX;
}

/* ---- As a table. */

static void print_loads(const struct bench *bench) {
    struct holder_stats holders[HOLDERS_MAX];
    size_t count = take_loads(bench, holders);
    const struct statistics *statistics = runtime_statistics(bench->runtime);
    printf("\n");
    statistics_print_fanout(statistics, stdout);
    if (bench->options->model.verbose)
        figures_print_layers(holders, count, statistics, stdout);
}

static void print_rate(const struct bench *bench, const char *what, enum measure_kind kind,
                       uint32_t tokens) {
    const struct spread *rate = &bench->figures[MODEL_RATE + kind];
    printf("%-9s %7u %10.2f %10.2f %10.2f %11.2f %8.1f %%\n", what, tokens, rate->median, rate->min,
           rate->max, bench->figures[BOUND + kind].median,
           100 * bench->figures[REACHED + kind].median);
}

static void print_table(const struct bench *bench) {
    const struct spread *read = &bench->figures[READ_RATE];
    const struct spread *rates = &bench->figures[MULTIPLY_RATE];
    const struct bench_options *options = bench->options;
    char bytes[CONFIG_SIZE_TEXT];
    printf("machine   %s, %u threads; reads %.1f GB/s (%.1f to %.1f)\n", kernel_get()->name,
           bench->threads, read->median / 1e9, read->min / 1e9, read->max / 1e9);
    printf("          multiplies f32 %.1f GFLOP/s", rates[PEAK_F32].median / 1e9);
    if (rates[PEAK_BF16].median > 0)
        printf(", bf16 %.1f GFLOP/s", rates[PEAK_BF16].median / 1e9);
    if (rates[PEAK_INT8].median > 0)
        printf(", int8 %.1f GOP/s", rates[PEAK_INT8].median / 1e9);
    printf("\n");
    for (uint32_t w = 0; w < count_workers(bench); w++)
        worker_report_print(cluster_worker(runtime_cluster(bench->runtime), w), stdout);
    printf("model     %s of weights for each token; %u positions in the KV cache",
           config_format_size(workload_decode_bytes(&bench->workload), bytes), options->depth);
    if (options->sequences > 1)
        printf(" of each of %u sequences", options->sequences);
    printf("\n\n");
    printf("%-9s %7s %10s %10s %10s %11s %10s\n", "", "tokens", "tokens/s", "min", "max", "at most",
           "reached");
    print_rate(bench, "prefill", MEASURE_PREFILL, options->prompt_tokens);
    print_rate(bench, "decode", MEASURE_DECODE, options->decode_tokens);
    printf("          a step takes %.1f ms, 95 %% of them at most %.1f ms, the longest %.1f ms\n",
           1e3 * bench->step_s.median, 1e3 * bench->step_s.p95, 1e3 * bench->step_s.max);
    if (*bench->placement)
        printf("\npredicted %.2f tokens/s for the prompt and %.2f for decoding with %s\n",
               bench->planned.prompt_tokens_per_s, bench->planned.decode_tokens_per_s,
               bench->placement);
    if (count_workers(bench))
        print_loads(bench);
}

/* ---- As JSON. */

static json_t *machine_to_json(const struct bench *bench) {
    const struct spread *read = &bench->figures[READ_RATE];
    const struct spread *rates = &bench->figures[MULTIPLY_RATE];
    return json_pack("{s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f}", "isa", kernel_get()->name,
                     "threads", (int)bench->threads, "read_gb_per_s", read->median / 1e9,
                     "read_gb_per_s_min", read->min / 1e9, "read_gb_per_s_max", read->max / 1e9,
                     "int8_gops", rates[PEAK_INT8].median / 1e9, "bf16_gflops",
                     rates[PEAK_BF16].median / 1e9, "f32_gflops", rates[PEAK_F32].median / 1e9);
}

static json_t *workers_to_json(const struct bench *bench) {
    json_t *workers = json_array();
    for (uint32_t w = 0; w < count_workers(bench); w++)
        json_array_append_new(
            workers, worker_report_to_json(cluster_worker(runtime_cluster(bench->runtime), w)));
    return workers;
}

static void add_loads(const struct bench *bench, json_t *object) {
    struct holder_stats holders[HOLDERS_MAX];
    size_t count = take_loads(bench, holders);
    const struct statistics *statistics = runtime_statistics(bench->runtime);
    json_object_set_new(object, "fanout_mean", json_real(statistics_fanout_mean(statistics)));
    json_object_set_new(object, "fanout",
                        statistics_fanout_to_json(statistics, statistics->holders));
    json_object_set_new(object, "holders", figures_holders_to_json(holders, count, statistics));
}

static json_t *rates_to_json(const struct bench *bench, enum measure_kind kind, uint32_t tokens) {
    const struct spread *rate = &bench->figures[MODEL_RATE + kind];
    return json_pack("{s:I, s:f, s:f, s:f}", "tokens", (json_int_t)tokens, "tokens_per_s",
                     rate->median, "min", rate->min, "max", rate->max);
}

static json_t *bench_to_json(const struct bench *bench) {
    const struct bench_options *options = bench->options;
    const struct spread *of_one = &bench->figures[REACHED_OF_ONE];
    const struct spread *bounds = &bench->figures[BOUND];
    json_t *prefill = rates_to_json(bench, MEASURE_PREFILL, options->prompt_tokens);
    json_t *decode = rates_to_json(bench, MEASURE_DECODE, options->decode_tokens);
    json_object_set_new(prefill, "peak_fraction", json_real(of_one[MEASURE_PREFILL].median));
    json_object_set_new(decode, "sequences", json_integer(options->sequences));
    json_object_set_new(decode, "step_ms",
                        json_pack("{s:f, s:f, s:f}", "median", 1e3 * bench->step_s.median, "p95",
                                  1e3 * bench->step_s.p95, "max", 1e3 * bench->step_s.max));
    json_object_set_new(decode, "weight_bytes_per_token",
                        json_integer((json_int_t)workload_decode_bytes(&bench->workload)));
    json_object_set_new(decode, "bandwidth_fraction", json_real(of_one[MEASURE_DECODE].median));
    json_t *predicted =
        json_pack("{s:f, s:f}", "prefill_tokens_per_s", bounds[MEASURE_PREFILL].median,
                  "decode_tokens_per_s", bounds[MEASURE_DECODE].median);
    if (predicted && *bench->placement)
        json_object_set_new(predicted, "plan",
                            json_pack("{s:s, s:f, s:f}", "placement", bench->placement,
                                      "prefill_tokens_per_s", bench->planned.prompt_tokens_per_s,
                                      "decode_tokens_per_s", bench->planned.decode_tokens_per_s));
    json_t *object = json_pack("{s:o, s:o, s:o, s:o}", "machine", machine_to_json(bench), "prefill",
                               prefill, "decode", decode, "predicted", predicted);
    if (object && count_workers(bench)) {
        json_object_set_new(object, "workers", workers_to_json(bench));
        add_loads(bench, object);
    }
    return object;
}

static enum status print_json(const struct bench *bench) {
    json_t *object = bench_to_json(bench);
    if (!object)
        return STATUS_NO_MEMORY;
    json_dumpf(object, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(object);
    return STATUS_OK;
}

static enum status print(const struct bench *bench) {
    if (!bench->options->json)
        print_table(bench);
    enum status status = bench->options->json ? print_json(bench) : STATUS_OK;
    if (status)
        return status;
    if (fflush(stdout) || ferror(stdout)) {
        log_error("cannot write to standard output: %s", strerror(errno));
        return STATUS_IO;
    }
    return STATUS_OK;
}

static enum status run_bench(const struct bench_options *options) {
    struct bench bench = {.options = options};
    enum status status = measure(&bench);
    if (!status)
        status = print(&bench);
    free(bench.values[0]);
    runtime_close(bench.runtime);
    return status;
}

int command_bench(int argc, char **argv) {
    struct bench_options options;
    struct option_table table;
    struct config *config = config_create();
    if (!config)
        return status_exit_code(STATUS_NO_MEMORY);
    options_describe_bench(&options, &table);
    bool done;
    enum status status = config_parse_arguments(config, &table.command, argc, argv, &done);
    if (status == STATUS_OK && !done)
        status = options_check_bench(&options);
    if (status == STATUS_OK && !done) {
        options_set_log(&options.model);
        options_set_cache(config, &options.model.cache_directory);
        status = run_bench(&options);
    }
    config_destroy(config);
    return status_exit_code(status);
}
