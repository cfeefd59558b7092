/* Rates are of what was computed: a prompt taken from the cache would make any rate look good. */
#include "coordinator/figures.h"

#include <inttypes.h>

#include "common/config.h"

double figures_prompt_rate(const struct request_result *result) {
    size_t computed = result->prompt_tokens - result->reused_tokens;
    return result->prompt_s > 0 ? (double)computed / result->prompt_s : 0;
}

double figures_decode_rate(const struct request_result *result) {
    if (result->answer_tokens < 2 || !(result->decode_s > 0))
        return 0;
    return (double)(result->answer_tokens - 1) / result->decode_s;
}

static void print_holder(const struct figures *figures, const struct holder_stats *holder,
                         FILE *stream) {
    char out[CONFIG_SIZE_TEXT], in[CONFIG_SIZE_TEXT];
    double total_s = figures->result.prompt_s + figures->result.decode_s;
    fprintf(stream, "  %-21s %6u shards  %8llu rows  %10s out  %10s in  busy %3.0f %%\n",
            holder->address, holder->shards, (unsigned long long)holder->rows,
            config_format_size(holder->bytes_out, out), config_format_size(holder->bytes_in, in),
            total_s > 0 ? 100 * holder->busy_s / total_s : 0);
}

void figures_print(const struct figures *figures, FILE *stream) {
    const struct request_result *result = &figures->result;
    fprintf(stream, "prompt %zu tokens, %.1f tokens/s", result->prompt_tokens,
            figures_prompt_rate(result));
    if (result->reused_tokens)
        fprintf(stream, " (%zu from the cache)", result->reused_tokens);
    fprintf(stream, "; answer %zu tokens, %.1f tokens/s; mean fan-out %.2f\n",
            result->answer_tokens, figures_decode_rate(result),
            statistics_fanout_mean(figures->statistics));
    if (figures->placement)
        fprintf(stream, "  predicted %.1f and %.1f tokens/s with %s\n",
                figures->predicted.prompt_tokens_per_s, figures->predicted.decode_tokens_per_s,
                figures->placement);
    if (figures->holder_count)
        statistics_print_fanout(figures->statistics, stream);
    for (size_t i = 0; i < figures->holder_count; i++)
        if (figures->holders[i].address)
            print_holder(figures, &figures->holders[i], stream);
    if (figures->by_layer)
        figures_print_layers(figures->holders, figures->holder_count, figures->statistics, stream);
    fflush(stream);
}

void figures_print_layers(const struct holder_stats *holders, size_t count,
                          const struct statistics *statistics, FILE *stream) {
    char out[CONFIG_SIZE_TEXT], in[CONFIG_SIZE_TEXT];
    for (uint32_t layer = 0; layer < statistics->layers; layer++)
        for (uint32_t h = 0; h < count; h++) {
            const struct layer_load *load = statistics_load(statistics, h, layer);
            if (load->rows)
                fprintf(
                    stream, "  layer %3" PRIu32 "  %-21s  %8" PRIu64 " rows  %10s out  %10s in\n",
                    layer, holders[h].address, load->rows, config_format_size(load->bytes_out, out),
                    config_format_size(load->bytes_in, in));
        }
}

static json_t *holder_to_json(const struct holder_stats *holder,
                              const struct statistics *statistics, uint32_t index) {
    return json_pack("{s:s, s:I, s:I, s:f, s:I, s:I, s:o}", "address", holder->address, "experts",
                     (json_int_t)holder->shards, "rows", (json_int_t)holder->rows, "busy_s",
                     holder->busy_s, "bytes_out", (json_int_t)holder->bytes_out, "bytes_in",
                     (json_int_t)holder->bytes_in, "layers",
                     statistics_layers_to_json(statistics, index));
}

json_t *figures_holders_to_json(const struct holder_stats *holders, size_t count,
                                const struct statistics *statistics) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++)
        if (holders[i].address &&
            json_array_append_new(list, holder_to_json(&holders[i], statistics, i))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

json_t *figures_to_json(const struct figures *figures) {
    const struct request_result *result = &figures->result;
    json_t *workers =
        figures_holders_to_json(figures->holders, figures->holder_count, figures->statistics);
    json_t *stats = json_pack(
        "{s:I, s:f, s:I, s:f, s:o, s:f, s:o}", "prompt_tokens", (json_int_t)result->prompt_tokens,
        "prompt_tokens_per_s", figures_prompt_rate(result), "decode_tokens",
        (json_int_t)result->answer_tokens, "decode_tokens_per_s", figures_decode_rate(result),
        "workers", workers, "fanout_mean", statistics_fanout_mean(figures->statistics), "fanout",
        statistics_fanout_to_json(figures->statistics, (uint32_t)json_array_size(workers)));
    if (stats && figures->placement)
        json_object_set_new(stats, "predicted",
                            json_pack("{s:s, s:f, s:f}", "placement", figures->placement,
                                      "prompt_tokens_per_s", figures->predicted.prompt_tokens_per_s,
                                      "decode_tokens_per_s",
                                      figures->predicted.decode_tokens_per_s));
    return stats;
}
