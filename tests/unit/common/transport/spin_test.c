/* The choice between sleeping and looking, against waits that are made up: each way takes what the
 * test says, so the choice that a wait's length should lead to is known. */
#include "tests/unit/test.h"

#include "common/cluster_limits.h"
#include "common/transport/spin.h"

struct outcome {
    uint32_t looks;
    uint64_t longest_ns; /* that a wait might have looked */
};

/* `waits` waits: those that look last `look_ns`, the others `sleep_ns`. */
static struct outcome wait_often(struct spin *spin, uint32_t waits, uint64_t sleep_ns,
                                 uint64_t look_ns) {
    struct outcome outcome = {0};
    for (uint32_t i = 0; i < waits; i++) {
        uint64_t allowed_ns = spin_begin(spin);
        outcome.looks += allowed_ns > 0;
        if (allowed_ns > outcome.longest_ns)
            outcome.longest_ns = allowed_ns;
        spin_end(spin, allowed_ns ? look_ns : sleep_ns);
    }
    return outcome;
}

static void test_looks_where_that_is_shorter(void **state) {
    (void)state;
    struct spin spin;
    spin_init(&spin, 2);
    wait_often(&spin, 1000, 50000, 40000);
    assert_true(wait_often(&spin, 1000, 50000, 40000).looks > 900);
}

static void test_sleeps_where_looking_is_in_the_way(void **state) {
    (void)state;
    struct spin spin;
    spin_init(&spin, 2);
    wait_often(&spin, 100000, 50000, 80000);
    assert_in_range(wait_often(&spin, 100000, 50000, 80000).looks, 1, 250);
}

static void test_changes_its_mind(void **state) {
    (void)state;
    struct spin spin;
    spin_init(&spin, 2);
    wait_often(&spin, 1000, 50000, 40000);
    wait_often(&spin, 20000, 50000, 80000);
    assert_true(wait_often(&spin, 1000, 50000, 80000).looks < 100);
    wait_often(&spin, 20000, 50000, 40000);
    assert_true(wait_often(&spin, 1000, 50000, 40000).looks > 900);
}

static void test_never_looks_with_one_processor(void **state) {
    (void)state;
    struct spin spin;
    spin_init(&spin, 1);
    assert_int_equal(wait_often(&spin, 10000, 50000, 10).looks, 0);
}

static void test_never_looks_where_waits_are_long(void **state) {
    (void)state;
    struct spin spin;
    spin_init(&spin, 2);
    wait_often(&spin, 1000, 50000, 40000);
    wait_often(&spin, 100, 10000000, 10000000);
    assert_int_equal(wait_often(&spin, 10000, 10000000, 10).looks, 0);
    /* A long pause is soon forgotten. */
    wait_often(&spin, 1000, 50000, 40000);
    assert_true(wait_often(&spin, 1000, 50000, 40000).looks > 900);
}

/* Twice the usual wait, and a bound. */
static void test_follows_the_round_trip(void **state) {
    (void)state;
    struct spin spin;
    spin_init(&spin, 2);
    wait_often(&spin, 1000, 50000, 40000);
    assert_in_range(wait_often(&spin, 50, 50000, 40000).longest_ns, 70000, 90000);
    spin_init(&spin, 2);
    assert_in_range(wait_often(&spin, 2000, 190000, 180000).longest_ns, 1, SPIN_NS_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_looks_where_that_is_shorter),
        cmocka_unit_test(test_sleeps_where_looking_is_in_the_way),
        cmocka_unit_test(test_changes_its_mind),
        cmocka_unit_test(test_never_looks_with_one_processor),
        cmocka_unit_test(test_never_looks_where_waits_are_long),
        cmocka_unit_test(test_follows_the_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
