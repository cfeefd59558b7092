/* Folders and files that a test makes for itself. */
#pragma once

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/test.h"

/* Makes a folder of its own for a test; `path` receives its name. */
static inline void test_directory_make(char path[64]) {
    snprintf(path, 64, "/tmp/skein-test-XXXXXX");
    assert_non_null(mkdtemp(path));
}

static inline int test_remove_entry(const char *path, const struct stat *status, int kind,
                                    struct FTW *position) {
    (void)status, (void)kind, (void)position;
    return remove(path);
}

static inline void test_directory_remove(const char *path) {
    nftw(path, test_remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* Writes `content` to directory/name. */
static inline void test_file_write(const char *directory, const char *name, const char *content) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, strlen(content), file), strlen(content));
    assert_int_equal(fclose(file), 0);
}
