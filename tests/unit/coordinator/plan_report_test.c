/* The table and the JSON of a small plan that is made by hand, so that each figure is known and
 * stands where it belongs: all that share a row are different. */
#include "tests/unit/coordinator/plan_fixture.h"

#include <math.h>

#include "coordinator/plan_report.h"

#define EXPERT_BYTES (3 * 2048 * 1408 / 32 * 18) /* Q4_0 */

static const char *const NAMES[] = {"alpha", "beta", "coordinator"};

struct fixture {
    struct plan_fixture f;
    uint64_t memory_bytes[3];
    struct what_ifs what_ifs;
    struct plan_report report;
    struct cost_prediction decode, prefill;
    char *text; /* the table */
    json_t *object;
};

static void add(struct placement *placement, uint32_t layer, uint32_t expert, uint32_t begin,
                uint32_t end, uint32_t holder) {
    const struct shard shard = {layer, expert, begin, end};
    assert_int_equal(placement_add(placement, &shard, holder), STATUS_OK);
}

/* alpha: 8 whole, 2 slices, 1 replica, two of the whole ones on its disk; beta: 5, 2 and 3, and
 * half of the dense layer; the coordinator: 1, 1 and 0. */
static void place_by_hand(struct placement *placement) {
    for (uint32_t e = 0; e < 5; e++)
        add(placement, 1, e, 0, 1408, 0);
    for (uint32_t e = 5; e < 7; e++)
        add(placement, 1, e, 0, 704, 0);
    add(placement, 1, 5, 704, 1408, 1);
    add(placement, 1, 6, 704, 1056, 1);
    add(placement, 1, 6, 1056, 1408, 2);
    add(placement, 1, 7, 0, 1408, 2);
    for (uint32_t e = 0; e < 8; e++)
        add(placement, 2, e, 0, 1408, e < 3 ? 0 : 1);
    for (uint32_t e = 0; e < 4; e++)
        add(placement, 2, e, 0, 1408, e < 3 ? 1 : 0);
    add(placement, 0, SHARD_FFN, 5472, 10944, 1);
    for (uint32_t slot = 0; slot < 2; slot++)
        assert_int_equal(placement_spill(placement, 0, slot), STATUS_OK);
}

/* Two layers with eight experts and a dense one, over two workers and the coordinator. The test
 * changes figures before `report`. */
static void init(struct fixture *x) {
    struct model_shape shape = fixture_shape_lite();
    memset(x, 0, sizeof *x);
    shape.layers = 3;
    shape.experts = 8;
    shape.experts_per_token = 2;
    fixture_init(&x->f, shape, "q4_0", 2, fixture_machine(3, 10, 100), fixture_link(10, 50), 1);
    x->f.workers[0].disk_bytes_per_s = 5e9;
    x->f.workers[1] = fixture_machine(2, 15, 200);
    x->f.coordinator = fixture_machine(7, 20, 300);
}

/* What the planner chose makes room for what is told of it. */
static void plan_by_hand(struct fixture *x) {
    struct placement *placement;
    assert_int_equal(fixture_plan(&x->f), STATUS_OK);
    struct plan *plan = (struct plan *)planning_plan(x->f.planning);
    assert_int_equal(placement_create(x->f.layouts, 3, 8, 3, &placement), STATUS_OK);
    place_by_hand(placement);
    placement_destroy(plan->placement);
    plan->placement = placement;
    plan->replicas = 4;
    plan->offloaded_bytes = 12345678;
    plan->tried = 99;
    plan->option_count = 2;
    plan->options[0] = (struct plan_option){.name = "some way"};
    plan->options[1] = (struct plan_option){
        .name = "other way", .decode_tokens_per_s = 3.25, .prefill_tokens_per_s = 44.5};
    memset(plan->second, 0, sizeof plan->second);
    strcpy(plan->way[0], "some way");
    plan->way[1][0] = '\0';
}

