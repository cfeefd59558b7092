/* Without figures: placements cover every expert exactly once, respect memory and quanta, share
 * evenly where memory allows, and say what is missing where it does not. planning_test.c has plans
 * with figures. */
#include "tests/unit/test.h"

#include "coordinator/planner.h"
#include "tests/unit/random.h"

#define LAYERS_USED 5u

struct setting {
    struct shard_layout layouts[LAYERS_USED];
    bool is_expert_layer[LAYERS_USED];
    uint64_t memory_bytes[8], spill_bytes[8];
    struct planner_input input;
};

static void setting_init(struct setting *s, enum weight_format format, uint32_t inner,
                         uint32_t experts, uint32_t groups, uint32_t holders,
                         enum placement_kind kind) {
    memset(s, 0, sizeof *s);
    for (uint32_t l = 0; l < LAYERS_USED; l++) {
        s->layouts[l] = (struct shard_layout){256, inner, format, format, format};
        s->is_expert_layer[l] = l != 0;
    }
    for (uint32_t h = 0; h < holders; h++)
        s->memory_bytes[h] = UINT64_MAX / 16;
    s->input = (struct planner_input){.layouts = s->layouts,
                                      .is_expert_layer = s->is_expert_layer,
                                      .layers = LAYERS_USED,
                                      .experts = experts,
                                      .groups = groups,
                                      .memory_bytes = s->memory_bytes,
                                      .spill_bytes = s->spill_bytes,
                                      .holders = holders,
                                      .kind = kind};
}

static uint64_t total_bytes(const struct setting *s) {
    struct shard whole = {1, 0, 0, s->layouts[1].inner};
    return (LAYERS_USED - 1) * s->input.experts * shard_bytes(&s->layouts[1], &whole);
}

/* Ranges of every expert join up from 0 to inner; slots ascend and point back; sums fit the memory.
 */
static void check_placement(const struct setting *s, const struct placement *plan) {
    uint32_t quantum = shard_quantum(&s->layouts[1]), next_slot[8] = {0};
    for (uint32_t l = 0; l < LAYERS_USED; l++)
        for (uint32_t e = 0; e < s->input.experts; e++) {
            const struct expert_places *places = placement_find(plan, l, e);
            if (!s->is_expert_layer[l]) {
                assert_int_equal(places->count, 0);
                continue;
            }
            uint32_t at = 0;
            for (uint32_t i = 0; i < places->count; i++) {
                const struct placed_shard *placed = &places->parts[i];
                assert_int_equal(placed->begin, at);
                assert_true(placed->end > placed->begin);
                assert_int_equal(placed->begin % quantum, 0);
                at = placed->end;
                assert_int_equal(placed->slot, next_slot[placed->holder]++);
                const struct shard *shard = &plan->held[placed->holder].shards[placed->slot];
                assert_int_equal(shard->layer, l);
                assert_int_equal(shard->expert, e);
                assert_int_equal(shard->begin, placed->begin);
                assert_int_equal(shard->end, placed->end);
            }
            assert_int_equal(at, s->layouts[l].inner);
        }
    for (uint32_t h = 0; h < s->input.holders; h++) {
        uint64_t bytes = 0;
        assert_int_equal(plan->held[h].count, next_slot[h]);
        for (uint32_t i = 0; i < plan->held[h].count; i++)
            bytes += shard_bytes(&s->layouts[1], &plan->held[h].shards[i]);
        assert_int_equal(bytes, plan->held[h].bytes);
        assert_true(bytes - plan->held[h].spilled_bytes <= s->memory_bytes[h]);
        assert_true(plan->held[h].spilled_bytes <= s->spill_bytes[h]);
    }
}

