/* Times of a model and machines that are small enough to reckon by hand. */
#include "tests/unit/coordinator/plan_fixture.h"

#include <math.h>

#include "proto/wire.h"

static void expect_near(double got, double want, double tolerance) {
    if (!(fabs(got / want - 1) <= tolerance))
        fail_msg("%.9g, expected %.9g", got, want);
}

/* Two workers and no coordinator's share; everything in BF16, so that bytes are easy. */
static void init(struct plan_fixture *f, double gbit_per_s, double round_trip_us) {
    fixture_init(f, fixture_shape_lite(), "bf16", 2, fixture_machine(64, 10, 100),
                 fixture_link(gbit_per_s, round_trip_us), 0);
}

/* Of the rates that machines have, loops of a model reach nine tenths. */
#define READ_RATE 9e9
#define MAC_RATE  45e9
/* One layer's routed experts that a token meets, in bytes. */
#define TOKEN_BYTES   (6 * 3 * 2048.0 * 1408 * 2)
#define EXPERT_LAYERS 26
#define HEADER        sizeof(struct wire_header)

static void predict(struct plan_fixture *f, const struct cost_step *step,
                    struct cost_prediction *out) {
    assert_int_equal(fixture_plan(f), STATUS_OK);
    assert_true(planning_predict(f->planning, step, out));
}

static void test_decode_parts(void **state) {
    (void)state;
    struct plan_fixture f;
    struct cost_prediction *p = calloc(1, sizeof *p);
    init(&f, 8, 100);
    f.input.kind = PLACEMENT_SLICES;
    const struct cost_step step = {1, 0, 1};
    predict(&f, &step, p);
    /* Attention of V2-Lite: q, kv_a, kv_b and o; and a third of what Wk takes in f32. */
    double attention = 2.0 * (16 * 192 * 2048 + 576 * 2048 + 16 * 256 * 512 + 2048 * 16 * 128) +
                       4.0 * 16 * 128 * 512 / 3;
    expect_near(p->parts.attention, EXPERT_LAYERS * attention / READ_RATE, 0.001);
    expect_near(p->parts.router, EXPERT_LAYERS * 64 * 2048 * 4.0 / READ_RATE, 0.001);
    expect_near(p->parts.shared, EXPERT_LAYERS * 3.0 * 2048 * 2816 * 2 / READ_RATE, 0.001);
    expect_near(p->parts.dense, (attention + 3.0 * 2048 * 10944 * 2) / READ_RATE, 0.001);
    expect_near(p->parts.head, 102400.0 * 2048 * 2 / READ_RATE, 0.001);
    assert_true(p->parts.experts == 0);
    /* Each worker reads half of every expert; both rows of 8 KiB pass the coordinator's 1 GB/s. */
    expect_near(p->holders[0].busy_s, EXPERT_LAYERS * TOKEN_BYTES / 2 / READ_RATE, 0.01);
    expect_near(p->parts.compute, EXPERT_LAYERS * (TOKEN_BYTES / 2 / READ_RATE + 25e-6), 0.01);
    expect_near(p->parts.round_trip, EXPERT_LAYERS * 100e-6, 1e-9);
    expect_near(p->parts.out, EXPERT_LAYERS * 2 * (8192 + HEADER + 6 * 12) / 1e9, 1e-6);
    expect_near(p->parts.in, EXPERT_LAYERS * 2 * (8192 + HEADER) / 1e9, 1e-6);
    expect_near(p->fanout, 2, 1e-9);
    /* What the coordinator does meanwhile is hidden. */
    const struct cost_parts *parts = &p->parts;
    expect_near(p->step_s,
                parts->dense + parts->attention + parts->router + parts->send + parts->combine +
                    parts->round_trip + parts->out + parts->compute + parts->in,
                1e-9);
    expect_near(parts->wait,
                parts->round_trip + parts->out + parts->compute + parts->in - parts->shared, 1e-6);
    free(p);
    fixture_cleanup(&f);
}

/* A token with six experts on two machines: the busier one has 3 to 6 of them, 4.0 on average
 * (binomial, near enough), which is more than the mean of 3. */
