/* Which copies go, and in which order. */
#include "tests/unit/test.h"

#include "coordinator/rebalance.h"
#include "coordinator/release.h"

#define HOLDERS 3u
#define EXPERTS 2u
#define INNER   32u

static const struct shard_layout LAYOUTS[] = {{64, INNER, WEIGHT_F32, WEIGHT_F32, WEIGHT_F32}};
static const uint32_t ALL[HOLDERS] = {UINT32_MAX, UINT32_MAX, UINT32_MAX};
static const uint32_t WITHOUT_FIRST[HOLDERS] = {0, UINT32_MAX, UINT32_MAX};

static struct placement *create(void) {
    struct placement *placement;
    assert_int_equal(placement_create(LAYOUTS, 1, EXPERTS, HOLDERS, &placement), STATUS_OK);
    return placement;
}

/* A whole copy. */
static void add(struct placement *placement, uint32_t expert, uint32_t holder,
                enum copy_origin origin) {
    const struct shard whole = {0, expert, 0, INNER};
    assert_int_equal(placement_add_more(placement, &whole, holder, origin), STATUS_OK);
}

/* How many copies go. */
static uint32_t release(struct placement *placement, const uint32_t *served) {
    uint32_t removed = 0;
    assert_int_equal(release_copies(placement, served, &removed), STATUS_OK);
    return removed;
}

/* Of the expert's copies, from the first one on. */
static void expect_holders(struct placement *placement, uint32_t expert, uint32_t count,
                           const uint32_t *holders) {
    const struct expert_places *places = placement_find(placement, 0, expert);
    assert_int_equal(places->count, count);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(places->parts[i].holder, holders[i]);
}

/* Nobody used the expert's copies in so many windows. */
static void leave_idle(struct placement *placement, uint32_t expert, uint8_t windows) {
    const struct expert_places *places = placement_find(placement, 0, expert);
    for (uint32_t i = 0; i < places->count; i++)
        places->parts[i].idle = windows;
}

/* As many copies stay as the plan had: one that repair made counts for one that is still lost. */
static void test_keeps_what_the_plan_had(void **state) {
    (void)state;
    struct placement *placement = create();
    add(placement, 0, 0, COPY_PLANNED);
    add(placement, 0, 1, COPY_PLANNED);
    add(placement, 0, 2, COPY_REPAIR);
    add(placement, 1, 0, COPY_PLANNED);
    add(placement, 1, 1, COPY_REPAIR);
    assert_int_equal(release(placement, WITHOUT_FIRST), 0);
    assert_int_equal(release(placement, ALL), 2);
    expect_holders(placement, 0, 2, (const uint32_t[]){0, 1});
    expect_holders(placement, 1, 1, (const uint32_t[]){0});
    placement_destroy(placement);
}

/* Of two that stand in for one that never comes back the newer one goes; one that makes the load
 * even does not stand in for anything. */
static void test_newest_first(void **state) {
    (void)state;
    struct placement *placement = create();
    add(placement, 0, 0, COPY_PLANNED);
    add(placement, 0, 1, COPY_REPAIR);
    add(placement, 0, 2, COPY_BALANCE);
    assert_int_equal(release(placement, WITHOUT_FIRST), 0);
    add(placement, 0, 2, COPY_REPAIR);
    assert_int_equal(release(placement, WITHOUT_FIRST), 1);
    expect_holders(placement, 0, 3, (const uint32_t[]){0, 1, 2});
    assert_int_equal(placement_find(placement, 0, 0)->parts[2].origin, COPY_BALANCE);
    placement_destroy(placement);
}

/* What makes the load even goes once it was idle for longer than allowed, and never what the plan
 * had. */
static void test_idle(void **state) {
    (void)state;
    struct placement *placement = create();
    add(placement, 0, 0, COPY_PLANNED);
    add(placement, 0, 1, COPY_BALANCE);
    add(placement, 0, 2, COPY_BALANCE);
    leave_idle(placement, 0, REBALANCE_IDLE_MAX);
    assert_int_equal(release(placement, ALL), 0);
    leave_idle(placement, 0, REBALANCE_IDLE_MAX + 1);
    assert_int_equal(release(placement, ALL), 2);
    expect_holders(placement, 0, 1, (const uint32_t[]){0});
    placement_destroy(placement);
}

/* The last copy that is served stays, however long nobody used it. */
static void test_last_copy_stays(void **state) {
    (void)state;
    struct placement *placement = create();
    add(placement, 0, 0, COPY_PLANNED);
    add(placement, 0, 1, COPY_BALANCE);
    add(placement, 0, 2, COPY_BALANCE);
    leave_idle(placement, 0, REBALANCE_IDLE_MAX + 1);
    assert_int_equal(release(placement, WITHOUT_FIRST), 1);
    assert_int_equal(release(placement, WITHOUT_FIRST), 0);
    expect_holders(placement, 0, 2, (const uint32_t[]){0, 1});
    placement_destroy(placement);
}

/* Those that repair and rebalance made, at once: what was idle goes, and what stands in for a lost
 * copy stays until that is back. */
static void test_both(void **state) {
    (void)state;
    struct placement *placement = create();
    add(placement, 0, 0, COPY_PLANNED);
    add(placement, 0, 1, COPY_REPAIR);
    add(placement, 0, 2, COPY_BALANCE);
    leave_idle(placement, 0, REBALANCE_IDLE_MAX + 1);
    assert_int_equal(release(placement, WITHOUT_FIRST), 1);
    expect_holders(placement, 0, 2, (const uint32_t[]){0, 1});
    assert_int_equal(release(placement, ALL), 1);
    expect_holders(placement, 0, 1, (const uint32_t[]){0});
    placement_destroy(placement);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keeps_what_the_plan_had),
        cmocka_unit_test(test_newest_first),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_last_copy_stays),
        cmocka_unit_test(test_both),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
