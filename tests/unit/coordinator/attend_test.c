/* attend() against sums in double, from the cache's pages and from a flat array, for one query and
 * many. */
#include "tests/unit/test.h"

#include <math.h>

#include "common/kernel/kernel.h"
#include "coordinator/attend.h"
#include "tests/unit/random.h"

#define POSITIONS 300u
#define KEY       10u
#define VALUE     7u
#define WIDTH     20u /* of a row: key at 1, value at 12 */

static void expected(const float *rows, const float *query, uint32_t limit, double scale,
                     double *out) {
    double sum = 0, scores[POSITIONS];
    for (uint32_t p = 0; p < limit; p++) {
        double dot = 0;
        for (uint32_t i = 0; i < KEY; i++)
            dot += (double)query[i] * rows[p * WIDTH + 1 + i];
        sum += scores[p] = exp(dot * scale);
    }
    for (uint32_t v = 0; v < VALUE; v++) {
        out[v] = 0;
        for (uint32_t p = 0; p < limit; p++)
            out[v] += scores[p] / sum * rows[p * WIDTH + 12 + v];
    }
}

static void check(const struct attend_source *source, const float *rows, uint32_t count) {
    static float queries[ATTEND_QUERIES_MAX * KEY], out[ATTEND_QUERIES_MAX * VALUE];
    static float scores[ATTEND_QUERIES_MAX * POSITIONS];
    uint32_t limits[ATTEND_QUERIES_MAX] = {0};
    struct random random = {count};
    random_fill(&random, 2, count * KEY, queries);
    for (uint32_t i = 0; i < count; i++)
        limits[i] = i == 0 ? POSITIONS : 1 + random_below(&random, POSITIONS);
    attend(source, queries, count, limits, 0.3f, scores, out);
    for (uint32_t i = 0; i < count; i++) {
        double want[VALUE];
        expected(rows, queries + i * KEY, limits[i], 0.3, want);
        for (uint32_t v = 0; v < VALUE; v++)
            if (!(fabs(want[v] - (double)out[i * VALUE + v]) < 1e-5))
                fail_msg("query %u of %u, value %u: %g, expected %g", i, count, v,
                         (double)out[i * VALUE + v], want[v]);
    }
}

static void test_flat_and_paged(void **state) {
    (void)state;
    /* A multi-head shape whose rows happen to be WIDTH floats wide. */
    const struct model_shape shape = {
        .attention = ATTENTION_MULTI_HEAD, .kv_heads = 2, .head_dim = 5};
    struct kv_cache *cache;
    uint32_t other, sequence;
    static float rows[POSITIONS * WIDTH];
    struct random random = {1};
    assert_int_equal(kernel_select("auto"), STATUS_OK);
    random_fill(&random, 1, POSITIONS * WIDTH, rows);
    assert_int_equal(kv_cache_create(&shape, 2, 1000, 2, &cache), STATUS_OK);
    assert_int_equal(kv_cache_width(cache), WIDTH);
    assert_int_equal(kv_cache_open(cache, &other), STATUS_OK);
    assert_int_equal(kv_cache_open(cache, &sequence), STATUS_OK);
    for (uint32_t p = 0; p < POSITIONS; p++) {
        if (p % 50 == 0)
            assert_int_equal(kv_cache_extend(cache, other, 60), STATUS_OK);
        assert_int_equal(kv_cache_extend(cache, sequence, 1), STATUS_OK);
        memcpy(kv_cache_row(cache, 1, sequence, p), rows + p * WIDTH, WIDTH * sizeof(float));
    }
    struct attend_source flat = {.flat = rows,
                                 .stride = WIDTH,
                                 .key_offset = 1,
                                 .key_width = KEY,
                                 .value_offset = 12,
                                 .value_width = VALUE};
    struct attend_source paged = {.cache = cache,
                                  .layer = 1,
                                  .sequence = sequence,
                                  .stride = WIDTH,
                                  .key_offset = 1,
                                  .key_width = KEY,
                                  .value_offset = 12,
                                  .value_width = VALUE};
    const uint32_t counts[] = {1, 2, 17, ATTEND_QUERIES_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        check(&flat, rows, counts[i]);
        check(&paged, rows, counts[i]);
    }
    kv_cache_destroy(cache);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flat_and_paged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
