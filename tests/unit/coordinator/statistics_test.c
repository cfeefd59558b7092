/* Counts of tokens and loads: the mean, the line, and the JSON, also before the first token. */
#include "tests/unit/test.h"

#include "coordinator/statistics.h"

#define HOLDERS 3u
#define LAYERS  4u

static struct statistics *create(void) {
    struct statistics *statistics;
    assert_int_equal(statistics_create(HOLDERS, LAYERS, &statistics), STATUS_OK);
    return statistics;
}

static char *print(const struct statistics *statistics) {
    char *text;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    statistics_print_fanout(statistics, stream);
    fclose(stream);
    return text;
}

static void test_nothing_yet(void **state) {
    (void)state;
    struct statistics *statistics = create();
    assert_true(statistics_fanout_mean(statistics) == 0);
    char *text = print(statistics);
    assert_string_equal(text, "");
    free(text);
    json_t *list = statistics_fanout_to_json(statistics, statistics->holders);
    assert_int_equal(json_array_size(list), HOLDERS);
    for (uint32_t n = 0; n < HOLDERS; n++)
        assert_int_equal(json_integer_value(json_array_get(list, n)), 0);
    json_decref(list);
    statistics_destroy(statistics);
}

static void test_fanout(void **state) {
    (void)state;
    struct statistics *statistics = create();
    statistics->fanout[1] = 6;
    statistics->fanout[3] = 2;
    assert_true(statistics_fanout_mean(statistics) == 1.5);
    char *text = print(statistics);
    assert_string_equal(text, "  fan-out  1: 75.0 %  3: 25.0 %\n");
    free(text);
    json_t *list = statistics_fanout_to_json(statistics, statistics->holders);
    const uint64_t want[HOLDERS] = {6, 0, 2};
    for (uint32_t n = 0; n < HOLDERS; n++)
        assert_int_equal(json_integer_value(json_array_get(list, n)), want[n]);
    json_decref(list);
    statistics_destroy(statistics);
}

/* Every (holder, layer) has a place of its own. */
static void test_loads(void **state) {
    (void)state;
    struct statistics *statistics = create();
    for (uint32_t h = 0; h < HOLDERS; h++)
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            *statistics_load(statistics, h, layer) =
                (struct layer_load){h * 10 + layer, 100 + h * 10 + layer, 200 + h * 10 + layer};
    for (uint32_t h = 0; h < HOLDERS; h++) {
        json_t *layers = statistics_layers_to_json(statistics, h);
        const char *keys[] = {"rows", "bytes_out", "bytes_in"};
        for (uint32_t k = 0; k < 3; k++) {
            const json_t *list = json_object_get(layers, keys[k]);
            assert_int_equal(json_array_size(list), LAYERS);
            for (uint32_t layer = 0; layer < LAYERS; layer++)
                assert_int_equal(json_integer_value(json_array_get(list, layer)),
                                 100 * k + h * 10 + layer);
        }
        json_decref(layers);
    }
    statistics_destroy(statistics);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_yet),
        cmocka_unit_test(test_fanout),
        cmocka_unit_test(test_loads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
