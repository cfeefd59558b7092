/* Clusters as files describe them, and every file that is refused. */
#include "tests/unit/files.h"

#include "common/limits.h"
#include "coordinator/cluster_file.h"

static enum status read_text(const char *text, struct cluster_file *out) {
    char directory[64], path[96];
    test_directory_make(directory);
    test_file_write(directory, "cluster.yaml", text);
    snprintf(path, sizeof path, "%s/cluster.yaml", directory);
    enum status status = cluster_file_read(path, out);
    test_directory_remove(directory);
    return status;
}

static void expect_near(double got, double want) {
    if (!(got > want * 0.999999 && got < want * 1.000001))
        fail_msg("%g, expected %g", got, want);
}

static void test_everything(void **state) {
    (void)state;
    struct cluster_file file;
    assert_int_equal(
        read_text("link: {gbit_per_s: 10, round_trip_us: 80}\n"
                  "coordinator: {memory: 32G, read_gb_per_s: 60, gops: 500, threads: 8}\n"
                  "workers:\n"
                  "  - 10.0.0.2:7717\n"
                  "  - {name: old PC, address: 'pc:7717'}\n"
                  "  - {name: mini, count: 2, memory: 16G, read_gb_per_s: 40, gops: 300}\n"
                  "  - {memory: 512M, read_gb_per_s: 1.5, gops: {q4_k: 90, BF16: 40},\n"
                  "     link_gbit_per_s: 2.5, round_trip_us: 200, address: 'x:1', spill: 3G,\n"
                  "     disk_gb_per_s: 1.5}\n",
                  &file),
        STATUS_OK);
    assert_int_equal(file.count, 5);
    assert_string_equal(file.workers[0].address, "10.0.0.2:7717");
    assert_false(file.workers[0].described);
    assert_string_equal(file.workers[1].name, "old PC");
    assert_string_equal(file.workers[1].address, "pc:7717");
    const struct cluster_machine *mini = &file.workers[2];
    assert_string_equal(mini->name, "mini 1");
    assert_string_equal(file.workers[3].name, "mini 2");
    assert_string_equal(file.workers[3].kind, "mini");
    assert_true(mini->described && !mini->address);
    assert_int_equal(mini->figures.memory_bytes, 16ull << 30);
    expect_near(mini->figures.read_bytes_per_s, 40e9);
    expect_near(mini->figures.formats[WEIGHT_Q4_K].decode_bytes_per_s, 38e9);
    expect_near(mini->figures.formats[WEIGHT_F32].batch_macs_per_s, 150e9);
    expect_near(mini->link.round_trip_s, 80e-6);
    expect_near(mini->link.to_bytes_per_s, 10e9 / 8 * 0.94);
    const struct cluster_machine *last = &file.workers[4];
    assert_true(last->described && last->address);
    expect_near(last->figures.formats[WEIGHT_Q4_K].batch_macs_per_s, 45e9);
    expect_near(last->figures.formats[WEIGHT_BF16].batch_macs_per_s, 20e9);
    assert_true(last->figures.formats[WEIGHT_F32].batch_macs_per_s == 0);
    expect_near(last->link.from_bytes_per_s, 2.5e9 / 8 * 0.94);
    expect_near(last->link.round_trip_s, 200e-6);
    assert_int_equal(last->figures.spill_bytes, 3ull << 30);
    expect_near(last->figures.disk_bytes_per_s, 1.5e9);
    assert_int_equal(mini->figures.spill_bytes, 0);
    assert_true(file.coordinator.described);
    assert_int_equal(file.coordinator.figures.threads, 8);
    assert_true(file.coordinator.link.to_bytes_per_s == 0);
    cluster_file_cleanup(&file);
}

static void test_defaults(void **state) {
    (void)state;
    struct cluster_file file;
    assert_int_equal(
        read_text("workers: [{memory: 1G, read_gb_per_s: 1, gops: 1}]\n"
                  "coordinator: {memory: 1G, read_gb_per_s: 1, gops: 1, link_gbit_per_s: 10}\n",
                  &file),
        STATUS_OK);
    assert_null(file.workers[0].name);
    assert_null(file.workers[0].kind);
    expect_near(file.workers[0].link.to_bytes_per_s, 1e9 / 8 * 0.94);
    expect_near(file.workers[0].link.round_trip_s, 150e-6);
    expect_near(file.coordinator.link.to_bytes_per_s, 10e9 / 8 * 0.94);
    cluster_file_cleanup(&file);
    assert_int_equal(read_text("workers: a:1\n", &file), STATUS_OK);
    assert_int_equal(file.count, 1);
    assert_false(file.coordinator.described);
    cluster_file_cleanup(&file);
}

static void expect_refused(const char *text, const char *words) {
    struct cluster_file file;
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_not_equal(read_text(text, &file), STATUS_OK);
    log_capture_expect(&capture, "cluster.yaml", words, NULL);
}