static void report(struct fixture *x) {
    size_t bytes;
    plan_by_hand(x);
    for (uint32_t h = 0; h < 3; h++)
        x->memory_bytes[h] = fixture_memory(&x->f, h);
    x->report = (struct plan_report){
        .shape = &x->f.shape,
        .outline = x->f.outline,
        .planning = x->f.planning,
        .layers = 3,
        .names = NAMES,
        .memory_bytes = x->memory_bytes,
        .holders = 3,
        .workers = 2,
        .coordinator_bytes = 7ull << 30,
        .expert_bytes = planning_expert_bytes(&x->f.input),
        .cache_bytes = 10 << 20,
        .context = 1234,
        .decode = x->f.input.decode,
        .prefill = x->f.input.prefill,
        .what_ifs = &x->what_ifs,
    };
    assert_true(planning_predict(x->f.planning, &x->report.decode, &x->decode));
    assert_true(planning_predict(x->f.planning, &x->report.prefill, &x->prefill));
    FILE *stream = open_memstream(&x->text, &bytes);
    plan_report_print(&x->report, stream);
    fclose(stream);
    assert_non_null(x->object = plan_report_to_json(&x->report));
}

static void cleanup(struct fixture *x) {
    free(x->text);
    json_decref(x->object);
    fixture_cleanup(&x->f);
}

/* What follows `label` at the beginning of a line. */
static const char *line_of(const struct fixture *x, const char *label) {
    for (const char *line = x->text; line && *line; line = strchr(line, '\n'), line += line != NULL)
        if (strncmp(line, label, strlen(label)) == 0)
            return line + strlen(label);
    fail_msg("no line begins with \"%s\" in\n%s", label, x->text);
    return NULL;
}

static void expect_text(const struct fixture *x, const char *part) {
    if (!strstr(x->text, part))
        fail_msg("\"%s\" is not in\n%s", part, x->text);
}

static void expect_near(double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%g, expected %g", got, want);
}

static double number_at(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value))
        fail_msg("%s is no number", key);
    return json_number_value(value);
}

static void test_head_of_the_table(void **state) {
    (void)state;
    struct fixture x;
    init(&x);
    report(&x);
    assert_int_equal(x.report.expert_bytes, 16 * EXPERT_BYTES);
    assert_non_null(strstr(line_of(&x, "model "), "3 layers; experts 74.2 MiB, all else "));
    assert_non_null(strstr(line_of(&x, "model "), "KV cache of 1234 positions 10.0 MiB"));
    assert_non_null(strstr(line_of(&x, "machines "),
                           "2 workers with 5.0 GiB; coordinator with 7.0 GiB, of which 1.0 GiB"));
    assert_non_null(strstr(line_of(&x, "placement "), "some way: layers 1-2\n"));
    expect_text(&x, "of which 9.3 MiB on disks");
    expect_text(&x, "and 4 further copies");
    expect_text(&x, "and 11.8 MiB of shared experts, dense layers and output head on workers");
    double decode, prefill;
    assert_int_equal(sscanf(line_of(&x, "fan-out "),
                            " %lf machines for each token and layer in "
                            "decode, %lf in prefill; rows travel as f32",
                            &decode, &prefill),
                     2);
    expect_near(decode, x.decode.fanout, 0.005);
    expect_near(prefill, x.prefill.fanout, 0.005);
    assert_int_equal(sscanf(line_of(&x, "other way "), "%lf %lf", &decode, &prefill), 2);
    expect_near(decode, 3.25, 0);
    expect_near(prefill, 44.5, 0);
    cleanup(&x);
}

