/* Pieces: aligned, zeroed, apart from one another, and refused when their size overflows. */
#include "common/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PIECES 300

static void test_pieces_are_aligned_and_zeroed(void **state) {
    (void)state;
    struct arena *arena = arena_create(4096);
    for (size_t bytes = 0; bytes < PIECES; bytes++) {
        unsigned char *piece = arena_take(arena, bytes, 1);
        assert_non_null(piece);
        assert_int_equal((uintptr_t)piece % 64, 0);
        for (size_t i = 0; i < bytes; i++)
            assert_int_equal(piece[i], 0);
        memset(piece, 0xff, bytes);
    }
    arena_destroy(arena);
}

static void test_pieces_do_not_overlap(void **state) {
    (void)state;
    struct arena *arena = arena_create(4096);
    unsigned char *pieces[PIECES];
    for (size_t i = 0; i < PIECES; i++) {
        pieces[i] = arena_take(arena, 1 + i * 7, 1);
        memset(pieces[i], (int)(i % 251), 1 + i * 7);
    }
    for (size_t i = 0; i < PIECES; i++)
        for (size_t j = 0; j < 1 + i * 7; j++)
            assert_int_equal(pieces[i][j], i % 251);
    arena_destroy(arena);
}

static void test_piece_larger_than_a_chunk(void **state) {
    (void)state;
    struct arena *arena = arena_create(4096);
    assert_int_equal(arena_bytes(arena), 0);
    unsigned char *piece = arena_take(arena, 1u << 20, 3);
    assert_non_null(piece);
    piece[0] = piece[(3u << 20) - 1] = 1;
    assert_true(arena_bytes(arena) >= 3u << 20);
    assert_true(arena_bytes(arena) < (3u << 20) + 8192);
    arena_destroy(arena);
}

/* Exactly one chunk: header and piece, without a byte to spare. */
static void test_chunk_is_used_to_its_end(void **state) {
    (void)state;
    struct arena *arena = arena_create(4096);
    assert_non_null(arena_take(arena, 4096 - 64, 1));
    assert_int_equal(arena_bytes(arena), 4096);
    assert_non_null(arena_take(arena, 1, 1));
    assert_int_equal(arena_bytes(arena), 8192);
    arena_destroy(arena);
}

static void test_impossible_sizes(void **state) {
    (void)state;
    struct arena *arena = arena_create(0);
    assert_null(arena_take(arena, SIZE_MAX, 2));
    assert_null(arena_take(arena, SIZE_MAX / 2 + 1, 1));
    assert_null(arena_take(arena, SIZE_MAX / 4, 1));
    assert_int_equal(arena_bytes(arena), 0);
    assert_non_null(arena_take(arena, 1, 1));
    arena_destroy(arena);
    arena_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_are_aligned_and_zeroed),
        cmocka_unit_test(test_pieces_do_not_overlap),
        cmocka_unit_test(test_piece_larger_than_a_chunk),
        cmocka_unit_test(test_chunk_is_used_to_its_end),
        cmocka_unit_test(test_impossible_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
