/* What a coordinator finds out about a worker that joins: the worker's own figures, which it asks
 * for, and those of the link, which it measures itself. Used by the cluster, before there is an
 * assignment. */
#pragma once

#include <stdbool.h>

#include "common/machine.h"
#include "common/status.h"
#include "proto/channel.h"

/* Asks the worker behind `channel` to measure `work`. On the thread of the channel's loop. */
void measurement_ask(struct channel *channel, const struct machine_work *work);

/* Takes the worker's answer into read_bytes_per_s and formats of `out`. False, and nothing changed,
 * unless it has exactly what `work` asked for, in rates that a machine can have. */
bool measurement_take_figures(const Control__Figures *figures, const struct machine_work *work,
                              struct machine_figures *out);

/* Measures the link to a worker that answers probes (worker/probe.h) over the connected socket
 * `fd`, which has sent its WIRE_OPEN; takes it over and closes it. `peer` names the worker in
 * messages; `transport` is one of TRANSPORT_CHOICES, NULL is auto. Takes about 100 ms: links that
 * are slow are measured with little. Errors: STATUS_CONNECTION, STATUS_TIMEOUT (not logged);
 * STATUS_PROTOCOL, STATUS_NO_MEMORY, STATUS_IO (logged). */
enum status measurement_probe_link(int fd, const char *peer, const char *transport,
                                   struct link_figures *out);
