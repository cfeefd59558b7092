/* What further and faster machines would give, on machines that exist only as figures: which of
 * them helps where one obviously must, and how many more are needed where nothing fits. */
#include "tests/unit/coordinator/plan_fixture.h"

#include "coordinator/what_if.h"

static const char *const KINDS[] = {"a", "b", "c", "d", "e", "f", "g", "h"};

static const struct what_if *find_change(const struct what_ifs *list, enum what_if_change change) {
    for (uint32_t i = 0; i < list->count; i++)
        if (list->list[i].change == change)
            return &list->list[i];
    fail_msg("change %d is not in the list", change);
    return NULL;
}

/* Plans, and finds what more would give; every change is at least as fast as what there is. */
static void find(struct plan_fixture *f, struct what_ifs *out) {
    assert_int_equal(fixture_plan(f), STATUS_OK);
    assert_int_equal(what_if_find(&f->input, f->planning, KINDS, out), STATUS_OK);
    for (uint32_t i = 0; i < out->count; i++) {
        const struct what_if *what = &out->list[i];
        assert_true(what->fits && what->gain >= 0 && what->gain < 1);
        bool same = what->decode_tokens_per_s == fixture_rate(f, &f->input.decode);
        assert_true(what->gain > 0 || same);
    }
}

/* Workers that are slow ask for one more, and rather for the faster kind; workers with nearly the
 * same figures are one kind. */
static void test_best_machine_first(void **state) {
    (void)state;
    struct plan_fixture f;
    struct what_ifs list;
    struct model_shape shape = fixture_shape_lite();
    struct machine_figures slow = fixture_machine(16, 5, 50);
    const struct link_figures link = fixture_link(25, 20);
    fixture_init(&f, shape, "q4_0", 3, slow, link, 0);
    f.workers[1] = fixture_machine(16, 5.2, 52);
    f.workers[2] = fixture_machine(16, 10, 100);
    f.coordinator = fixture_machine(64, 200, 2000);
    find(&f, &list);
    assert_int_equal(list.count, 4);
    assert_string_equal(list.list[0].like, "c");
    assert_string_equal(list.list[1].like, "a");
    assert_int_equal(list.list[0].more, 1);
    assert_true(list.list[0].gain > list.list[1].gain && list.list[1].gain > 0.05);
    assert_true(list.list[0].gain > 3 * find_change(&list, WHAT_IF_LINKS)->gain);
    assert_true(list.list[0].gain > 3 * find_change(&list, WHAT_IF_COORDINATOR)->gain);
    double before = fixture_rate(&f, &f.input.decode);
    fixture_cleanup(&f);

    /* What is said of a further machine is what a plan with it gives. */
    fixture_init(&f, shape, "q4_0", 4, slow, link, 0);
    f.workers[1] = fixture_machine(16, 5.2, 52);
    f.workers[2] = f.workers[3] = fixture_machine(16, 10, 100);
    f.coordinator = fixture_machine(64, 200, 2000);
    assert_int_equal(fixture_plan(&f), STATUS_OK);
    double after = fixture_rate(&f, &f.input.decode);
    assert_true(after > 1.1 * before);
    assert_true(list.list[0].decode_tokens_per_s > 0.97 * after);
    assert_true(list.list[0].decode_tokens_per_s < 1.03 * after);
    fixture_cleanup(&f);
}

static void test_slow_coordinator(void **state) {
    (void)state;
    struct plan_fixture f;
    struct what_ifs list;
    fixture_init(&f, fixture_shape_lite(), "q4_0", 4, fixture_machine(16, 100, 1000),
                 fixture_link(25, 20), 0);
    f.coordinator = fixture_machine(16, 10, 100);
    find(&f, &list);
    assert_true(find_change(&list, WHAT_IF_COORDINATOR)->gain > 0.3);
    assert_true(find_change(&list, WHAT_IF_MACHINES)->gain < 0.05);
    assert_true(find_change(&list, WHAT_IF_LINKS)->gain < 0.1);
    fixture_cleanup(&f);
}