/* What a machine has: by hand, and how busy it is by the prediction. */
static void test_machines(void **state) {
    (void)state;
    static const struct {
        const char *memory, *bytes;
        uint32_t experts, slices, replicas, eighths; /* of an expert, that it holds */
    } WANTED[] = {
        {"3.0 GiB", "46.4 MiB", 8, 2, 1, 80},
        {"2.0 GiB", "58.6 MiB", 5, 2, 3, 70},
        {"1.0 GiB", "5.8 MiB", 1, 1, 0, 10},
    };
    struct fixture x;
    init(&x);
    report(&x);
    const json_t *machines = json_object_get(x.object, "machines");
    assert_int_equal(json_array_size(machines), 3);
    for (uint32_t h = 0; h < 3; h++) {
        char size[2][32], unit[2][8];
        uint32_t counts[3];
        double decode, prefill;
        assert_int_equal(sscanf(line_of(&x, NAMES[h]), " %15s %7s %15s %7s %u %u %u %lf %% %lf %%",
                                size[0], unit[0], size[1], unit[1], &counts[0], &counts[1],
                                &counts[2], &decode, &prefill),
                         9);
        for (int i = 0; i < 2; i++)
            strcat(strcat(size[i], " "), unit[i]);
        assert_string_equal(size[0], WANTED[h].memory);
        assert_string_equal(size[1], WANTED[h].bytes);
        assert_int_equal(counts[0], WANTED[h].experts);
        assert_int_equal(counts[1], WANTED[h].slices);
        assert_int_equal(counts[2], WANTED[h].replicas);
        expect_near(decode, 100 * x.decode.holders[h].busy_s / x.decode.step_s, 0.51);
        expect_near(prefill, 100 * x.prefill.holders[h].busy_s / x.prefill.step_s, 0.51);
        assert_true(h == 2 || fabs(decode - prefill) > 1.1);

        const json_t *machine = json_array_get(machines, h);
        assert_string_equal(json_string_value(json_object_get(machine, "name")), NAMES[h]);
        assert_int_equal(json_is_true(json_object_get(machine, "coordinator")), h == 2);
        expect_near(number_at(machine, "memory_bytes"), (double)x.memory_bytes[h], 0);
        double ffn_bytes = h == 1 ? 3.0 * 2048 * 5472 / 32 * 18 : 0;
        expect_near(number_at(machine, "experts_bytes"),
                    WANTED[h].eighths * EXPERT_BYTES / 8.0 + ffn_bytes, 0);
        expect_near(number_at(machine, "spilled_bytes"), h == 0 ? 2.0 * EXPERT_BYTES : 0, 0);
        expect_near(number_at(machine, "experts"), WANTED[h].experts, 0);
        expect_near(number_at(machine, "slices"), WANTED[h].slices, 0);
        expect_near(number_at(machine, "replicas"), WANTED[h].replicas, 0);
        const struct cost_holder *held[] = {&x.decode.holders[h], &x.prefill.holders[h]};
        for (int i = 0; i < 2; i++) {
            const json_t *work = json_object_get(machine, i ? "prefill" : "decode");
            expect_near(number_at(work, "busy_s"), held[i]->busy_s, 0);
            expect_near(number_at(work, "disk_s"), held[i]->disk_s, 0);
            expect_near(number_at(work, "rows"), held[i]->rows, 0);
            expect_near(number_at(work, "bytes_out"), held[i]->out_bytes, 0);
            expect_near(number_at(work, "bytes_in"), held[i]->in_bytes, 0);
            expect_near(number_at(work, "slowest"), held[i]->slowest, 0);
        }
    }
    char wanted[160];
    snprintf(wanted, sizeof wanted,
             "9.3 MiB of its experts on its disk, which reads %.0f %% of the time in decode, %.0f "
             "%% in prefill",
             100 * x.decode.holders[0].disk_s / x.decode.step_s,
             100 * x.prefill.holders[0].disk_s / x.prefill.step_s);
    expect_text(&x, wanted);
    cleanup(&x);
}

