/* Combine: computes what is this process's, waits for all workers of a ticket at once and adds up
 * what they return. The other half of dispatch; deadlines and lost workers are noticed here. Used
 * by the engine thread. */
#pragma once

#include "coordinator/dispatch.h"

/* out (rows, hidden) += the local feed-forward and the sums of all holders of `ticket`, which is
 * closed. Replies may come in any order; they are added in the order of holders, so results do not
 * depend on timing. What was lost with
 * a worker is asked of others. Errors: those of dispatch_send. */
enum status combine_await(struct dispatch *dispatch, struct ticket *ticket, float *out);
