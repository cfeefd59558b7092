/* Whole plans on machines that exist only as figures: what must hold for every plan, and which way
 * wins where it obviously should. */
#include "tests/unit/coordinator/plan_fixture.h"

#include <math.h>

#include "tests/unit/random.h"

/* Whatever the machines: memory limits, quanta, coverage. */
static void test_every_plan_is_sound(void **state) {
    (void)state;
    struct random random = {3};
    for (int round = 0; round < 24; round++) {
        struct plan_fixture f;
        struct model_shape shape =
            round % 2 ? fixture_shape_lite() : fixture_shape_grouped(3 + round % 4);
        struct link_figures link = fixture_link(round % 3 ? 10 : 1, 50);
        uint32_t count = 1 + random_below(&random, 8);
        const char *types[] = {"q4_0", "q4_k", "bf16", "fp8"};
        fixture_init(&f, shape, types[round % 4], count, fixture_machine(1, 10, 100), link, 0);
        double total = (double)fixture_expert_bytes(&f), sum = 0, shares[9];
        for (uint32_t h = 0; h <= count; h++)
            sum += shares[h] = 1 + random_below(&random, 20);
        for (uint32_t w = 0; w < count; w++) {
            f.workers[w] =
                fixture_machine(1.15 * total * shares[w] / sum / 1073741824.0,
                                1 + random_below(&random, 50), 10 + random_below(&random, 500));
        }
        f.input.local_bytes = (uint64_t)(1.15 * total * shares[count] / sum);
        f.input.objective = (enum planner_objective)(round % 3);
        f.input.replicas = (enum planner_replicas)(round % 3);
        fixture_plan_sound(&f);
        fixture_cleanup(&f);
    }
}

static void test_same_figures_same_plan(void **state) {
    (void)state;
    struct plan_fixture f[2];
    for (int i = 0; i < 2; i++) {
        fixture_init(&f[i], fixture_shape_lite(), "q4_k", 4, fixture_machine(16, 20, 200),
                     fixture_link(10, 60), 2);
        f[i].workers[2] = fixture_machine(3, 40, 300);
        assert_int_equal(fixture_plan(&f[i]), STATUS_OK);
    }
    const struct placement *a = fixture_placement(&f[0]), *b = fixture_placement(&f[1]);
    for (uint32_t h = 0; h < a->holders; h++) {
        assert_int_equal(a->held[h].count, b->held[h].count);
        assert_memory_equal(a->held[h].shards, b->held[h].shards,
                            a->held[h].count * sizeof *a->held[h].shards);
    }
    for (int i = 0; i < 2; i++)
        fixture_cleanup(&f[i]);
}

static double held_part(const struct plan_fixture *f, uint32_t holder) {
    return (double)fixture_placement(f)->held[holder].bytes / (double)fixture_expert_bytes(f);
}

/* Three times the memory, where both are full: three times the experts. */
static void test_three_to_one_memory(void **state) {
    (void)state;
    struct plan_fixture f;
    fixture_init(&f, fixture_shape_lite(), "q4_0", 2, fixture_machine(1, 20, 200),
                 fixture_link(10, 60), 0);
    uint64_t total = fixture_expert_bytes(&f);
    f.workers[0].memory_bytes = total * 3 / 4 + total / 50;
    f.workers[1].memory_bytes = total / 4 + total / 50;
    for (int objective = 0; objective < 3; objective++) {
        f.input.objective = (enum planner_objective)objective;
        fixture_plan_sound(&f);
        assert_true(fabs(held_part(&f, 0) - 0.75) < 0.03);
    }
    fixture_cleanup(&f);
}

/* Twice the speed and memory enough: twice the experts, near enough (the link costs both the same).
 */
static void test_two_to_one_speed(void **state) {
    (void)state;
    struct plan_fixture f;
    fixture_init(&f, fixture_shape_lite(), "q4_0", 2, fixture_machine(64, 5, 50),
                 fixture_link(25, 20), 0);
    f.workers[0] = fixture_machine(64, 10, 100);
    f.coordinator = fixture_machine(64, 200, 2000); /* so that it is the workers that count */
    for (int objective = 0; objective < 3; objective++) {
        f.input.objective = (enum planner_objective)objective;
        fixture_plan_sound(&f);
        assert_true(fabs(held_part(&f, 0) - 2.0 / 3) < 0.07);
    }
    fixture_cleanup(&f);
}

