/* What disks add, and that the coldest experts are the ones that go there. */
#include "tests/unit/coordinator/plan_fixture.h"

#include <math.h>

#include "coordinator/spilling.h"

#define HOLDERS 3u

struct setting {
    struct model_shape shape;
    struct outline *outline;
    struct shard_layout layouts[LAYERS_MAX];
    uint64_t memory_bytes[HOLDERS], spill_bytes[HOLDERS];
    double disk_rates[HOLDERS];
    struct spilling spilling;
    uint64_t expert_bytes, total_bytes;
};

static void setting_init(struct setting *s) {
    memset(s, 0, sizeof *s);
    s->shape = fixture_shape_lite();
    assert_int_equal(outline_assume(&s->shape, "q8_0", &s->outline), STATUS_OK);
    for (uint32_t layer = 0; layer < s->shape.layers; layer++)
        s->layouts[layer] = s->outline->layers[layer].routed;
    s->expert_bytes = shard_bytes(&s->layouts[1], &(struct shard){.end = s->shape.expert_inner});
    s->total_bytes = 26 * 64 * s->expert_bytes;
    s->spilling = (struct spilling){.layouts = s->layouts,
                                    .is_expert_layer = s->shape.is_expert_layer,
                                    .layers = s->shape.layers,
                                    .experts = 64,
                                    .memory_bytes = s->memory_bytes,
                                    .spill_bytes = s->spill_bytes,
                                    .disk_rates = s->disk_rates,
                                    .holders = HOLDERS};
}

static void test_capacity(void **state) {
    (void)state;
    struct setting s;
    uint64_t capacity[HOLDERS];
    setting_init(&s);
    for (uint32_t h = 0; h < HOLDERS; h++)
        s.memory_bytes[h] = s.total_bytes / 8;
    assert_false(spilling_is_allowed(&s.spilling));
    assert_true(spilling_find_part(&s.spilling, s.total_bytes) > 0.99);
    s.spill_bytes[1] = s.spill_bytes[2] = s.total_bytes;
    s.disk_rates[1] = 1e9;
    s.disk_rates[2] = 3e9;
    assert_true(spilling_is_allowed(&s.spilling));
    spilling_find_capacity(&s.spilling, 0, capacity);
    assert_memory_equal(capacity, s.memory_bytes, sizeof capacity);
    spilling_find_capacity(&s.spilling, 1, capacity);
    assert_int_equal(capacity[0], s.memory_bytes[0]);
    assert_true(capacity[1] > s.total_bytes && capacity[2] == capacity[1]);
    /* Just enough: the fast disk has three times as much. */
    double part = spilling_find_part(&s.spilling, s.total_bytes);
    spilling_find_capacity(&s.spilling, part, capacity);
    double sum = (double)(capacity[0] + capacity[1] + capacity[2]);
    assert_true(sum > (double)s.total_bytes && sum < 1.02 * (double)s.total_bytes);
    double resident = (double)s.memory_bytes[1] * 7 / 8 - (double)s.expert_bytes;
    assert_true(fabs(((double)capacity[2] - resident) / ((double)capacity[1] - resident) - 3) <
                0.05);
    /* Memory that suffices, and memory in which two experts have no room. */
    s.memory_bytes[0] = s.total_bytes;
    assert_true(spilling_find_part(&s.spilling, s.total_bytes) == 0);
    s.memory_bytes[1] = s.memory_bytes[2] = 2 * s.expert_bytes;
    assert_false(spilling_is_allowed(&s.spilling));
    spilling_find_capacity(&s.spilling, 1, capacity);
    assert_memory_equal(capacity, s.memory_bytes, sizeof capacity);
    free(s.outline);
}

/* A third of the experts of each layer are chosen a hundred times as often, other ones in each. */
static bool is_hot(uint32_t layer, uint32_t expert) {
    return (layer + expert) % 3 == 0;
}

static void test_coldest(void **state) {
    (void)state;
    struct setting s;
    struct placement *placement;
    struct routing *routing;
    setting_init(&s);
    struct popularity popularity = {calloc((s.shape.layers + 1) * 64, sizeof(double))};
    for (uint32_t layer = 1; layer < s.shape.layers; layer++)
        for (uint32_t e = 0; e < 64; e++)
            popularity.counts[layer * 64 + e] = is_hot(layer, e) ? 1000000 : 10000;
    assert_int_equal(routing_create(&s.shape, &popularity, &routing), STATUS_OK);
    s.spilling.routing = routing;
    assert_int_equal(placement_create(s.layouts, s.shape.layers, 64, HOLDERS, &placement),
                     STATUS_OK);
    for (uint32_t layer = 1; layer < s.shape.layers; layer++)
        for (uint32_t e = 0; e < 64; e++) {
            const struct shard shard = {layer, e, 0, s.shape.expert_inner};
            assert_int_equal(placement_add(placement, &shard, e % 2), STATUS_OK);
        }
    s.memory_bytes[0] = s.total_bytes;
    s.memory_bytes[1] = s.total_bytes / 4;
    s.spill_bytes[1] = s.total_bytes;
    assert_int_equal(spilling_mark(&s.spilling, placement), STATUS_OK);
    const struct holder_shards *held = &placement->held[1];
    assert_int_equal(placement->held[0].spilled_bytes, 0);
    uint64_t resident = held->bytes - held->spilled_bytes;
    assert_true(resident <= s.memory_bytes[1] * 7 / 8);
    assert_true(resident + s.expert_bytes > s.memory_bytes[1] * 7 / 8);
    uint32_t cold = 0;
    for (uint32_t slot = 0; slot < held->count; slot++) {
        bool hot = is_hot(held->shards[slot].layer, held->shards[slot].expert);
        assert_false(hot && placement_is_spilled(placement, 1, slot));
        cold += !hot && !placement_is_spilled(placement, 1, slot);
    }
    assert_true(cold > 0); /* all hot ones and some */
    placement_destroy(placement);
    routing_destroy(routing);
    popularity_cleanup(&popularity);
    free(s.outline);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_capacity),
        cmocka_unit_test(test_coldest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
