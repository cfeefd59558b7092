/* What several measurements of the same thing come to. A pure function. */
#pragma once

#include <stddef.h>

struct spread {
    double median, min, max;
    double p95; /* the least value that 95 % of all do not exceed */
};

/* Sorts `values` (count), at least one. */
struct spread spread_of(double *values, size_t count);