static void test_link_decides(void **state) {
    (void)state;
    struct plan_fixture f;
    struct link_figures fast = fixture_link(25, 20), slow = fixture_link(1, 100);
    fixture_init(&f, fixture_shape_grouped(6), "q4_k", 8, fixture_machine(64, 40, 1000), fast, 0);
    f.input.objective = OPTIMIZE_DECODE;
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    assert_true(fixture_slices(&f) >= 6);
    for (uint32_t w = 0; w < 8; w++)
        f.links[w] = slow;
    f.input.objective = OPTIMIZE_PREFILL;
    fixture_plan_sound(&f);
    assert_int_equal(fixture_slices(&f), 1);
    struct cost_prediction *prediction = calloc(1, sizeof *prediction);
    assert_true(planning_predict(f.planning, &f.input.prefill, prediction));
    assert_true(prediction->fanout <= 4.0001); /* whole groups: as routing limits it */
    double grouped = fixture_rate(&f, &f.input.prefill);
    f.input.kind = PLACEMENT_SLICES;
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    assert_true(grouped > 1.5 * fixture_rate(&f, &f.input.prefill));
    free(prediction);
    fixture_cleanup(&f);
}

/* Whole groups where machines are fewer or more than groups, and unequal. */
static void test_groups_on_any_machines(void **state) {
    (void)state;
    for (uint32_t count = 2; count <= 16; count += 7) {
        struct plan_fixture f;
        fixture_init(&f, fixture_shape_grouped(4), "q4_k", count, fixture_machine(64, 40, 1000),
                     fixture_link(1, 100), 0);
        for (uint32_t w = 1; w < count; w += 2)
            f.workers[w] = fixture_machine(64, 20, 500);
        f.input.objective = OPTIMIZE_PREFILL;
        fixture_plan_sound(&f);
        struct cost_prediction *prediction = calloc(1, sizeof *prediction);
        assert_true(planning_predict(f.planning, &f.input.prefill, prediction));
        assert_true(prediction->fanout <= 4.0001);
        free(prediction);
        fixture_cleanup(&f);
    }
}

/* One-core hosts: more of them help less and less, and the coordinator's own part is the bound. */
static void test_saturation(void **state) {
    (void)state;
    double rates[9] = {0}, bound = 0;
    for (uint32_t hosts = 1; hosts <= 8; hosts *= 2) {
        struct plan_fixture f;
        fixture_init(&f, fixture_shape_lite(), "q4_0", hosts - 1, fixture_machine(16, 8, 60),
                     fixture_link(10, 50), 16);
        f.input.objective = OPTIMIZE_DECODE;
        assert_int_equal(fixture_plan(&f), STATUS_OK);
        rates[hosts] = fixture_rate(&f, &f.input.decode);
        struct cost_prediction *prediction = calloc(1, sizeof *prediction);
        assert_true(planning_predict(f.planning, &f.input.decode, prediction));
        const struct cost_parts *parts = &prediction->parts;
        bound = 1 / (parts->dense + parts->attention + parts->router + parts->shared + parts->head);
        free(prediction);
        fixture_cleanup(&f);
    }
    assert_true(rates[2] > 1.2 * rates[1]);
    assert_true(rates[4] > 1.05 * rates[2] && rates[8] >= rates[4]);
    assert_true(rates[4] / rates[2] < rates[2] / rates[1]);
    assert_true(rates[8] / rates[4] < rates[4] / rates[2]);
    assert_true(rates[8] < bound && rates[8] > 0.85 * bound);
}

static uint32_t count_copies(const struct plan_fixture *f) {
    const struct placement *plan = fixture_placement(f);
    uint32_t copies = 0;
    for (uint32_t layer = 0; layer < plan->layers; layer++)
        for (uint32_t e = 0; e < plan->experts; e++) {
            const struct expert_places *places = placement_find(plan, layer, e);
            for (uint32_t i = 0; i < places->count; i++)
                copies += places->parts[i].begin == 0;
        }
    return copies;
}