static void test_covers_everything(void **state) {
    (void)state;
    const enum placement_kind kinds[] = {PLACEMENT_EXPERTS, PLACEMENT_SLICES};
    const uint32_t inners[] = {8, 36, 52, 192, 448};
    for (uint32_t holders = 1; holders <= 8; holders++)
        for (size_t i = 0; i < sizeof inners / sizeof *inners; i++)
            for (int k = 0; k < 2; k++)
                for (int fp8 = 0; fp8 < 2; fp8++) {
                    struct setting s;
                    struct plan plan;
                    setting_init(&s, fp8 ? WEIGHT_FP8_E4M3 : WEIGHT_BF16, inners[i], 12,
                                 i % 2 ? 4 : 1, holders, kinds[k]);
                    assert_int_equal(planner_plan(&s.input, &plan), STATUS_OK);
                    check_placement(&s, plan.placement);
                    planner_destroy(&plan);
                }
}

static void test_equal_memory_shares_equally(void **state) {
    (void)state;
    struct setting s;
    struct plan plan;
    setting_init(&s, WEIGHT_BF16, 64, 32, 8, 4, PLACEMENT_EXPERTS);
    assert_int_equal(planner_plan(&s.input, &plan), STATUS_OK);
    for (uint32_t h = 0; h < 4; h++)
        assert_int_equal(plan.placement->held[h].count, 32);
    /* Experts of one group stay together. */
    for (uint32_t l = 1; l < LAYERS_USED; l++)
        for (uint32_t e = 0; e < 32; e++)
            assert_int_equal(placement_find(plan.placement, l, e)->parts[0].holder,
                             placement_find(plan.placement, l, e / 4 * 4)->parts[0].holder);
    planner_destroy(&plan);
}

/* Without groups every layer is spread over all holders. */
static void test_experts_without_groups_are_spread(void **state) {
    (void)state;
    struct setting s;
    struct plan plan;
    setting_init(&s, WEIGHT_BF16, 64, 32, 1, 4, PLACEMENT_EXPERTS);
    assert_int_equal(planner_plan(&s.input, &plan), STATUS_OK);
    for (uint32_t l = 1; l < LAYERS_USED; l++) {
        uint32_t held[4] = {0};
        for (uint32_t e = 0; e < 32; e++)
            held[placement_find(plan.placement, l, e)->parts[0].holder]++;
        for (uint32_t h = 0; h < 4; h++)
            assert_int_equal(held[h], 8);
    }
    planner_destroy(&plan);
}

static void test_unequal_memory(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct setting s;
        struct plan plan;
        setting_init(&s, WEIGHT_BF16, 64, 32, 8, 3, kind ? PLACEMENT_SLICES : PLACEMENT_EXPERTS);
        uint64_t total = total_bytes(&s);
        s.memory_bytes[0] = total / 10;
        s.memory_bytes[1] = total * 3 / 10;
        assert_int_equal(planner_plan(&s.input, &plan), STATUS_OK);
        check_placement(&s, plan.placement);
        assert_true(plan.placement->held[0].bytes > total / 20 &&
                    plan.placement->held[1].bytes > total / 5);
        assert_true(plan.placement->held[2].bytes > total / 2);
        planner_destroy(&plan);
    }
}

/* Random memories that suffice with one expert to spare on each holder are always enough. */
static void test_tight_memory(void **state) {
    (void)state;
    struct random random = {11};
    for (int round = 0; round < 200; round++) {
        struct setting s;
        struct plan plan;
        uint32_t holders = 2 + random_below(&random, 7);
        setting_init(&s, WEIGHT_BF16, 64, 16, 4, holders, PLACEMENT_EXPERTS);
        uint64_t left = total_bytes(&s), spare = left / (4 * 16);
        for (uint32_t h = 0; h < holders; h++) {
            uint64_t part = h + 1 == holders
                                ? left
                                : (uint64_t)(left * (double)random_below(&random, 1000) / 1500);
            s.memory_bytes[h] = part + spare;
            left -= part;
        }
        assert_int_equal(planner_plan(&s.input, &plan), STATUS_OK);
        check_placement(&s, plan.placement);
        planner_destroy(&plan);
    }
}

