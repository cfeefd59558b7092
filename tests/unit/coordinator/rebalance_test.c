/* Which experts get copies, where, whose slices become narrower, and when nothing is to change; on
 * windows that are made up. */
#include "tests/unit/test.h"

#include <math.h>

#include "common/cluster_limits.h"
#include "coordinator/rebalance.h"
#include "coordinator/release.h"

#define HOLDERS  3u
#define LAYERS   2u
#define EXPERTS  12u
#define INNER    96u
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
    uint32_t served[HOLDERS], suspect;
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
    scene->suspect = REBALANCE_NOBODY;
    double rate = LAYERS * EXPERTS / 2 * USES * (double)WHOLE / (WINDOW_S / 2);
    for (uint32_t h = 0; h < HOLDERS; h++) {
        scene->rates[h] = rate;
        scene->arrival_rates[h] = (double)WHOLE;
        scene->memory_bytes[h] = 100 * WHOLE;
        scene->served[h] = UINT32_MAX;
    }
}

/* The copy that dispatch takes at these rates: the one that is read in the shortest time. */
static uint32_t copy_in_use(const struct scene *scene, const struct expert_places *places) {
    uint32_t best = 0;
    double least = INFINITY;
    for (uint32_t first = 0; first < places->count; first = placement_copy_end(places, first)) {
        double read_s[HOLDERS] = {0}, longest = 0;
        if (!placement_copy_is_served(places, first, scene->served))
            continue;
        for (uint32_t i = first; i < placement_copy_end(places, first); i++) {
            const struct placed_shard *part = &places->parts[i];
            read_s[part->holder] += (part->end - part->begin) / scene->rates[part->holder];
            longest = fmax(longest, read_s[part->holder]);
        }
        if (longest < least) {
            least = longest;
            best = first;
        }
    }
    return best;
}

/* What each holder computed follows from the copies in use. */
static void fill_window(struct scene *scene) {
    struct load_window *window = scene->window;
    memset(window->busy_s, 0, HOLDERS * sizeof *window->busy_s);
    memset(window->read_bytes, 0, HOLDERS * sizeof *window->read_bytes);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            const struct expert_places *places = placement_find(scene->placement, layer, e);
            uint32_t first = copy_in_use(scene, places);
            for (uint32_t i = first; i < placement_copy_end(places, first); i++) {
                const struct placed_shard *part = &places->parts[i];
                const struct shard shard = {.begin = part->begin, .end = part->end};
                double bytes = window->uses[layer * EXPERTS + e] *
                               (double)shard_bytes(&scene->placement->layouts[layer], &shard);
                window->read_bytes[part->holder] += bytes;
                window->busy_s[part->holder] += bytes / scene->rates[part->holder];
            }
        }
}

static struct rebalance_result decide(struct scene *scene) {
    const struct rebalance_input input = {
        scene->window,       WINDOW_S,      scene->rates,  scene->arrival_rates,
        scene->memory_bytes, scene->served, scene->suspect};
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
    const struct rebalance_input input = {scene.window,        WINDOW_S,           scene.rates,
                                          scene.arrival_rates, scene.memory_bytes, scene.served,
                                          REBALANCE_NOBODY};
    struct rebalance_result result;
    assert_int_equal(rebalance_placement(scene.placement, &input, &result), STATUS_OK);
    assert_int_equal(result.copies, 0);
    close_scene(&scene);
}

/* Holder 1 is gone, and others have a further copy of each expert that had a part there: what it
 * had is in `to_holder` now. */
static void lose(struct scene *scene, uint32_t to_holder) {
    scene->served[1] = 0;
    scene->arrival_rates[1] = 0;
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            const struct expert_places *places = placement_find(scene->placement, layer, e);
            uint32_t count = places->count;
            if (placement_copy_is_served(places, 0, scene->served))
                continue;
            for (uint32_t i = 0; i < count; i++) {
                const struct placed_shard part = places->parts[i];
                const struct shard shard = {layer, e, part.begin, part.end};
                assert_int_equal(placement_add_more(scene->placement, &shard,
                                                    part.holder == 1 ? to_holder : part.holder,
                                                    COPY_REPAIR),
                                 STATUS_OK);
            }
        }
}