static void test_replicas_take_spare_memory_only(void **state) {
    (void)state;
    struct plan_fixture f;
    fixture_init(&f, fixture_shape_lite(), "q4_0", 4, fixture_machine(1, 20, 200),
                 fixture_link(10, 60), 0);
    uint64_t total = fixture_expert_bytes(&f);
    uint32_t experts = 26 * 64;
    for (int kind = 0; kind < 3; kind++)
        for (int spare = 0; spare < 3; spare++) {
            /* Room for one copy, one and a half, and two. */
            for (uint32_t w = 0; w < 4; w++)
                f.workers[w].memory_bytes = total / 4 * (2 + (unsigned)spare) / 2 + total / 100;
            f.input.kind = (enum placement_kind)kind;
            f.input.replicas = REPLICAS_SPARE;
            fixture_plan_sound(&f);
            double copies = (double)count_copies(&f) / experts;
            assert_true(copies > 1 + spare / 2.0 - 0.1 && copies < 1 + spare / 2.0 + 0.1);
            f.input.replicas = REPLICAS_NONE;
            assert_int_equal(fixture_plan(&f), STATUS_OK);
            assert_int_equal(count_copies(&f), experts);
        }
    fixture_cleanup(&f);
}

/* Copies only where they help, and then they help. */
static void test_replicas_pay(void **state) {
    (void)state;
    struct plan_fixture f;
    fixture_init(&f, fixture_shape_lite(), "bf16", 4, fixture_machine(16, 5, 2000),
                 fixture_link(1, 100), 0);
    f.input.kind = PLACEMENT_EXPERTS;
    f.input.objective = OPTIMIZE_DECODE;
    f.input.replicas = REPLICAS_NONE;
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    double without = fixture_rate(&f, &f.input.decode);
    f.input.replicas = REPLICAS_AUTO;
    fixture_plan_sound(&f);
    assert_true(planning_plan(f.planning)->replicas > 0);
    assert_true(fixture_rate(&f, &f.input.decode) > 1.01 * without);
    fixture_cleanup(&f);
}

static void test_forced_kinds_use_every_machine(void **state) {
    (void)state;
    struct plan_fixture f;
    fixture_init(&f, fixture_shape_lite(), "q4_0", 4, fixture_machine(16, 20, 200),
                 fixture_link(0.1, 5000), 16);
    for (int kind = 1; kind < 3; kind++) {
        f.input.kind = (enum placement_kind)kind;
        fixture_plan_sound(&f);
        for (uint32_t h = 0; h < 5; h++)
            assert_true(fixture_placement(&f)->held[h].count > 0);
        assert_int_equal(fixture_slices(&f), kind == PLACEMENT_SLICES ? 5 : 1);
    }
    /* Left to itself it keeps away from such a network. */
    f.input.kind = PLACEMENT_AUTO;
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    for (uint32_t h = 0; h < 4; h++)
        assert_int_equal(fixture_placement(&f)->held[h].count, 0);
    fixture_cleanup(&f);
}

static void test_unknown_figures(void **state) {
    (void)state;
    struct plan_fixture f;
    fixture_init(&f, fixture_shape_lite(), "q4_0", 3, fixture_machine(16, 20, 200),
                 fixture_link(1, 100), 0);
    f.input.coordinator = NULL;
    fixture_plan_sound(&f);
    struct cost_prediction *prediction = calloc(1, sizeof *prediction);
    assert_false(planning_predict(f.planning, &f.input.decode, prediction));
    for (uint32_t h = 0; h < 3; h++)
        assert_true(fabs(held_part(&f, h) - 1.0 / 3) < 0.02);
    free(prediction);
    fixture_cleanup(&f);
}

/* A worker that is not there is as if it were not in the list: nothing is put on it, and the others
 * are planned for by what is known of them. */
