/* Models and machines that exist only as figures, for tests of what plans. */
#pragma once

#include "tests/unit/test.h"

#include "coordinator/planning.h"

#define FIXTURE_HOLDERS_MAX 20u

struct plan_fixture {
    struct model_shape shape;
    struct outline *outline;
    struct shard_layout layouts[SHARD_LAYOUTS(LAYERS_MAX)];
    struct machine_figures workers[FIXTURE_HOLDERS_MAX], coordinator;
    struct link_figures links[FIXTURE_HOLDERS_MAX];
    struct planning_worker list[FIXTURE_HOLDERS_MAX];
    struct planning_input input;
    struct planning *planning;
};

/* V2-Lite's dimensions, no groups. */
static inline struct model_shape fixture_shape_lite(void) {
    struct model_shape shape = {
        .family = FAMILY_DEEPSEEK_V2,
        .layers = 27,
        .hidden = 2048,
        .vocabulary = 102400,
        .context = 4096,
        .attention = ATTENTION_LATENT,
        .heads = 16,
        .kv_rank = 512,
        .nope_dim = 128,
        .rope_dim = 64,
        .v_dim = 128,
        .dense_inner = 10944,
        .expert_inner = 1408,
        .experts = 64,
        .shared_experts = 2,
        .experts_per_token = 6,
        .score = SCORE_SOFTMAX,
        .groups = 1,
        .groups_per_token = 1,
        .weight_scale = 1,
    };
    for (uint32_t layer = 1; layer < shape.layers; layer++)
        shape.is_expert_layer[layer] = true;
    return shape;
}

/* V3's dimensions with fewer layers, groups included. */
static inline struct model_shape fixture_shape_grouped(uint32_t layers) {
    struct model_shape shape = {
        .family = FAMILY_DEEPSEEK_V3,
        .layers = layers,
        .hidden = 7168,
        .vocabulary = 129280,
        .context = 4096,
        .attention = ATTENTION_LATENT,
        .heads = 128,
        .q_rank = 1536,
        .kv_rank = 512,
        .nope_dim = 128,
        .rope_dim = 64,
        .v_dim = 128,
        .dense_inner = 18432,
        .expert_inner = 2048,
        .experts = 256,
        .shared_experts = 1,
        .experts_per_token = 8,
        .score = SCORE_SIGMOID,
        .score_bias = true,
        .group_rule = GROUP_TWO_BEST,
        .groups = 8,
        .groups_per_token = 4,
        .normalise_weights = true,
        .weight_scale = 2.5f,
    };
    for (uint32_t layer = 1; layer < layers; layer++)
        shape.is_expert_layer[layer] = true;
    return shape;
}

