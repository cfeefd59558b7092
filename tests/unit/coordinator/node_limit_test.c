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
    for (int round = 0; round < 200; round++) {
        float choice[EXPERTS], before[EXPERTS];
        bool kept[HOLDERS];
        for (uint32_t e = 0; e < EXPERTS; e++)
            choice[e] = before[e] = random_float(&random, 1);
        node_limit_apply(limit, 1, choice);
        assert_int_equal(count_kept(choice, kept), 2);
        for (uint32_t e = 0; e < EXPERTS; e++)
            assert_true(choice[e] == (kept[e % HOLDERS] ? before[e] : -INFINITY));
        for (uint32_t a = 0; a < HOLDERS; a++)
            for (uint32_t b = 0; b < HOLDERS; b++)
                if (kept[a] && !kept[b])
                    assert_true(score_of(before, a) > score_of(before, b) - 1e-5f);
    }
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
    node_limit_apply(limit, 1, choice);
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
    node_limit_apply(limit, 1, choice);
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
        cmocka_unit_test(test_takes_as_many_as_needed),
        cmocka_unit_test(test_within_groups),
        cmocka_unit_test(test_refuses_slices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
