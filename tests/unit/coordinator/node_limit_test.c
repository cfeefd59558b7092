/* Which machines a token keeps: against a naive choice on random scores, and at the edges. */
#include "tests/unit/test.h"

#include <math.h>

#include "coordinator/node_limit.h"
#include "tests/unit/random.h"

#define HOLDERS 4u
#define EXPERTS 16u
#define K       6u

static const struct shard_layout LAYOUTS[] = {{64, 32, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32},
                                              {64, 32, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32}};

/* Layer 1 has expert e on holder e % HOLDERS; the first two also on the next one. */
static struct placement *create(void) {
    struct placement *placement;
    assert_int_equal(placement_create(LAYOUTS, 2, EXPERTS, HOLDERS, &placement), STATUS_OK);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        const struct shard whole = {1, e, 0, 32};
        assert_int_equal(placement_add(placement, &whole, e % HOLDERS), STATUS_OK);
        if (e < 2)
            assert_int_equal(placement_add(placement, &whole, (e + 1) % HOLDERS), STATUS_OK);
    }
    return placement;
}

static struct node_limit *limit_to(uint32_t nodes_max) {
    struct placement *placement = create();
    struct node_limit *limit;
    assert_int_equal(node_limit_create(placement, nodes_max, K, &limit), STATUS_OK);
    placement_destroy(placement);
    return limit;
}

static uint32_t count_kept(const float *choice, bool kept[HOLDERS]) {
    uint32_t holders = 0;
    memset(kept, 0, HOLDERS * sizeof *kept);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        if (choice[e] > -INFINITY && !kept[e % HOLDERS])
            holders++;
        if (choice[e] > -INFINITY)
            kept[e % HOLDERS] = true;
    }
    return holders;
}

/* The K best, ties to the lower index. */
static void take_best(const float *choice, uint32_t experts[K]) {
    bool taken[EXPERTS] = {false};
    for (uint32_t k = 0; k < K; k++) {
        uint32_t best = EXPERTS;
        for (uint32_t e = 0; e < EXPERTS; e++)
            if (!taken[e] && (best == EXPERTS || choice[e] > choice[best]))
                best = e;
        taken[best] = true;
        experts[k] = best;
    }
}

static uint32_t count_visited(const uint32_t experts[K]) {
    bool visited[HOLDERS] = {false};
    uint32_t count = 0;
    for (uint32_t k = 0; k < K; k++) {
        count += !visited[experts[k] % HOLDERS];
        visited[experts[k] % HOLDERS] = true;
    }
    return count;
}

static bool apply(const struct node_limit *limit, float *choice) {
    uint32_t experts[K];
    take_best(choice, experts);
    return node_limit_apply(limit, 1, experts, choice);
}

/* The sum of the three largest of a holder's four scores. */
static float score_of(const float *choice, uint32_t holder) {
    float sum = 0, least = INFINITY;
    for (uint32_t e = holder; e < EXPERTS; e += HOLDERS) {
        sum += choice[e];
        least = choice[e] < least ? choice[e] : least;
    }
    return sum - least;
}

static void test_keeps_the_best(void **state) {
    (void)state;
    struct random random = {17};
    struct node_limit *limit = limit_to(2);
    uint32_t restricted = 0;
    for (int round = 0; round < 200; round++) {
        float choice[EXPERTS], before[EXPERTS];
        bool kept[HOLDERS];
        for (uint32_t e = 0; e < EXPERTS; e++)
            choice[e] = before[e] = random_float(&random, 1);
        if (!apply(limit, choice))
            continue;
        restricted++;
        assert_int_equal(count_kept(choice, kept), 2);
        for (uint32_t e = 0; e < EXPERTS; e++)
            assert_true(choice[e] == (kept[e % HOLDERS] ? before[e] : -INFINITY));
        for (uint32_t a = 0; a < HOLDERS; a++)
            for (uint32_t b = 0; b < HOLDERS; b++)
                if (kept[a] && !kept[b])
                    assert_true(score_of(before, a) > score_of(before, b) - 1e-5f);
    }
    assert_true(restricted > 100);
    node_limit_destroy(limit);
}

