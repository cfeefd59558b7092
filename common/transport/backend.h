/* Between the transport's front (transport.c) and what carries its messages (sockets.c, uring.c).
 *
 * The front keeps what is posted and what has completed, chooses the backend and waits; a backend
 * moves the bytes. A backend's own state follows the structs below: it says how large its transport
 * and its connection are, and their first member is the front's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/cluster_limits.h"
#include "common/transport/spin.h"
#include "common/transport/transport.h"

struct posted {
    uint8_t *buffer;
    size_t bytes; /* of a send; capacity of a receive */
};

/* First in, first out. */
struct queue {
    struct posted items[TRANSPORT_POSTED_MAX];
    size_t head, count;
};

struct connection {
    struct connection *next;
    int fd;
    char *peer;
    bool dead; /* everything posted has completed, and whatever is posted completes with an error */
    struct queue sends, receives;
};

struct transport {
    const struct backend *backend;
    struct transport_options options;
    struct connection *connections;
    size_t connection_count;
    int wake_fd; /* an eventfd that the backend watches; it sets `woken` and reads it empty */
    bool woken;
    struct spin spin;
    struct completion *ring; /* (ring_size) not yet handed out; has room for all that is posted */
    size_t ring_size, ring_head, ring_count;
};

struct backend {
    const char *name; /* as in transport_options */
    size_t transport_bytes, connection_bytes;
    /* Takes what the backend needs for itself. Returns 0 or an errno and logs nothing. */
    int (*open)(struct transport *transport);
    /* When no connections are left. */
    void (*close)(struct transport *transport);
    /* See transport_register. */
    void (*register_memory)(struct transport *transport, void *base, size_t bytes);
    /* Begins with a connection whose fd and peer are set. Errors: STATUS_NO_MEMORY, STATUS_IO. */
    enum status (*add)(struct transport *transport, struct connection *connection);
    /* Ends with it: on return nobody touches a buffer that was posted on it. The fd is still open.
     */
    void (*drop)(struct transport *transport, struct connection *connection);
    /* Something was posted on a connection that is not dead. */
    void (*start)(struct transport *transport, struct connection *connection,
                  enum transport_operation operation);
    /* Gives the kernel what it has not been given yet, and takes in what is known to be there. */
    void (*flush)(struct transport *transport);
    /* The same, but sleeps for up to `timeout_ms` (0: not at all, -1: for ever) until there is news
     * of the kernel. */
    void (*advance)(struct transport *transport, int timeout_ms);
};

extern const struct backend SOCKETS_BACKEND, URING_BACKEND;

/* The first item of a queue that is not empty. */
static inline struct posted *queue_first(struct queue *queue) {
    return &queue->items[queue->head];
}

/* For backends: the first item posted for `operation` is done. */
void transport_complete(struct transport *transport, struct connection *connection,
                        enum transport_operation operation, enum status status, size_t bytes);

/* For backends: the connection is dead. The first item posted for `operation` completes with
 * `status`, everything else with STATUS_CONNECTION; nobody may touch its buffers any more. */
void transport_fail(struct transport *transport, struct connection *connection,
                    enum transport_operation operation, enum status status);