/* Of an expert whose planned copy is gone for good, the one that is there now counts. */
static void test_without_the_lost_one(void **state) {
    (void)state;
    struct scene scene;
    open_scene(&scene);
    lose(&scene, 0);
    struct rebalance_result result = decide(&scene);
    assert_int_equal(result.from, 0);
    assert_int_equal(result.to, 2);
    assert_int_equal(result.copies, LAYERS * EXPERTS / 2);
    assert_true(fabs(result.saved_s - WINDOW_S / 2) < 1e-6);
    close_scene(&scene);
}

/* Every expert sliced over all three in these widths. All are equally fast and work for a third of
 * the window if the slices are equally wide. */
static void open_sliced(struct scene *scene, const struct shard_layout *layouts, uint32_t first_end,
                        uint32_t second_end) {
    open_scene(scene);
    placement_destroy(scene->placement);
    assert_int_equal(placement_create(layouts, LAYERS, EXPERTS, HOLDERS, &scene->placement),
                     STATUS_OK);
    double bytes = 0;
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            add(scene, layer, e, 0, first_end, 0);
            add(scene, layer, e, first_end, second_end, 1);
            add(scene, layer, e, second_end, layouts[layer].inner, 2);
            const struct shard whole = {layer, e, 0, layouts[layer].inner};
            bytes += (double)placement_shard_bytes(scene->placement, &whole) * USES;
        }
    for (uint32_t h = 0; h < HOLDERS; h++)
        scene->rates[h] = bytes / WINDOW_S;
}

/* Slices cover each expert once, end at whole blocks, and no holder has too many of them. */
static void check_copies(const struct scene *scene) {
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            const struct expert_places *places = placement_find(scene->placement, layer, e);
            const struct shard_layout *layout = &scene->placement->layouts[layer];
            assert_true(copies_of(scene, layer, e) <= REBALANCE_COPIES_MAX);
            for (uint32_t i = 0, end; i < places->count; i = end) {
                uint32_t parts[HOLDERS] = {0}, column = 0;
                for (end = placement_copy_end(places, i); i < end; i++) {
                    assert_int_equal(places->parts[i].begin, column);
                    assert_int_equal(column % shard_quantum(layout), 0);
                    column = places->parts[i].end;
                    assert_true(++parts[places->parts[i].holder] <= PARTS_PER_HOLDER_MAX);
                }
                assert_int_equal(column, layout->inner);
            }
        }
}

/* The first window only raises a suspicion, the second one decides. */
static struct rebalance_result decide_twice(struct scene *scene, uint32_t suspect) {
    struct rebalance_result result = decide(scene);
    assert_int_equal(result.copies + result.cuts, 0);
    assert_int_equal(result.bytes, 0);
    assert_int_equal(result.suspect, suspect);
    scene->suspect = suspect;
    result = decide(scene);
    assert_int_equal(result.copies, 0);
    scene->suspect = result.suspect;
    check_copies(scene);
    fill_window(scene);
    return result;
}

/* Each of a slow machine's slices becomes narrower, so that all are done at the same time; then
 * there is no reason to go on. When it is fast again, the first copies are taken again. */
