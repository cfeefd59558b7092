/* New homes for experts: which are given one, where, and what happens where memory is short. */
#include "tests/unit/test.h"

#include "coordinator/release.h"
#include "coordinator/repair.h"

#define HOLDERS 3u
#define EXPERTS 12u
#define INNER   32u
#define WHOLE   (3ull * INNER * 64 * sizeof(float)) /* bytes of an expert */

static const struct shard_layout LAYOUTS[] = {{64, INNER, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32},
                                              {64, INNER, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32}};

static void add(struct placement *placement, uint32_t expert, uint32_t begin, uint32_t end,
                uint32_t holder) {
    const struct shard shard = {1, expert, begin, end};
    assert_int_equal(placement_add(placement, &shard, holder), STATUS_OK);
}

static struct placement *create(void) {
    struct placement *placement;
    assert_int_equal(placement_create(LAYOUTS, 2, EXPERTS, HOLDERS, &placement), STATUS_OK);
    return placement;
}

/* Each expert whole on one holder, in turn. */
static struct placement *deal_whole(void) {
    struct placement *placement = create();
    for (uint32_t e = 0; e < EXPERTS; e++)
        add(placement, e, 0, INNER, e % HOLDERS);
    return placement;
}

/* Repairs with room for `experts` experts on each holder, without the holder `lost` (HOLDERS:
 * none). */
static struct repair_result repair(struct placement *placement, double experts, uint32_t lost) {
    bool can_hold[HOLDERS];
    uint64_t memory_bytes[HOLDERS];
    for (uint32_t h = 0; h < HOLDERS; h++) {
        can_hold[h] = h != lost;
        memory_bytes[h] = (uint64_t)(experts * WHOLE);
    }
    const struct repair_input input = {can_hold, memory_bytes, NULL};
    struct repair_result result;
    assert_int_equal(repair_placement(placement, &input, &result), STATUS_OK);
    for (uint32_t h = 0; h < HOLDERS; h++)
        assert_true(placement->held[h].bytes <= memory_bytes[h]);
    return result;
}

/* Whether some copy is complete without `lost`; requires that each copy covers the expert once. */
static bool is_held(const struct placement *placement, uint32_t expert, uint32_t lost) {
    const struct expert_places *places = placement_find(placement, 1, expert);
    bool found = false;
    for (uint32_t first = 0, end; first < places->count; first = end) {
        uint32_t at = 0;
        bool held = true;
        end = placement_copy_end(places, first);
        for (uint32_t i = first; i < end; i++) {
            const struct placed_shard *part = &places->parts[i];
            const struct shard *shard = &placement->held[part->holder].shards[part->slot];
            assert_int_equal(part->begin, at);
            assert_true(shard->expert == expert && shard->begin == part->begin &&
                        shard->end == part->end);
            at = part->end;
            held &= part->holder != lost;
        }
        assert_int_equal(at, INNER);
        found |= held;
    }
    return found;
}

static void test_whole_experts(void **state) {
    (void)state;
    struct placement *placement = deal_whole();
    struct repair_result result = repair(placement, EXPERTS, HOLDERS);
    assert_int_equal(result.bytes_added, 0);
    assert_int_equal(placement_bytes(placement), EXPERTS * WHOLE);

    result = repair(placement, EXPERTS, 1);
    assert_int_equal(result.bytes_added, 4 * WHOLE);
    assert_int_equal(result.bytes_missing + result.homeless, 0);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        assert_true(is_held(placement, e, 1));
        assert_int_equal(placement_find(placement, 1, e)->parts[0].holder, e % HOLDERS);
    }
    for (uint32_t h = 0; h < HOLDERS; h++) /* divided evenly */
        assert_int_equal(placement->held[h].count, h == 1 ? 4 : 6);

    /* Nothing is left to do, neither now nor when it is back. */
    assert_int_equal(repair(placement, EXPERTS, 1).bytes_added, 0);
    assert_int_equal(repair(placement, EXPERTS, HOLDERS).bytes_added, 0);
    placement_destroy(placement);
}

