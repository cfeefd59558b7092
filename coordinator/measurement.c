/* Probes go one at a time over the transport that frames take, so that what they meet is what
 * frames will meet. The round trip is a median, because it is what most layers wait for; rates are
 * the best of a few, because other traffic only makes a link look slower. The first payload of a
 * size is not one of them: buffers on the way, and limits that let bursts through, take it in
 * faster than the link can go on.
 *
 * Payloads grow until one takes long against the noise of a round trip. A link that needs that long
 * for a few KiB is not asked for more. */
#include "coordinator/measurement.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/log.h"
#include "common/spread.h"
#include "common/transport/transport.h"
#include "proto/wire.h"

#define FRAME_BYTES (sizeof(struct wire_header) + WIRE_PROBE_BYTES_MAX)

/* Probes without payload: at least, at most, and how long they go on between the two. */
#define ROUND_TRIPS_MIN 5
#define ROUND_TRIPS_MAX 33
#define ROUND_TRIPS_S   0.02

/* Payloads of a direction: from PAYLOAD_MIN_BYTES on each PAYLOAD_GROWTH times the one before, up
 * to one that moves for ENOUGH_S (1 MiB at 1 Gbit/s), which is repeated. BUDGET_S is what all of
 * them may take together, round trips excepted. */
#define PAYLOAD_MIN_BYTES (4u << 10)
#define PAYLOAD_GROWTH    4u
#define ENOUGH_S          0.006
#define BUDGET_S          0.1
#define REPETITIONS       3

struct link_probe {
    struct transport *transport;
    struct connection *connection;
    uint8_t *request, *reply; /* (FRAME_BYTES) */
    uint64_t sequence;
    uint64_t started_ns;
};

void measurement_ask(struct channel *channel, const struct machine_work *work) {
    uint32_t formats[WEIGHT_FORMAT_COUNT];
    Control__Measure measure = CONTROL__MEASURE__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    for (uint32_t format = 0; format < WEIGHT_FORMAT_COUNT; format++)
        if (work->formats >> format & 1)
            formats[measure.n_format++] = format;
    measure.format = formats;
    measure.exact_activations = work->exact;
    message.kind_case = CONTROL__MESSAGE__KIND_MEASURE;
    message.measure = &measure;
    channel_send(channel, &message);
}

bool measurement_take_figures(const Control__Figures *figures, const struct machine_work *work,
                              struct machine_figures *out) {
    struct machine_figures found = *out;
    size_t count = figures->n_format;
    uint32_t formats = 0;
    if (figures->n_decode_bytes_per_s != count || figures->n_batch_macs_per_s != count ||
        !machine_rate_is_plausible(figures->read_bytes_per_s) ||
        (figures->disk_bytes_per_s != 0 && !machine_rate_is_plausible(figures->disk_bytes_per_s)))
        return false;
    found.read_bytes_per_s = figures->read_bytes_per_s;
    found.disk_bytes_per_s = figures->disk_bytes_per_s;
    for (size_t i = 0; i < count; i++) {
        uint32_t format = figures->format[i];
        const struct format_figures rates = {figures->decode_bytes_per_s[i],
                                             figures->batch_macs_per_s[i]};
        if (format >= WEIGHT_FORMAT_COUNT || formats >> format & 1 ||
            !machine_rate_is_plausible(rates.decode_bytes_per_s) ||
            !machine_rate_is_plausible(rates.batch_macs_per_s))
            return false;
        formats |= 1u << format;
        found.formats[format] = rates;
    }
    if (formats != work->formats)
        return false;
    *out = found;
    return true;
}

/* ---- The link. */

static enum status check_reply(const struct link_probe *probe, uint32_t bytes) {
    const char *peer = connection_peer(probe->connection);
    struct wire_header header;
    enum status status = wire_decode_header(probe->reply, peer, &header);
    if (status)
        return status;
    if (header.type != WIRE_PROBE_REPLY || header.sequence != probe->sequence ||
        header.payload_bytes != bytes) {
        log_error("worker %s: answers probe %" PRIu64 " for %" PRIu32 " bytes with frame %" PRIu64
                  " of type %u with %" PRIu64 "; install the same release on both machines",
                  peer, probe->sequence, bytes, header.sequence, header.type, header.payload_bytes);
        return STATUS_PROTOCOL;
    }
    return STATUS_OK;
}

