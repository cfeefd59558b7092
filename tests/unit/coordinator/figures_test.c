/* Rates at their edges, the lines, and the JSON that scripts rely on. */
#include "coordinator/figures.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct holder_stats HOLDERS[] = {
    {"10.0.0.2:7070", 44, 59, 0.5, 34816, 32256},
    {"10.0.0.3:7070", 40, 52, 0.25, 1000, 3ull << 30},
};

/* Two holders, three layers: of 8 tokens five visited both. */
static uint64_t FANOUT[] = {0, 3, 5};
static struct layer_load LOADS[] = {{0}, {50, 3000, 2000}, {9, 400, 300}, {0}, {52, 1000, 7}, {0}};
static const struct statistics STATISTICS = {2, 3, FANOUT, LOADS};

static const struct figures FIGURES = {
    .result = {.prompt_tokens = 100,
               .reused_tokens = 20,
               .answer_tokens = 11,
               .prompt_s = 0.5,
               .decode_s = 2},
    .holders = HOLDERS,
    .holder_count = 2,
    .statistics = &STATISTICS,
};

static void test_rates(void **state) {
    (void)state;
    assert_true(figures_prompt_rate(&FIGURES.result) == 160);
    assert_true(figures_decode_rate(&FIGURES.result) == 5);
    struct request_result nothing = {.prompt_tokens = 5, .reused_tokens = 5};
    assert_true(figures_prompt_rate(&nothing) == 0);
    assert_true(figures_decode_rate(&nothing) == 0);
    nothing.answer_tokens = 1;
    nothing.decode_s = 1e-9;
    assert_true(figures_decode_rate(&nothing) == 0);
}

static void test_lines(void **state) {
    (void)state;
    char *text;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    figures_print(&FIGURES, stream);
    fclose(stream);
    assert_string_equal(
        text,
        "prompt 100 tokens, 160.0 tokens/s (20 from the cache); answer 11 tokens, 5.0 tokens/s; "
        "mean fan-out 1.62\n"
        "  fan-out  1: 37.5 %  2: 62.5 %\n"
        "  10.0.0.2:7070             44 shards        59 rows    34.0 KiB out    31.5 KiB in  "
        "busy  20 %\n"
        "  10.0.0.3:7070             40 shards        52 rows      1000 B out     3.0 GiB in  "
        "busy  10 %\n");
    free(text);
}

/* Holders without rows in a layer, and layers without holders, are left out. */
static void test_layers(void **state) {
    (void)state;
    char *text;
    size_t bytes;
    struct figures figures = FIGURES;
    figures.by_layer = true;
    FILE *stream = open_memstream(&text, &bytes);
    figures_print(&figures, stream);
    fclose(stream);
    const char *table = strstr(text, "  layer ");
    assert_non_null(table);
    assert_string_equal(table, "  layer   1  10.0.0.2:7070                50 rows     2.9 KiB out  "
                               "   2.0 KiB in\n"
                               "  layer   1  10.0.0.3:7070                52 rows      1000 B out  "
                               "       7 B in\n"
                               "  layer   2  10.0.0.2:7070                 9 rows       400 B out  "
                               "     300 B in\n");
    free(text);
}

static void test_predicted(void **state) {
    (void)state;
    char *text;
    size_t bytes;
    struct figures figures = FIGURES;
    figures.holder_count = 0;
    figures.placement = "every expert sliced over 2 machines";
    figures.predicted = (struct planning_rates){150.25, 5.5};
    FILE *stream = open_memstream(&text, &bytes);
    figures_print(&figures, stream);
    fclose(stream);
    assert_non_null(strstr(text, "\n  predicted 150.2 and 5.5 tokens/s with every expert sliced "
                                 "over 2 machines\n"));
    free(text);
    json_t *stats = figures_to_json(&figures), *predicted = json_object_get(stats, "predicted");
    assert_string_equal(json_string_value(json_object_get(predicted, "placement")),
                        figures.placement);
    assert_true(json_real_value(json_object_get(predicted, "prompt_tokens_per_s")) == 150.25);
    assert_true(json_real_value(json_object_get(predicted, "decode_tokens_per_s")) == 5.5);
    json_decref(stats);
    stats = figures_to_json(&FIGURES);
    assert_null(json_object_get(stats, "predicted"));
    json_decref(stats);
}

static void test_json(void **state) {
    (void)state;
    json_t *stats = figures_to_json(&FIGURES);
    assert_non_null(stats);
    assert_int_equal(json_object_size(stats), 7);
    assert_int_equal(json_integer_value(json_object_get(stats, "prompt_tokens")), 100);
    assert_true(json_real_value(json_object_get(stats, "prompt_tokens_per_s")) == 160);
    assert_int_equal(json_integer_value(json_object_get(stats, "decode_tokens")), 11);
    assert_true(json_real_value(json_object_get(stats, "decode_tokens_per_s")) == 5);
    assert_true(json_real_value(json_object_get(stats, "fanout_mean")) == 1.625);
    const json_t *fanout = json_object_get(stats, "fanout");
    assert_int_equal(json_array_size(fanout), 2);
    assert_int_equal(json_integer_value(json_array_get(fanout, 1)), 5);
    const json_t *workers = json_object_get(stats, "workers");
    assert_int_equal(json_array_size(workers), 2);
    const json_t *worker = json_array_get(workers, 1);
    assert_int_equal(json_object_size(worker), 7);
    assert_string_equal(json_string_value(json_object_get(worker, "address")), "10.0.0.3:7070");
    assert_int_equal(json_integer_value(json_object_get(worker, "experts")), 40);
    assert_int_equal(json_integer_value(json_object_get(worker, "rows")), 52);
    assert_true(json_real_value(json_object_get(worker, "busy_s")) == 0.25);
    assert_int_equal(json_integer_value(json_object_get(worker, "bytes_out")), 1000);
    assert_int_equal(json_integer_value(json_object_get(worker, "bytes_in")), 3ll << 30);
    const json_t *layers = json_object_get(worker, "layers");
    assert_int_equal(json_array_size(json_object_get(layers, "rows")), 3);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(layers, "bytes_out"), 1)),
                     1000);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(layers, "bytes_in"), 1)), 7);
    json_decref(stats);

    stats = figures_to_json(&(struct figures){.statistics = &STATISTICS});
    assert_int_equal(json_array_size(json_object_get(stats, "workers")), 0);
    assert_non_null(json_object_get(stats, "workers"));
    json_decref(stats);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),  cmocka_unit_test(test_lines),
        cmocka_unit_test(test_layers), cmocka_unit_test(test_predicted),
        cmocka_unit_test(test_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