static void test_expected_maximum(void **state) {
    (void)state;
    struct plan_fixture f;
    struct cost_prediction *p = calloc(1, sizeof *p);
    init(&f, 1000, 1);
    f.input.kind = PLACEMENT_EXPERTS;
    f.input.replicas = REPLICAS_NONE;
    const struct cost_step step = {1, 0, 1};
    predict(&f, &step, p);
    double compute = p->parts.compute / EXPERT_LAYERS - 25e-6;
    double busiest = compute / (TOKEN_BYTES / 6 / READ_RATE);
    assert_true(busiest > 3.8 && busiest < 4.0);
    /* Half of the tokens' work each all the same. */
    expect_near(p->holders[0].busy_s + p->holders[1].busy_s,
                EXPERT_LAYERS * TOKEN_BYTES / READ_RATE, 0.001);
    assert_true(p->fanout > 1.9 && p->fanout < 2);
    free(p);
    fixture_cleanup(&f);
}

/* Large batches multiply, small ones read: an expert is read once however many rows it gets. */
static void test_batch(void **state) {
    (void)state;
    struct plan_fixture f;
    struct cost_prediction *p = calloc(1, sizeof *p);
    init(&f, 8, 100);
    f.input.kind = PLACEMENT_SLICES;
    struct cost_step step = {4096, 0, 1};
    predict(&f, &step, p);
    double macs = 4096.0 * 6 * 3 * 2048 * 1408;
    expect_near(p->holders[0].busy_s, EXPERT_LAYERS * macs / 2 / MAC_RATE, 0.01);
    step.rows = 16;
    predict(&f, &step, p);
    double touched = 64 * (1 - pow(1 - 6.0 / 64, 16));
    expect_near(p->holders[0].busy_s, EXPERT_LAYERS * touched * TOKEN_BYTES / 6 / 2 / READ_RATE,
                0.01);
    free(p);
    fixture_cleanup(&f);
}

/* What a layer of n micro-batches takes, from the parts of all: the coordinator's own work, the
 * busiest worker or link, or one of them from attention to sums, whichever is longest. */
enum longest { OWN, OCCUPIED, ONE };

static enum longest longest_of(const struct cost_parts *parts, uint32_t n, double *seconds) {
    double per = EXPERT_LAYERS * (double)n; /* all of the same size */
    double before = parts->attention + parts->router + parts->send;
    double local = parts->shared + parts->experts;
    double remote = parts->round_trip + parts->out + parts->compute + parts->in;
    double times[] = {(before + local + parts->combine) / per * n,
                      fmax(parts->compute, fmax(parts->out, parts->in)) / per * n,
                      (before + fmax(local, remote) + parts->combine) / per};
    enum longest longest = ONE;
    for (enum longest i = OWN; n > 1 && i < ONE; i++)
        if (times[i] > times[longest])
            longest = i;
    *seconds = times[longest];
    return longest;
}

/* Micro-batches hide what is not the longest, and weights are read once for each. */
static void test_micro_batches(void **state) {
    (void)state;
    static const struct {
        double gbit_per_s, round_trip_us;
        uint32_t rows, parts;
        enum longest longest;
    } cases[] = {{8, 100, 1024, 1, ONE},         {8, 100, 1024, 2, OWN},
                 {0.2, 100, 1024, 2, ONE},       {0.2, 100, 1024, 4, OWN},
                 {0.1, 100, 1024, 2, ONE},       {0.1, 100, 1024, 4, OCCUPIED},
                 {0.01, 100, 1024, 4, OCCUPIED}, {8, 200000, 64, 4, ONE}};
    struct cost_prediction *p = calloc(1, sizeof *p);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plan_fixture f;
        init(&f, cases[i].gbit_per_s, cases[i].round_trip_us);
        f.input.kind = PLACEMENT_SLICES;
        uint32_t parts = cases[i].parts;
        const struct cost_step step = {cases[i].rows, 0, parts};
        predict(&f, &step, p);
        double layer_s, rows = (double)step.rows / parts;
        enum longest longest = longest_of(&p->parts, parts, &layer_s);
        assert_int_equal(longest, cases[i].longest);
        expect_near(p->step_s, p->parts.dense + EXPERT_LAYERS * layer_s, 1e-9);
        double touched = 64 * (1 - pow(1 - 6.0 / 64, rows));
        double read_s = touched * TOKEN_BYTES / 6 / 2 / READ_RATE;
        double multiply_s = rows * 6 * 3 * 2048 * 1408 / 2 / MAC_RATE;
        expect_near(p->holders[0].busy_s, EXPERT_LAYERS * parts * fmax(read_s, multiply_s), 0.01);
        expect_near(p->holders[0].rows, EXPERT_LAYERS * (double)step.rows, 1e-6);
        fixture_cleanup(&f);
    }
    free(p);
}

