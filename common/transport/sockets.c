/* The transport over non-blocking stream sockets and epoll: works everywhere.
 *
 * Sockets are registered edge-triggered once, for both directions; `readable` and `writable`
 * remember what the kernel last said, so that posting tries the system call at once and a step
 * costs no epoll_ctl. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/log.h"
#include "common/transport/backend.h"
#include "common/transport/stream.h"

#define EVENTS_MAX 64

struct sockets {
    struct transport front;
    int epoll_fd;
};

struct socket_connection {
    struct connection front;
    struct stream stream;
    bool readable, writable;
    bool ended; /* the peer sends no more, which no further event will say */
};

static struct sockets *sockets_of(struct transport *transport) {
    return (struct sockets *)transport;
}

static struct socket_connection *socket_of(struct connection *connection) {
    return (struct socket_connection *)connection;
}

static int sockets_open(struct transport *transport) {
    struct sockets *sockets = sockets_of(transport);
    sockets->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (sockets->epoll_fd < 0)
        return errno;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    if (epoll_ctl(sockets->epoll_fd, EPOLL_CTL_ADD, transport->wake_fd, &event) == 0)
        return 0;
    int error = errno;
    close(sockets->epoll_fd);
    return error;
}

static void sockets_close(struct transport *transport) {
    close(sockets_of(transport)->epoll_fd);
}

/* Calls of the socket interface know nothing of memory that was announced. */
static void sockets_register_memory(struct transport *transport, void *base, size_t bytes) {
    (void)transport, (void)base, (void)bytes;
}

static enum status sockets_add(struct transport *transport, struct connection *connection) {
    struct socket_connection *socket = socket_of(connection);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = connection};
    if (stream_init(&socket->stream))
        return STATUS_NO_MEMORY;
    if (fcntl(connection->fd, F_SETFL, fcntl(connection->fd, F_GETFL) | O_NONBLOCK) ||
        epoll_ctl(sockets_of(transport)->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event)) {
        log_error("%s: cannot watch the connection: %s", connection->peer, strerror(errno));
        stream_cleanup(&socket->stream);
        return STATUS_IO;
    }
    socket->readable = socket->writable = true;
    return STATUS_OK;
}

/* Closing the fd, which follows, takes it out of the epoll set. */
static void sockets_drop(struct transport *transport, struct connection *connection) {
    (void)transport;
    stream_cleanup(&socket_of(connection)->stream);
}

static bool would_block(void) {
    return errno == EAGAIN || errno == EWOULDBLOCK;
}

static void progress_sends(struct transport *transport, struct connection *connection) {
    struct socket_connection *socket = socket_of(connection);
    while (socket->writable && !connection->dead) {
        struct span span = stream_next_send(&socket->stream, connection);
        if (span.count == 0)
            return;
        ssize_t sent = send(connection->fd, span.bytes, span.count, MSG_NOSIGNAL);
        if (sent >= 0)
            stream_take_sent(&socket->stream, transport, connection, (size_t)sent);
        else if (would_block())
            socket->writable = false;
        else if (errno != EINTR)
            transport_fail(transport, connection, TRANSPORT_SEND, STATUS_CONNECTION);
    }
}

/* One call of recv. Fewer bytes than asked for were all there are. */
static enum status receive_span(struct transport *transport, struct connection *connection,
                                const struct span *span) {
    struct socket_connection *socket = socket_of(connection);
    ssize_t got = recv(connection->fd, span->bytes, span->count, 0);
    if (got > 0) {
        socket->readable = socket->ended || (size_t)got == span->count;
        return stream_take_received(&socket->stream, transport, connection, (size_t)got);
    }
    if (got < 0 && would_block())
        socket->readable = false;
    else if (got == 0 || errno != EINTR)
        return STATUS_CONNECTION;
    return STATUS_OK;
}

static void progress_receives(struct transport *transport, struct connection *connection) {
    struct socket_connection *socket = socket_of(connection);
    while (!connection->dead) {
        struct span span;
        enum status status = stream_next_receive(&socket->stream, transport, connection, &span);
        if (!status && (span.count == 0 || !socket->readable))
            return;
        if (!status)
            status = receive_span(transport, connection, &span);
        if (status)
            transport_fail(transport, connection, TRANSPORT_RECEIVE, status);
    }
}

/* A message leaves at once if the kernel has room for it. Buffers for receiving wait for the next
 * poll, in which something may have come for all of them. */
static void sockets_start(struct transport *transport, struct connection *connection,
                          enum transport_operation operation) {
    if (operation == TRANSPORT_SEND)
        progress_sends(transport, connection);
}

/* Waits for the kernel and notes what it says. */
static void wait_events(struct transport *transport, int timeout_ms) {
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(sockets_of(transport)->epoll_fd, events, EVENTS_MAX, timeout_ms);
    for (int i = 0; i < count; i++) {
        struct connection *connection = events[i].data.ptr;
        if (!connection) {
            uint64_t value;
            transport->woken = read(transport->wake_fd, &value, sizeof value) == sizeof value;
            continue;
        }
        struct socket_connection *socket = socket_of(connection);
        socket->ended |= (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
        socket->readable |= socket->ended || (events[i].events & EPOLLIN);
        socket->writable |= (events[i].events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
    }
}

static void sockets_flush(struct transport *transport) {
    for (struct connection *c = transport->connections; c; c = c->next) {
        progress_sends(transport, c);
        progress_receives(transport, c);
    }
}

static void sockets_advance(struct transport *transport, int timeout_ms) {
    sockets_flush(transport);
    if (transport->ring_count > 0)
        return;
    wait_events(transport, timeout_ms);
    sockets_flush(transport);
}

const struct backend SOCKETS_BACKEND = {
    .name = "sockets",
    .transport_bytes = sizeof(struct sockets),
    .connection_bytes = sizeof(struct socket_connection),
    .open = sockets_open,
    .close = sockets_close,
    .register_memory = sockets_register_memory,
    .add = sockets_add,
    .drop = sockets_drop,
    .start = sockets_start,
    .flush = sockets_flush,
    .advance = sockets_advance,
};