static void test_absent_worker(void **state) {
    (void)state;
    struct plan_fixture f;
    for (int kind = 0; kind < 3; kind++) {
        struct cost_prediction with, without;
        fixture_init(&f, fixture_shape_lite(), "q4_0", 3, fixture_machine(64, 20, 200),
                     fixture_link(10, 60), 2);
        f.input.kind = (enum placement_kind)kind;
        assert_int_equal(fixture_plan(&f), STATUS_OK);
        f.workers[1].memory_bytes = 0;
        f.list[1] = (struct planning_worker){0};
        planning_destroy(f.planning);
        assert_int_equal(planning_create(&f.input, &f.planning), STATUS_OK);
        fixture_check(&f);
        assert_int_equal(fixture_placement(&f)->held[1].count, 0);
        assert_true(planning_predict(f.planning, &f.input.decode, &with));
        f.list[1] = f.list[2];
        f.input.worker_count = 2;
        planning_destroy(f.planning);
        assert_int_equal(planning_create(&f.input, &f.planning), STATUS_OK);
        assert_true(planning_predict(f.planning, &f.input.decode, &without));
        assert_true(fabs(with.step_s - without.step_s) < 0.02 * without.step_s);
        fixture_cleanup(&f);
    }
}

static void copy_held(const struct placement *placement, uint32_t workers, uint64_t bytes[],
                      uint32_t counts[]) {
    for (uint32_t h = 0; h <= workers; h++) {
        uint32_t holder = h < workers ? h : placement->holders - 1;
        bytes[h] = placement->held[holder].bytes;
        counts[h] = placement->held[holder].count;
    }
}

/* Places for workers that may join later: the plan is the one without them. */
static void test_empty_places(void **state) {
    (void)state;
    enum { WORKERS = 5, PLACES = 8 };
    const struct model_shape shapes[] = {fixture_shape_lite(), fixture_shape_grouped(6)};
    struct plan_fixture f;
    for (int i = 0; i < 6; i++) {
        struct cost_prediction with, without;
        uint64_t bytes[2][WORKERS + 1];
        uint32_t counts[2][WORKERS + 1];
        fixture_init(&f, shapes[i / 3], "q4_0", WORKERS, fixture_machine(64, 20, 200),
                     fixture_link(10, 60), 2);
        f.input.kind = (enum placement_kind)(i % 3);
        f.workers[0].memory_bytes /= 32; /* so that memory divides some of it, and speed the rest */
        f.workers[3].memory_bytes /= 16;
        f.workers[4].read_bytes_per_s *= 2;
        assert_int_equal(fixture_plan(&f), STATUS_OK);
        assert_true(planning_predict(f.planning, &f.input.decode, &without));
        copy_held(fixture_placement(&f), WORKERS, bytes[0], counts[0]);
        for (uint32_t w = WORKERS; w < WORKERS + PLACES; w++)
            f.list[w] = (struct planning_worker){0};
        f.input.worker_count = WORKERS + PLACES;
        planning_destroy(f.planning);
        assert_int_equal(planning_create(&f.input, &f.planning), STATUS_OK);
        assert_true(planning_predict(f.planning, &f.input.decode, &with));
        copy_held(fixture_placement(&f), WORKERS, bytes[1], counts[1]);
        for (uint32_t w = WORKERS; w < WORKERS + PLACES; w++)
            assert_int_equal(fixture_placement(&f)->held[w].count, 0);
        assert_memory_equal(bytes[0], bytes[1], sizeof bytes[0]);
        assert_memory_equal(counts[0], counts[1], sizeof counts[0]);
        assert_true(fabs(with.step_s - without.step_s) < 1e-9 * without.step_s);
        fixture_cleanup(&f);
    }
}

