#include "common/spread.h"

#include <assert.h>
#include <stdlib.h>

static int compare_values(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

struct spread spread_of(double *values, size_t count) {
    assert(count > 0);
    qsort(values, count, sizeof *values, compare_values);
    double median = count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
    return (struct spread){median, values[0], values[count - 1],
                           values[(count * 95 + 99) / 100 - 1]};
}
