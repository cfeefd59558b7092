#include "coordinator/statistics.h"

#include <inttypes.h>
#include <stdlib.h>

enum status statistics_create(uint32_t holders, uint32_t layers, struct statistics **out) {
    struct statistics *statistics = calloc(1, sizeof *statistics);
    if (!statistics)
        return STATUS_NO_MEMORY;
    statistics->holders = holders;
    statistics->layers = layers;
    statistics->fanout = calloc(holders + 1u, sizeof *statistics->fanout);
    statistics->loads = calloc((size_t)holders * layers, sizeof *statistics->loads);
    if (!statistics->fanout || !statistics->loads) {
        statistics_destroy(statistics);
        return STATUS_NO_MEMORY;
    }
    *out = statistics;
    return STATUS_OK;
}

void statistics_destroy(struct statistics *statistics) {
    if (!statistics)
        return;
    free(statistics->loads);
    free(statistics->fanout);
    free(statistics);
}

struct layer_load *statistics_load(const struct statistics *statistics, uint32_t holder,
                                   uint32_t layer) {
    return &statistics->loads[(size_t)holder * statistics->layers + layer];
}

static uint64_t count_tokens(const struct statistics *statistics) {
    uint64_t tokens = 0;
    for (uint32_t n = 0; n <= statistics->holders; n++)
        tokens += statistics->fanout[n];
    return tokens;
}

double statistics_fanout_mean(const struct statistics *statistics) {
    uint64_t tokens = count_tokens(statistics), visits = 0;
    for (uint32_t n = 0; n <= statistics->holders; n++)
        visits += n * statistics->fanout[n];
    return tokens ? (double)visits / (double)tokens : 0;
}

void statistics_print_fanout(const struct statistics *statistics, FILE *stream) {
    uint64_t tokens = count_tokens(statistics);
    if (!tokens)
        return;
    fprintf(stream, "  fan-out");
    for (uint32_t n = 1; n <= statistics->holders; n++)
        if (statistics->fanout[n])
            fprintf(stream, "  %" PRIu32 ": %.1f %%", n,
                    100.0 * (double)statistics->fanout[n] / (double)tokens);
    fprintf(stream, "\n");
}

json_t *statistics_fanout_to_json(const struct statistics *statistics, uint32_t machines) {
    json_t *list = json_array();
    for (uint32_t n = 1; list && n <= machines; n++)
        json_array_append_new(list, json_integer((json_int_t)statistics->fanout[n]));
    return list;
}

json_t *statistics_layers_to_json(const struct statistics *statistics, uint32_t holder) {
    json_t *rows = json_array(), *out = json_array(), *in = json_array();
    for (uint32_t layer = 0; layer < statistics->layers; layer++) {
        const struct layer_load *load = statistics_load(statistics, holder, layer);
        json_array_append_new(rows, json_integer((json_int_t)load->rows));
        json_array_append_new(out, json_integer((json_int_t)load->bytes_out));
        json_array_append_new(in, json_integer((json_int_t)load->bytes_in));
    }
    return json_pack("{s:o, s:o, s:o}", "rows", rows, "bytes_out", out, "bytes_in", in);
}
