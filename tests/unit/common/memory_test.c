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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_is_plausible)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
