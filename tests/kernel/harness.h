/* What the parts of the kernel harness share. Every variant's every entry is compared with the
 * reference or with sums in double. One tolerance, where a result need not be exact: what f32 sums
 * in another order may differ by, relative to the sum of the magnitudes. */
#pragma once

#include "tests/unit/test.h"

#include "common/kernel/kernel.h"
#include "tests/kernel/variants.h"
#include "tests/kernel/weights.h"
#include "tests/unit/random.h"

#define TOLERANCE 1e-5

/* cmocka tests, each over all variants. */
void check_expand(void **state);
void check_add(void **state);
void check_dot(void **state);
void check_vectors(void **state);
void check_softmax_part(void **state);
void check_row_products(void **state);
void check_quantise(void **state);
void check_split(void **state);
void check_panel_dot(void **state);
void check_panel_extremes(void **state);
void check_float_panel_dot(void **state);
void check_tile_dot(void **state);

/* Prints how fast the named variant is, or each that is not emulated (NULL): false when there is no
 * such variant. */
bool timing_print(const char *name);