/* As many parts as gain: none for one row, more where a slow link and this machine take as long. */
static void test_best_division(void **state) {
    (void)state;
    struct plan_fixture f;
    init(&f, 0.2, 100);
    f.input.kind = PLACEMENT_SLICES;
    f.input.wire = "f32";
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    struct batch_division division = planning_divide(f.planning, 1024);
    assert_int_equal(division.parts[0], 1);
    assert_int_equal(division.parts[11], 0); /* no steps of 2048 rows */
    struct cost_prediction *p = calloc(3, sizeof *p);
    for (uint32_t size = 2; size <= 10; size++) {
        double fastest = INFINITY;
        uint32_t best = 0;
        for (uint32_t i = 0; i < 3; i++) {
            const struct cost_step step = {1u << size, f.input.prefill.context, 1u << i};
            assert_true(planning_predict(f.planning, &step, &p[i]));
            if (p[i].step_s >= 0.98 * fastest)
                continue;
            fastest = p[i].step_s;
            best = step.micro_batches;
        }
        assert_int_equal(division.parts[size], best);
    }
    assert_int_equal(division.parts[10], 4);
    free(p);
    fixture_cleanup(&f);
}

/* Eight links of 1 Gbit/s at a coordinator with one of them share that one. */
static void test_coordinators_link(void **state) {
    (void)state;
    struct plan_fixture f;
    struct cost_prediction *p = calloc(1, sizeof *p);
    fixture_init(&f, fixture_shape_lite(), "bf16", 8, fixture_machine(64, 10, 100),
                 fixture_link(1, 100), 0);
    f.input.kind = PLACEMENT_SLICES;
    f.input.link_bytes_per_s = 10 * 1.25e8;
    predict(&f, &f.input.prefill, p);
    double wide = p->parts.out;
    f.input.link_bytes_per_s = 0; /* as fast as the fastest worker's */
    predict(&f, &f.input.prefill, p);
    expect_near(p->parts.out, 8 * wide, 0.01);
    free(p);
    fixture_cleanup(&f);
}

/* A format without a figure is multiplied like the slowest that has one, and read like memory. */
static void test_missing_formats(void **state) {
    (void)state;
    struct plan_fixture f;
    struct cost_prediction *p = calloc(1, sizeof *p);
    init(&f, 8, 100);
    f.input.kind = PLACEMENT_SLICES;
    for (int w = 0; w < 2; w++) {
        memset(f.workers[w].formats, 0, sizeof f.workers[w].formats);
        f.workers[w].formats[WEIGHT_Q4_K] = (struct format_figures){7e9, 25e9};
        f.workers[w].formats[WEIGHT_F32] = (struct format_figures){9e9, 60e9};
    }
    struct cost_step step = {4096, 0, 1};
    predict(&f, &step, p);
    expect_near(p->holders[0].busy_s, EXPERT_LAYERS * 4096.0 * 6 * 3 * 2048 * 1408 / 2 / 22.5e9,
                0.01);
    step.rows = 1;
    predict(&f, &step, p);
    expect_near(p->holders[0].busy_s, EXPERT_LAYERS * TOKEN_BYTES / 2 / READ_RATE, 0.01);
    free(p);
    fixture_cleanup(&f);
}

/* What all rows meet, cut in two: the coordinator reads less of it, the worker more, and a dense
 * layer waits for whoever takes longer. */
