/* What an accepted socket is shows in its first four bytes: WIRE_MAGIC read as the length of a
 * control message is far over the bound, so the two cannot be confused. The bytes are peeked at, so
 * that the control channel finds its first message whole; SO_RCVLOWAT lets the kernel wait for
 * enough of them.
 *
 * Sockets that have not said what they are (arrivals) are few and have a deadline. When they are
 * too many the oldest gives way: a peer that means well speaks at once. */
#include "worker/listener.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/address.h"
#include "common/cluster_limits.h"
#include "common/log.h"
#include "proto/wire.h"

#define BACKLOG 64

struct arrival {
    uv_poll_t poll;
    uv_timer_t deadline;
    unsigned open_handles;
    int fd; /* -1 once handed on */
    struct listener *listener;
    struct arrival *next; /* newest first */
    char peer[ADDRESS_TEXT_BYTES_MAX];
};

struct listener {
    uv_poll_t poll;
    int fd;
    struct arrival *arrivals;
    unsigned arrival_count;
    const struct listener_handlers *handlers;
    void *context;
    char address[ADDRESS_TEXT_BYTES_MAX];
};

static void on_arrival_closed(uv_handle_t *handle) {
    struct arrival *arrival = handle->data;
    if (--arrival->open_handles == 0)
        free(arrival);
}

/* Takes the arrival off the list and frees it; its socket is closed unless it was handed on. */
static void remove_arrival(struct arrival *arrival) {
    struct listener *listener = arrival->listener;
    struct arrival **link = &listener->arrivals;
    while (*link != arrival)
        link = &(*link)->next;
    *link = arrival->next;
    listener->arrival_count--;
    uv_close((uv_handle_t *)&arrival->poll, on_arrival_closed);
    uv_close((uv_handle_t *)&arrival->deadline, on_arrival_closed);
    if (arrival->fd >= 0)
        close(arrival->fd);
}

/* uv_poll must forget the descriptor before another owner may watch it; uv_poll_stop does that. */
static int release_socket(struct arrival *arrival) {
    int fd = arrival->fd;
    uv_poll_stop(&arrival->poll);
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &(int){1}, sizeof(int));
    arrival->fd = -1;
    return fd;
}

/* The socket is a data connection: reads its WIRE_OPEN frame, which must be all there is. */
static void read_open(struct arrival *arrival) {
    struct listener *listener = arrival->listener;
    struct wire_header header;
    char peer[ADDRESS_TEXT_BYTES_MAX];
    memcpy(peer, arrival->peer, sizeof peer);
    ssize_t got = recv(arrival->fd, &header, sizeof header, 0);
    if (got != (ssize_t)sizeof header || wire_decode_header(&header, peer, &header)) {
        remove_arrival(arrival);
        return;
    }
    if (header.type != WIRE_OPEN) {
        log_error("%s: a data connection that starts with a frame of type %u; closing it", peer,
                  header.type);
        remove_arrival(arrival);
        return;
    }
    int fd = release_socket(arrival);
    remove_arrival(arrival);
    listener->handlers->on_data(listener->context, fd, header.sequence, peer);
}

static void hand_on_control(struct arrival *arrival) {
    struct listener *listener = arrival->listener;
    char peer[ADDRESS_TEXT_BYTES_MAX];
    memcpy(peer, arrival->peer, sizeof peer);
    int fd = release_socket(arrival);
    remove_arrival(arrival);
    listener->handlers->on_control(listener->context, fd, peer);
}

static void on_arrival_readable(uv_poll_t *poll, int error, int events) {
    (void)events;
    struct arrival *arrival = poll->data;
    uint8_t bytes[sizeof(struct wire_header)];
    uint32_t magic;
    ssize_t got = error ? -1 : recv(arrival->fd, bytes, sizeof bytes, MSG_PEEK);
    if (got < 0 && !error && (errno == EAGAIN || errno == EINTR))
        return;
    if (got < (ssize_t)sizeof magic) {
        log_debug("%s closed before it said anything", arrival->peer);
        remove_arrival(arrival);
        return;
    }
    memcpy(&magic, bytes, sizeof magic);
    if (magic != WIRE_MAGIC) {
        hand_on_control(arrival);
        return;
    }
    int wanted = sizeof bytes, low_water;
    socklen_t length = sizeof low_water;
    if (got == wanted) {
        read_open(arrival);
    } else if (getsockopt(arrival->fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, &length) ||
               low_water == wanted) {
        /* It was woken below the mark, so the peer has closed. */
        log_error("%s closed in the middle of its first frame", arrival->peer);
        remove_arrival(arrival);
    } else {
        setsockopt(arrival->fd, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted);
    }
}

