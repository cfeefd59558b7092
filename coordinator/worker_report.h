/* What was measured of a worker and of the link to it, for people and for programs. Used by the
 * runtime, which logs it, and by `bench`. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "coordinator/cluster.h"

/* One line for the machine and its link, one for each weight format; only the first half of that
 * where nothing was measured. */
void worker_report_print(const struct worker_info *worker, FILE *stream);

/* The same lines as one each of the debug log. */
void worker_report_log(const struct worker_info *worker);

/* The same as an object, which the caller frees; NULL when memory is out. */
json_t *worker_report_to_json(const struct worker_info *worker);
