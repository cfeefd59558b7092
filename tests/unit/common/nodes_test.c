/* Parts cover the memory without gaps and begin at pages; on a machine with one node nothing
 * changes. What several nodes would do is checked where the machine has them. */
#include "tests/unit/test.h"

#include <sched.h>

#include "common/memory.h"
#include "common/nodes.h"

static void test_parts(void **state) {
    (void)state;
    const size_t page = 4096, starts[] = {0x10000, 0x10040, 0x1fff0}, sizes[] = {1, 4096, 100000};
    for (size_t s = 0; s < 3; s++)
        for (size_t b = 0; b < 3; b++)
            for (unsigned count = 1; count <= 8; count++) {
                size_t end = starts[s] + sizes[b], before = starts[s];
                for (unsigned part = 0; part <= count; part++) {
                    size_t begin = nodes_part_begin(starts[s], sizes[b], page, part, count);
                    assert_true(begin >= before && begin <= end);
                    assert_true(begin % page == 0 || begin == end);
                    before = begin;
                }
                assert_int_equal(before, end);
            }
    /* Two nodes: halves, but for the page. */
    assert_int_equal(nodes_part_begin(0x10000, 0x8000, page, 1, 2), 0x14000);
    assert_int_equal(nodes_part_begin(0x10000, 0x8800, page, 1, 2), 0x15000);
}

static void test_memory_stays_usable(void **state) {
    (void)state;
    const size_t bytes = (4u << 20) + 8192;
    unsigned char *memory = memory_map(bytes);
    assert_non_null(memory);
    nodes_place(memory + 64, bytes - 64);
    for (size_t i = 0; i < bytes; i += 512)
        assert_int_equal(memory[i], 0);
    memset(memory, 7, bytes);
    memory_unmap(memory, bytes);
}

static void test_binding_keeps_allowed_processors(void **state) {
    (void)state;
    cpu_set_t before, after, both;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    unsigned nodes = nodes_count();
    assert_true(nodes >= 1);
    nodes_bind_thread(nodes > 1, 2);
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    CPU_AND(&both, &before, &after);
    assert_true(CPU_EQUAL(&both, &after) && CPU_COUNT(&after) > 0);
    if (nodes == 1)
        assert_true(CPU_EQUAL(&before, &after));
    else
        assert_int_equal(nodes_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_memory_stays_usable),
        cmocka_unit_test(test_binding_keeps_allowed_processors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