static void test_widths_follow_speed(void **state) {
    (void)state;
    struct scene scene;
    open_sliced(&scene, LAYOUTS, INNER / 3, INNER / 3 * 2);
    scene.rates[1] /= 2;
    struct rebalance_result result = decide_twice(&scene, 1);
    assert_int_equal(result.from, 1);
    assert_int_equal(result.cuts, LAYERS * EXPERTS);
    /* 10/3 s, 20/3 s and 10/3 s become 4 s each, if blocks were as fine as that. */
    assert_true(fabs(result.saved_s - WINDOW_S * 4 / 15) < 0.2);
    for (uint32_t h = 0; h < HOLDERS; h++)
        assert_true(fabs(scene.window->busy_s[h] - WINDOW_S * 0.4) < 0.2);
    assert_true(fabs(result.arrival_s - (double)result.bytes / (double)WHOLE) < 1e-6);
    /* What is loaded is what the slow one had: its narrower slices, and pieces for others. */
    assert_int_equal(result.bytes, LAYERS * EXPERTS * WHOLE / 3);
    assert_int_equal(decide_twice(&scene, REBALANCE_NOBODY).cuts, 0);
    scene.rates[1] *= 2;
    assert_int_equal(decide_twice(&scene, REBALANCE_NOBODY).cuts, 0);
    assert_true(fabs(scene.window->busy_s[1] - WINDOW_S / 3) < 1e-6);
    close_scene(&scene);
}

/* One is gone for good, and what it had is on another one, which computes twice as long. */
static void test_widths_without_the_lost_one(void **state) {
    (void)state;
    struct scene scene;
    open_sliced(&scene, LAYOUTS, INNER / 3, INNER / 3 * 2);
    lose(&scene, 0);
    uint32_t before = scene.placement->held[1].count;
    assert_true(decide_twice(&scene, 0).cuts > 0);
    assert_int_equal(scene.placement->held[1].count, before);
    assert_true(fabs(scene.window->busy_s[0] - WINDOW_S / 2) < 0.3);
    assert_true(fabs(scene.window->busy_s[2] - WINDOW_S / 2) < 0.3);
    close_scene(&scene);
}

/* Blocks of 32 columns, and an end that is no whole block; a sixth of the load cannot be divided
 * within every expert. */
static void test_widths_of_blocks(void **state) {
    (void)state;
    static const struct shard_layout blocks[LAYERS] = {
        {64, 192, WEIGHT_Q8_0, WEIGHT_Q8_0, WEIGHT_Q8_0},
        {64, 180, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32}};
    struct scene scene;
    open_sliced(&scene, blocks, 64, 128);
    scene.rates[2] /= 2;
    assert_true(decide_twice(&scene, 2).cuts > 0);
    for (uint32_t h = 0; h < HOLDERS; h++)
        assert_true(fabs(scene.window->busy_s[h] - WINDOW_S * 0.4) < 0.4);
    close_scene(&scene);
}

/* One machine gets slower and slower, then another does: it comes to an end. */
static void test_widths_come_to_an_end(void **state) {
    (void)state;
    struct scene scene;
    open_sliced(&scene, LAYOUTS, INNER / 3, INNER / 3 * 2);
    for (uint32_t step = 2; step <= REBALANCE_COPIES_MAX; step++) {
        scene.rates[0] /= 2;
        assert_true(decide_twice(&scene, 0).cuts > 0);
        assert_true(scene.window->busy_s[0] < WINDOW_S / 2);
    }
    for (uint32_t step = 0; step < 4; step++) {
        scene.rates[1] /= 2;
        decide(&scene);
        scene.suspect = decide(&scene).suspect;
        decide(&scene);
    }
    check_copies(&scene);
    assert_int_equal(decide(&scene).bytes, 0);
    close_scene(&scene);
}

/* Without memory for narrower slices some go to others as a whole. Nobody exceeds its memory, and
 * with none left nothing changes. */
static void test_widths_within_memory(void **state) {
    (void)state;
    struct scene scene;
    open_sliced(&scene, LAYOUTS, INNER / 3, INNER / 3 * 2);
    scene.rates[0] /= 2;
    scene.memory_bytes[0] = scene.placement->held[0].bytes;
    struct rebalance_result result = decide_twice(&scene, 0);
    assert_true(result.cuts > LAYERS * EXPERTS / 4 && result.cuts < LAYERS * EXPERTS);
    assert_int_equal(result.bytes, result.cuts * WHOLE / 3);
    assert_int_equal(scene.placement->held[0].count, LAYERS * EXPERTS);
    assert_true(fabs(result.saved_s - WINDOW_S * 4 / 15) < 0.3);
    close_scene(&scene);
    open_sliced(&scene, LAYOUTS, INNER / 3, INNER / 3 * 2);
    scene.rates[0] /= 2;
    for (uint32_t h = 0; h < HOLDERS; h++)
        scene.memory_bytes[h] = scene.placement->held[h].bytes;
    assert_int_equal(decide_twice(&scene, REBALANCE_NOBODY).cuts, 0);
    close_scene(&scene);
}

