/* Which experts get copies, where, and when nothing is to change; on windows that are made up. */
#include "tests/unit/test.h"

#include <math.h>

#include "coordinator/rebalance.h"

#define HOLDERS  3u
#define LAYERS   2u
#define EXPERTS  12u
#define INNER    32u
#define WHOLE    (3ull * INNER * 64 * sizeof(float)) /* bytes of an expert */
#define WINDOW_S 10.0
#define USES     100u /* of each expert in a window */

static const struct shard_layout LAYOUTS[LAYERS] = {
    {64, INNER, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32},
    {64, INNER, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32}};

/* What the decision goes by; a test changes what it likes. */
struct scene {
    struct placement *placement;
    struct load_window *window;
    double rates[HOLDERS], arrival_rates[HOLDERS];
    uint64_t memory_bytes[HOLDERS];
};

static void add(struct scene *scene, uint32_t layer, uint32_t expert, uint32_t begin, uint32_t end,
                uint32_t holder) {
    const struct shard shard = {layer, expert, begin, end};
    assert_int_equal(placement_add(scene->placement, &shard, holder), STATUS_OK);
}

/* Every expert whole on holder 0 or 1 in turn, used equally often; holder 2 has nothing. All read
 * at the rate at which a holder with half of the experts is busy for half of the window. */
static void open_scene(struct scene *scene) {
    assert_int_equal(placement_create(LAYOUTS, LAYERS, EXPERTS, HOLDERS, &scene->placement),
                     STATUS_OK);
    assert_int_equal(load_window_create(HOLDERS, LAYERS, EXPERTS, &scene->window), STATUS_OK);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            add(scene, layer, e, 0, INNER, e % 2);
            scene->window->uses[layer * EXPERTS + e] = USES;
        }
    double rate = LAYERS * EXPERTS / 2 * USES * (double)WHOLE / (WINDOW_S / 2);
    for (uint32_t h = 0; h < HOLDERS; h++) {
        scene->rates[h] = rate;
        scene->arrival_rates[h] = (double)WHOLE;
        scene->memory_bytes[h] = 100 * WHOLE;
    }
}

/* What each holder computed follows from the first copies. */
static void fill_window(struct scene *scene) {
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            const struct expert_places *places = placement_find(scene->placement, layer, e);
            for (uint32_t i = 0; i < placement_copy_end(places, 0); i++) {
                const struct placed_shard *part = &places->parts[i];
                const struct shard shard = {.begin = part->begin, .end = part->end};
                double bytes = scene->window->uses[layer * EXPERTS + e] *
                               (double)shard_bytes(&LAYOUTS[layer], &shard);
                scene->window->read_bytes[part->holder] += bytes;
                scene->window->busy_s[part->holder] += bytes / scene->rates[part->holder];
            }
        }
}

static struct rebalance_result decide(struct scene *scene) {
    const struct rebalance_input input = {scene->window, WINDOW_S, scene->rates,
                                          scene->arrival_rates, scene->memory_bytes};
    struct rebalance_result result;
    uint64_t before = placement_bytes(scene->placement);
    fill_window(scene);
    assert_int_equal(rebalance_placement(scene->placement, &input, &result), STATUS_OK);
    assert_int_equal(placement_bytes(scene->placement) - before, result.bytes);
    for (uint32_t h = 0; h < HOLDERS; h++)
        assert_true(scene->placement->held[h].bytes <= scene->memory_bytes[h]);
    return result;
}

static void close_scene(struct scene *scene) {
    load_window_destroy(scene->window);
    placement_destroy(scene->placement);
}

static uint32_t copies_of(const struct scene *scene, uint32_t layer, uint32_t expert) {
    const struct expert_places *places = placement_find(scene->placement, layer, expert);
    uint32_t copies = 0;
    for (uint32_t first = 0; first < places->count; first = placement_copy_end(places, first))
        copies++;
    return copies;
}

/* One that has joined, or was left idle, takes half of what the busiest has. */
static void test_idle_holder_helps(void **state) {
    (void)state;
    struct scene scene;
    open_scene(&scene);
    for (uint32_t e = 1; e < EXPERTS; e += 2) /* holder 1 has less to do */
        scene.window->uses[e] = scene.window->uses[EXPERTS + e] = USES / 2;
    struct rebalance_result result = decide(&scene);
    assert_int_equal(result.from, 0);
    assert_int_equal(result.to, 2);
    assert_int_equal(result.copies, LAYERS * EXPERTS / 4);
    assert_int_equal(scene.placement->held[2].count, result.copies);
    assert_true(fabs(result.saved_s - WINDOW_S / 4) < 1e-6);
    assert_true(fabs(result.arrival_s - result.copies) < 1e-6);
    /* Of each layer as many, and none of what others hold. */
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        uint32_t moved = 0;
        for (uint32_t e = 0; e < EXPERTS; e++) {
            assert_int_equal(copies_of(&scene, layer, e) > 1 && e % 2 == 1, false);
            moved += copies_of(&scene, layer, e) - 1;
        }
        assert_int_equal(moved, EXPERTS / 4);
    }
    close_scene(&scene);
}

