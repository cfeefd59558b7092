/* Silence is counted in ticks of the health timer, not in clock time: a process that was itself
 * stopped or busy for a minute finds one late tick, reads what came meanwhile, and does not blame
 * its peers.
 *
 * An ending channel first lets its last messages leave, sends FIN and waits a moment for the
 * peer's: closing a socket with unread input would reset the connection and could destroy the very
 * Error that tells the peer why. */
#include "proto/channel.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/address.h"
#include "common/cluster_limits.h"
#include "common/log.h"

/* What may wait for a peer that does not read: the largest message and the window of shard chunks.
 */
#define PENDING_BYTES_MAX (CONTROL_MESSAGE_BYTES_MAX + 2u * SHIP_WRITES_MAX * SHIP_CHUNK_BYTES)

enum channel_state {
    CHANNEL_OPEN,
    CHANNEL_FINISHING, /* messages leave, then FIN; input is dropped */
    CHANNEL_CLOSING,   /* handles are being closed; on_end is next */
};

struct channel {
    uv_tcp_t tcp;
    uv_timer_t health;
    uv_shutdown_t shutdown;
    enum channel_state state;
    enum status status; /* for on_end */
    unsigned silent_ticks;
    unsigned open_handles;
    size_t pending, pending_bytes;
    struct control_reader reader;
    const struct channel_handlers *handlers;
    void *context;
    char peer[ADDRESS_TEXT_BYTES_MAX];
};

struct write {
    uv_write_t request;
    struct channel *channel;
    size_t bytes;
    uint8_t data[];
};

static void on_handle_closed(uv_handle_t *handle) {
    struct channel *channel = handle->data;
    if (--channel->open_handles > 0)
        return;
    channel->handlers->on_end(channel->context, channel->status);
    control_reader_cleanup(&channel->reader);
    free(channel);
}

static void end(struct channel *channel, enum status status) {
    if (channel->state == CHANNEL_CLOSING)
        return;
    /* A channel that we are finishing ends as we wanted, however the peer takes it. */
    channel->status = channel->state == CHANNEL_FINISHING ? STATUS_OK : status;
    channel->state = CHANNEL_CLOSING;
    uv_close((uv_handle_t *)&channel->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&channel->health, on_handle_closed);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
    (void)suggested;
    struct channel *channel = handle->data;
    uint8_t *room = NULL;
    size_t bytes = 0;
    control_reader_reserve(&channel->reader, &room, &bytes);
    *out = uv_buf_init((char *)room, (unsigned)bytes); /* an empty one reads as UV_ENOBUFS */
}

/* Hands out every whole message that has come. */
static void read_messages(struct channel *channel) {
    while (channel->state == CHANNEL_OPEN) {
        Control__Message *message = NULL;
        enum status status = control_reader_next(&channel->reader, channel->peer, &message);
        if (!status && !message)
            return;
        if (!status && message->kind_case != CONTROL__MESSAGE__KIND_HEALTH)
            status = channel->handlers->on_message(channel->context, message);
        control_message_free(message);
        if (status)
            end(channel, status);
    }
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer) {
    (void)buffer;
    struct channel *channel = stream->data;
    if (count < 0) {
        end(channel, count == UV_ENOBUFS ? STATUS_NO_MEMORY : STATUS_CONNECTION);
        return;
    }
    channel->silent_ticks = 0;
    if (channel->state != CHANNEL_OPEN)
        return;
    control_reader_commit(&channel->reader, (size_t)count);
    read_messages(channel);
}

static void send_health(struct channel *channel) {
    Control__Health health = CONTROL__HEALTH__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    message.kind_case = CONTROL__MESSAGE__KIND_HEALTH;
    message.health = &health;
    channel_send(channel, &message);
}

static void on_health_tick(uv_timer_t *timer) {
    struct channel *channel = timer->data;
    if (channel->state == CHANNEL_FINISHING)
        end(channel, STATUS_OK);
    else if (++channel->silent_ticks > HEALTH_MISSED_MAX)
        end(channel, STATUS_TIMEOUT);
    else
        send_health(channel);
}

static void on_shutdown(uv_shutdown_t *request, int error) {
    (void)request, (void)error; /* either way the peer's FIN or the timer comes next */
}