/* Where memory is short the most needed experts of each layer are cut. */
static void test_widths_most_needed_first(void **state) {
    (void)state;
    struct scene scene;
    open_sliced(&scene, LAYOUTS, INNER / 3, INNER / 3 * 2);
    scene.rates[0] /= 2;
    scene.window->uses[4] = scene.window->uses[EXPERTS + 8] = 8 * USES;
    for (uint32_t h = 0; h < HOLDERS; h++)
        scene.memory_bytes[h] = scene.placement->held[h].bytes + WHOLE / 2;
    struct rebalance_result result = decide_twice(&scene, 0);
    assert_true(result.cuts >= 2 && result.cuts < LAYERS * EXPERTS);
    assert_int_equal(copies_of(&scene, 0, 4), 2);
    assert_int_equal(copies_of(&scene, 1, 8), 2);
    close_scene(&scene);
}

static void expect_widths_stay(struct scene *scene) {
    struct rebalance_result result = decide_twice(scene, REBALANCE_NOBODY);
    assert_int_equal(result.cuts, 0);
    assert_int_equal(result.suspect, REBALANCE_NOBODY);
    close_scene(scene);
}

static void test_no_reason_for_other_widths(void **state) {
    (void)state;
    struct scene scene;
    open_sliced(&scene, LAYOUTS, INNER / 3, INNER / 3 * 2); /* balanced */
    expect_widths_stay(&scene);
    open_sliced(&scene, LAYOUTS, INNER / 3, INNER / 3 * 2); /* nearly */
    scene.rates[0] *= 0.9;
    expect_widths_stay(&scene);
    open_sliced(&scene, LAYOUTS, INNER / 3, INNER / 3 * 2); /* takes too long to arrive */
    scene.rates[0] /= 2;
    for (uint32_t h = 0; h < HOLDERS; h++)
        scene.arrival_rates[h] = (double)WHOLE / 100;
    expect_widths_stay(&scene);
    open_sliced(&scene, LAYOUTS, INNER / 3, INNER / 3 * 2); /* cannot load beside working */
    scene.rates[0] /= 2;
    scene.arrival_rates[0] = 0;
    expect_widths_stay(&scene);
    open_sliced(&scene, LAYOUTS, INNER / 3, INNER / 3 * 2); /* another one each time */
    scene.rates[0] /= 2;
    scene.suspect = 1;
    assert_int_equal(decide(&scene).suspect, 0);
    assert_int_equal(copies_of(&scene, 0, 0), 1);
    close_scene(&scene);
}

static uint32_t draw(uint32_t *state, uint32_t below) {
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % below;
}