/* Parts that are still there are used for the new copy. */
static void test_slices(void **state) {
    (void)state;
    struct placement *placement = create();
    for (uint32_t e = 0; e < EXPERTS; e++) {
        add(placement, e, 0, 8, 0);
        add(placement, e, 8, 24, 1);
        add(placement, e, 24, INNER, 2);
    }
    struct repair_result result = repair(placement, EXPERTS, 1);
    assert_int_equal(result.bytes_added, EXPERTS * WHOLE / 2);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        assert_true(is_held(placement, e, 1));
        assert_int_equal(placement_find(placement, 1, e)->count, 6);
    }
    placement_destroy(placement);
}

static void test_memory_is_short(void **state) {
    (void)state;
    struct placement *placement = deal_whole(); /* four on each */
    struct repair_result result = repair(placement, 5, 1);
    assert_int_equal(result.bytes_added, 2 * WHOLE);
    assert_int_equal(result.bytes_missing, 2 * WHOLE);
    assert_int_equal(result.homeless, 2);
    assert_int_equal(placement->held[0].count, 5);
    assert_int_equal(placement->held[2].count, 5);

    /* They find one when there is room, or the holder comes back. */
    assert_int_equal(repair(placement, 5, HOLDERS).homeless, 0);
    assert_int_equal(repair(placement, 6, 1).homeless, 0);
    for (uint32_t e = 0; e < EXPERTS; e++)
        assert_true(is_held(placement, e, 1));
    placement_destroy(placement);
}

/* Where nobody has room for a whole expert it is cut. */
static void test_cuts_to_fit(void **state) {
    (void)state;
    struct placement *placement = deal_whole();
    struct repair_result result = repair(placement, 4.5, 1);
    assert_int_equal(result.bytes_added, WHOLE);
    assert_int_equal(result.homeless, 3);
    uint32_t found = 0;
    for (uint32_t e = 1; e < EXPERTS; e += HOLDERS)
        if (is_held(placement, e, 1)) {
            assert_int_equal(placement_find(placement, 1, e)->count, 3);
            found++;
        }
    assert_int_equal(found, 1);
    placement_destroy(placement);
}

/* Lets go of what is not needed while all but `lost` serve all that they have; returns how many
 * copies went. */
static uint32_t release(struct placement *placement, uint32_t lost) {
    uint32_t served[HOLDERS], removed = 0;
    for (uint32_t h = 0; h < HOLDERS; h++)
        served[h] = h == lost ? 0 : placement->held[h].placed;
    assert_int_equal(release_copies(placement, served, &removed), STATUS_OK);
    return removed;
}

/* A machine that comes and goes, ten times: what others took over is given back each time, and
 * neither memory nor slots grow. */
static void test_released_when_it_is_back(void **state) {
    (void)state;
    struct placement *placement = deal_whole();
    assert_int_equal(release(placement, HOLDERS), 0);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(repair(placement, EXPERTS, 1).bytes_added, 4 * WHOLE);
        assert_int_equal(release(placement, 1), 0);
        for (uint32_t e = 0; e < EXPERTS; e++)
            assert_true(is_held(placement, e, 1));
        assert_int_equal(release(placement, HOLDERS), 4);
        assert_int_equal(placement_bytes(placement), EXPERTS * WHOLE);
        for (uint32_t e = 0; e < EXPERTS; e++)
            assert_int_equal(placement_find(placement, 1, e)->count, 1);
        for (uint32_t h = 0; h < HOLDERS; h++)
            assert_true(placement->held[h].count <= 6);
    }
    placement_destroy(placement);
}

/* It has to serve all of an expert again, not only be there; slices that copies share stay. */
static void test_released_slices(void **state) {
    (void)state;
    struct placement *placement = create();
    for (uint32_t e = 0; e < EXPERTS; e++) {
        add(placement, e, 0, 8, 0);
        add(placement, e, 8, 24, 1);
        add(placement, e, 24, INNER, 2);
    }
    repair(placement, EXPERTS, 1);
    const uint32_t half[] = {2 * EXPERTS, EXPERTS / 2, 2 * EXPERTS};
    uint32_t removed = 0;
    assert_int_equal(release_copies(placement, half, &removed), STATUS_OK);
    assert_int_equal(removed, EXPERTS / 2);
    assert_int_equal(release(placement, HOLDERS), EXPERTS - EXPERTS / 2);
    assert_int_equal(placement_bytes(placement), EXPERTS * WHOLE);
    for (uint32_t e = 0; e < EXPERTS; e++)
        assert_int_equal(placement_find(placement, 1, e)->count, 3);
    placement_destroy(placement);
}