/* What a file says goes before what was measured, and of memory the smaller one counts. */
static void test_what_is_known_of_a_worker(void **state) {
    (void)state;
    struct worker_info info = {.memory_bytes = 100};
    struct cluster_machine machine = {.described = true, .figures = {.memory_bytes = 70}};
    struct planning_worker worker = planning_worker_of(&info, NULL);
    assert_int_equal(worker.memory_bytes, 100);
    assert_null(worker.figures);
    assert_null(worker.link);
    info.is_measured = true;
    worker = planning_worker_of(&info, NULL);
    assert_int_equal(worker.memory_bytes, 100);
    assert_ptr_equal(worker.figures, &info.figures);
    assert_ptr_equal(worker.link, &info.link);
    worker = planning_worker_of(&info, &machine);
    assert_int_equal(worker.memory_bytes, 70);
    assert_ptr_equal(worker.figures, &machine.figures);
    assert_ptr_equal(worker.link, &machine.link);
    machine.figures.memory_bytes = 130;
    assert_int_equal(planning_worker_of(&info, &machine).memory_bytes, 100);
    assert_int_equal(planning_worker_of(NULL, &machine).memory_bytes, 130);
    /* The file's disk, as far as the worker allows; that it measured one where the file has none.
     */
    assert_int_equal(planning_worker_of(&info, &machine).spill_bytes, 0);
    machine.figures.spill_bytes = 50;
    assert_int_equal(planning_worker_of(NULL, &machine).spill_bytes, 50);
    assert_int_equal(planning_worker_of(&info, &machine).spill_bytes, 0);
    info.spill_bytes = 30;
    assert_int_equal(planning_worker_of(&info, &machine).spill_bytes, 30);
    assert_int_equal(planning_worker_of(&info, NULL).spill_bytes, 0); /* nothing was measured */
    info.figures.disk_bytes_per_s = 1e9;
    assert_int_equal(planning_worker_of(&info, NULL).spill_bytes, 30);
    machine.described = false; /* only its name and address */
    assert_ptr_equal(planning_worker_of(&info, &machine).figures, &info.figures);
}

/* Experts go to disks where memory does not suffice, the least chosen ones, and elsewhere only
 * where that is predicted to be faster. */
static void test_disks(void **state) {
    (void)state;
    struct plan_fixture f;
    fixture_init(&f, fixture_shape_lite(), "q4_0", 2, fixture_machine(1, 20, 200),
                 fixture_link(10, 60), 0);
    uint64_t total = fixture_expert_bytes(&f);
    for (int w = 0; w < 2; w++) {
        f.workers[w].memory_bytes = total * 2 / 5;
        f.workers[w].spill_bytes = total;
        f.workers[w].disk_bytes_per_s = 1e9 * (w + 1);
    }
    for (int objective = 0; objective < 3; objective++) {
        f.input.objective = (enum planner_objective)objective;
        fixture_plan_sound(&f);
        const struct holder_shards *held = fixture_placement(&f)->held;
        assert_true(held[0].spilled_bytes + held[1].spilled_bytes > total / 5);
        assert_true(held[0].spilled_bytes < held[1].spilled_bytes); /* which is faster */
    }
    /* Memory suffices, and no disk is as fast. */
    f.workers[0].memory_bytes = total;
    fixture_plan_sound(&f);
    assert_int_equal(fixture_placement(&f)->held[1].spilled_bytes, 0);
    /* It suffices on a machine that is out of reach but for a very slow link: the disk is better.
     */
    f.links[0] = fixture_link(0.01, 50000);
    f.workers[1].memory_bytes = total * 4 / 5;
    fixture_plan_sound(&f);
    assert_true(fixture_placement(&f)->held[1].spilled_bytes > 0);
    assert_int_equal(fixture_placement(&f)->held[0].bytes, 0);
    fixture_cleanup(&f);
}

static void test_spare_bytes(void **state) {
    (void)state;
    struct plan_fixture f;
    fixture_init(&f, fixture_shape_lite(), "q4_0", 1, fixture_machine(16, 20, 200),
                 fixture_link(1, 100), 0);
    /* 27 layers of 576 values in two bytes for each position. */
    assert_int_equal(planning_cache_bytes(&f.input, 1000), 27 * 576 * 2 * 1000);
    uint64_t spare = planning_spare_bytes(&f.input, 10ull << 30, 1000);
    assert_int_equal(spare, (10ull << 30) / 10 * 9 - f.outline->own_bytes - 27 * 576 * 2 * 1000);
    assert_int_equal(planning_spare_bytes(&f.input, 1 << 20, 1000), 0);
    fixture_cleanup(&f);
}

/* Rows are rounded where that is allowed and a link is what takes long; what is asked for is done.
 */