static void start_shutdown(struct channel *channel) {
    if (uv_shutdown(&channel->shutdown, (uv_stream_t *)&channel->tcp, on_shutdown))
        end(channel, STATUS_OK);
}

static void on_write_done(uv_write_t *request, int error) {
    struct write *write = (struct write *)request;
    struct channel *channel = write->channel;
    channel->pending--;
    channel->pending_bytes -= write->bytes;
    free(write);
    if (error)
        end(channel, STATUS_CONNECTION);
    else if (channel->state == CHANNEL_FINISHING && channel->pending == 0)
        start_shutdown(channel);
    else if (channel->state == CHANNEL_OPEN && channel->handlers->on_written)
        channel->handlers->on_written(channel->context);
}

void channel_send(struct channel *channel, const Control__Message *message) {
    if (channel->state != CHANNEL_OPEN)
        return;
    size_t bytes = control_encoded_bytes(message);
    struct write *write = NULL;
    if (bytes <= PENDING_BYTES_MAX - channel->pending_bytes)
        write = malloc(sizeof *write + bytes);
    if (!write) {
        end(channel, STATUS_NO_MEMORY);
        return;
    }
    write->channel = channel;
    write->bytes = bytes;
    control_encode(message, write->data);
    uv_buf_t buffer = uv_buf_init((char *)write->data, (unsigned)bytes);
    if (uv_write(&write->request, (uv_stream_t *)&channel->tcp, &buffer, 1, on_write_done)) {
        free(write);
        end(channel, STATUS_CONNECTION);
        return;
    }
    channel->pending++;
    channel->pending_bytes += bytes;
}

static enum status start(struct channel *channel, int fd) {
    if (uv_tcp_open(&channel->tcp, fd)) {
        close(fd);
        return STATUS_IO;
    }
    uv_tcp_nodelay(&channel->tcp, 1);
    if (uv_read_start((uv_stream_t *)&channel->tcp, on_alloc, on_read) ||
        uv_timer_start(&channel->health, on_health_tick, HEALTH_INTERVAL_MS, HEALTH_INTERVAL_MS))
        return STATUS_IO;
    return STATUS_OK;
}

static void ignore_end(void *context, enum status status) {
    (void)context, (void)status;
}

static const struct channel_handlers SILENT = {NULL, NULL, ignore_end};

enum status channel_open(uv_loop_t *loop, int fd, const char *peer,
                         const struct channel_handlers *handlers, void *context,
                         struct channel **out) {
    struct channel *channel = calloc(1, sizeof *channel);
    if (!channel) {
        log_error("no memory for a control connection with %s; end other programs", peer);
        close(fd);
        return STATUS_NO_MEMORY;
    }
    channel->handlers = handlers;
    channel->context = context;
    channel->open_handles = 2;
    channel->tcp.data = channel->health.data = channel;
    strncpy(channel->peer, peer, sizeof channel->peer - 1);
    control_reader_init(&channel->reader, CONTROL_GREETING_BYTES_MAX);
    uv_tcp_init(loop, &channel->tcp);
    uv_timer_init(loop, &channel->health);
    enum status status = start(channel, fd);
    if (status) {
        log_error("cannot watch the control connection with %s; is it a socket?", peer);
        channel->handlers = &SILENT;
        end(channel, status);
        return status;
    }
    *out = channel;
    return STATUS_OK;
}

void channel_trust(struct channel *channel) {
    channel->reader.message_bytes_max = CONTROL_MESSAGE_BYTES_MAX;
}

size_t channel_pending(const struct channel *channel) {
    return channel->pending;
}

void channel_finish(struct channel *channel) {
    if (channel->state != CHANNEL_OPEN)
        return;
    channel->state = CHANNEL_FINISHING;
    channel->status = STATUS_OK;
    uv_timer_start(&channel->health, on_health_tick, FINISH_TIMEOUT_MS, 0);
    if (channel->pending == 0)
        start_shutdown(channel);
}

void channel_close(struct channel *channel) {
    end(channel, STATUS_OK);
}

bool channel_is_silent(const struct channel *channel) {
    return channel->silent_ticks > HEALTH_SILENT_MAX;
}

const char *channel_peer(const struct channel *channel) {
    return channel->peer;
}
