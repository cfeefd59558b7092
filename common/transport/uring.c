/* The transport over io_uring: what all connections have to send and where they receive goes to the
 * kernel in one call, which also waits.
 *
 * At most one send and one receive of a connection are with the kernel, because two of them may
 * overtake each other when the first one gets half through; the next follows when a completion
 * comes in. While an operation is with the kernel its buffer is the kernel's, so a connection that
 * fails is shut down first, which makes the kernel complete what it has, and reported afterwards.
 *
 * Task work is cooperative: the kernel moves data for this thread whenever it is in a system call
 * or interrupted anyway, so a large frame goes on leaving while the thread computes.
 *
 * The beginning of each registered buffer is pinned: the messages of a decode step fit there, and
 * all of a prompt's frames would be more than a system lets a process pin, or than the process
 * needs. TCP copies in any case; zero-copy sending was slower between processes of one machine. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/log.h"
#include "common/transport/backend.h"
#include "common/transport/stream.h"

/* A send and a receive of each connection. */
#define ENTRIES (2u * WORKERS_MAX)
/* The result of an operation is an int. */
#define CALL_BYTES_MAX ((size_t)1 << 30)

/* Pinned memory. The kernel knows it by its number in the order of registration. */
struct region {
    uint8_t *base;
    size_t bytes;
    unsigned index;
};

struct uring {
    struct transport front;
    struct io_uring ring;
    struct region regions[TRANSPORT_REGIONS_MAX]; /* ascending */
    unsigned region_count;
    bool pinning; /* the system has not refused yet */
};

struct uring_connection {
    struct connection front;
    struct stream stream;
    bool with_kernel[2]; /* by enum transport_operation */
    bool failing;        /* was shut down; reported when nothing is with the kernel */
    enum transport_operation failed_operation;
    enum status failed_status;
};

/* An entry's user data: the connection with the operation in the lowest bit; 0 is the wake-up. */
static_assert(TRANSPORT_SEND == 0 && TRANSPORT_RECEIVE == 1, "operation in one bit");
static_assert(_Alignof(struct uring_connection) > 1, "a free bit in pointers");

static struct uring *uring_of(struct transport *transport) {
    return (struct uring *)transport;
}

static struct uring_connection *connection_of(struct connection *connection) {
    return (struct uring_connection *)connection;
}

/* There is always one: a full queue is given to the kernel, which takes all of it. */
static struct io_uring_sqe *take_entry(struct uring *uring) {
    struct io_uring_sqe *entry;
    while (!(entry = io_uring_get_sqe(&uring->ring)))
        io_uring_submit(&uring->ring);
    return entry;
}

static void watch_wake(struct uring *uring) {
    struct io_uring_sqe *entry = take_entry(uring);
    io_uring_prep_poll_add(entry, uring->front.wake_fd, POLLIN);
    io_uring_sqe_set_data64(entry, 0);
}

static int uring_open(struct transport *transport) {
    struct uring *uring = uring_of(transport);
    struct io_uring_params params = {.flags =
                                         IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG};
    int result = io_uring_queue_init_params(ENTRIES, &uring->ring, &params);
    if (result < 0)
        return -result;
    uring->pinning = io_uring_register_buffers_sparse(&uring->ring, TRANSPORT_REGIONS_MAX) == 0;
    watch_wake(uring);
    return 0;
}

static void uring_close(struct transport *transport) {
    io_uring_queue_exit(&uring_of(transport)->ring);
}

