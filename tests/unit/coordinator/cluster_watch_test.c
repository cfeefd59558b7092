/* The cluster file while a run goes on: workers that it gains and loses, and a file that is wrong.
 */
#include "tests/unit/coordinator/cluster_fixture.h"

/* Puts a file with these workers in the place of the one that is there. */
static void list_workers(const char *path, const char *first, const char *second) {
    char text[256], next[128];
    snprintf(text, sizeof text, "workers:\n  - '%s'\n%s%s%s", first, second ? "  - '" : "",
             second ? second : "", second ? "'\n" : "");
    snprintf(next, sizeof next, "%s.next", path);
    FILE *file = fopen(next, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    assert_int_equal(rename(next, path), 0);
}

static void wait_leaving(struct cluster *cluster, uint32_t worker) {
    uint64_t started_ns = clock_now_ns();
    for (struct cluster_look look = {0}; !look.leaving;) {
        uint32_t seen = cluster_changes(cluster);
        cluster_look(cluster, worker, &look);
        assert_true(clock_elapsed_s(started_ns) < 20);
        if (!look.leaving)
            cluster_wait(cluster, seen, 1000);
    }
}

/* A worker that the file gains joins in an empty place; one that it loses is let go, is not called
 * any more, and has its place still when it is back in the list. */
static void test_follows_the_file(void **state) {
    (void)state;
    struct worker workers[2];
    char addresses[2][64], path[] = "/tmp/skein-cluster-XXXXXX";
    struct cluster *cluster, *other;
    struct cluster_look look;
    struct plan_table table;
    deal(&table, 1);
    table.placement.holders = 2;
    for (uint32_t i = 0; i < 2; i++) {
        worker_start(&workers[i], FIXTURE_MODEL, 8 << 20);
        snprintf(addresses[i], sizeof addresses[i], "%s", daemon_address(workers[i].daemon));
    }
    close(mkstemp(path));
    list_workers(path, addresses[0], NULL);
    const char *const list[] = {addresses[0], NULL};
    log_file_mark();
    assert_int_equal(cluster_connect(list, 2, model.fingerprint, true, &cluster), STATUS_OK);
    assert_int_equal(log_file_count("goes on without"), 0);
    assert_int_equal(load(cluster, &table, NULL), STATUS_OK);
    close(take_data_fd(cluster, 0));
    cluster_look(cluster, 1, &look);
    assert_null(look.address);
    assert_int_equal(cluster_follow(cluster, path), STATUS_OK);
    list_workers(path, addresses[0], addresses[1]);
    close(wait_serving(cluster, 1, 1, 0));
    cluster_look(cluster, 1, &look);
    assert_string_equal(look.address, addresses[1]);
    list_workers(path, addresses[1], NULL);
    wait_leaving(cluster, 0);
    cluster_dismiss(cluster, 0);
    log_file_expect("serving -> lost");
    enum status status;
    uint64_t started_ns = clock_now_ns();
    do /* busy until it has read our goodbye */
        status = cluster_connect(list, 1, model.fingerprint, false, &other);
    while (status == STATUS_REFUSED && clock_elapsed_s(started_ns) < 20);
    assert_int_equal(status, STATUS_OK);
    log_file_mark();
    list_workers(path, addresses[1], "127.0.0.1:1"); /* no place */
    log_file_expect("1 more workers take part from the next start only");
    list_workers(path, addresses[1], "nowhere");
    log_file_expect("nowhere is not an address");
    log_file_expect("stays as it was");
    assert_int_equal(log_file_count("busy"), 0);
    cluster_destroy(other);
    list_workers(path, addresses[1], addresses[0]);
    close(wait_serving(cluster, 0, 2, SHARDS));
    cluster_look(cluster, 0, &look);
    assert_false(look.leaving);
    cluster_destroy(cluster);
    unlink(path);
    for (uint32_t i = 0; i < 2; i++)
        worker_stop(&workers[i]);
}

int main(void) {
    log_file_begin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_follows_the_file),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
