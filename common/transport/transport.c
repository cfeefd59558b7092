/* The front of the transport: what is posted and what has completed, the choice of a backend, and
 * waiting. Completions wait in a ring that is sized when a connection is added, never afterwards,
 * so a step allocates nothing. */
#include "common/transport/transport.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/threads.h"
#include "common/transport/backend.h"

/* Returns 0 or an errno; on success *out is a transport that is ready. */
static int open_backend(const struct backend *backend, const struct transport_options *options,
                        struct transport **out) {
    struct transport *transport = calloc(1, backend->transport_bytes);
    if (!transport)
        return ENOMEM;
    transport->backend = backend;
    transport->options = *options;
    spin_init(&transport->spin, threads_processors());
    transport->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int error = transport->wake_fd < 0 ? errno : backend->open(transport);
    if (error) {
        if (transport->wake_fd >= 0)
            close(transport->wake_fd);
        free(transport);
        return error;
    }
    log_debug("data plane: %s", backend->name);
    *out = transport;
    return 0;
}

enum status transport_create(const struct transport_options *options, struct transport **out) {
    const char *wanted = options->backend ? options->backend : "auto";
    bool any = strcmp(wanted, "auto") == 0;
    int error = EINVAL;
    if (any || strcmp(wanted, URING_BACKEND.name) == 0)
        error = open_backend(&URING_BACKEND, options, out);
    if (error && any)
        log_info("io_uring cannot be used (%s): it needs %s; using plain sockets", strerror(error),
                 error == ENOMEM ? "memory that may be locked (ulimit -l)"
                                 : "Linux 5.19 and a system that allows it");
    if ((error && any) || strcmp(wanted, SOCKETS_BACKEND.name) == 0)
        error = open_backend(&SOCKETS_BACKEND, options, out);
    if (error)
        log_error("cannot set up the data plane with %s: %s; try --transport auto", wanted,
                  strerror(error));
    return error == 0 ? STATUS_OK : error == ENOMEM ? STATUS_NO_MEMORY : STATUS_IO;
}

static void free_connection(struct connection *connection) {
    close(connection->fd);
    free(connection->peer);
    free(connection);
}

void transport_destroy(struct transport *transport) {
    if (!transport)
        return;
    while (transport->connections)
        transport_remove(transport, transport->connections);
    transport->backend->close(transport);
    close(transport->wake_fd);
    free(transport->ring);
    free(transport);
}

void transport_register(struct transport *transport, void *base, size_t bytes) {
    transport->backend->register_memory(transport, base, bytes);
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
    struct connection *connection = calloc(1, transport->backend->connection_bytes);
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
    enum status status = transport->backend->add(transport, connection);
    if (status) {
        free_connection(connection);
        return status;
    }
    connection->next = transport->connections;
    transport->connections = connection;
    transport->connection_count++;
    *out = connection;
    return STATUS_OK;
}

void transport_remove(struct transport *transport, struct connection *connection) {
    transport->backend->drop(transport, connection);
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

void transport_complete(struct transport *transport, struct connection *connection,
                        enum transport_operation operation, enum status status, size_t bytes) {
    struct queue *queue = operation == TRANSPORT_SEND ? &connection->sends : &connection->receives;
    assert(transport->ring_count < transport->ring_size);
    size_t place = (transport->ring_head + transport->ring_count++) % transport->ring_size;
    transport->ring[place] =
        (struct completion){connection, operation, status, queue_first(queue)->buffer, bytes};
    queue->head = (queue->head + 1) % TRANSPORT_POSTED_MAX;
    queue->count--;
}

void transport_fail(struct transport *transport, struct connection *connection,
                    enum transport_operation operation, enum status status) {
    connection->dead = true;
    transport_complete(transport, connection, operation, status, 0);
    while (connection->sends.count)
        transport_complete(transport, connection, TRANSPORT_SEND, STATUS_CONNECTION, 0);
    while (connection->receives.count)
        transport_complete(transport, connection, TRANSPORT_RECEIVE, STATUS_CONNECTION, 0);
}

static enum status post(struct transport *transport, struct connection *connection,
                        enum transport_operation operation, void *buffer, size_t bytes) {
    struct queue *queue = operation == TRANSPORT_SEND ? &connection->sends : &connection->receives;
    if (queue->count == TRANSPORT_POSTED_MAX)
        return STATUS_NO_MEMORY;
    queue->items[(queue->head + queue->count++) % TRANSPORT_POSTED_MAX] =
        (struct posted){buffer, bytes};
    if (connection->dead)
        transport_complete(transport, connection, operation, STATUS_CONNECTION, 0);
    else
        transport->backend->start(transport, connection, operation);
    return STATUS_OK;
}

enum status transport_post_send(struct transport *transport, struct connection *connection,
                                const void *buffer, size_t bytes) {
    return post(transport, connection, TRANSPORT_SEND, (void *)buffer, bytes);
}

enum status transport_post_receive(struct transport *transport, struct connection *connection,
                                   void *buffer, size_t capacity) {
    assert(capacity >= transport->options.header_bytes);
    return post(transport, connection, TRANSPORT_RECEIVE, buffer, capacity);
}

void transport_flush(struct transport *transport) {
    transport->backend->flush(transport);
}

static bool has_news(const struct transport *transport) {
    return transport->ring_count > 0 || transport->woken;
}

static int remaining_ms(uint64_t started_ns, int timeout_ms) {
    if (timeout_ms < 0)
        return -1;
    uint64_t elapsed_ms = (clock_now_ns() - started_ns) / 1000000;
    return elapsed_ms >= (uint64_t)timeout_ms ? 0 : timeout_ms - (int)elapsed_ms;
}

static bool has_received(const struct transport *transport) {
    for (size_t i = 0; i < transport->ring_count; i++) {
        size_t place = (transport->ring_head + i) % transport->ring_size;
        if (transport->ring[place].operation == TRANSPORT_RECEIVE)
            return true;
    }
    return false;
}

/* Waits for news: looks as long as the spin allows, which is far below any timeout, then sleeps.
 * What the spin learns from are answers of peers; sends complete at once. */
static void wait_news(struct transport *transport, int timeout_ms) {
    uint64_t started_ns = clock_now_ns();
    uint64_t spin_ns = spin_begin(&transport->spin);
    while (!has_news(transport) && clock_now_ns() - started_ns < spin_ns) {
        transport->backend->advance(transport, 0);
        threads_pause();
    }
    for (int wait_ms; !has_news(transport) && (wait_ms = remaining_ms(started_ns, timeout_ms));)
        transport->backend->advance(transport, wait_ms);
    if (has_received(transport))
        spin_end(&transport->spin, clock_now_ns() - started_ns);
}

size_t transport_poll(struct transport *transport, struct completion *out, size_t max,
                      int timeout_ms) {
    if (has_news(transport))
        transport->backend->flush(transport);
    else if (timeout_ms == 0)
        transport->backend->advance(transport, 0);
    else
        wait_news(transport, timeout_ms);
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