/* A layer with experts is half of all. */
static void test_parts(void **state) {
    (void)state;
    struct fixture x;
    init(&x);
    report(&x);
    const struct cost_parts *d = &x.decode.parts, *p = &x.prefill.parts;
    const struct {
        const char *label, *key;
        double decode, prefill;
    } wanted[] = {
        {"attention  ", "attention_s", d->attention, p->attention},
        {"router  ", "router_s", d->router, p->router},
        {"dispatch  ", "dispatch_s", d->send, p->send},
        {"shared experts  ", "shared_s", d->shared, p->shared},
        {"routed experts of its own  ", "own_experts_s", d->experts, p->experts},
        {"wait for workers  ", "wait_s", d->wait, p->wait},
        {"combine  ", "combine_s", d->combine, p->combine},
        {"  slowest worker: round trip  ", "round_trip_s", d->round_trip, p->round_trip},
        {"  bytes to it  ", "out_s", d->out, p->out},
        {"  its experts  ", "compute_s", d->compute, p->compute},
        {"    of that, for its disk  ", "disk_s", d->disk, p->disk},
        {"  bytes back  ", "in_s", d->in, p->in},
    };
    const json_t *decode_layer = json_object_get(json_object_get(x.object, "decode"), "layer");
    const json_t *prefill_layer = json_object_get(json_object_get(x.object, "prefill"), "layer");
    assert_int_equal(json_object_size(decode_layer), sizeof wanted / sizeof *wanted);
    double decode, prefill;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        const char *line = line_of(&x, wanted[i].label);
        assert_int_equal(sscanf(line, "%lf ms %lf ms", &decode, &prefill), 2);
        expect_near(decode, 1e3 * wanted[i].decode / 2, 6e-4);
        expect_near(prefill, 1e3 * wanted[i].prefill / 2, 6e-4);
        expect_near(number_at(decode_layer, wanted[i].key), wanted[i].decode / 2, 1e-12);
        expect_near(number_at(prefill_layer, wanted[i].key), wanted[i].prefill / 2, 1e-12);
    }
    assert_int_equal(sscanf(line_of(&x, "all layers  "), "%lf ms %lf ms", &decode, &prefill), 2);
    expect_near(decode, 1e3 * x.decode.step_s, 6e-4);
    expect_near(prefill, 1e3 * x.prefill.step_s, 6e-4);
    assert_int_equal(sscanf(line_of(&x, "head  "), "%lf ms", &decode), 1);
    expect_near(decode, 1e3 * d->head, 6e-4);
    cleanup(&x);
}

/* Of one step: its rate, its bound, and how much of it is the coordinator's. */
static void check_rate(const struct fixture *x, const char *name, const struct cost_step *step,
                       const struct cost_prediction *prediction, double head_s) {
    const struct cost_parts *parts = &prediction->parts;
    double fixed_s = parts->dense + parts->attention + parts->router + parts->shared + head_s;
    double rate = step->rows / (prediction->step_s + head_s), most = step->rows / fixed_s;
    double printed_rate, printed_most, printed_own, printed_wait = 0, got;
    const json_t *work = json_object_get(x->object, name);
    expect_near(number_at(work, "tokens_per_s"), rate, 1e-9 * rate);
    expect_near(number_at(work, "step_s"), prediction->step_s, 0);
    expect_near(number_at(work, "head_s"), parts->head, 0);
    expect_near(number_at(work, "fanout"), prediction->fanout, 0);
    expect_near(number_at(work, "rows"), step->rows, 0);
    expect_near(number_at(work, "parts"), step->micro_batches, 0);
    got = number_at(json_object_get(work, "limit"), "at_most_tokens_per_s");
    expect_near(got, most, 1e-9 * most);
    char label[16];
    snprintf(label, sizeof label, "%-12s", name);
    const char *line = line_of(x, label);
    assert_int_equal(
        sscanf(line, " %lf tokens/s, at most %lf with any workers", &printed_rate, &printed_most),
        2);
    expect_near(printed_rate, rate, 0.006);
    expect_near(printed_most, most, 0.006);
    line = strchr(line, '\n') + 1;
    assert_int_equal(sscanf(line, " the coordinator works %lf %% of the time", &printed_own), 1);
    line = strchr(line, '\n') + 1;
    sscanf(line, " it waits %lf %% for workers", &printed_wait);
    double wait = 100 * parts->wait / (prediction->step_s + head_s);
    expect_near(printed_wait, wait, 0.51);
    expect_near(printed_own, 100 - wait, 0.51);
}

