/* Files that are read with a ring, or without one, with room for whole blocks or none: right ones
 * come back whole, others say what is wrong with them. */
#include "tests/unit/files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "common/disk.h"
#include "worker/shard_file.h"

#define FILES     40u /* more than a ring takes at a time */
#define READS_MAX 4u
#define ROOM      (64u * DISK_BLOCK_BYTES)

static char folder[64];
static bool is_refused; /* io_uring, by the system */
static uint8_t wanted[FILES][ROOM];

/* The last one has whole blocks. */
static size_t bytes_of(uint32_t i) {
    return i == FILES - 1 ? ROOM : 100 + i * 5003u;
}

static void path_of(uint32_t i, char path[96]) {
    snprintf(path, 96, "%s/%u", folder, i);
}

static void write_files(void) {
    char path[96];
    for (uint32_t i = 0; i < FILES; i++) {
        for (size_t at = 0; at < bytes_of(i); at++)
            wanted[i][at] = (uint8_t)(i * 31 + at * 7 + at / 256);
        path_of(i, path);
        int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0666);
        assert_int_equal(write(fd, wanted[i], bytes_of(i)), bytes_of(i));
        close(fd);
    }
}

static struct shard_file file_of(uint32_t i, uint8_t *data, bool has_room) {
    size_t bytes = bytes_of(i);
    return (struct shard_file){.data = data,
                               .room_bytes = has_room ? ROOM : bytes,
                               .bytes = bytes,
                               .hash = XXH3_64bits(wanted[i], bytes)};
}

static void expect_whole(const struct shard_file *file, const uint8_t *bytes) {
    assert_int_equal(file->result, SHARD_FILE_GOOD);
    assert_memory_equal(file->data, bytes, file->bytes);
}

static void read_one(struct shard_ring *ring, struct shard_file *file) {
    if (ring) {
        shard_ring_queue(ring, file);
        assert_ptr_equal(shard_ring_take(ring, true), file);
        assert_null(shard_ring_take(ring, true));
    } else {
        shard_file_read(file);
    }
}

static struct shard_ring *open_ring(bool with_ring) {
    return with_ring && !is_refused ? shard_ring_open(READS_MAX) : NULL;
}

static void test_reads_one(void **state) {
    (void)state;
    uint8_t *memory = aligned_alloc(DISK_BLOCK_BYTES, ROOM + DISK_BLOCK_BYTES);
    for (int way = 0; way < 8; way++) {
        uint8_t *data = memory + (way & 4 ? 64 : 0); /* not at a block */
        struct shard_ring *ring = open_ring(way & 1);
        for (uint32_t i = 0; i < FILES; i++) {
            char path[96];
            struct shard_file file = file_of(i, data, way & 2);
            path_of(i, path);
            memset(data, 0, ROOM);
            assert_int_equal(shard_file_open(&file, path), SHARD_FILE_GOOD);
            read_one(ring, &file);
            expect_whole(&file, wanted[i]);
        }
        shard_ring_close(ring);
    }
    free(memory);
}

/* Each comes back once, whole, however many are under way. */
static void test_reads_many(void **state) {
    (void)state;
    struct shard_ring *ring = open_ring(true);
    static struct shard_file files[FILES];
    uint8_t *data = aligned_alloc(DISK_BLOCK_BYTES, FILES * ROOM);
    uint32_t taken = 0;
    for (uint32_t i = 0; ring && i < FILES; i++) {
        char path[96];
        struct shard_file *file;
        files[i] = file_of(i, data + i * ROOM, i % 3);
        path_of(i, path);
        assert_int_equal(shard_file_open(&files[i], path), SHARD_FILE_GOOD);
        shard_ring_queue(ring, &files[i]);
        shard_ring_submit(ring);
        for (; (file = shard_ring_take(ring, shard_ring_is_full(ring))); taken++)
            expect_whole(file, wanted[file - files]);
    }
    for (struct shard_file *file; ring && (file = shard_ring_take(ring, true)); taken++)
        expect_whole(file, wanted[file - files]);
    assert_int_equal(taken, ring ? FILES : 0);
    shard_ring_close(ring);
    free(data);
}

/* Changed before it is opened, or while it is read. */
static void test_bad_files(void **state) {
    (void)state;
    const uint32_t i = FILES - 2;
    const struct {
        int64_t bytes_more;
        int result; /* before, while */
    } cases[] = {{0, SHARD_FILE_DAMAGED},
                 {1, SHARD_FILE_DAMAGED},
                 {-1, SHARD_FILE_CUT_SHORT},
                 {-(int64_t)DISK_BLOCK_BYTES * 8, SHARD_FILE_CUT_SHORT},
                 {-(int64_t)bytes_of(FILES - 2), SHARD_FILE_CUT_SHORT}};
    uint8_t *data = aligned_alloc(DISK_BLOCK_BYTES, ROOM);
    char path[96];
    path_of(i, path);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int way = 0; way < 8; way++) {
            struct shard_ring *ring = open_ring(way & 1);
            struct shard_file file = file_of(i, data, way & 2);
            bool is_late = way & 4;
            write_files();
            file.hash += cases[c].bytes_more == 0;
            if (is_late)
                assert_int_equal(shard_file_open(&file, path), SHARD_FILE_GOOD);
            assert_int_equal(truncate(path, (off_t)((int64_t)bytes_of(i) + cases[c].bytes_more)),
                             0);
            if (is_late || shard_file_open(&file, path) == SHARD_FILE_GOOD)
                read_one(ring, &file);
            if (is_late && cases[c].bytes_more == 1) /* its beginning is right */
                expect_whole(&file, wanted[i]);
            else
                assert_int_equal(file.result, cases[c].result);
            shard_ring_close(ring);
        }
    write_files();
    free(data);
}

static void test_no_files(void **state) {
    (void)state;
    char path[96];
    uint8_t data[200];
    struct shard_file file = file_of(0, data, false);
    path_of(FILES, path);
    assert_int_equal(shard_file_open(&file, path), ENOENT);
    assert_string_equal(shard_file_reason(file.result), strerror(ENOENT));
    assert_int_equal(shard_file_open(&file, folder), SHARD_FILE_DAMAGED);
    assert_int_equal(mkfifo(path, 0666), 0);
    file.room_bytes = ROOM;
    file.bytes = 0;
    assert_int_equal(shard_file_open(&file, path), SHARD_FILE_DAMAGED); /* and does not wait */
    assert_string_equal(shard_file_reason(file.result), "it is damaged");
    assert_string_equal(shard_file_reason(SHARD_FILE_CUT_SHORT), "it was cut short");
}

int main(void) {
    test_directory_make(folder);
    write_files();
    struct shard_ring *ring = shard_ring_open(1);
    is_refused = !ring;
    shard_ring_close(ring);
    if (is_refused)
        print_message("skipped reading by io_uring: this system refuses it\n");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_one),
        cmocka_unit_test(test_reads_many),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_no_files),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_directory_remove(folder);
    return failed;
}
