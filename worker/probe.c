/* One probe at a time: received whole, answered, and only then the next one. Payloads are not
 * looked at; a reply carries whatever its buffer holds, which is zeros. */
#include "worker/probe.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/cluster_limits.h"
#include "common/log.h"
#include "common/transport/transport.h"
#include "proto/wire.h"

#define FRAME_BYTES (sizeof(struct wire_header) + WIRE_PROBE_BYTES_MAX)

struct probe {
    uv_work_t work;
    struct transport *transport;
    struct connection *connection;
    uint8_t *request, *reply; /* (FRAME_BYTES) */
    atomic_bool stopping;
    probe_done done;
    void *context;
};

static enum status await_probe(struct probe *probe) {
    return transport_post_receive(probe->transport, probe->connection, probe->request, FRAME_BYTES);
}

static enum status answer(struct probe *probe) {
    const char *peer = connection_peer(probe->connection);
    struct wire_header header;
    enum status status = wire_decode_header(probe->request, peer, &header);
    if (status)
        return status;
    if (header.type != WIRE_PROBE) {
        log_error(
            "%s sent a frame of type %u before its assignment was there, when only probes are "
            "answered; closing its data connection",
            peer, header.type);
        return STATUS_PROTOCOL;
    }
    const struct wire_header reply = {
        .type = WIRE_PROBE_REPLY, .sequence = header.sequence, .payload_bytes = header.entries};
    wire_encode_header(&reply, probe->reply);
    return transport_post_send(probe->transport, probe->connection, probe->reply,
                               sizeof reply + header.entries);
}

static void run_probe(uv_work_t *work) {
    struct probe *probe = work->data;
    enum status status = await_probe(probe);
    while (!status && !atomic_load(&probe->stopping)) {
        struct completion completion;
        if (transport_poll(probe->transport, &completion, 1, -1) == 0)
            continue;
        status = completion.status;
        if (!status)
            status = completion.buffer == probe->request ? answer(probe) : await_probe(probe);
    }
    log_debug("%s: probing ended (%s)", connection_peer(probe->connection), status_name(status));
}

static void probe_free(struct probe *probe) {
    transport_destroy(probe->transport);
    free(probe->request);
    free(probe->reply);
    free(probe);
}

static void on_probe_ended(uv_work_t *work, int error) {
    (void)error;
    struct probe *probe = work->data;
    probe->done(probe->context);
    probe_free(probe);
}

enum status probe_start(uv_loop_t *loop, int fd, const char *peer, const char *transport,
                        probe_done done, void *context, struct probe **out) {
    const struct transport_options options = {sizeof(struct wire_header), wire_message_bytes,
                                              transport};
    enum status status = STATUS_NO_MEMORY;
    struct probe *probe = calloc(1, sizeof *probe);
    if (!probe)
        goto err_close;
    probe->request = malloc(FRAME_BYTES);
    probe->reply = calloc(1, FRAME_BYTES);
    if (!probe->request || !probe->reply)
        goto err_free;
    if ((status = transport_create(&options, &probe->transport)))
        goto err_free;
    status = transport_add(probe->transport, fd, peer, &probe->connection);
    fd = -1;
    if (status)
        goto err_free;
    atomic_init(&probe->stopping, false);
    probe->done = done;
    probe->context = context;
    probe->work.data = probe;
    uv_queue_work(loop, &probe->work, run_probe, on_probe_ended);
    *out = probe;
    return STATUS_OK;

err_free:
    probe_free(probe);
err_close:
    if (fd >= 0)
        close(fd);
    if (status == STATUS_NO_MEMORY)
        log_error("no memory to answer the probes of %s; end other programs", peer);
    return status;
}

void probe_stop(struct probe *probe) {
    atomic_store(&probe->stopping, true);
    transport_wake(probe->transport);
}
