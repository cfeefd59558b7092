/* attend against sums in double: queries of one head and of several, tiles of any size in any
 * order, causal limits in the middle of tiles, and runs of positions that are merged. */
#include "tests/unit/test.h"

#include <math.h>

#include "common/kernel/kernel.h"
#include "coordinator/attend.h"
#include "tests/unit/random.h"

#define POSITIONS   300u
#define QUERIES_MAX 150u
#define WIDTH       70u /* of a row, whose key is at 1 */

/* Of rows that hold key and value of a position. */
struct layout {
    uint32_t key, value, value_at;
};

struct state {
    float queries[QUERIES_MAX * WIDTH], out[QUERIES_MAX * WIDTH];
    float largest[QUERIES_MAX], totals[QUERIES_MAX];
};

static float rows[POSITIONS * WIDTH], scores[ATTEND_SCORES_FLOATS];

static void expect(const struct layout *layout, const struct attend_queries *queries, float scale) {
    static double weights[POSITIONS];
    for (uint32_t i = 0; i < queries->count; i++) {
        uint32_t limit = queries->position + i % queries->rows + 1;
        double total = 0;
        for (uint32_t p = 0; p < limit; p++) {
            double dot = 0;
            for (uint32_t c = 0; c < layout->key; c++)
                dot += (double)queries->values[i * queries->stride + c] * rows[p * WIDTH + 1 + c];
            total += weights[p] = exp(dot * (double)scale);
        }
        for (uint32_t v = 0; v < layout->value; v++) {
            double want = 0, got = (double)queries->out[i * queries->out_stride + v];
            for (uint32_t p = 0; p < limit; p++)
                want += weights[p] / total * rows[p * WIDTH + layout->value_at + v];
            if (!(fabs(want - got) < 1e-5))
                fail_msg("query %u of %u (%u rows from %u), value %u: %g, expected %g", i,
                         queries->count, queries->rows, queries->position, v, got, want);
        }
    }
}

static struct attend_queries queries_of(struct state *state, const struct layout *layout,
                                        uint32_t heads, uint32_t count, uint32_t position) {
    return (struct attend_queries){
        .values = state->queries,
        .stride = layout->key + 3,
        .count = heads * count,
        .rows = count,
        .position = position,
        .scale = 0.3f,
        .largest = state->largest,
        .totals = state->totals,
        .out = state->out,
        .out_stride = layout->value + 2,
        .value_width = layout->value,
    };
}

/* Positions [begin, end) in tiles of `size`, from the last to the first if `backwards`. */
static void add_tiles(const struct layout *layout, const struct attend_queries *queries,
                      uint32_t begin, uint32_t end, uint32_t size, bool backwards) {
    uint32_t tiles = (end - begin + size - 1) / size;
    for (uint32_t i = 0; i < tiles; i++) {
        uint32_t at = begin + (backwards ? tiles - 1 - i : i) * size;
        struct attend_tile tile = {
            .keys = rows + at * WIDTH + 1,
            .values = rows + at * WIDTH + layout->value_at,
            .stride = WIDTH,
            .key_width = layout->key,
            .position = at,
            .count = end - at < size ? end - at : size,
        };
        attend_add_tile(queries, &tile, scores);
    }
}

static void check(const struct layout *layout, uint32_t heads, uint32_t count, uint32_t position) {
    static struct state state, part;
    struct random random = {heads * 1000 + count};
    random_fill(&random, 2, QUERIES_MAX * WIDTH, state.queries);
    struct attend_queries queries = queries_of(&state, layout, heads, count, position);
    uint32_t end = position + count;
    const uint32_t sizes[] = {64, 1, 7, 63};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int backwards = 0; backwards < 2; backwards++) {
            attend_begin(&queries);
            add_tiles(layout, &queries, 0, end, sizes[i], backwards);
            attend_end(&queries);
            expect(layout, &queries, 0.3f);
        }
    /* In three runs, of which the last one is behind what the first rows see. */
    const uint32_t bounds[] = {0, end / 3, end - (count > 1 ? 1 : 0), end};
    attend_begin(&queries);
    for (int run = 0; run < 3; run++) {
        struct attend_queries partial = queries_of(&part, layout, heads, count, position);
        partial.values = state.queries;
        attend_begin(&partial);
        add_tiles(layout, &partial, bounds[run], bounds[run + 1], 64, false);
        attend_merge(&queries, &partial);
    }
    attend_end(&queries);
    expect(layout, &queries, 0.3f);
}

static void test_all(void **state) {
    (void)state;
    const struct layout layouts[] = {{10, 7, 12}, {33, 32, 1}, {40, 24, 45}};
    const struct {
        uint32_t heads, count, position;
    } cases[] = {{1, 1, 0},   {1, 1, 299}, {5, 1, 130},   {16, 1, 255}, {3, 4, 63},
                 {2, 3, 126}, {1, 2, 0},   {1, 150, 150}, {1, 130, 0},  {1, 65, 64},
                 {40, 1, 70}, {9, 4, 200}, {37, 4, 61}};
    struct random random = {1};
    random_fill(&random, 1, POSITIONS * WIDTH, rows);
    const struct kernel *list[8];
    size_t variants = kernel_list(list, 8);
    for (size_t v = 0; v < variants; v++) {
        assert_int_equal(kernel_select(list[v]->name), STATUS_OK);
        for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++)
            for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
                check(&layouts[l], cases[i].heads, cases[i].count, cases[i].position);
    }
}

/* Scores far apart, whose exponentials overflow unless the largest is taken off first. */
static void test_large_scores(void **state) {
    (void)state;
    static float keys[3 * 8], values[3 * 8], query[8];
    float largest, total, out[8];
    assert_int_equal(kernel_select("auto"), STATUS_OK);
    for (int i = 0; i < 8; i++) {
        query[i] = 100;
        for (int p = 0; p < 3; p++) {
            keys[p * 8 + i] = (float)(p - 1);
            values[p * 8 + i] = (float)p;
        }
    }
    struct attend_queries queries = {query, 8, 1, 1, 2, 1, &largest, &total, out, 8, 8};
    attend_begin(&queries);
    for (uint32_t p = 0; p < 3; p++) {
        struct attend_tile tile = {keys + p * 8, values + p * 8, 8, 8, p, 1};
        attend_add_tile(&queries, &tile, scores);
        assert_true(isfinite(total) && largest == 800 * ((float)p - 1));
    }
    attend_end(&queries);
    for (int i = 0; i < 8; i++)
        assert_true(out[i] == 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_large_scores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