static void test_wire(void **state) {
    (void)state;
    struct plan_fixture f;
    struct model_shape shape = fixture_shape_lite();
    struct machine_figures machine = fixture_machine(64, 20, 200);
    fixture_init(&f, shape, "q4_0", 2, machine, fixture_link(1, 100), 0);
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    assert_int_equal(planning_wire(f.planning), WIRE_F32);
    f.input.may_round = true;
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    assert_int_equal(planning_wire(f.planning), WIRE_Q8);
    f.input.wire = "f32";
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    assert_int_equal(planning_wire(f.planning), WIRE_F32);
    f.input.may_round = false;
    f.input.wire = "bf16";
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    assert_int_equal(planning_wire(f.planning), WIRE_BF16);
    f.input.wire = "q8";
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    assert_int_equal(planning_wire(f.planning), WIRE_Q8);
    fixture_cleanup(&f);

    fixture_init(&f, shape, "q4_0", 2, machine, fixture_link(1000, 1), 0);
    f.input.may_round = true;
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    assert_int_equal(planning_wire(f.planning), WIRE_F32);
    fixture_cleanup(&f);
}

/* A slow coordinator gives away what all rows meet, but not over a slow link, and never where that
 * is off. */
static void test_offload(void **state) {
    (void)state;
    struct plan_fixture f;
    const struct link_figures fast = fixture_link(10, 30), slow = fixture_link(0.1, 20000);
    fixture_init(&f, fixture_shape_lite(), "q4_0", 4, fixture_machine(64, 40, 400), fast, 0);
    f.coordinator = fixture_machine(16, 10, 100);
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    assert_int_equal(planning_plan(f.planning)->offloaded_bytes, 0);
    double before = planning_plan(f.planning)->options[0].decode_tokens_per_s;
    f.input.offload = OFFLOAD_AUTO;
    fixture_plan_sound(&f);
    assert_true(planning_plan(f.planning)->offloaded_bytes > 0);
    assert_true(planning_plan(f.planning)->options[0].decode_tokens_per_s > 1.1 * before);
    f.input.replicas = REPLICAS_SPARE; /* beside it */
    fixture_plan_sound(&f);
    assert_true(planning_plan(f.planning)->offloaded_bytes > 0);
    assert_true(planning_plan(f.planning)->replicas > 0);
    f.input.replicas = REPLICAS_NONE;
    for (int w = 0; w < 4; w++)
        f.links[w] = slow;
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    assert_int_equal(planning_plan(f.planning)->offloaded_bytes, 0);
    fixture_cleanup(&f);
}

/* Micro-batches are worth it where workers take as long as this machine, and not for one row; what
 * is predicted for a prompt is what the engine does. */
static void test_overlap(void **state) {
    (void)state;
    struct plan_fixture f;
    fixture_init(&f, fixture_shape_lite(), "q4_0", 4, fixture_machine(64, 20, 200),
                 fixture_link(2, 100), 0);
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    struct batch_division division = planning_divide(f.planning, 512);
    uint32_t size = 0;
    while (size < 9 && division.parts[size] == 1)
        size++;
    assert_true(size >= 1 && division.parts[size] >= 2);
    const struct cost_step one = {1u << size, f.input.prefill.context, 1},
                           best = {one.rows, one.context, division.parts[size]};
    struct cost_prediction single, overlapped;
    assert_true(planning_predict(f.planning, &one, &single));
    assert_true(planning_predict(f.planning, &best, &overlapped));
    assert_true(overlapped.step_s < single.step_s);
    assert_int_equal(planning_divide(f.planning, 1).parts[1], 0);
    f.input.prefill.rows = 300;
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    assert_int_equal(planning_prefill(f.planning).micro_batches,
                     planning_divide(f.planning, 300).parts[8]);
    fixture_cleanup(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_plan_is_sound),
        cmocka_unit_test(test_same_figures_same_plan),
        cmocka_unit_test(test_three_to_one_memory),
        cmocka_unit_test(test_two_to_one_speed),
        cmocka_unit_test(test_link_decides),
        cmocka_unit_test(test_groups_on_any_machines),
        cmocka_unit_test(test_saturation),
        cmocka_unit_test(test_replicas_take_spare_memory_only),
        cmocka_unit_test(test_replicas_pay),
        cmocka_unit_test(test_forced_kinds_use_every_machine),
        cmocka_unit_test(test_unknown_figures),
        cmocka_unit_test(test_absent_worker),
        cmocka_unit_test(test_empty_places),
        cmocka_unit_test(test_what_is_known_of_a_worker),
        cmocka_unit_test(test_wire),
        cmocka_unit_test(test_offload),
        cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_disks),
        cmocka_unit_test(test_spare_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