static void test_offload(void **state) {
    (void)state;
    struct plan_fixture f;
    struct cost_prediction *alone = calloc(1, sizeof *alone), *shared = calloc(1, sizeof *shared);
    init(&f, 8, 100);
    f.input.kind = PLACEMENT_SLICES;
    const struct cost_step step = {1, 0, 1};
    predict(&f, &step, alone);
    f.input.offload = OFFLOAD_AUTO;
    predict(&f, &step, shared);
    const struct placement *placement = fixture_placement(&f);
    double own = 0, worker = 0;
    for (uint32_t layer = 0; layer < 27; layer++) {
        const struct expert_places *places = placement_find(placement, layer, SHARD_FFN);
        double begin = places->count ? places->parts[0].begin : f.layouts[27 + layer].inner;
        own += layer > 0 ? begin : 0;
        for (uint32_t i = 0; i < places->count; i++)
            worker +=
                places->parts[i].holder == 0 ? places->parts[i].end - places->parts[i].begin : 0;
    }
    double dense = placement_find(placement, 0, SHARD_FFN)->parts[0].begin;
    expect_near(shared->parts.shared, (own + dense) * 3 * 2048 * 2 / READ_RATE, 0.001);
    expect_near(shared->holders[0].busy_s,
                alone->holders[0].busy_s + worker * 3 * 2048 * 2 / READ_RATE, 0.001);
    assert_true(shared->parts.dense == 0 && shared->layer_s[0] < 0.6 * alone->layer_s[0]);
    assert_true(shared->step_s < alone->step_s);
    /* A third of the head each; the workers' logits travel, which 50 us and 25 us come on top of.
     */
    assert_true(shared->parts.head < 0.6 * alone->parts.head);
    assert_true(shared->parts.head > alone->parts.head / 3);
    expect_near(shared->fanout, 2, 1e-9);
    free(alone);
    free(shared);
    fixture_cleanup(&f);
}

/* Each worker has memory for a bit more than half of its half, and a disk of 1 GB/s for the rest.
 */
static void test_disk(void **state) {
    (void)state;
    struct plan_fixture f;
    struct cost_prediction *p = calloc(1, sizeof *p);
    init(&f, 8, 100);
    f.input.kind = PLACEMENT_SLICES;
    uint64_t total = fixture_expert_bytes(&f);
    for (int w = 0; w < 2; w++) {
        f.workers[w].memory_bytes = total / 4;
        f.workers[w].spill_bytes = total;
        f.workers[w].disk_bytes_per_s = 1e9;
    }
    const struct cost_step step = {1, 0, 1};
    predict(&f, &step, p);
    fixture_check(&f);
    const struct holder_shards held = fixture_placement(&f)->held[0];
    double part = (double)held.spilled_bytes / (double)held.bytes;
    /* An eighth of the memory is for reading: 9/16 of what it holds are on the disk. */
    expect_near(part, 9.0 / 16, 0.02);
    double disk_s = EXPERT_LAYERS * TOKEN_BYTES / 2 * part / 0.9e9;
    double read_s = EXPERT_LAYERS * TOKEN_BYTES / 2 / READ_RATE;
    expect_near(p->holders[0].disk_s, disk_s, 0.05);
    /* Reading from the disk hides computing in all but the few layers without any of it. */
    expect_near(p->holders[0].busy_s, disk_s, 0.1);
    assert_true(p->parts.compute > disk_s && p->parts.disk < p->parts.compute);
    assert_true(p->parts.disk > disk_s - read_s);
    /* A batch that touches everything reads all that is there once. */
    const struct cost_step batch = {4096, 0, 1};
    predict(&f, &batch, p);
    expect_near(p->holders[0].disk_s, (double)held.spilled_bytes / 0.9e9, 0.01);
    free(p);
    fixture_cleanup(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_parts),
        cmocka_unit_test(test_expected_maximum),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_micro_batches),
        cmocka_unit_test(test_best_division),
        cmocka_unit_test(test_coordinators_link),
        cmocka_unit_test(test_missing_formats),
        cmocka_unit_test(test_offload),
        cmocka_unit_test(test_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
