/* What the machine says of its memory is plausible. */
#include "tests/unit/test.h"

#include <unistd.h>

#include "common/memory.h"

static void test_is_plausible(void **state) {
    (void)state;
    uint64_t bytes = 0, page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    assert_int_equal(memory_available(&bytes), STATUS_OK);
    assert_true(bytes > 1 << 20);
    assert_true(bytes <= (uint64_t)sysconf(_SC_PHYS_PAGES) * page_bytes);
}

static void test_map_gives_zeroed_memory(void **state) {
    (void)state;
    const size_t bytes = (5 << 20) + 4096;
    uint8_t *memory = memory_map(bytes);
    assert_non_null(memory);
    for (size_t i = 0; i < bytes; i += 4096)
        assert_int_equal(memory[i], 0);
    memory[bytes - 1] = 1;
    memory_unmap(memory, bytes);
    assert_null(memory_map(SIZE_MAX / 2));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_is_plausible),
                                       cmocka_unit_test(test_map_gives_zeroed_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