/* A token whose own experts are on no more machines than allowed keeps them, also where the rule
 * would take another machine: one with three fair experts before one with a single good one. */
static void test_leaves_what_is_allowed(void **state) {
    (void)state;
    struct random random = {23};
    for (uint32_t nodes_max = 1; nodes_max <= HOLDERS; nodes_max++) {
        struct node_limit *limit = limit_to(nodes_max);
        for (int round = 0; round < 500; round++) {
            float choice[EXPERTS], before[EXPERTS];
            uint32_t experts[K], preferred = random_below(&random, HOLDERS);
            for (uint32_t e = 0; e < EXPERTS; e++)
                choice[e] = random_float(&random, 1) + (e % HOLDERS == preferred ? 1.0f : 0.0f);
            memcpy(before, choice, sizeof choice);
            take_best(choice, experts);
            bool allowed = count_visited(experts) <= nodes_max;
            assert_int_equal(node_limit_apply(limit, 1, experts, choice), !allowed);
            assert_int_equal(memcmp(before, choice, sizeof choice) == 0, allowed);
        }
        node_limit_destroy(limit);
    }
    /* The six best are four of machine 0, one of 1 and one of 3; pairs of 2 sum to more. */
    float choice[EXPERTS] = {
        [0] = 9, [4] = 9, [8] = 9, [12] = 9, [1] = 8, [7] = 7, [6] = 6, [10] = 6};
    float before[EXPERTS];
    memcpy(before, choice, sizeof choice);
    struct node_limit *limit = limit_to(3);
    assert_false(apply(limit, choice));
    assert_memory_equal(before, choice, sizeof choice);
    node_limit_destroy(limit);
}

/* Four experts on one machine are not six. */
static void test_takes_as_many_as_needed(void **state) {
    (void)state;
    struct node_limit *limit = limit_to(1);
    float choice[EXPERTS];
    bool kept[HOLDERS];
    for (uint32_t e = 0; e < EXPERTS; e++)
        choice[e] = (float)(e % HOLDERS);
    assert_true(apply(limit, choice));
    assert_int_equal(count_kept(choice, kept), 2);
    assert_true(kept[3] && kept[2]);
    node_limit_destroy(limit);
}

/* Experts that group-limited routing has dropped stay so and count for no machine. */
static void test_within_groups(void **state) {
    (void)state;
    struct node_limit *limit = limit_to(3);
    float choice[EXPERTS];
    bool kept[HOLDERS];
    for (uint32_t e = 0; e < EXPERTS; e++)
        choice[e] = e % HOLDERS < 2 ? 1.0f + (float)e : -INFINITY;
    float before[EXPERTS];
    memcpy(before, choice, sizeof choice);
    assert_false(apply(limit, choice));
    assert_int_equal(count_kept(choice, kept), 2);
    assert_memory_equal(before, choice, sizeof choice);
    node_limit_destroy(limit);
}

static void test_refuses_slices(void **state) {
    (void)state;
    struct placement *placement;
    struct node_limit *limit;
    struct log_capture capture;
    assert_int_equal(placement_create(LAYOUTS, 2, 1, 2, &placement), STATUS_OK);
    assert_int_equal(placement_add(placement, &(struct shard){1, 0, 0, 16}, 0), STATUS_OK);
    assert_int_equal(placement_add(placement, &(struct shard){1, 0, 16, 32}, 1), STATUS_OK);
    log_capture_begin(&capture);
    assert_int_equal(node_limit_create(placement, 1, 1, &limit), STATUS_USAGE);
    log_capture_expect(&capture, "--placement experts", NULL);
    placement_destroy(placement);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keeps_the_best),
        cmocka_unit_test(test_leaves_what_is_allowed),
        cmocka_unit_test(test_takes_as_many_as_needed),
        cmocka_unit_test(test_within_groups),
        cmocka_unit_test(test_refuses_slices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
