/* The machine is measured before the model and after it, and the best counts: on a machine that
 * others use too, one moment says little. Figures are for people as a table and for programs as one
 * JSON object; nothing is printed before all are there. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/cluster_limits.h"
#include "common/json.h"
#include "common/kernel/kernel.h"
#include "common/log.h"
#include "common/machine.h"
#include "coordinator/command.h"
#include "coordinator/figures.h"
#include "coordinator/measure.h"
#include "coordinator/options.h"
#include "coordinator/runtime.h"
#include "coordinator/worker_report.h"
#include "coordinator/workload.h"

struct bench {
    const struct bench_options *options;
    struct runtime *runtime;
    unsigned threads;
    struct machine_peak machine;
    struct workload workload;
    struct measure_result model;
    /* Tokens for each second at the machine's rates. A step is held back by multiplying or by
     * reading, whatever takes longer. */
    double prefill_multiply_bound, prefill_bound, decode_read_bound, decode_bound;
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

static void predict(struct bench *bench) {
    uint32_t tokens = bench->options->prompt_tokens;
    double multiply_s = workload_multiply_s(&bench->workload, &bench->machine, tokens, 1);
    double read_s = workload_read_s(&bench->workload, &bench->machine, tokens,
                                    bench->options->model.batch_tokens);
    bench->prefill_multiply_bound = tokens / multiply_s;
    bench->prefill_bound = tokens / (multiply_s > read_s ? multiply_s : read_s);
    uint32_t sequences = bench->options->sequences;
    multiply_s = workload_multiply_s(&bench->workload, &bench->machine, sequences, sequences);
    read_s = workload_read_s(&bench->workload, &bench->machine, sequences, sequences);
    bench->decode_read_bound = sequences / read_s;
    bench->decode_bound = sequences / (multiply_s > read_s ? multiply_s : read_s);
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
    struct threads *threads = runtime_threads(bench->runtime);
    const struct measure_options measure = {
        .prefill_tokens = options->prompt_tokens,
        .decode_tokens = options->decode_tokens,
        .depth = options->depth,
        .sequences = options->sequences,
        .repetitions = options->repetitions,
    };
    struct engine *engine = runtime_engine(bench->runtime);
    enum status status;
    if ((status = machine_measure_peak(threads, MACHINE_MEASURE_BYTES, &bench->machine)) ||
        (status = measure_model(engine, &measure, &bench->model)) ||
        (status = machine_measure_peak(threads, MACHINE_MEASURE_BYTES, &bench->machine)))
        return status;
    bench->threads = threads_count(threads);
    workload_count(runtime_outline(bench->runtime), runtime_shape(bench->runtime),
                   &bench->workload);
    predict(bench);
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

static void print_rate(const char *what, uint32_t tokens, const struct measure_rate *rate,
                       double bound) {
    printf("%-9s %7u %10.2f %10.2f %10.2f %11.2f %8.1f %%\n", what, tokens, rate->median, rate->min,
           rate->max, bound, 100 * rate->median / bound);
}

static void print_table(const struct bench *bench) {
    const double *rates = bench->machine.operations_per_s;
    const struct bench_options *options = bench->options;
    char bytes[CONFIG_SIZE_TEXT];
    printf("machine   %s, %u threads; reads %.1f GB/s\n", kernel_get()->name, bench->threads,
           bench->machine.read_bytes_per_s / 1e9);
    printf("          multiplies f32 %.1f GFLOP/s", rates[PEAK_F32] / 1e9);
    if (rates[PEAK_BF16] > 0)
        printf(", bf16 %.1f GFLOP/s", rates[PEAK_BF16] / 1e9);
    if (rates[PEAK_INT8] > 0)
        printf(", int8 %.1f GOP/s", rates[PEAK_INT8] / 1e9);
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
    print_rate("prefill", options->prompt_tokens, &bench->model.prefill, bench->prefill_bound);
    print_rate("decode", options->decode_tokens, &bench->model.decode, bench->decode_bound);
    if (*bench->placement)
        printf("\npredicted %.2f tokens/s for the prompt and %.2f for decoding with %s\n",
               bench->planned.prompt_tokens_per_s, bench->planned.decode_tokens_per_s,
               bench->placement);
    if (count_workers(bench))
        print_loads(bench);
}

/* ---- As JSON. */

static json_t *machine_to_json(const struct bench *bench) {
    const double *rates = bench->machine.operations_per_s;
    return json_pack("{s:s, s:i, s:f, s:f, s:f, s:f}", "isa", kernel_get()->name, "threads",
                     (int)bench->threads, "read_gb_per_s", bench->machine.read_bytes_per_s / 1e9,
                     "int8_gops", rates[PEAK_INT8] / 1e9, "bf16_gflops", rates[PEAK_BF16] / 1e9,
                     "f32_gflops", rates[PEAK_F32] / 1e9);
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

static json_t *bench_to_json(const struct bench *bench) {
    const struct measure_rate *prefill = &bench->model.prefill, *decode = &bench->model.decode;
    json_t *prefill_json =
        json_pack("{s:I, s:f, s:f, s:f, s:f}", "tokens", (json_int_t)bench->options->prompt_tokens,
                  "tokens_per_s", prefill->median, "min", prefill->min, "max", prefill->max,
                  "peak_fraction", prefill->median / bench->prefill_multiply_bound);
    json_t *decode_json = json_pack(
        "{s:I, s:I, s:f, s:f, s:f, s:I, s:f}", "tokens", (json_int_t)bench->options->decode_tokens,
        "sequences", (json_int_t)bench->options->sequences, "tokens_per_s", decode->median, "min",
        decode->min, "max", decode->max, "weight_bytes_per_token",
        (json_int_t)workload_decode_bytes(&bench->workload), "bandwidth_fraction",
        decode->median / bench->decode_read_bound);
    json_t *predicted = json_pack("{s:f, s:f}", "prefill_tokens_per_s", bench->prefill_bound,
                                  "decode_tokens_per_s", bench->decode_bound);
    if (predicted && *bench->placement)
        json_object_set_new(predicted, "plan",
                            json_pack("{s:s, s:f, s:f}", "placement", bench->placement,
                                      "prefill_tokens_per_s", bench->planned.prompt_tokens_per_s,
                                      "decode_tokens_per_s", bench->planned.decode_tokens_per_s));
    json_t *object = json_pack("{s:o, s:o, s:o, s:o}", "machine", machine_to_json(bench), "prefill",
                               prefill_json, "decode", decode_json, "predicted", predicted);
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