static void test_rates(void **state) {
    (void)state;
    struct fixture x;
    init(&x);
    report(&x);
    check_rate(&x, "decode", &x.report.decode, &x.decode, x.decode.parts.head);
    check_rate(&x, "prefill", &x.report.prefill, &x.prefill, 0);
    assert_string_equal(json_string_value(json_object_get(x.object, "placement")), "some way");
    expect_near(number_at(x.object, "replicas"), 4, 0);
    expect_near(number_at(x.object, "offloaded_bytes"), 12345678, 0);
    expect_near(number_at(x.object, "tried"), 99, 0);
    const json_t *memory = json_object_get(x.object, "memory");
    expect_near(number_at(memory, "experts_bytes"), 16.0 * EXPERT_BYTES, 0);
    expect_near(number_at(memory, "own_bytes"), (double)x.f.outline->own_bytes, 0);
    expect_near(number_at(memory, "cache_bytes"), 10 << 20, 0);
    expect_near(number_at(memory, "coordinator_bytes"), 7.0 * (1 << 30), 0);
    const json_t *other = json_array_get(json_object_get(x.object, "alternatives"), 0);
    expect_near(number_at(other, "decode_tokens_per_s"), 3.25, 0);
    expect_near(number_at(other, "prefill_tokens_per_s"), 44.5, 0);
    cleanup(&x);
}

/* ---- What limits. */

static void slow_reading(struct plan_fixture *f) {
    f->workers[1] = fixture_machine(2, 0.2, 200);
}

static void slow_link(struct plan_fixture *f) {
    f->links[1] = fixture_link(0.01, 50);
}

static void slow_own_link(struct plan_fixture *f) {
    f->input.link_bytes_per_s = 1e6;
}

static void slow_round_trip(struct plan_fixture *f) {
    f->links[0] = fixture_link(10, 50000);
}

static void slow_disk(struct plan_fixture *f) {
    f->workers[0].disk_bytes_per_s = 1e7;
}

static void slow_coordinator(struct plan_fixture *f) {
    f->coordinator = fixture_machine(7, 0.5, 300);
}