static void on_deadline(uv_timer_t *timer) {
    struct arrival *arrival = timer->data;
    log_warning("%s connected and said nothing for %d s; closing the connection", arrival->peer,
                CONNECT_TIMEOUT_MS / 1000);
    remove_arrival(arrival);
}

static void drop_oldest(struct listener *listener) {
    struct arrival *oldest = listener->arrivals;
    while (oldest->next)
        oldest = oldest->next;
    log_warning("%s connected and says nothing; making room for others", oldest->peer);
    remove_arrival(oldest);
}

static void add_arrival(struct listener *listener, int fd, const struct sockaddr *peer) {
    if (listener->arrival_count == ARRIVALS_MAX)
        drop_oldest(listener);
    struct arrival *arrival = calloc(1, sizeof *arrival);
    if (!arrival) {
        close(fd);
        return;
    }
    arrival->fd = fd;
    arrival->listener = listener;
    address_format(peer, arrival->peer);
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &(int){sizeof(uint32_t)}, sizeof(int));
    if (uv_poll_init(listener->poll.loop, &arrival->poll, fd)) {
        close(fd);
        free(arrival);
        return;
    }
    uv_timer_init(listener->poll.loop, &arrival->deadline);
    arrival->open_handles = 2;
    arrival->poll.data = arrival->deadline.data = arrival;
    arrival->next = listener->arrivals;
    listener->arrivals = arrival;
    listener->arrival_count++;
    if (uv_poll_start(&arrival->poll, UV_READABLE | UV_DISCONNECT, on_arrival_readable) ||
        uv_timer_start(&arrival->deadline, on_deadline, CONNECT_TIMEOUT_MS, 0))
        remove_arrival(arrival);
}

static void on_connection(uv_poll_t *poll, int error, int events) {
    (void)error, (void)events;
    struct listener *listener = poll->data;
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    /* One at a time: the loop calls again while there are more. The bounds on arrivals and control
     * connections keep us far from running out of descriptors. */
    int fd = accept4(listener->fd, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0)
        add_arrival(listener, fd, (struct sockaddr *)&peer);
}

static int open_socket(const struct addrinfo *info) {
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    /* A daemon that is started again takes its port back although old connections linger. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, info->ai_addr, info->ai_addrlen) || listen(fd, BACKLOG)) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* Resolves `text`, refuses what is not loopback, and listens; *fd is set on success only. */
static enum status bind_address(const char *text, bool insecure, int *fd) {
    struct address address;
    if (!address_parse(text, &address)) {
        log_error("--listen %s is not an address; write HOST:PORT, for example 127.0.0.1:7717",
                  text);
        return STATUS_USAGE;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *info;
    int error = getaddrinfo(address.host, address.port, &hints, &info);
    if (error) {
        log_error("--listen %s: %s; name an address of this machine", text, gai_strerror(error));
        return STATUS_CONNECTION;
    }
    enum status status = STATUS_OK;
    if (!insecure && !address_is_loopback(info->ai_addr)) {
        log_error("--listen %s: connections are not encrypted yet, so only loopback addresses are "
                  "allowed; add --insecure in a network where everybody is trusted",
                  text);
        status = STATUS_USAGE;
    } else if ((*fd = open_socket(info)) < 0) {
        log_error("cannot listen on %s: %s; is another skein-worker running there? --listen names "
                  "another port",
                  text, strerror(errno));
        status = STATUS_CONNECTION;
    }
    freeaddrinfo(info);
    return status;
}

enum status listener_create(uv_loop_t *loop, const char *address, bool insecure,
                            const struct listener_handlers *handlers, void *context,
                            struct listener **out) {
    int fd;
    enum status status = bind_address(address, insecure, &fd);
    if (status)
        return status;
    struct listener *listener = calloc(1, sizeof *listener);
    if (!listener || uv_poll_init(loop, &listener->poll, fd)) {
        log_error("no memory to listen on %s; end other programs", address);
        free(listener);
        close(fd);
        return STATUS_NO_MEMORY;
    }
    struct sockaddr_storage name;
    socklen_t length = sizeof name;
    getsockname(fd, (struct sockaddr *)&name, &length);
    address_format((struct sockaddr *)&name, listener->address);
    listener->fd = fd;
    listener->handlers = handlers;
    listener->context = context;
    listener->poll.data = listener;
    uv_poll_start(&listener->poll, UV_READABLE, on_connection);
    *out = listener;
    return STATUS_OK;
}

const char *listener_address(const struct listener *listener) {
    return listener->address;
}

static void on_listener_closed(uv_handle_t *handle) {
    free(handle->data);
}

void listener_close(struct listener *listener) {
    if (!listener)
        return;
    while (listener->arrivals)
        remove_arrival(listener->arrivals);
    uv_close((uv_handle_t *)&listener->poll, on_listener_closed);
    close(listener->fd);
}
