/* Combine: computes what is this process's, waits for all workers of a ticket at once and adds up
 * what they return. The other half of dispatch; deadlines and lost workers are noticed here. Used
 * by the engine thread. */
#pragma once

#include "coordinator/dispatch.h"

/* Waits for everything that can still come of a ticket's replies: a part that is still pending then
 * was lost with its worker. */
void combine_wait(struct dispatch *dispatch, const struct ticket *ticket);

/* out (rows, hidden) += what is computed here and the sums of all workers of `ticket`, which is
 * closed. Replies may come in any order; they are added in the order of holders, so results do not
 * depend on timing. What was lost with a worker is asked of others. Errors: those of dispatch_send.
 */
enum status combine_await(struct dispatch *dispatch, struct ticket *ticket, float *out);
