/* Layers that are small enough to see who gets what. */
#include "tests/unit/test.h"

#include <math.h>

#include "coordinator/scheme.h"

#define EXPERTS 16u
#define INNER   64u

struct setting {
    struct shard_layout layouts[4];
    bool is_expert_layer[4];
    uint64_t memory_bytes[4];
    struct scheme scheme;
    const struct scheme *by_layer[4];
    struct scheme_speeds speeds;
    struct scheme_input input;
    struct placement *plan;
};

/* Four layers of experts on `holders` alike, each a team of its own. */
static void init(struct setting *s, uint32_t holders, uint32_t unit) {
    memset(s, 0, sizeof *s);
    s->scheme = (struct scheme){.teams = holders, .members = holders, .unit = unit};
    for (uint32_t l = 0; l < 4; l++) {
        s->layouts[l] = (struct shard_layout){32, INNER, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16};
        s->is_expert_layer[l] = true;
        s->by_layer[l] = &s->scheme;
    }
    for (uint32_t h = 0; h < holders; h++) {
        s->scheme.team_of[h] = h;
        s->memory_bytes[h] = 1ull << 40;
        s->speeds.load_s[h] = 1;
    }
    s->input = (struct scheme_input){
        .layouts = s->layouts,
        .is_expert_layer = s->is_expert_layer,
        .layers = 4,
        .experts = EXPERTS,
        .memory_bytes = s->memory_bytes,
        .holders = holders,
        .by_layer = s->by_layer,
        .speeds = &s->speeds,
    };
}

static void fill(struct setting *s) {
    uint64_t unplaced_bytes;
    assert_int_equal(scheme_fill(&s->input, &s->plan, &unplaced_bytes), STATUS_OK);
}

static uint32_t holder_of(const struct setting *s, uint32_t layer, uint32_t expert) {
    return placement_find(s->plan, layer, expert)->parts[0].holder;
}

static void test_units_stay_together(void **state) {
    (void)state;
    struct setting s;
    init(&s, 3, 4);
    fill(&s);
    for (uint32_t l = 0; l < 4; l++)
        for (uint32_t e = 0; e < EXPERTS; e++)
            assert_int_equal(holder_of(&s, l, e), holder_of(&s, l, e / 4 * 4));
    /* Four units on three holders: who gets two changes from layer to layer. */
    for (uint32_t h = 0; h < 3; h++)
        assert_in_range(s.plan->held[h].count, 4 * 4, 4 * 6);
    placement_destroy(s.plan);
}

static void test_faster_and_nearer_get_more(void **state) {
    (void)state;
    struct setting s;
    init(&s, 2, 1);
    s.speeds.load_s[1] = 3;
    fill(&s);
    assert_int_equal(s.plan->held[0].count, 4 * 12);
    placement_destroy(s.plan);
    /* All of a layer (a load of 1) takes 1 s; what begins at 0.5 s gets a quarter. */
    s.speeds.load_s[1] = 1;
    s.speeds.fixed_s[1] = 0.5;
    fill(&s);
    assert_int_equal(s.plan->held[0].count, 4 * 12);
    placement_destroy(s.plan);
    s.speeds.fixed_s[1] = 2; /* and what begins when the others are done gets nothing */
    fill(&s);
    assert_int_equal(s.plan->held[1].count, 0);
    placement_destroy(s.plan);
}

static void test_teams_slice(void **state) {
    (void)state;
    struct setting s;
    init(&s, 4, 8);
    s.scheme.teams = 2;
    for (uint32_t h = 0; h < 4; h++)
        s.scheme.team_of[h] = h / 2;
    s.speeds.load_s[1] = 3; /* of the 8 quanta holder 0 gets 6 */
    fill(&s);
    for (uint32_t l = 0; l < 4; l++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            const struct expert_places *places = placement_find(s.plan, l, e);
            assert_int_equal(places->count, 2);
            assert_int_equal(places->parts[0].holder / 2, places->parts[1].holder / 2);
            assert_int_equal(places->parts[1].begin, places->parts[0].holder == 0 ? 48 : 32);
        }
    placement_destroy(s.plan);
}

static void test_left_out(void **state) {
    (void)state;
    struct setting s;
    init(&s, 3, 1);
    s.scheme.teams = 1;
    s.scheme.team_of[1] = SCHEME_NO_TEAM;
    s.scheme.team_of[2] = 0;
    fill(&s);
    assert_int_equal(s.plan->held[1].count, 0);
    assert_int_equal(s.plan->held[0].bytes, s.plan->held[2].bytes);
    placement_destroy(s.plan);
}

/* A small memory is spread over all layers. */
static void test_memory_is_spread(void **state) {
    (void)state;
    struct setting s;
    init(&s, 2, 1);
    uint64_t expert = scheme_layer_bytes(&s.input, 0) / EXPERTS;
    s.memory_bytes[0] = 8 * expert;
    fill(&s);
    for (uint32_t l = 0; l < 4; l++) {
        uint32_t held = 0;
        for (uint32_t e = 0; e < EXPERTS; e++)
            held += holder_of(&s, l, e) == 0;
        assert_int_equal(held, 2);
    }
    placement_destroy(s.plan);
}

static void test_no_room(void **state) {
    (void)state;
    struct setting s;
    uint64_t unplaced_bytes;
    init(&s, 2, 4);
    uint64_t expert = scheme_layer_bytes(&s.input, 0) / EXPERTS;
    s.memory_bytes[0] = 20 * expert;
    s.memory_bytes[1] = 40 * expert;
    assert_int_equal(scheme_fill(&s.input, &s.plan, &unplaced_bytes), STATUS_NO_MEMORY);
    assert_int_equal(unplaced_bytes, 4 * expert);
}

static void test_second_copies(void **state) {
    (void)state;
    struct setting s;
    init(&s, 2, 1);
    fill(&s);
    assert_int_equal(scheme_replicate(&s.input, 1, true, s.plan), STATUS_OK);
    for (uint32_t l = 0; l < 4; l++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            const struct expert_places *places = placement_find(s.plan, l, e);
            assert_int_equal(places->count, 2);
            assert_int_not_equal(places->parts[0].holder, places->parts[1].holder);
        }
    placement_destroy(s.plan);
    /* Slices: each also on the next holder. */
    s.scheme.teams = 1;
    s.scheme.team_of[1] = 0;
    fill(&s);
    assert_int_equal(scheme_replicate(&s.input, 1, true, s.plan), STATUS_OK);
    const struct expert_places *places = placement_find(s.plan, 3, 5);
    assert_int_equal(places->count, 4);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(places->parts[i].begin, places->parts[i + 2].begin);
        assert_int_not_equal(places->parts[i].holder, places->parts[i + 2].holder);
    }
    placement_destroy(s.plan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_units_stay_together),
        cmocka_unit_test(test_faster_and_nearer_get_more),
        cmocka_unit_test(test_teams_slice),
        cmocka_unit_test(test_left_out),
        cmocka_unit_test(test_memory_is_spread),
        cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_second_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
