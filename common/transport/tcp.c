/* The transport over non-blocking stream sockets and epoll.
 *
 * Sockets are registered edge-triggered once, for both directions; `readable` and `writable`
 * remember what the kernel last said, so that posting tries the system call at once and a step
 * costs no epoll_ctl. Completions wait in a ring that is sized when a connection is added, never
 * afterwards. */
#include "common/transport/transport.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"

#define EVENTS_MAX 64

struct posted {
    uint8_t *buffer;
    size_t bytes; /* of a send; capacity of a receive */
};

/* A first-in-first-out ring of posted buffers, and how far the first one has got. */
struct queue {
    struct posted items[TRANSPORT_POSTED_MAX];
    size_t head, count;
    size_t moved;   /* bytes of the first item sent or received */
    size_t message; /* receive: length of the message, 0 until its header is there */
};

struct connection {
    struct connection *next;
    int fd;
    char *peer;
    bool readable, writable, dead;
    struct queue sends, receives;
};

struct transport {
    struct transport_options options;
    struct connection *connections;
    size_t connection_count;
    int epoll_fd, wake_fd;
    struct completion *ring; /* (ring_size) */
    size_t ring_size, ring_head, ring_count;
    bool woken;
};

enum status transport_create(const struct transport_options *options, struct transport **out) {
    struct transport *transport = calloc(1, sizeof *transport);
    if (!transport)
        return STATUS_NO_MEMORY;
    transport->options = *options;
    transport->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    transport->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    if (transport->epoll_fd < 0 || transport->wake_fd < 0 ||
        epoll_ctl(transport->epoll_fd, EPOLL_CTL_ADD, transport->wake_fd, &event)) {
        log_error("cannot create an epoll set: %s", strerror(errno));
        transport_destroy(transport);
        return STATUS_IO;
    }
    *out = transport;
    return STATUS_OK;
}

static void free_connection(struct connection *connection) {
    close(connection->fd);
    free(connection->peer);
    free(connection);
}

void transport_destroy(struct transport *transport) {
    if (!transport)
        return;
    for (struct connection *c = transport->connections, *next; c; c = next) {
        next = c->next;
        free_connection(c);
    }
    if (transport->epoll_fd >= 0)
        close(transport->epoll_fd);
    if (transport->wake_fd >= 0)
        close(transport->wake_fd);
    free(transport->ring);
    free(transport);
}

/* Room for everything that one more connection can have posted. */
static enum status grow_ring(struct transport *transport) {
    size_t size = (transport->connection_count + 1) * 2 * TRANSPORT_POSTED_MAX;
    if (size <= transport->ring_size)
        return STATUS_OK;
    struct completion *ring = malloc(size * sizeof *ring);
    if (!ring)
        return STATUS_NO_MEMORY;
    for (size_t i = 0; i < transport->ring_count; i++)
        ring[i] = transport->ring[(transport->ring_head + i) % transport->ring_size];
    free(transport->ring);
    transport->ring = ring;
    transport->ring_size = size;
    transport->ring_head = 0;
    return STATUS_OK;
}

enum status transport_add(struct transport *transport, int fd, const char *peer,
                          struct connection **out) {
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection || !(connection->peer = strdup(peer)) || grow_ring(transport)) {
        if (connection)
            free(connection->peer);
        free(connection);
        close(fd);
        return STATUS_NO_MEMORY;
    }
    connection->fd = fd;
    /* Frames are whole messages; waiting for more bytes (Nagle) would only delay them. Fails on
     * sockets that are not TCP, which need no such thing. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = connection};
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) ||
        epoll_ctl(transport->epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
        log_error("%s: cannot watch the connection: %s", peer, strerror(errno));
        free_connection(connection);
        return STATUS_IO;
    }
    connection->readable = connection->writable = true;
    connection->next = transport->connections;
    transport->connections = connection;
    transport->connection_count++;
    *out = connection;
    return STATUS_OK;
}

void transport_remove(struct transport *transport, struct connection *connection) {
    struct connection **link = &transport->connections;
    while (*link != connection)
        link = &(*link)->next;
    *link = connection->next;
    transport->connection_count--;
    size_t kept = 0;
    for (size_t i = 0; i < transport->ring_count; i++) {
        struct completion *from =
            &transport->ring[(transport->ring_head + i) % transport->ring_size];
        if (from->connection != connection)
            transport->ring[(transport->ring_head + kept++) % transport->ring_size] = *from;
    }
    transport->ring_count = kept;
    free_connection(connection);
}

const char *connection_peer(const struct connection *connection) {
    return connection->peer;
}

static struct posted *queue_first(struct queue *queue) {
    return &queue->items[queue->head];
}

/* Takes the first item off `queue` and reports it. */
static void complete(struct transport *transport, struct connection *connection,
                     enum transport_operation operation, enum status status, size_t bytes) {
    struct queue *queue = operation == TRANSPORT_SEND ? &connection->sends : &connection->receives;
    assert(transport->ring_count < transport->ring_size);
    size_t place = (transport->ring_head + transport->ring_count++) % transport->ring_size;
    transport->ring[place] =
        (struct completion){connection, operation, status, queue_first(queue)->buffer, bytes};
    queue->head = (queue->head + 1) % TRANSPORT_POSTED_MAX;
    queue->count--;
    queue->moved = queue->message = 0;
}

/* Ends a connection: the operation that found the error reports it, all others STATUS_CONNECTION.
 */
static void fail(struct transport *transport, struct connection *connection,
                 enum transport_operation operation, enum status status) {
    connection->dead = true;
    complete(transport, connection, operation, status, 0);
    while (connection->sends.count)
        complete(transport, connection, TRANSPORT_SEND, STATUS_CONNECTION, 0);
    while (connection->receives.count)
        complete(transport, connection, TRANSPORT_RECEIVE, STATUS_CONNECTION, 0);
}