/* Four experts on each holder, and room for `experts` in memory; the last one has a disk for
 * `spilled` more. */
static struct repair_result repair_on_disk(struct placement *placement, uint32_t experts,
                                           uint32_t spilled, struct spilling *disks) {
    static const bool CAN_HOLD[HOLDERS] = {true, false, true}, IS_EXPERT_LAYER[] = {false, true};
    static uint64_t memory_bytes[HOLDERS], spill_bytes[HOLDERS];
    for (uint32_t h = 0; h < HOLDERS; h++)
        memory_bytes[h] = experts * WHOLE;
    spill_bytes[HOLDERS - 1] = spilled * WHOLE;
    *disks = (struct spilling){.layouts = LAYOUTS,
                               .is_expert_layer = IS_EXPERT_LAYER,
                               .layers = 2,
                               .experts = EXPERTS,
                               .memory_bytes = memory_bytes,
                               .spill_bytes = spill_bytes,
                               .holders = HOLDERS};
    const struct repair_input input = {CAN_HOLD, memory_bytes, disks};
    struct repair_result result;
    assert_int_equal(repair_placement(placement, &input, &result), STATUS_OK);
    return result;
}

/* What memory has no room for goes to the disk, where all that does not fit then lies; and back. */
static void test_disk(void **state) {
    (void)state;
    struct placement *placement = deal_whole();
    const struct holder_shards *held = &placement->held[HOLDERS - 1];
    struct spilling disks;
    struct repair_result result = repair_on_disk(placement, 5, 12, &disks);
    assert_int_equal(result.bytes_added, 4 * WHOLE);
    assert_int_equal(result.homeless + result.bytes_missing, 0);
    assert_true(!result.respilled[0] && !result.respilled[1] && result.respilled[2]);
    for (uint32_t e = 0; e < EXPERTS; e++)
        assert_true(is_held(placement, e, 1));
    assert_int_equal(placement->held[0].bytes, 5 * WHOLE);
    assert_int_equal(placement->held[0].spilled_bytes, 0);
    assert_int_equal(held->bytes, 7 * WHOLE);
    assert_int_equal(held->spilled_bytes, 4 * WHOLE); /* two more are read into the room of two */
    result = repair_on_disk(placement, 5, 12, &disks);
    assert_false(result.respilled[2]);
    assert_int_equal(result.bytes_added, 0);

    placement_unspill(placement, HOLDERS - 1);
    assert_int_equal(release(placement, 0), 4);
    assert_int_equal(spilling_mark_holder(&disks, placement, HOLDERS - 1), STATUS_OK);
    assert_int_equal(held->bytes, 4 * WHOLE);
    assert_int_equal(held->spilled_bytes, 0);
    /* Vacant slots are nowhere. */
    ((uint64_t *)disks.memory_bytes)[HOLDERS - 1] = 3 * WHOLE;
    assert_int_equal(held->vacant_count, 3);
    assert_int_equal(spilling_mark_holder(&disks, placement, HOLDERS - 1), STATUS_OK);
    assert_int_equal(held->spilled_bytes, 3 * WHOLE);
    uint32_t spilled = 0;
    for (uint32_t slot = 0; slot < held->count; slot++)
        spilled += placement_is_spilled(placement, HOLDERS - 1, slot);
    assert_int_equal(spilled, 3);
    placement_destroy(placement);
}

static void test_disk_is_too_small(void **state) {
    (void)state;
    struct placement *placement = deal_whole();
    struct spilling disks;
    struct repair_result result = repair_on_disk(placement, 4, 5, &disks);
    assert_true(result.homeless > 0 && result.homeless < 4);
    assert_int_equal(result.bytes_missing, result.homeless * WHOLE);
    assert_true(result.respilled[2]);
    assert_true(placement->held[2].spilled_bytes <= 5 * WHOLE);
    /* No disk at all. */
    assert_int_equal(repair_on_disk(placement, 4, 0, &disks).homeless, result.homeless);
    placement_destroy(placement);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_experts),
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_memory_is_short),
        cmocka_unit_test(test_cuts_to_fit),
        cmocka_unit_test(test_released_when_it_is_back),
        cmocka_unit_test(test_released_slices),
        cmocka_unit_test(test_disk),
        cmocka_unit_test(test_disk_is_too_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