/* Machines that are not there change nothing for the others. */
static void test_machines_without_memory(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct setting s;
        struct plan alone, plan;
        setting_init(&s, WEIGHT_BF16, 64, 32, 8, 3, kind ? PLACEMENT_SLICES : PLACEMENT_EXPERTS);
        s.memory_bytes[0] = total_bytes(&s) * 3 / 10;
        assert_int_equal(planner_plan(&s.input, &alone), STATUS_OK);
        s.input.holders = 8;
        assert_int_equal(planner_plan(&s.input, &plan), STATUS_OK);
        check_placement(&s, plan.placement);
        for (uint32_t h = 0; h < 8; h++)
            assert_int_equal(plan.placement->held[h].bytes,
                             h < 3 ? alone.placement->held[h].bytes : 0);
        assert_string_equal(plan.options[0].name, alone.options[0].name);
        planner_destroy(&plan);
        planner_destroy(&alone);
    }
}

/* Without figures what does not fit goes to disks, and no more; room for reading it is left. */
static void test_spills_what_does_not_fit(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct setting s;
        struct plan plan;
        setting_init(&s, WEIGHT_BF16, 64, 32, 8, 2, kind ? PLACEMENT_SLICES : PLACEMENT_EXPERTS);
        uint64_t total = total_bytes(&s);
        s.memory_bytes[0] = s.memory_bytes[1] = total * 2 / 5;
        s.spill_bytes[1] = total;
        assert_int_equal(planner_plan(&s.input, &plan), STATUS_OK);
        check_placement(&s, plan.placement);
        const struct holder_shards *held = &plan.placement->held[1];
        assert_int_equal(plan.placement->held[0].spilled_bytes, 0);
        uint64_t resident = held->bytes - held->spilled_bytes;
        assert_true(resident <= s.memory_bytes[1] * 7 / 8 && resident > s.memory_bytes[1] * 3 / 4);
        assert_true(held->spilled_bytes < total * 2 / 5);
        assert_non_null(strstr(plan.options[0].name, "% on disks"));
        uint32_t spilled[LAYERS_USED] = {0}, all = 0;
        for (uint32_t slot = 0; slot < held->count; slot++)
            if (placement_is_spilled(plan.placement, 1, slot)) {
                spilled[held->shards[slot].layer]++;
                all++;
            }
        for (uint32_t layer = 1; layer < LAYERS_USED; layer++) /* some of each layer */
            assert_true(spilled[layer] >= all / 5 && spilled[layer] <= all / 3);
        planner_destroy(&plan);

        s.memory_bytes[0] = total; /* memory suffices */
        assert_int_equal(planner_plan(&s.input, &plan), STATUS_OK);
        check_placement(&s, plan.placement);
        assert_int_equal(plan.placement->held[1].spilled_bytes, 0);
        assert_null(strstr(plan.options[0].name, "on disks"));
        planner_destroy(&plan);
    }
}

static void test_too_small_says_what_is_missing(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct setting s;
        struct plan plan;
        struct log_capture capture;
        setting_init(&s, WEIGHT_BF16, 1024, 32, 1, 2, kind ? PLACEMENT_SLICES : PLACEMENT_EXPERTS);
        /* 4 layers x 32 experts x 3 x 256 x 1024 x 2 bytes = 192 MiB. */
        s.memory_bytes[0] = 100 << 20;
        s.memory_bytes[1] = 50 << 20;
        log_capture_begin(&capture);
        assert_int_equal(planner_plan(&s.input, &plan), STATUS_NO_MEMORY);
        log_capture_expect(&capture, "192.0 MiB", "2 machines offer 150.0 MiB", "42.0 MiB missing",
                           NULL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_covers_everything),
        cmocka_unit_test(test_equal_memory_shares_equally),
        cmocka_unit_test(test_experts_without_groups_are_spread),
        cmocka_unit_test(test_unequal_memory),
        cmocka_unit_test(test_tight_memory),
        cmocka_unit_test(test_machines_without_memory),
        cmocka_unit_test(test_spills_what_does_not_fit),
        cmocka_unit_test(test_too_small_says_what_is_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
