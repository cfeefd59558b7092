/* Checks and times the kernels.
 *
 *   kernel_harness                 checks every variant, in plain C those that the processor lacks
 *   kernel_harness --time [NAME]   prints how fast the entries of all variants, or of one, are */
#include "tests/kernel/harness.h"

static int check(void) {
    const struct kernel *list[VARIANTS_MAX];
    size_t count = kernel_list(list, VARIANTS_MAX);
    for (size_t i = 0; i < count; i++)
        printf("variant %s%s\n", list[i]->name, variants_note(list[i]));
    for (const char *name = KERNEL_CHOICES; name; name = strchr(name, '|')) {
        name += *name == '|';
        size_t length = strcspn(name, "|");
        bool found = strncmp(name, "auto", length) == 0;
        for (size_t i = 0; i < count; i++)
            found = found ||
                    (strlen(list[i]->name) == length && memcmp(list[i]->name, name, length) == 0);
        if (!found)
            printf("skipped: %.*s, which this processor lacks\n", (int)length, name);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check_expand),
        cmocka_unit_test(check_add),
        cmocka_unit_test(check_dot),
        cmocka_unit_test(check_vectors),
        cmocka_unit_test(check_softmax_part),
        cmocka_unit_test(check_row_products),
        cmocka_unit_test(check_quantise),
        cmocka_unit_test(check_split),
        cmocka_unit_test(check_panel_dot),
        cmocka_unit_test(check_panel_extremes),
        cmocka_unit_test(check_float_panel_dot),
        cmocka_unit_test(check_tile_dot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv) {
    if (argc == 1)
        return check();
    if (argc > 3 || strcmp(argv[1], "--time") != 0) {
        fprintf(stderr, "usage: %s [--time [VARIANT]]\n", argv[0]);
        return 2;
    }
    return timing_print(argc == 3 ? argv[2] : NULL) ? 0 : 1;
}
