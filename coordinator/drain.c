#include "coordinator/drain.h"

#include <stdbool.h>
#include <uv.h>

#include "common/cluster_limits.h"
#include "common/log.h"
#include "proto/channel.h"
#include "proto/dial.h"

struct drain {
    const char *address;
    uv_loop_t loop;
    uv_timer_t deadline; /* of connecting and of the answer */
    struct dial *dial;
    struct channel *channel;
    bool accepted;
    enum status status;
};

static void finish(struct drain *drain, enum status status) {
    if (drain->status == STATUS_OK)
        drain->status = status;
    if (!uv_is_closing((uv_handle_t *)&drain->deadline))
        uv_close((uv_handle_t *)&drain->deadline, NULL);
}

static enum status on_message(void *context, const Control__Message *message) {
    struct drain *drain = context;
    if (message->kind_case == CONTROL__MESSAGE__KIND_DRAIN && !drain->accepted) {
        drain->accepted = true;
        uv_timer_stop(&drain->deadline);
        log_info("worker %s takes no more work; waiting until nobody needs it", drain->address);
        return STATUS_OK;
    }
    if (message->kind_case == CONTROL__MESSAGE__KIND_ERROR) {
        log_error("worker %s: %.300s", drain->address, message->error->text);
        return STATUS_REFUSED;
    }
    log_error("worker %s answers with %s; is it a skein-worker of this release?", drain->address,
              control_kind_name(message));
    return STATUS_PROTOCOL;
}

static void on_end(void *context, enum status status) {
    struct drain *drain = context;
    drain->channel = NULL;
    if (drain->accepted && status == STATUS_CONNECTION) {
        finish(drain, STATUS_OK); /* it closes when it ends */
        return;
    }
    if (status == STATUS_CONNECTION || status == STATUS_TIMEOUT)
        log_error("worker %s gives no %s; is it a skein-worker of this release, and up?",
                  drain->address, drain->accepted ? "sign of life any more" : "answer");
    finish(drain, status == STATUS_OK ? STATUS_CONNECTION : status);
}

static const struct channel_handlers HANDLERS = {on_message, NULL, on_end};

static void on_connected(void *context, int fd, const char *reason) {
    struct drain *drain = context;
    Control__Drain body = CONTROL__DRAIN__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    drain->dial = NULL;
    if (fd < 0) {
        log_error("worker %s: %s; is skein-worker running there?", drain->address, reason);
        finish(drain, STATUS_CONNECTION);
        return;
    }
    enum status status =
        channel_open(&drain->loop, fd, drain->address, &HANDLERS, drain, &drain->channel);
    if (status) {
        finish(drain, status);
        return;
    }
    message.kind_case = CONTROL__MESSAGE__KIND_DRAIN;
    message.drain = &body;
    channel_send(drain->channel, &message);
}

static void on_deadline(uv_timer_t *deadline) {
    struct drain *drain = deadline->data;
    log_error("worker %s: no answer within %d s; is it a skein-worker, and does a firewall let us "
              "in?",
              drain->address, CONNECT_TIMEOUT_MS / 1000);
    finish(drain, STATUS_CONNECTION);
    if (drain->dial)
        dial_cancel(drain->dial);
    if (drain->channel)
        channel_close(drain->channel);
}

enum status drain_worker(const char *text) {
    struct drain drain = {.address = text};
    struct address address;
    if (!address_parse(text, &address)) {
        log_error("%s is not an address; write HOST:PORT, for example 192.168.0.2:7717", text);
        return STATUS_USAGE;
    }
    if (uv_loop_init(&drain.loop)) {
        log_error("no memory for an event loop; end other programs");
        return STATUS_NO_MEMORY;
    }
    uv_timer_init(&drain.loop, &drain.deadline);
    drain.deadline.data = &drain;
    uv_timer_start(&drain.deadline, on_deadline, CONNECT_TIMEOUT_MS, 0);
    if (dial_start(&drain.loop, &address, on_connected, &drain, &drain.dial)) {
        log_error("no resources to connect to worker %s; end other programs", text);
        finish(&drain, STATUS_NO_MEMORY);
    }
    uv_run(&drain.loop, UV_RUN_DEFAULT);
    uv_loop_close(&drain.loop);
    return drain.status;
}