/* Whatever is measured, copies are whole and memory suffices; decide checks the latter. */
static void test_any_figures(void **state) {
    (void)state;
    uint32_t chance = 1, changes = 0;
    for (int round = 0; round < 300; round++) {
        struct scene scene;
        uint32_t quanta = INNER / 8, first = 1 + draw(&chance, quanta - 2);
        open_sliced(&scene, LAYOUTS, first * 8,
                    (first + 1 + draw(&chance, quanta - first - 1)) * 8);
        double rate = scene.rates[0];
        for (uint32_t i = 0; i < LAYERS * EXPERTS; i++)
            scene.window->uses[i] = draw(&chance, 2 * USES);
        for (uint32_t step = 0; step < 8; step++) {
            for (uint32_t h = 0; h < HOLDERS; h++) {
                scene.rates[h] = rate * (1 + draw(&chance, 16)) / 8;
                scene.arrival_rates[h] = draw(&chance, 4) * (double)WHOLE;
                scene.memory_bytes[h] =
                    scene.placement->held[h].bytes + draw(&chance, 8) * (WHOLE / 2);
            }
            scene.suspect = decide(&scene).suspect;
            check_copies(&scene);
            changes += decide(&scene).cuts > 0;
            check_copies(&scene);
        }
        close_scene(&scene);
    }
    assert_true(changes > 100);
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

/* The copy in use is noted as dispatch does, at the end of a window that shows `uses`; returns how
 * many copies went. */
static uint32_t end_window(struct scene *scene, uint32_t uses, const uint32_t *served) {
    uint32_t removed = 0;
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            const struct expert_places *places = placement_find(scene->placement, layer, e);
            scene->window->uses[layer * EXPERTS + e] = uses;
            if (uses > 0)
                placement_note_use(scene->placement, layer, e, copy_in_use(scene, places));
        }
    bool found = rebalance_note_idle(scene->placement, scene->window);
    assert_int_equal(release_copies(scene->placement, served, &removed), STATUS_OK);
    assert_int_equal(found, removed > 0);
    return removed;
}

/* Load that wanders: copies that were made for a slow machine go when it is fast again, and the
 * number of copies and the memory are free for the next one. */
static void test_idle_copies_go(void **state) {
    (void)state;
    static const uint32_t all[] = {1000, 1000, 1000};
    struct scene scene;
    open_scene(&scene);
    placement_destroy(scene.placement);
    assert_int_equal(placement_create(LAYOUTS, LAYERS, EXPERTS, HOLDERS, &scene.placement),
                     STATUS_OK);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t e = 0; e < EXPERTS; e++)
            for (uint32_t h = 0; h < HOLDERS; h++)
                add(&scene, layer, e, h * INNER / HOLDERS, (h + 1) * INNER / HOLDERS, h);
    uint64_t planned = placement_bytes(scene.placement);
    double rate = scene.rates[0];
    for (int round = 0; round < 12; round++) {
        uint32_t slow = (uint32_t)round % HOLDERS;
        scene.rates[slow] = rate / 4;
        scene.suspect = REBALANCE_NOBODY;
        scene.suspect = decide(&scene).suspect;
        assert_int_equal(scene.suspect, slow);
        assert_int_equal(decide(&scene).cuts, LAYERS * EXPERTS);
        for (int i = 0; i < 2 * REBALANCE_IDLE_MAX; i++) /* in use */
            assert_int_equal(end_window(&scene, USES, all), 0);
        scene.rates[slow] = rate;
        for (int i = 0; i < 2 * REBALANCE_IDLE_MAX; i++) /* nobody needs the expert */
            assert_int_equal(end_window(&scene, 0, all), 0);
        for (int i = 0; i + 1 < REBALANCE_IDLE_MAX; i++)
            assert_int_equal(end_window(&scene, USES, all), 0);
        uint32_t removed = 0;
        for (int i = 0; i < 2; i++)
            removed += end_window(&scene, USES, all);
        assert_int_equal(removed, LAYERS * EXPERTS);
        assert_int_equal(placement_bytes(scene.placement), planned);
    }
    close_scene(&scene);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle_copies_go),
        cmocka_unit_test(test_idle_holder_helps),
        cmocka_unit_test(test_slow_holder_is_helped),
        cmocka_unit_test(test_hottest_first),
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_no_reason_to_move),
        cmocka_unit_test(test_settles),
        cmocka_unit_test(test_without_the_lost_one),
        cmocka_unit_test(test_widths_follow_speed),
        cmocka_unit_test(test_widths_without_the_lost_one),
        cmocka_unit_test(test_widths_of_blocks),
        cmocka_unit_test(test_widths_come_to_an_end),
        cmocka_unit_test(test_widths_within_memory),
        cmocka_unit_test(test_widths_most_needed_first),
        cmocka_unit_test(test_no_reason_for_other_widths),
        cmocka_unit_test(test_any_figures),
        cmocka_unit_test(test_rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