static void test_slow_links(void **state) {
    (void)state;
    struct plan_fixture f;
    struct what_ifs list;
    const struct link_figures link = fixture_link(0.5, 1000);
    fixture_init(&f, fixture_shape_lite(), "q4_0", 4, fixture_machine(16, 100, 1000), link, 0);
    find(&f, &list);
    assert_true(find_change(&list, WHAT_IF_LINKS)->gain > 0.25);
    assert_true(find_change(&list, WHAT_IF_MACHINES)->gain < 0.05);
    assert_true(find_change(&list, WHAT_IF_COORDINATOR)->gain < 0.1);
    /* The coordinator's own link as well, where that is what all have to pass. */
    for (int w = 0; w < 4; w++)
        f.links[w] = fixture_link(50, 10);
    f.input.link_bytes_per_s = 0.1 * 1.25e8;
    f.input.objective = OPTIMIZE_PREFILL;
    find(&f, &list);
    assert_true(find_change(&list, WHAT_IF_LINKS)->gain > 0.25);
    fixture_cleanup(&f);
}

/* Six kinds at most are tried. */
static void test_many_kinds(void **state) {
    (void)state;
    struct plan_fixture f;
    struct what_ifs list;
    fixture_init(&f, fixture_shape_grouped(3), "q4_0", 8, fixture_machine(16, 20, 200),
                 fixture_link(10, 50), 0);
    for (uint32_t w = 0; w < 8; w++)
        f.workers[w] = fixture_machine(16, 10 * (w + 1), 200);
    find(&f, &list);
    assert_int_equal(list.count, WHAT_IF_MAX);
    for (uint32_t i = 1; i < WHAT_IF_KINDS_MAX; i++)
        assert_true(list.list[i - 1].gain >= list.list[i].gain);
    fixture_cleanup(&f);
}

static void test_unknown_figures(void **state) {
    (void)state;
    struct plan_fixture f;
    struct what_ifs list;
    fixture_init(&f, fixture_shape_grouped(2), "q4_0", 2, fixture_machine(16, 20, 200),
                 fixture_link(1, 100), 0);
    f.input.coordinator = NULL;
    find(&f, &list);
    assert_int_equal(list.count, 0);
    fixture_cleanup(&f);
}

/* So many more of the largest that it just fits, and no line in the log. */
static void test_fit(void **state) {
    (void)state;
    struct plan_fixture f;
    struct what_ifs list;
    const struct link_figures link = fixture_link(10, 60);
    fixture_init(&f, fixture_shape_lite(), "q4_0", 3, fixture_machine(1, 20, 200), link, 0);
    uint64_t total = fixture_expert_bytes(&f);
    f.workers[0].memory_bytes = f.workers[2].memory_bytes = total / 20;
    f.workers[1].memory_bytes = total / 6;
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(fixture_plan(&f), STATUS_NO_MEMORY);
    assert_int_equal(what_if_fit(&f.input, KINDS, &list), STATUS_OK);
    log_capture_expect(&capture, "missing", NULL); /* one line, of the plan itself */
    assert_int_equal(list.count, 1);
    const struct what_if *what = &list.list[0];
    assert_true(what->fits && what->change == WHAT_IF_MACHINES);
    assert_string_equal(what->like, "b");
    /* 1 - 1 / 6 - 2 / 20 in sixths is 4.4; whole experts and quanta may ask for one more. */
    assert_true(what->more == 5 || what->more == 6);
    assert_true(what->decode_tokens_per_s > 0 && what->prefill_tokens_per_s > 0);
    for (uint32_t w = 3; w < 3 + what->more; w++) {
        f.workers[w] = f.workers[1];
        f.links[w] = link;
    }
    f.input.worker_count = 3 + what->more;
    fixture_plan_sound(&f);
    f.input.worker_count = 3;
    /* A thousand would be needed. */
    for (int w = 0; w < 3; w++)
        f.workers[w].memory_bytes = total / 1000;
    f.input.quiet = true;
    assert_int_equal(fixture_plan(&f), STATUS_NO_MEMORY);
    assert_int_equal(what_if_fit(&f.input, KINDS, &list), STATUS_OK);
    assert_false(list.list[0].fits);
    fixture_cleanup(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_machine_first), cmocka_unit_test(test_slow_coordinator),
        cmocka_unit_test(test_slow_links),         cmocka_unit_test(test_many_kinds),
        cmocka_unit_test(test_unknown_figures),    cmocka_unit_test(test_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