/* One probe with `out_bytes` of payload and `in_bytes` in its answer; how long it took. */
static enum status exchange(struct link_probe *probe, uint32_t out_bytes, uint32_t in_bytes,
                            double *seconds) {
    const struct wire_header header = {.type = WIRE_PROBE,
                                       .sequence = ++probe->sequence,
                                       .entries = in_bytes,
                                       .payload_bytes = out_bytes};
    wire_encode_header(&header, probe->request);
    uint64_t started_ns = clock_now_ns();
    enum status status =
        transport_post_receive(probe->transport, probe->connection, probe->reply, FRAME_BYTES);
    if (!status)
        status = transport_post_send(probe->transport, probe->connection, probe->request,
                                     sizeof header + out_bytes);
    for (int open = 2; !status && open > 0;) {
        struct completion completion;
        double left_ms = PROBE_TIMEOUT_MS - clock_elapsed_s(probe->started_ns) * 1000;
        if (left_ms <= 0)
            return STATUS_TIMEOUT;
        if (transport_poll(probe->transport, &completion, 1, (int)left_ms + 1) == 0)
            continue;
        status = completion.status;
        open--;
    }
    *seconds = clock_elapsed_s(started_ns);
    return status ? status : check_reply(probe, in_bytes);
}

static enum status measure_round_trip(struct link_probe *probe, double *out) {
    double seconds[ROUND_TRIPS_MAX], sum_s = 0;
    size_t count = 0;
    while (count < ROUND_TRIPS_MIN || (count < ROUND_TRIPS_MAX && sum_s < ROUND_TRIPS_S)) {
        enum status status = exchange(probe, 0, 0, &seconds[count]);
        if (status)
            return status;
        sum_s += seconds[count++];
    }
    *out = spread_of(seconds, count).median;
    return STATUS_OK;
}

/* Bytes for each second with payload in the probes (`outward`) or in their answers. */
static enum status measure_rate(struct link_probe *probe, bool outward, double round_trip_s,
                                double *out) {
    double left_s = BUDGET_S, best = 0;
    uint32_t bytes = PAYLOAD_MIN_BYTES;
    for (int repetition = 0; repetition <= REPETITIONS;) {
        double seconds;
        enum status status = exchange(probe, outward ? bytes : 0, outward ? 0 : bytes, &seconds);
        if (status)
            return status;
        /* A payload that is lost in the noise of round trips may come out far too fast, but not
         * without bound. */
        double moving_s = fmax(seconds - round_trip_s, seconds / 16);
        left_s -= moving_s;
        best = repetition > 1 ? fmax(best, bytes / moving_s) : bytes / moving_s;
        bool may_grow = bytes * PAYLOAD_GROWTH <= WIRE_PROBE_BYTES_MAX;
        if (may_grow && moving_s < ENOUGH_S && moving_s * PAYLOAD_GROWTH < left_s) {
            bytes *= PAYLOAD_GROWTH;
            repetition = 0;
        } else if (moving_s > left_s) {
            break;
        } else {
            repetition++;
        }
    }
    *out = best;
    return STATUS_OK;
}

static enum status open_probe(int fd, const char *peer, const char *transport,
                              struct link_probe *probe) {
    const struct transport_options options = {sizeof(struct wire_header), wire_message_bytes,
                                              transport};
    enum status status = STATUS_NO_MEMORY;
    *probe = (struct link_probe){.started_ns = clock_now_ns()};
    probe->request = calloc(1, FRAME_BYTES);
    probe->reply = calloc(1, FRAME_BYTES);
    if (probe->request && probe->reply)
        status = transport_create(&options, &probe->transport);
    else
        log_error("no memory to measure the link to worker %s; end other programs", peer);
    if (status) {
        close(fd);
        return status;
    }
    return transport_add(probe->transport, fd, peer, &probe->connection);
}

enum status measurement_probe_link(int fd, const char *peer, const char *transport,
                                   struct link_figures *out) {
    struct link_probe probe;
    struct link_figures link;
    enum status status;
    if (!(status = open_probe(fd, peer, transport, &probe)) &&
        !(status = measure_round_trip(&probe, &link.round_trip_s)) &&
        !(status = measure_rate(&probe, true, link.round_trip_s, &link.to_bytes_per_s)) &&
        !(status = measure_rate(&probe, false, link.round_trip_s, &link.from_bytes_per_s)))
        *out = link;
    transport_destroy(probe.transport);
    free(probe.request);
    free(probe.reply);
    return status;
}
