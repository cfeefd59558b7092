/* What is kept comes back as it was, and nothing else does: damage, other checkpoints, limits. */
#include "tests/unit/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/worker/fixture.h"
#include "worker/shard_cache.h"

#define BYTES 4096u

static char root[] = "/tmp/skein-shard-cache-XXXXXX";

static struct shard_cache *open_cache(uint64_t fingerprint, bool exact, uint64_t bytes_max) {
    struct shard_cache *cache;
    assert_int_equal(shard_cache_open(root, fingerprint, exact, bytes_max, &cache), STATUS_OK);
    return cache;
}

static void fill(uint8_t *bytes, uint32_t seed) {
    for (uint32_t i = 0; i < BYTES; i++)
        bytes[i] = (uint8_t)(seed * 31 + i * 7 + i / 256);
}

static struct shard shard_of(uint32_t i) {
    return (struct shard){i / 8, i % 8, 0, 32 + i};
}

/* Writes the shards [0, count) of a checkpoint; returns how many were taken. */
static uint32_t keep(uint64_t fingerprint, uint32_t count, uint64_t bytes_max) {
    struct shard_cache *cache = open_cache(fingerprint, false, bytes_max);
    uint8_t bytes[BYTES];
    uint32_t taken = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct shard shard = shard_of(i);
        fill(bytes, i);
        taken += shard_cache_write(cache, &shard, bytes, BYTES);
    }
    shard_cache_close(cache);
    return taken;
}

/* How many of the shards [0, count) come back; each that does has its bytes. */
static uint32_t count_kept(uint64_t fingerprint, uint32_t count) {
    struct shard_cache *cache = open_cache(fingerprint, false, SHARD_CACHE_AUTO);
    uint8_t bytes[BYTES], wanted[BYTES];
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct shard shard = shard_of(i);
        bool has = shard_cache_has(cache, &shard);
        struct shard_file file = {bytes, .bytes = BYTES};
        bool read = shard_cache_begin_read(cache, &shard, &file);
        if (read) {
            shard_file_read(&file);
            read = shard_cache_end_read(cache, &shard, &file);
        }
        assert_true(has || !read);
        found += read;
        fill(wanted, i);
        if (read)
            assert_memory_equal(bytes, wanted, BYTES);
    }
    shard_cache_close(cache);
    return found;
}

static void test_comes_back(void **state) {
    (void)state;
    assert_int_equal(count_kept(1, 20), 0);
    assert_int_equal(keep(1, 20, SHARD_CACHE_AUTO), 20);
    assert_int_equal(count_kept(1, 20), 20);
    assert_int_equal(keep(1, 30, SHARD_CACHE_AUTO), 10); /* only what was missing */
    assert_int_equal(count_kept(1, 30), 30);
    /* Neither of another checkpoint, nor packed otherwise, nor another range. */
    assert_int_equal(count_kept(2, 30), 0);
    struct shard_cache *cache = open_cache(1, true, SHARD_CACHE_AUTO);
    const struct shard shard = shard_of(3);
    assert_false(shard_cache_has(cache, &shard));
    shard_cache_close(cache);
    cache = open_cache(1, false, SHARD_CACHE_AUTO);
    const struct shard other = {shard.layer, shard.expert, shard.begin, shard.end - 1};
    assert_false(shard_cache_has(cache, &other));
    shard_cache_close(cache);
}

/* Does `what` to the file of a shard. */
static void damage(uint64_t fingerprint, uint32_t i, void (*what)(const char *path)) {
    char folder[256], start[64], path[1024] = "";
    const struct shard shard = shard_of(i);
    snprintf(folder, sizeof folder, "%s/shards/%016llx-1", root, (unsigned long long)fingerprint);
    snprintf(start, sizeof start, "%u-%u-%u-%u-", shard.layer, shard.expert, shard.begin,
             shard.end);
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    for (struct dirent *file; (file = readdir(directory));)
        if (strncmp(file->d_name, start, strlen(start)) == 0)
            snprintf(path, sizeof path, "%s/%s", folder, file->d_name);
    closedir(directory);
    assert_true(path[0] != '\0');
    what(path);
}

static void flip_byte(const char *path) {
    int fd = open(path, O_RDWR);
    uint8_t byte;
    assert_int_equal(pread(fd, &byte, 1, 1000), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, 1000), 1);
    close(fd);
}

static void cut(const char *path) {
    assert_int_equal(truncate(path, BYTES / 2), 0);
}

static void lengthen(const char *path) {
    assert_int_equal(truncate(path, BYTES + 1), 0);
}

static void test_damage(void **state) {
    (void)state;
    keep(3, 10, SHARD_CACHE_AUTO);
    damage(3, 0, flip_byte);
    damage(3, 4, cut);
    damage(3, 5, lengthen);
    log_file_mark();
    assert_int_equal(count_kept(3, 10), 7);
    assert_int_equal(log_file_count("warning: "), 3);
    assert_int_equal(log_file_count("it is damaged; it is removed and fetched again"), 2);
    assert_int_equal(log_file_count("it was cut short; it is removed and fetched again"), 1);
    log_file_mark();
    assert_int_equal(count_kept(3, 10), 7); /* they are gone now */
    assert_int_equal(log_file_count("warning: "), 0);
    assert_int_equal(keep(3, 10, SHARD_CACHE_AUTO), 3);
    assert_int_equal(count_kept(3, 10), 10);
}

static void test_oldest_gives_way(void **state) {
    (void)state;
    const uint64_t room = 64 * BYTES;
    for (uint64_t fingerprint = 10; fingerprint < 14; fingerprint++) {
        assert_int_equal(keep(fingerprint, 16, UINT64_MAX - 1), 16);
        usleep(20000);
    }
    count_kept(10, 16); /* opened again */
    usleep(20000);
    log_file_mark();
    assert_int_equal(keep(14, 16, room), 16);
    log_file_expect("to make room");
    assert_int_equal(count_kept(14, 16), 16);
    assert_int_equal(count_kept(10, 16), 16);
    assert_int_equal(count_kept(11, 16), 0);
}

static void test_full(void **state) {
    (void)state;
    log_file_mark();
    assert_int_equal(keep(20, 16, 5 * BYTES + 1), 5);
    assert_int_equal(count_kept(20, 16), 5);
    assert_int_equal(log_file_count("raise --cache-size"), 1);
    assert_int_equal(keep(21, 16, 0), 0);
}

/* A file where a folder should be. */
static void test_no_place(void **state) {
    (void)state;
    char path[256];
    struct shard_cache *cache;
    uint8_t bytes[BYTES];
    const struct shard shard = shard_of(0);
    snprintf(path, sizeof path, "%s/file", root);
    close(open(path, O_CREAT | O_WRONLY, 0666));
    assert_int_equal(shard_cache_open(path, 1, false, UINT64_MAX - 1, &cache), STATUS_OK);
    fill(bytes, 0);
    log_file_mark();
    assert_false(shard_cache_write(cache, &shard, bytes, BYTES));
    assert_false(shard_cache_write(cache, &shard, bytes, BYTES));
    assert_int_equal(log_file_count("warning: cannot write"), 1);
    shard_cache_close(cache);
}

int main(void) {
    log_file_begin();
    assert_non_null(mkdtemp(root));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comes_back),       cmocka_unit_test(test_damage),
        cmocka_unit_test(test_oldest_gives_way), cmocka_unit_test(test_full),
        cmocka_unit_test(test_no_place),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command) ? 1 : failed;
}