static inline struct machine_figures fixture_machine(double memory_gib, double gb_per_s,
                                                     double gops) {
    struct machine_figures machine = {
        .memory_bytes = (uint64_t)(memory_gib * 1073741824.0),
        .threads = 4,
        .read_bytes_per_s = gb_per_s * 1e9,
    };
    for (size_t f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        machine.formats[f] = (struct format_figures){gb_per_s * 1e9, gops * 0.5e9};
    return machine;
}

static inline struct link_figures fixture_link(double gbit_per_s, double round_trip_us) {
    return (struct link_figures){round_trip_us * 1e-6, gbit_per_s * 1.25e8, gbit_per_s * 1.25e8};
}

/* `count` equal workers, and a coordinator that holds `local_gib` of experts. The test changes what
 * it likes before fixture_plan. */
static inline void fixture_init(struct plan_fixture *f, struct model_shape shape, const char *type,
                                uint32_t count, struct machine_figures machine,
                                struct link_figures link, double local_gib) {
    memset(f, 0, sizeof *f);
    f->shape = shape;
    assert_int_equal(outline_assume(&shape, type, &f->outline), STATUS_OK);
    outline_layouts(f->outline, shape.layers, f->layouts);
    f->coordinator = machine;
    for (uint32_t w = 0; w < count; w++) {
        f->workers[w] = machine;
        f->links[w] = link;
    }
    f->input = (struct planning_input){
        .shape = &f->shape,
        .outline = f->outline,
        .layouts = f->layouts,
        .layers = shape.layers,
        .workers = f->list,
        .worker_count = count,
        .coordinator = &f->coordinator,
        .local_bytes = (uint64_t)(local_gib * 1073741824.0),
        .kv_format = WEIGHT_F16,
        .offload = OFFLOAD_NONE,
        .decode = {1, 256, 1},
        .prefill = {512, 256, 1},
    };
}

static inline enum status fixture_plan(struct plan_fixture *f) {
    planning_destroy(f->planning);
    f->planning = NULL;
    for (uint32_t w = 0; w < f->input.worker_count; w++)
        f->list[w] = (struct planning_worker){f->workers[w].memory_bytes, &f->workers[w],
                                              &f->links[w], f->workers[w].spill_bytes};
    return planning_create(&f->input, &f->planning);
}

static inline const struct placement *fixture_placement(const struct plan_fixture *f) {
    return planning_plan(f->planning)->placement;
}

static inline uint64_t fixture_memory(const struct plan_fixture *f, uint32_t holder) {
    return holder < f->input.worker_count ? f->workers[holder].memory_bytes : f->input.local_bytes;
}

/* What all rows of a layer meet is on workers from some quantum on to its end, if at all. */
static inline void fixture_check_ffn(const struct plan_fixture *f, uint32_t layer) {
    const struct placement *plan = fixture_placement(f);
    const struct shard_layout *layout = &f->layouts[plan->layers + layer];
    const struct expert_places *places = placement_find(plan, layer, SHARD_FFN);
    for (uint32_t i = 0; i < places->count; i++) {
        const struct placed_shard *part = &places->parts[i];
        const struct shard *shard = &plan->held[part->holder].shards[part->slot];
        assert_true(part->holder < f->input.worker_count && part->begin < part->end);
        assert_int_equal(part->begin % shard_quantum(layout), 0);
        assert_true(i == 0 || part->begin == places->parts[i - 1].end);
        assert_int_equal(shard->layer, layer);
        assert_int_equal(shard->expert, SHARD_FFN);
        assert_int_equal(shard->begin, part->begin);
        assert_int_equal(shard->end, part->end);
    }
    if (places->count)
        assert_int_equal(places->parts[places->count - 1].end, layout->inner);
}

/* Every copy of every expert covers it once, in ascending order and at multiples of the quantum;
 * what holders have fits their memory and is what the parts say. */
static inline void fixture_check(const struct plan_fixture *f) {
    const struct placement *plan = fixture_placement(f);
    uint64_t *bytes = calloc(plan->holders, sizeof *bytes);
    for (uint32_t layer = 0; layer < plan->layers; layer++)
        fixture_check_ffn(f, layer);
    for (uint32_t layer = 0; layer < plan->layers; layer++)
        for (uint32_t e = 0; e < plan->experts; e++) {
            const struct expert_places *places = placement_find(plan, layer, e);
            assert_int_equal(places->count > 0, f->shape.is_expert_layer[layer]);
            uint32_t quantum = places->count ? shard_quantum(&f->layouts[layer]) : 1, at = 0;
            for (uint32_t i = 0; i < places->count; i++) {
                const struct placed_shard *part = &places->parts[i];
                const struct shard *shard = &plan->held[part->holder].shards[part->slot];
                assert_int_equal(part->begin, at == f->shape.expert_inner ? 0 : at);
                assert_int_equal(part->begin % quantum, 0);
                assert_true(part->begin < part->end);
                assert_int_equal(shard->layer, layer);
                assert_int_equal(shard->expert, e);
                assert_int_equal(shard->begin, part->begin);
                assert_int_equal(shard->end, part->end);
                at = part->end;
            }
            assert_int_equal(at, places->count ? f->shape.expert_inner : 0);
        }
    for (uint32_t h = 0; h < plan->holders; h++) {
        for (uint32_t i = 0; i < plan->held[h].count; i++)
            bytes[h] += placement_shard_bytes(plan, &plan->held[h].shards[i]);
        assert_int_equal(bytes[h], plan->held[h].bytes);
        assert_true(bytes[h] - plan->held[h].spilled_bytes <= fixture_memory(f, h));
        assert_true(plan->held[h].spilled_bytes <=
                    (h < f->input.worker_count ? f->workers[h].spill_bytes : 0));
    }
    free(bytes);
}

static inline void fixture_plan_sound(struct plan_fixture *f) {
    assert_int_equal(fixture_plan(f), STATUS_OK);
    fixture_check(f);
    const struct plan *plan = planning_plan(f->planning);
    for (uint32_t i = 0; i < plan->option_count; i++)
        for (uint32_t j = 0; j < i; j++)
            assert_string_not_equal(plan->options[i].name, plan->options[j].name);
}

static inline uint64_t fixture_expert_bytes(const struct plan_fixture *f) {
    uint64_t bytes = 0;
    for (uint32_t layer = 0; layer < f->shape.layers; layer++)
        if (f->shape.is_expert_layer[layer])
            bytes += f->shape.experts *
                     shard_bytes(&f->layouts[layer], &(struct shard){.end = f->shape.expert_inner});
    return bytes;
}

/* The most parts that an expert's first copy is cut into. */
static inline uint32_t fixture_slices(const struct plan_fixture *f) {
    const struct placement *plan = fixture_placement(f);
    uint32_t most = 0;
    for (uint32_t layer = 0; layer < plan->layers; layer++)
        for (uint32_t e = 0; f->shape.is_expert_layer[layer] && e < plan->experts; e++) {
            uint32_t end = placement_copy_end(placement_find(plan, layer, e), 0);
            most = end > most ? end : most;
        }
    return most;
}

static inline double fixture_rate(const struct plan_fixture *f, const struct cost_step *step) {
    struct cost_prediction *prediction = calloc(1, sizeof *prediction);
    assert_true(planning_predict(f->planning, step, prediction));
    double rate = step == &f->input.decode ? planner_decode_rate(step, prediction)
                                           : planner_prefill_rate(step, prediction);
    free(prediction);
    return rate;
}

static inline void fixture_cleanup(struct plan_fixture *f) {
    planning_destroy(f->planning);
    free(f->outline);
}
