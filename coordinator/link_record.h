/* Links as plans have reckoned with them, remembered by the worker's address. A link is measured at
 * every start, and no two measurements agree; plans that go by the last one differ in a few columns
 * of every expert, and workers would load everything anew each time. */
#pragma once

#include "common/machine.h"

/* Replaces what was just measured by what is remembered of the link to `address`, if they agree
 * within LINK_TOLERANCE in each figure; else remembers what was measured. `directory` as in
 * common/cache_dir.h; a file that is damaged is a warning and starts afresh. */
void link_record_settle(const char *directory, const char *address, struct link_figures *link);

/* The larger figure over the smaller one. */
#define LINK_TOLERANCE 1.25

/* The most links that are remembered. */
#define LINK_RECORDS_MAX 256
