/* Slices of what all rows meet: equal without figures, within memory and the number of workers for
 * a layer, and to whoever is done first where figures are known. */
#include "tests/unit/coordinator/plan_fixture.h"

#include "coordinator/offload.h"

#define LAYERS  3
#define WORKERS 4
#define QUANTUM 8

/* One dense layer, one whose inner dimension is no multiple of a quantum, and one without. */
static const struct shard_layout LAYOUTS[SHARD_LAYOUTS(LAYERS)] = {
    [LAYERS] = {64, 320, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32},
    [LAYERS + 1] = {64, 100, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32},
};
#define COLUMN_BYTES (3ull * 64 * sizeof(float))

static struct placement *fill(const uint64_t *memory_bytes, uint32_t members_max) {
    struct placement *placement;
    const struct offload_input input = {WORKERS, memory_bytes, NULL, 1, members_max, false};
    assert_int_equal(placement_create(LAYOUTS, LAYERS, 2, WORKERS, &placement), STATUS_OK);
    assert_int_equal(offload_fill(&input, placement), STATUS_OK);
    return placement;
}

static uint32_t width_of(const struct placement *placement, uint32_t layer, uint32_t worker) {
    const struct expert_places *places = placement_find(placement, layer, SHARD_FFN);
    uint32_t width = 0;
    for (uint32_t i = 0; i < places->count; i++)
        if (places->parts[i].holder == worker)
            width += places->parts[i].end - places->parts[i].begin;
    return width;
}

static void test_equal_slices(void **state) {
    (void)state;
    const uint64_t memory[WORKERS] = {1 << 30, 1 << 30, 1 << 30, 1 << 30};
    struct placement *placement = fill(memory, WORKERS);
    const struct expert_places *places = placement_find(placement, 0, SHARD_FFN);
    assert_int_equal(places->count, WORKERS);
    assert_int_equal(places->parts[0].begin, 64);
    for (uint32_t w = 0; w < WORKERS; w++)
        assert_int_equal(width_of(placement, 0, w), 64);
    places = placement_find(placement, 1, SHARD_FFN);
    assert_int_equal(places->parts[places->count - 1].end, 100);
    assert_int_equal(placement_find(placement, 2, SHARD_FFN)->count, 0);
    assert_int_equal(offload_bytes(placement), placement_bytes(placement));
    placement_destroy(placement);
}

static void test_limits(void **state) {
    (void)state;
    const uint64_t memory[WORKERS] = {0, 42 * COLUMN_BYTES, 1 << 30, 1 << 30};
    struct placement *placement = fill(memory, WORKERS);
    assert_int_equal(width_of(placement, 0, 0), 0);
    assert_int_equal(width_of(placement, 0, 1), 32); /* 320 of 420 columns may take 32 of 42 */
    assert_int_equal(width_of(placement, 1, 1), QUANTUM);
    assert_true(placement->held[1].bytes <= memory[1]);
    placement_destroy(placement);
    placement = fill(memory, 1);
    assert_int_equal(placement_find(placement, 0, SHARD_FFN)->count, 1);
    assert_int_equal(placement_find(placement, 1, SHARD_FFN)->count, 1);
    placement_destroy(placement);
}

/* A worker twice as fast as another gets more, the far one nothing. */
static void test_speeds(void **state) {
    (void)state;
    struct plan_fixture f;
    const struct link_figures near = fixture_link(10, 20), far = fixture_link(10, 50000);
    fixture_init(&f, fixture_shape_lite(), "bf16", 3, fixture_machine(64, 10, 100), near, 0);
    f.workers[1] = fixture_machine(64, 20, 200);
    f.links[2] = far;
    f.input.offload = OFFLOAD_AUTO;
    f.input.objective = OPTIMIZE_DECODE;
    f.input.kind = PLACEMENT_SLICES;
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    const struct placement *placement = fixture_placement(&f);
    uint32_t slow = width_of(placement, 0, 0), fast = width_of(placement, 0, 1);
    assert_true(slow > 0 && fast > 1.8 * slow && fast < 2.2 * slow + QUANTUM);
    assert_int_equal(width_of(placement, 0, 2), 0);
    uint32_t own = placement_find(placement, 0, SHARD_FFN)->parts[0].begin;
    assert_true(own > slow); /* nothing travels to the coordinator */
    fixture_cleanup(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_slices),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_speeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
