/* Copies of experts: where one ends and the next begins, and shards that two of them share. */
#include "tests/unit/test.h"

#include "common/cluster_limits.h"
#include "coordinator/placement.h"

static const struct shard_layout LAYOUTS[SHARD_LAYOUTS(2)] = {
    {64, 32, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32},
    {64, 32, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32},
    {64, 128, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32},
    {64, 64, WEIGHT_F32, WEIGHT_F32, WEIGHT_F16}};

static void add(struct placement *placement, uint32_t expert, uint32_t begin, uint32_t end,
                uint32_t holder) {
    const struct shard shard = {1, expert, begin, end};
    assert_int_equal(placement_add(placement, &shard, holder), STATUS_OK);
}

static void test_copies(void **state) {
    (void)state;
    struct placement *placement;
    assert_int_equal(placement_create(LAYOUTS, 2, 3, 3, &placement), STATUS_OK);
    add(placement, 2, 0, 8, 0);
    add(placement, 2, 8, 32, 1);
    add(placement, 2, 0, 32, 2);
    add(placement, 2, 0, 8, 0); /* the shard of the first copy, with another rest */
    add(placement, 2, 8, 32, 2);
    const struct expert_places *places = placement_find(placement, 1, 2);
    assert_int_equal(places->count, 5);
    assert_int_equal(placement_copy_end(places, 0), 2);
    assert_int_equal(placement_copy_end(places, 2), 3);
    assert_int_equal(placement_copy_end(places, 3), 5);
    assert_int_equal(places->parts[3].slot, places->parts[0].slot);
    assert_int_equal(placement->held[0].count, 1);
    assert_int_equal(placement->held[1].count, 1);
    assert_int_equal(placement->held[2].count, 2);
    assert_int_equal(placement->held[0].bytes, 3 * 8 * 64 * 4);
    assert_int_equal(placement_bytes(placement), 3 * (8 + 24 + 32 + 24) * 64 * 4);
    assert_int_equal(placement_find(placement, 0, 2)->count, 0);
    placement_destroy(placement);
}

/* What all rows meet has parts from where the coordinator's own ends, in formats of its own. */
static void test_ffn(void **state) {
    (void)state;
    struct placement *placement;
    assert_int_equal(placement_create(LAYOUTS, 2, 3, 2, &placement), STATUS_OK);
    add(placement, 2, 0, 32, 0);
    add(placement, SHARD_FFN, 16, 24, 1);
    add(placement, SHARD_FFN, 24, 64, 0);
    const struct expert_places *places = placement_find(placement, 1, SHARD_FFN);
    assert_int_equal(places->count, 2);
    assert_int_equal(places->parts[0].begin, 16);
    assert_int_equal(places->parts[1].slot, 1);
    assert_int_equal(placement->held[0].shards[1].expert, SHARD_FFN);
    assert_int_equal(placement->held[1].bytes, 64 * 8 * (4 + 4 + 2));
    assert_int_equal(placement_find(placement, 0, SHARD_FFN)->count, 0);
    assert_int_equal(placement_find(placement, 1, 2)->count, 1);
    placement_destroy(placement);
}

static void test_spilled(void **state) {
    (void)state;
    struct placement *placement;
    assert_int_equal(placement_create(LAYOUTS, 2, 3, 2, &placement), STATUS_OK);
    add(placement, 0, 0, 32, 1);
    add(placement, 1, 0, 8, 1);
    assert_false(placement_is_spilled(placement, 1, 1));
    assert_int_equal(placement_spill(placement, 1, 1), STATUS_OK);
    add(placement, 2, 0, 32, 1); /* later ones are in memory */
    for (uint32_t slot = 0; slot < 3; slot++)
        assert_int_equal(placement_is_spilled(placement, 1, slot), slot == 1);
    assert_int_equal(placement->held[1].spilled_bytes, 3 * 8 * 64 * 4);
    assert_int_equal(placement->held[1].bytes, 3 * 72 * 64 * 4);
    assert_int_equal(placement->held[0].spilled_bytes, 0);
    placement_destroy(placement);
}

static void remove_copy(struct placement *placement, uint32_t expert, uint32_t first) {
    assert_int_equal(placement_remove(placement, 1, expert, first), STATUS_OK);
}

/* A slot is vacant once no copy uses it, and taken again before others; what was placed later is
 * served later, whatever its slot. */
static void test_removed(void **state) {
    (void)state;
    struct placement *placement;
    const uint64_t column = 3 * 64 * 4;
    assert_int_equal(placement_create(LAYOUTS, 2, 3, 3, &placement), STATUS_OK);
    add(placement, 2, 0, 8, 0);
    add(placement, 2, 8, 32, 1);
    add(placement, 2, 0, 32, 2);
    add(placement, 2, 0, 8, 0); /* shared with the first copy */
    add(placement, 2, 8, 32, 2);
    const struct expert_places *places = placement_find(placement, 1, 2);
    remove_copy(placement, 2, 3);
    assert_int_equal(places->count, 3);
    assert_int_equal(placement->held[0].released_count, 0);
    assert_int_equal(placement->held[2].released_count, 1);
    assert_int_equal(placement->held[2].released[0], 1);
    assert_int_equal(placement->held[2].bytes, 32 * column);
    assert_int_equal(placement_shards(placement, 2), 1);
    remove_copy(placement, 2, 0);
    assert_int_equal(places->count, 1);
    assert_int_equal(places->parts[0].holder, 2);
    assert_int_equal(placement_bytes(placement), 32 * column);
    assert_int_equal(placement->held[0].released_count + placement->held[1].released_count, 2);

    placement->held[2].released_count = 0;
    add(placement, 1, 0, 32, 2); /* into slot 1, as the third that was placed there */
    places = placement_find(placement, 1, 1);
    assert_int_equal(places->parts[0].slot, 1);
    assert_int_equal(placement->held[2].count, 2);
    assert_false(placement_copy_is_served(places, 0, (const uint32_t[]){9, 9, 2}));
    assert_true(placement_copy_is_served(places, 0, (const uint32_t[]){0, 0, 3}));
    for (int i = 0; i < 100; i++) {
        add(placement, 0, 0, 32, 2);
        remove_copy(placement, 0, 0);
    }
    assert_int_equal(placement->held[2].count, 3);
    assert_int_equal(placement_slots_left(placement, 2), SHARDS_MAX - 2);
    assert_int_equal(placement->held[2].released_count, 100);
    placement_destroy(placement);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_copies), cmocka_unit_test(test_ffn),
                                       cmocka_unit_test(test_spilled),
                                       cmocka_unit_test(test_removed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
