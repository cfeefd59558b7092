/* Statistics as they are kept, and files that are none or of another model. */
#include "tests/unit/files.h"

#include "coordinator/popularity.h"

static struct model_shape small_shape(void) {
    struct model_shape shape = {.layers = 3, .experts = 4, .experts_per_token = 2};
    shape.is_expert_layer[1] = shape.is_expert_layer[2] = true;
    return shape;
}

static enum status read_text(const char *text, struct popularity *out) {
    char directory[64], path[96];
    struct model_shape shape = small_shape();
    test_directory_make(directory);
    test_file_write(directory, "p.json", text);
    snprintf(path, sizeof path, "%s/p.json", directory);
    enum status status = popularity_read(path, &shape, out);
    test_directory_remove(directory);
    return status;
}

static void test_read(void **state) {
    (void)state;
    struct popularity popularity;
    assert_int_equal(read_text("{\"layers\": {\"2\": [1, 2.5, 0, 4]}, \"tokens\": 9}", &popularity),
                     STATUS_OK);
    const double wanted[] = {1, 2.5, 0, 4};
    for (int e = 0; e < 4; e++) {
        assert_true(popularity.counts[2 * 4 + e] == wanted[e]);
        assert_true(popularity.counts[4 + e] == 0);
    }
    popularity_cleanup(&popularity);
}

static void expect_refused(const char *text, const char *words) {
    struct popularity popularity;
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(read_text(text, &popularity), STATUS_FORMAT);
    log_capture_expect(&capture, "p.json", words, NULL);
}

static void test_refused(void **state) {
    (void)state;
    expect_refused("{}", "\"layers\" must be an object");
    expect_refused("{\"layers\": [1]}", "\"layers\" must be an object");
    expect_refused("{\"layers\": {\"0\": [1, 2, 3, 4]}}", "the number of a layer with experts");
    expect_refused("{\"layers\": {\"99\": [1, 2, 3, 4]}}", "the number of a layer with experts");
    expect_refused("{\"layers\": {\"\": [1, 2, 3, 4]}}", "the number of a layer with experts");
    expect_refused("{\"layers\": {\"-1\": [1, 2, 3, 4]}}", "the number of a layer with experts");
    expect_refused("{\"layers\": {\"99999999999999999999\": []}}", "the number of a layer");
    expect_refused("{\"layers\": {\"1\": [1, 2, 3]}}", "a count for each expert");
    expect_refused("{\"layers\": {\"1\": 7}}", "a count for each expert");
    expect_refused("{\"layers\": {\"1\": [1, 2, 3, -1]}}", "at least 0");
    expect_refused("{\"layers\": {\"1\": [1, 2, 3, \"x\"]}}", "at least 0");
    expect_refused("{\"layers\": {\"1\": [1, 2, 3, 1e300]}}", "at least 0");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