static void progress_sends(struct transport *transport, struct connection *connection) {
    struct queue *queue = &connection->sends;
    while (queue->count && connection->writable && !connection->dead) {
        struct posted *item = queue_first(queue);
        ssize_t sent = send(connection->fd, item->buffer + queue->moved, item->bytes - queue->moved,
                            MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            connection->writable = false;
        } else if (sent < 0) {
            fail(transport, connection, TRANSPORT_SEND, STATUS_CONNECTION);
        } else if ((queue->moved += (size_t)sent) == item->bytes) {
            complete(transport, connection, TRANSPORT_SEND, STATUS_OK, item->bytes);
        }
    }
}

/* The header of the message at hand is complete: learns its length and whether it fits. */
static enum status begin_message(struct transport *transport, struct connection *connection) {
    struct queue *queue = &connection->receives;
    struct posted *item = queue_first(queue);
    size_t bytes;
    enum status status = transport->options.message_bytes(item->buffer, connection->peer, &bytes);
    if (status)
        return status;
    if (bytes > item->bytes || bytes < transport->options.header_bytes) {
        log_error(
            "%s: a message of %zu bytes where at most %zu were agreed; install the same release on "
            "both machines",
            connection->peer, bytes, item->bytes);
        return STATUS_PROTOCOL;
    }
    queue->message = bytes;
    return STATUS_OK;
}

static void progress_receives(struct transport *transport, struct connection *connection) {
    struct queue *queue = &connection->receives;
    while (queue->count && connection->readable && !connection->dead) {
        struct posted *item = queue_first(queue);
        size_t wanted = queue->message ? queue->message : transport->options.header_bytes;
        ssize_t got = recv(connection->fd, item->buffer + queue->moved, wanted - queue->moved, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            connection->readable = false;
            continue;
        }
        if (got <= 0) {
            fail(transport, connection, TRANSPORT_RECEIVE, STATUS_CONNECTION);
            continue;
        }
        queue->moved += (size_t)got;
        if (!queue->message && queue->moved == wanted) {
            enum status status = begin_message(transport, connection);
            if (status) {
                fail(transport, connection, TRANSPORT_RECEIVE, status);
                continue;
            }
        }
        if (queue->moved == queue->message)
            complete(transport, connection, TRANSPORT_RECEIVE, STATUS_OK, queue->message);
    }
}

static enum status post(struct queue *queue, void *buffer, size_t bytes) {
    if (queue->count == TRANSPORT_POSTED_MAX)
        return STATUS_NO_MEMORY;
    queue->items[(queue->head + queue->count++) % TRANSPORT_POSTED_MAX] =
        (struct posted){buffer, bytes};
    return STATUS_OK;
}

enum status transport_post_send(struct transport *transport, struct connection *connection,
                                const void *buffer, size_t bytes) {
    enum status status = post(&connection->sends, (void *)buffer, bytes);
    if (status)
        return status;
    if (connection->dead)
        complete(transport, connection, TRANSPORT_SEND, STATUS_CONNECTION, 0);
    else
        progress_sends(transport, connection);
    return STATUS_OK;
}

enum status transport_post_receive(struct transport *transport, struct connection *connection,
                                   void *buffer, size_t capacity) {
    assert(capacity >= transport->options.header_bytes);
    enum status status = post(&connection->receives, buffer, capacity);
    if (status == STATUS_OK && connection->dead)
        complete(transport, connection, TRANSPORT_RECEIVE, STATUS_CONNECTION, 0);
    return status;
}

/* Waits for the kernel and notes what it says. */
static void wait_events(struct transport *transport, int timeout_ms) {
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(transport->epoll_fd, events, EVENTS_MAX, timeout_ms);
    for (int i = 0; i < count; i++) {
        struct connection *connection = events[i].data.ptr;
        if (!connection) {
            uint64_t value;
            transport->woken = read(transport->wake_fd, &value, sizeof value) == sizeof value;
            continue;
        }
        if (events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            connection->readable = true;
        if (events[i].events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
            connection->writable = true;
    }
}

static int remaining_ms(uint64_t started_ns, int timeout_ms) {
    if (timeout_ms < 0)
        return -1;
    uint64_t elapsed_ms = (clock_now_ns() - started_ns) / 1000000;
    return elapsed_ms >= (uint64_t)timeout_ms ? 0 : timeout_ms - (int)elapsed_ms;
}

size_t transport_poll(struct transport *transport, struct completion *out, size_t max,
                      int timeout_ms) {
    uint64_t started_ns = clock_now_ns();
    for (bool last = false;;) {
        for (struct connection *c = transport->connections; c; c = c->next) {
            progress_sends(transport, c);
            progress_receives(transport, c);
        }
        if (transport->ring_count || last || transport->woken)
            break;
        int wait_ms = remaining_ms(started_ns, timeout_ms);
        wait_events(transport, wait_ms);
        last = wait_ms == 0;
    }
    transport->woken = false;
    size_t count = transport->ring_count < max ? transport->ring_count : max;
    for (size_t i = 0; i < count; i++)
        out[i] = transport->ring[(transport->ring_head + i) % transport->ring_size];
    if (count) {
        transport->ring_head = (transport->ring_head + count) % transport->ring_size;
        transport->ring_count -= count;
    }
    return count;
}

void transport_wake(struct transport *transport) {
    /* The counter only overflows after 2^64 wakes; a failed write would mean it is already
     * non-zero. */
    ssize_t written = write(transport->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
    (void)written;
}