/* A machine that others slow down is helped by the faster ones, in proportion to their speed. */
static void test_slow_holder_is_helped(void **state) {
    (void)state;
    struct scene scene;
    open_scene(&scene);
    scene.rates[0] /= 2;
    scene.arrival_rates[2] = 0;
    struct rebalance_result result = decide(&scene);
    assert_int_equal(result.from, 0);
    assert_int_equal(result.to, 1);
    /* 12 experts at 2, against 12 at 1: four move, then 16 and 16. */
    assert_int_equal(result.copies, 4);
    close_scene(&scene);
}

/* The most needed experts of each layer come first. */
static void test_hottest_first(void **state) {
    (void)state;
    struct scene scene;
    open_scene(&scene);
    scene.memory_bytes[2] = 2 * WHOLE;
    scene.window->uses[4] = scene.window->uses[EXPERTS + 8] = 2 * USES;
    struct rebalance_result result = decide(&scene);
    assert_int_equal(result.copies, 2);
    assert_int_equal(copies_of(&scene, 0, 4), 2);
    assert_int_equal(copies_of(&scene, 1, 8), 2);
    close_scene(&scene);
}

/* Slices on all others are relieved by a whole expert on one that joins. */
static void test_slices(void **state) {
    (void)state;
    struct scene scene;
    open_scene(&scene);
    placement_destroy(scene.placement);
    assert_int_equal(placement_create(LAYOUTS, LAYERS, EXPERTS, HOLDERS, &scene.placement),
                     STATUS_OK);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t e = 0; e < EXPERTS; e++)
            for (uint32_t h = 0; h < 2; h++)
                add(&scene, layer, e, h * INNER / 2, (h + 1) * INNER / 2, h);
    struct rebalance_result result = decide(&scene);
    assert_int_equal(result.to, 2);
    /* A third of all. */
    assert_int_equal(result.copies, LAYERS * EXPERTS / 3);
    assert_true(fabs(result.saved_s - WINDOW_S / 6) < 1e-6);
    close_scene(&scene);
}

static void expect_nothing(struct scene *scene) {
    struct rebalance_result result = decide(scene);
    assert_int_equal(result.copies, 0);
    assert_int_equal(result.bytes, 0);
    for (uint32_t e = 0; e < EXPERTS; e++)
        assert_int_equal(copies_of(scene, 0, e), 1);
    close_scene(scene);
}

static void test_no_reason_to_move(void **state) {
    (void)state;
    struct scene scene;
    open_scene(&scene); /* balanced, and nobody else */
    scene.arrival_rates[2] = 0;
    expect_nothing(&scene);
    open_scene(&scene); /* hardly anything to do */
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++)
        scene.window->uses[i] = i % 2 ? 0 : USES / 20;
    expect_nothing(&scene);
    open_scene(&scene); /* no memory left */
    for (uint32_t h = 0; h < HOLDERS; h++)
        scene.memory_bytes[h] = scene.placement->held[h].bytes;
    expect_nothing(&scene);
    open_scene(&scene); /* takes longer to arrive than it saves */
    for (uint32_t e = 1; e < EXPERTS; e += 2)
        scene.window->uses[e] = scene.window->uses[EXPERTS + e] = USES / 2;
    scene.arrival_rates[1] = scene.arrival_rates[2] = (double)WHOLE / 100;
    expect_nothing(&scene);
}

/* What was moved is measured as balanced the next time. */
static void test_settles(void **state) {
    (void)state;
    struct scene scene;
    open_scene(&scene);
    assert_int_equal(decide(&scene).copies, LAYERS * EXPERTS / 3); /* of both holders */
    assert_int_equal(scene.placement->held[2].count, LAYERS * EXPERTS / 3);
    load_window_reopen(scene.window);
    for (uint32_t h = 0; h < HOLDERS; h++)
        scene.window->busy_s[h] = WINDOW_S / 3;
    for (uint32_t i = 0; i < LAYERS * EXPERTS; i++)
        scene.window->uses[i] = USES;
    const struct rebalance_input input = {scene.window, WINDOW_S, scene.rates, scene.arrival_rates,
                                          scene.memory_bytes};
    struct rebalance_result result;
    assert_int_equal(rebalance_placement(scene.placement, &input, &result), STATUS_OK);
    assert_int_equal(result.copies, 0);
    close_scene(&scene);
}

static void test_rates(void **state) {
    (void)state;
    struct load_window *window;
    double rates[HOLDERS] = {5, 6, 7};
    assert_int_equal(load_window_create(HOLDERS, LAYERS, EXPERTS, &window), STATUS_OK);
    window->busy_s[0] = 2;
    window->read_bytes[0] = 100;
    window->busy_s[1] = WINDOW_S / 1000; /* too little to tell */
    window->read_bytes[1] = 100;
    load_window_rates(window, WINDOW_S, rates);
    assert_true(rates[0] == 50 && rates[1] == 6 && rates[2] == 7);
    load_window_reopen(window);
    assert_true(window->busy_s[0] == 0 && window->read_bytes[1] == 0);
    load_window_destroy(window);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle_holder_helps),
        cmocka_unit_test(test_slow_holder_is_helped),
        cmocka_unit_test(test_hottest_first),
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_no_reason_to_move),
        cmocka_unit_test(test_settles),
        cmocka_unit_test(test_rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
