/* Addresses from the option and from a file, and every list that is refused. */
#include "tests/unit/test.h"

#include <unistd.h>

#include "common/cluster_limits.h"
#include "coordinator/worker_list.h"

static void test_option(void **state) {
    (void)state;
    struct worker_list list = {0};
    assert_int_equal(worker_list_split("a:1,b:2,[::1]:3", &list), STATUS_OK);
    assert_int_equal(list.count, 3);
    assert_string_equal(list.addresses[0], "a:1");
    assert_string_equal(list.addresses[2], "[::1]:3");
    worker_list_cleanup(&list);
}

static void expect_refused(const char *text, const char *words) {
    struct worker_list list = {0};
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(worker_list_split(text, &list), STATUS_USAGE);
    log_capture_expect(&capture, "--workers", words, NULL);
    assert_null(list.addresses);
}

static void test_option_refused(void **state) {
    (void)state;
    expect_refused("a:1,b:2,a:1", "names a:1 twice");
    expect_refused("", "empty entry");
    expect_refused("a:1,,b:2", "empty entry");
    char many[(WORKERS_MAX + 1) * 8] = "";
    for (int i = 0; i <= WORKERS_MAX; i++)
        sprintf(many + strlen(many), "%sh:%d", i ? "," : "", i);
    expect_refused(many, "more than 256 workers");
}

static enum status read_text(const char *text, struct worker_list *out) {
    char path[] = "/tmp/skein-cluster-XXXXXX";
    int fd = mkstemp(path);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    enum status status = worker_list_read(path, out);
    unlink(path);
    return status;
}

static void test_file(void **state) {
    (void)state;
    struct worker_list list = {0};
    assert_int_equal(
        read_text("workers:\n  - 10.0.0.2:7717\n  - {address: 'pc:7718', name: pc}\n", &list),
        STATUS_OK);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.addresses[1], "pc:7718");
    worker_list_cleanup(&list);
}

static void expect_file_refused(const char *text, const char *words) {
    struct worker_list list = {0};
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_not_equal(read_text(text, &list), STATUS_OK);
    log_capture_expect(&capture, "/tmp/skein-cluster-", words, NULL);
}

static void test_file_refused(void **state) {
    (void)state;
    expect_file_refused("workers: []\n", "names no worker");
    expect_file_refused("workers: [a:1, a:1]\n", "names a:1 twice");
    expect_file_refused("machines: [a:1]\n", "machines");
    expect_file_refused("workers: [a:1\n", "not valid YAML");
    expect_file_refused("workers: [a:1, {name: b, memory: 1G, read_gb_per_s: 1, gops: 1}]\n",
                        "worker 2, b has no address");
    struct worker_list list = {0};
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(worker_list_read("/nowhere/cluster.yaml", &list), STATUS_NOT_FOUND);
    log_capture_expect(&capture, "/nowhere/cluster.yaml", NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_option),
        cmocka_unit_test(test_option_refused),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_file_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
