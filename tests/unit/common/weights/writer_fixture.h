/* A GGUF writer and a place for its file, for tests that write one: cmocka's setup and teardown. */
#pragma once

#include "common/weights/gguf_writer.h"
#include "tests/unit/files.h"

struct writer_fixture {
    char directory[64], path[128], part[140]; /* `part` is the name until the file is whole */
    struct gguf_writer *writer;
    struct log_capture log;
};

static inline int writer_setup(void **state) {
    struct writer_fixture *f = calloc(1, sizeof *f);
    test_directory_make(f->directory);
    snprintf(f->path, sizeof f->path, "%s/m.gguf", f->directory);
    snprintf(f->part, sizeof f->part, "%s.part", f->path);
    assert_int_equal(gguf_writer_create(&f->writer), STATUS_OK);
    *state = f;
    return 0;
}

static inline int writer_teardown(void **state) {
    struct writer_fixture *f = *state;
    gguf_writer_destroy(f->writer);
    test_directory_remove(f->directory);
    free(f);
    return 0;
}