static void test_refused(void **state) {
    (void)state;
    expect_refused("", "names no worker");
    expect_refused("workers: []\n", "names no worker");
    expect_refused("- a:1\n", "must be a mapping with the key workers");
    expect_refused("just text\n", "must be a mapping with the key workers");
    expect_refused("workers: [a:1\n", "not valid YAML");
    expect_refused("workers: [a:1, a:1]\n", "names a:1 twice");
    expect_refused("workers: [{address: 'a:1'}, a:1]\n", "names a:1 twice");
    expect_refused("worker: [a:1]\n", ":1: unknown key worker; did you mean workers");
    expect_refused("workers: [a:1]\nworkers: [b:1]\n", ":2: workers stands here a second time");
    expect_refused("? [a, b]\n: c\n", "unknown key that is no text");
    expect_refused("workers: {a: 1}\n", ":1: workers must be a list");
    expect_refused("workers:\n  - [a:1]\n", ":2: a worker must be a mapping");
    expect_refused("workers:\n  - ''\n", ":2: a worker must be text");
    expect_refused("workers: [\"a\\tb\"]\n", "a worker must be text on one line");
    expect_refused("workers: [{}]\n", "needs memory, read_gb_per_s and gops;");
    expect_refused("workers: [{name: x}]\n", "needs memory, read_gb_per_s and gops;");
    expect_refused("workers: [{memory: 1G, gops: 3}]\n", "needs memory, read_gb_per_s and gops;");
    expect_refused("workers: [{address: 'a:1', memory: 1G}]\n", "gops or none of them");
    expect_refused("workers: [{address: 'a:1', count: 2}]\n", "count must be left out");
    expect_refused("workers: [{memory: 1G, memory: 2G}]\n", "memory stands here a second time");
    expect_refused("workers: [{memori: 1G}]\n", "unknown key memori; did you mean memory");
    expect_refused("workers: [a:1]\ncoordinator: {address: 'a:1'}\n", ":2: unknown key address");
    expect_refused("workers: [a:1]\ncoordinator: {memory: 1G}\n", ":2: the coordinator needs");
    expect_refused("workers: [a:1]\ncoordinator: here\n", "coordinator must be a mapping");
    expect_refused("workers: [a:1]\nlink: 3\n", "link must be a mapping");
    expect_refused("workers: [a:1]\nlink: {memory: 3G}\n", "unknown key memory");
    expect_refused("workers: [{memory: 1G, read_gb_per_s: 1, gops: 1, spill: 1G}]\n",
                   "needs spill and disk_gb_per_s");
    expect_refused("workers: [{memory: 1G, read_gb_per_s: 1, gops: 1, disk_gb_per_s: 1}]\n",
                   "needs spill and disk_gb_per_s");
    expect_refused("workers: [{address: 'a:1', spill: 1G, disk_gb_per_s: 1}]\n",
                   "beside its other figures");
    expect_refused("workers: [a:1]\ncoordinator: {spill: 1G}\n", ":2: unknown key spill");
}

static void expect_bad_value(const char *key, const char *value, const char *words) {
    char text[160];
    snprintf(text, sizeof text, "workers: [{%s: %s}]\n", key, value);
    expect_refused(text, words);
}

static void test_bad_values(void **state) {
    (void)state;
    const char *numbers[] = {"0", "-1",   "nan", "inf", "1e99", "x",  "1x",
                             "",  "' 1'", "[1]", "~",   "{}",   "''", "\"1\\0\""};
    const char *keys[] = {"read_gb_per_s", "link_gbit_per_s", "round_trip_us", "disk_gb_per_s"};
    for (size_t k = 0; k < 4; k++)
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
            expect_bad_value(keys[k], numbers[i], "must be a number above 0");
    expect_bad_value("gops", "-3", "must be a number above 0");
    expect_bad_value("gops", "{q4_k: x}", "q4_k must be a number");
    expect_bad_value("gops", "{q9: 3}", "gops must be a number or a mapping of formats");
    expect_bad_value("gops", "[3]", "gops must be a number");
    expect_bad_value("memory", "0", "memory must be a size");
    expect_bad_value("memory", "16X", "memory must be a size");
    expect_bad_value("memory", "[16G]", "memory must be a size");
    expect_bad_value("spill", "0", "spill must be a size");
    expect_bad_value("count", "1.5", "count must be a whole number from 1 to 256");
    expect_bad_value("count", "257", "count must be a whole number from 1 to 256");
    expect_bad_value("threads", "100000", "threads must be a whole number");
    expect_bad_value("name", "[]", "name must be text");
}

static void test_too_many(void **state) {
    (void)state;
    expect_refused("workers:\n  - a:1\n  - {count: 256, memory: 1G, read_gb_per_s: 1, gops: 1}\n",
                   ":3: more than 256 workers");
    struct cluster_file file;
    assert_int_equal(
        read_text("workers: [{count: 256, memory: 1G, read_gb_per_s: 1, gops: 1}]\n", &file),
        STATUS_OK);
    assert_int_equal(file.count, 256);
    cluster_file_cleanup(&file);
}

/* A node may stand within itself. */
static void test_recursive(void **state) {
    (void)state;
    expect_refused("workers: &w [*w]\n", "a worker must be a mapping");
    expect_refused("workers: [&w {gops: *w}]\n", "gops must be a number or a mapping");
    expect_refused("&w {workers: *w}\n", "workers must be a list");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything), cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_too_many),   cmocka_unit_test(test_recursive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