/* The number of regions that begin at `address` or before it. */
static unsigned count_regions_to(const struct uring *uring, const uint8_t *address) {
    unsigned low = 0, high = uring->region_count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (uring->regions[middle].base <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The kernel's number of the pinned region that the span lies in; -1: none. */
static int find_region(const struct uring *uring, const struct span *span) {
    unsigned place = count_regions_to(uring, span->bytes);
    if (place == 0)
        return -1;
    const struct region *region = &uring->regions[place - 1];
    size_t offset = (size_t)(span->bytes - region->base);
    bool inside = offset <= region->bytes && span->count <= region->bytes - offset;
    return inside ? (int)region->index : -1;
}

static void uring_register_memory(struct transport *transport, void *base, size_t bytes) {
    struct uring *uring = uring_of(transport);
    struct region region = {
        .base = base,
        .bytes = bytes < TRANSPORT_PINNED_BYTES_MAX ? bytes : TRANSPORT_PINNED_BYTES_MAX,
        .index = uring->region_count};
    if (!uring->pinning || uring->region_count == TRANSPORT_REGIONS_MAX)
        return;
    const struct iovec memory = {region.base, region.bytes};
    int result = io_uring_register_buffers_update_tag(&uring->ring, region.index, &memory, NULL, 1);
    if (result < 0) {
        log_debug("the system pins %u buffers and no more (%s); the others work without",
                  uring->region_count, strerror(-result));
        uring->pinning = false;
        return;
    }
    unsigned place = count_regions_to(uring, region.base);
    memmove(&uring->regions[place + 1], &uring->regions[place],
            (uring->region_count - place) * sizeof region);
    uring->regions[place] = region;
    uring->region_count++;
}

static enum status uring_add(struct transport *transport, struct connection *connection) {
    (void)transport;
    /* On a non-blocking socket an operation would complete with EAGAIN instead of waiting. */
    if (fcntl(connection->fd, F_SETFL, fcntl(connection->fd, F_GETFL) & ~O_NONBLOCK)) {
        log_error("%s: cannot set up the connection: %s", connection->peer, strerror(errno));
        return STATUS_IO;
    }
    return stream_init(&connection_of(connection)->stream);
}

static bool is_idle(const struct uring_connection *connection) {
    return !connection->with_kernel[TRANSPORT_SEND] && !connection->with_kernel[TRANSPORT_RECEIVE];
}

/* Ends a connection. Shut down, its socket has no more to wait for in either direction. */
static void begin_failure(struct transport *transport, struct uring_connection *connection,
                          enum transport_operation operation, enum status status) {
    connection->failing = true;
    connection->failed_operation = operation;
    connection->failed_status = status;
    shutdown(connection->front.fd, SHUT_RDWR);
    if (is_idle(connection))
        transport_fail(transport, &connection->front, operation, status);
}

static void queue_entry(struct uring *uring, struct uring_connection *connection,
                        enum transport_operation operation, struct span span) {
    struct io_uring_sqe *entry = take_entry(uring);
    int fd = connection->front.fd, region = find_region(uring, &span);
    unsigned count = (unsigned)(span.count < CALL_BYTES_MAX ? span.count : CALL_BYTES_MAX);
    if (operation == TRANSPORT_SEND) {
        if (region >= 0)
            io_uring_prep_write_fixed(entry, fd, span.bytes, count, 0, region);
        else
            io_uring_prep_send(entry, fd, span.bytes, count, MSG_NOSIGNAL | MSG_WAITALL);
    } else {
        if (region >= 0 && !span.exact)
            io_uring_prep_read_fixed(entry, fd, span.bytes, count, 0, region);
        else
            io_uring_prep_recv(entry, fd, span.bytes, count, span.exact ? MSG_WAITALL : 0);
    }
    io_uring_sqe_set_data64(entry, (uint64_t)(uintptr_t)connection | operation);
    connection->with_kernel[operation] = true;
}

static void uring_start(struct transport *transport, struct connection *front,
                        enum transport_operation operation) {
    struct uring_connection *connection = connection_of(front);
    if (connection->failing || connection->with_kernel[operation])
        return;
    struct span span;
    enum status status = STATUS_OK;
    if (operation == TRANSPORT_SEND)
        span = stream_next_send(&connection->stream, front);
    else
        status = stream_next_receive(&connection->stream, transport, front, &span);
    if (status)
        begin_failure(transport, connection, operation, status);
    else if (span.count)
        queue_entry(uring_of(transport), connection, operation, span);
}

static void take_result(struct transport *transport, struct uring_connection *connection,
                        enum transport_operation operation, int result) {
    struct connection *front = &connection->front;
    enum status status = STATUS_OK;
    connection->with_kernel[operation] = false;
    if (connection->failing) {
        if (is_idle(connection) && front->sends.count + front->receives.count > 0)
            transport_fail(transport, front, connection->failed_operation,
                           connection->failed_status);
        return;
    }
    if (result > 0 && operation == TRANSPORT_SEND)
        stream_take_sent(&connection->stream, transport, front, (size_t)result);
    else if (result > 0)
        status = stream_take_received(&connection->stream, transport, front, (size_t)result);
    else if (result != -EINTR) {
        if (result < 0)
            log_info("%s: cannot %s: %s", front->peer,
                     operation == TRANSPORT_SEND ? "send" : "receive", strerror(-result));
        status = STATUS_CONNECTION;
    }
    if (status)
        begin_failure(transport, connection, operation, status);
    else
        uring_start(transport, front, operation);
}

static void take_completion(struct transport *transport, const struct io_uring_cqe *completion) {
    uint64_t data = completion->user_data, value;
    if (data) {
        take_result(transport, (struct uring_connection *)(uintptr_t)(data & ~(uint64_t)1),
                    (enum transport_operation)(data & 1), completion->res);
        return;
    }
    transport->woken |= read(transport->wake_fd, &value, sizeof value) == sizeof value;
    watch_wake(uring_of(transport));
}

/* Takes in what has completed; enters the kernel only where it says that it has work to do. */
static void take_completions(struct transport *transport) {
    struct io_uring *ring = &uring_of(transport)->ring;
    struct io_uring_cqe *completion;
    while (io_uring_peek_cqe(ring, &completion) == 0) {
        take_completion(transport, completion);
        io_uring_cqe_seen(ring, completion);
    }
}

static void uring_flush(struct transport *transport) {
    struct io_uring *ring = &uring_of(transport)->ring;
    if (io_uring_sq_ready(ring))
        io_uring_submit(ring);
    take_completions(transport);
}

static void uring_advance(struct transport *transport, int timeout_ms) {
    struct io_uring_cqe *first;
    struct __kernel_timespec timeout = {.tv_sec = timeout_ms / 1000,
                                        .tv_nsec = (long long)(timeout_ms % 1000) * 1000000};
    take_completions(transport);
    if (timeout_ms != 0 && transport->ring_count == 0 && !transport->woken)
        io_uring_submit_and_wait_timeout(&uring_of(transport)->ring, &first, 1,
                                         timeout_ms < 0 ? NULL : &timeout, NULL);
    uring_flush(transport);
}

static void uring_drop(struct transport *transport, struct connection *front) {
    struct uring_connection *connection = connection_of(front);
    connection->failing = true;
    front->sends.count = front->receives.count = 0; /* nothing is to be reported */
    if (!is_idle(connection))
        shutdown(front->fd, SHUT_RDWR);
    /* Not by advancing, which waits for something to report: here nothing is. */
    for (take_completions(transport); !is_idle(connection); take_completions(transport))
        io_uring_submit_and_wait(&uring_of(transport)->ring, 1);
    stream_cleanup(&connection->stream);
}

const struct backend URING_BACKEND = {
    .name = "uring",
    .transport_bytes = sizeof(struct uring),
    .connection_bytes = sizeof(struct uring_connection),
    .open = uring_open,
    .close = uring_close,
    .register_memory = uring_register_memory,
    .add = uring_add,
    .drop = uring_drop,
    .start = uring_start,
    .flush = uring_flush,
    .advance = uring_advance,
};