static void test_limits(void **state) {
    (void)state;
    static const struct {
        void (*change)(struct plan_fixture *);
        const char *what, *machine, *line, *share;
    } CASES[] = {
        {slow_coordinator, "coordinator", NULL, "limited by the coordinator's own work\n",
         "attention "},
        {slow_reading, "weights", "beta", "limited by how fast workers read weights, mostly beta\n",
         "whose own time is: its experts 9"},
        {slow_link, "link", "beta", "limited by bytes on workers' links, mostly that of beta\n",
         "whose own time is: bytes on links 9"},
        {slow_own_link, "own link", NULL,
         "limited by bytes of all workers on the coordinator's own link\n",
         "whose own time is: bytes on links 9"},
        {slow_round_trip, "round trip", "alpha", "limited by round trips, mostly to alpha\n",
         "whose own time is: round trips 9"},
        {slow_disk, "disk", "alpha",
         "limited by how fast disks read experts, mostly that of alpha\n",
         "whose own time is: reading its disk 9"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct fixture x;
        init(&x);
        CASES[i].change(&x.f);
        report(&x);
        check_rate(&x, "decode", &x.report.decode, &x.decode, x.decode.parts.head);
        const json_t *limit = json_object_get(json_object_get(x.object, "decode"), "limit");
        assert_string_equal(json_string_value(json_object_get(limit, "what")), CASES[i].what);
        const json_t *machine = json_object_get(limit, "machine");
        if (CASES[i].machine)
            assert_string_equal(json_string_value(machine), CASES[i].machine);
        else
            assert_true(json_is_null(machine));
        double wait_s = x.decode.parts.wait, step_s = x.decode.step_s + x.decode.parts.head;
        double part = CASES[i].change == slow_coordinator ? 1 - wait_s / step_s : wait_s / step_s;
        expect_near(number_at(limit, "part"), part, 1e-9);
        assert_true(part > 0.5);
        assert_non_null(strstr(line_of(&x, "decode "), CASES[i].line));
        expect_text(&x, CASES[i].share);
        cleanup(&x);
    }
}

/* ---- What more would give. */

static void test_what_ifs(void **state) {
    (void)state;
    struct fixture x;
    init(&x);
    x.what_ifs = (struct what_ifs){
        .list = {{WHAT_IF_MACHINES, "mini", 1, true, 11.25, 222.5, 0.3},
                 {WHAT_IF_MACHINES, "old", 1, true, 10.75, 211.5, 0.1},
                 {WHAT_IF_COORDINATOR, NULL, 0, true, 9.5, 200, 0},
                 {WHAT_IF_LINKS, NULL, 0, true, 13.75, 233.5, 0.4}},
        .count = 4,
    };
    report(&x);
    double before[2], after[2];
    assert_int_equal(sscanf(line_of(&x, "with more    one more machine like mini: "),
                            "decode %lf -> %lf tokens/s, prefill %lf -> %lf", &before[0], &after[0],
                            &before[1], &after[1]),
                     4);
    expect_near(before[0], number_at(json_object_get(x.object, "decode"), "tokens_per_s"), 0.006);
    expect_near(before[1], number_at(json_object_get(x.object, "prefill"), "tokens_per_s"), 0.006);
    expect_near(after[0], 11.25, 0);
    expect_near(after[1], 222.5, 0);
    expect_text(&x, "             a coordinator twice as fast: no faster\n");
    expect_text(&x, "             links twice as fast: decode ");
    expect_text(&x, "-> 13.75 tokens/s, prefill ");
    assert_null(strstr(x.text, "old")); /* only the best */
    static const char *const WHAT[] = {"one more machine like mini", "one more machine like old",
                                       "a coordinator twice as fast", "links twice as fast"};
    const json_t *list = json_object_get(x.object, "with_one_more");
    assert_true(json_is_true(json_object_get(x.object, "fits")));
    assert_int_equal(json_array_size(list), 4);
    for (uint32_t i = 0; i < 4; i++) {
        const json_t *what = json_array_get(list, i);
        assert_string_equal(json_string_value(json_object_get(what, "what")), WHAT[i]);
        expect_near(number_at(what, "decode_tokens_per_s"), x.what_ifs.list[i].decode_tokens_per_s,
                    0);
        expect_near(number_at(what, "prefill_tokens_per_s"),
                    x.what_ifs.list[i].prefill_tokens_per_s, 0);
        assert_true(json_is_true(json_object_get(what, "fits")));
    }
    cleanup(&x);
}

static void test_unfit(void **state) {
    (void)state;
    struct what_ifs what_ifs = {.list = {{WHAT_IF_MACHINES, "mini", 3, true, 1.5, 20, 0}},
                                .count = 1};
    json_t *object = plan_report_unfit_to_json(&what_ifs);
    assert_true(json_is_false(json_object_get(object, "fits")));
    const json_t *what = json_array_get(json_object_get(object, "with_one_more"), 0);
    assert_string_equal(json_string_value(json_object_get(what, "what")),
                        "3 more machines like mini");
    expect_near(number_at(what, "decode_tokens_per_s"), 1.5, 0);
    expect_near(number_at(what, "prefill_tokens_per_s"), 20, 0);
    assert_true(json_is_true(json_object_get(what, "fits")));
    json_decref(object);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head_of_the_table),
        cmocka_unit_test(test_machines),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_what_ifs),
        cmocka_unit_test(test_unfit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
