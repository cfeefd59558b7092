/* Probabilities sum up, draws keep to the model's rule, popularity shows in both. */
#include "tests/unit/coordinator/plan_fixture.h"

#include <math.h>

static double sum_of(const float *probabilities, uint32_t count) {
    double sum = 0;
    for (uint32_t e = 0; e < count; e++)
        sum += (double)probabilities[e];
    return sum;
}

static void check_draws(const struct model_shape *shape, const struct routing *routing) {
    uint32_t k = shape->experts_per_token, size = shape->experts / shape->groups;
    for (uint32_t layer = 1; layer < shape->layers; layer++)
        for (uint32_t d = 0; d < ROUTING_DRAWS; d++) {
            const uint16_t *draw = routing_draws(routing, layer) + d * k;
            uint32_t groups = 0, last = UINT32_MAX;
            for (uint32_t i = 0; i < k; i++) {
                assert_true(draw[i] < shape->experts && (i == 0 || draw[i] > draw[i - 1]));
                groups += draw[i] / size != last;
                last = draw[i] / size;
            }
            assert_true(shape->groups == 1 || groups <= shape->groups_per_token);
        }
}

static void test_even(void **state) {
    (void)state;
    const struct model_shape shapes[] = {fixture_shape_lite(), fixture_shape_grouped(8)};
    for (int i = 0; i < 2; i++) {
        struct routing *routing;
        assert_int_equal(routing_create(&shapes[i], NULL, &routing), STATUS_OK);
        const float *probabilities = routing_probabilities(routing, 1);
        for (uint32_t e = 0; e < shapes[i].experts; e++)
            assert_true(
                fabs((double)probabilities[e] * shapes[i].experts / shapes[i].experts_per_token -
                     1) < 1e-6);
        check_draws(&shapes[i], routing);
        /* Layers have draws of their own. */
        assert_memory_not_equal(routing_draws(routing, 1), routing_draws(routing, 2),
                                ROUTING_DRAWS * shapes[i].experts_per_token * sizeof(uint16_t));
        routing_destroy(routing);
    }
}

static void test_popular(void **state) {
    (void)state;
    struct model_shape shape = fixture_shape_lite();
    struct popularity popularity = {calloc(28 * 64, sizeof(double))};
    struct routing *routing;
    popularity.counts[64 + 7] = 1e9; /* all of layer 1 */
    for (int e = 0; e < 64; e++)
        popularity.counts[2 * 64 + e] = e < 32 ? 30000 : 10000;
    assert_int_equal(routing_create(&shape, &popularity, &routing), STATUS_OK);
    for (uint32_t layer = 1; layer <= 3; layer++)
        assert_true(fabs(sum_of(routing_probabilities(routing, layer), 64) - 6) < 1e-4);
    assert_true(routing_probabilities(routing, 1)[7] == 1);
    assert_true(fabs((double)routing_probabilities(routing, 2)[0] /
                         (double)routing_probabilities(routing, 2)[40] -
                     3) < 1e-3);
    check_draws(&shape, routing);
    uint32_t popular = 0;
    for (uint32_t d = 0; d < ROUTING_DRAWS; d++) {
        bool found = false;
        for (uint32_t i = 0; i < 6; i++) {
            found |= routing_draws(routing, 1)[d * 6 + i] == 7;
            popular += routing_draws(routing, 2)[d * 6 + i] < 32;
        }
        assert_true(found);
    }
    assert_true(popular > 0.65 * 6 * ROUTING_DRAWS && popular < 0.85 * 6 * ROUTING_DRAWS);
    routing_destroy(routing);
    popularity_cleanup(&popularity);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_even),
        cmocka_unit_test(test_popular),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
