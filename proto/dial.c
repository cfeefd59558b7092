/* The socket is opened and connected by hand and only watched by libuv, because a data connection
 * leaves the loop afterwards: libuv does not give a descriptor back. */
#include "proto/dial.h"

#include <errno.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

struct dial {
    uv_getaddrinfo_t resolve;
    uv_poll_t poll;
    bool resolving, polling, connected, cancelled;
    int fd;
    struct addrinfo *infos;
    const struct addrinfo *next; /* to be tried */
    const char *reason;          /* of the last failure */
    dial_done done;
    void *context;
};

static void dial_free(struct dial *dial) {
    if (dial->fd >= 0)
        close(dial->fd);
    if (dial->infos)
        uv_freeaddrinfo(dial->infos);
    free(dial);
}

static void finish(struct dial *dial) {
    int fd = dial->connected ? dial->fd : -1;
    if (dial->connected)
        dial->fd = -1;
    dial->done(dial->context, fd, dial->reason);
    dial_free(dial);
}

static void try_next(struct dial *dial);

static void on_poll_closed(uv_handle_t *handle) {
    struct dial *dial = handle->data;
    dial->polling = false;
    if (dial->cancelled)
        dial_free(dial);
    else if (dial->connected)
        finish(dial);
    else
        try_next(dial);
}

static void on_writable(uv_poll_t *poll, int status, int events) {
    (void)events;
    struct dial *dial = poll->data;
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(dial->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    dial->connected = status == 0 && error == 0;
    if (!dial->connected)
        dial->reason = uv_strerror(error ? uv_translate_sys_error(error) : status);
    uv_close((uv_handle_t *)poll, on_poll_closed);
}

/* Begins to connect to one address; false when that fails at once. */
static bool try_address(struct dial *dial, const struct addrinfo *info) {
    dial->fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (dial->fd < 0 ||
        (connect(dial->fd, info->ai_addr, info->ai_addrlen) && errno != EINPROGRESS)) {
        dial->reason = uv_strerror(uv_translate_sys_error(errno));
        return false;
    }
    int error = uv_poll_init(dial->resolve.loop, &dial->poll, dial->fd);
    if (error) {
        dial->reason = uv_strerror(error);
        return false;
    }
    dial->poll.data = dial;
    dial->polling = true;
    uv_poll_start(&dial->poll, UV_WRITABLE, on_writable);
    return true;
}

static void try_next(struct dial *dial) {
    while (dial->next) {
        const struct addrinfo *info = dial->next;
        dial->next = info->ai_next;
        if (dial->fd >= 0)
            close(dial->fd);
        if (try_address(dial, info))
            return;
    }
    finish(dial);
}

static void on_resolved(uv_getaddrinfo_t *resolve, int error, struct addrinfo *infos) {
    struct dial *dial = resolve->data;
    dial->resolving = false;
    dial->infos = infos;
    dial->next = infos;
    if (error)
        dial->reason = uv_strerror(error);
    if (dial->cancelled)
        dial_free(dial);
    else
        try_next(dial);
}

enum status dial_start(uv_loop_t *loop, const struct address *address, dial_done done,
                       void *context, struct dial **out) {
    struct dial *dial = calloc(1, sizeof *dial);
    if (!dial)
        return STATUS_NO_MEMORY;
    dial->fd = -1;
    dial->done = done;
    dial->context = context;
    dial->reason = "no such host";
    dial->resolve.data = dial;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    if (uv_getaddrinfo(loop, &dial->resolve, on_resolved, address->host, address->port, &hints)) {
        free(dial);
        return STATUS_IO;
    }
    dial->resolving = true;
    *out = dial;
    return STATUS_OK;
}

void dial_cancel(struct dial *dial) {
    dial->cancelled = true;
    if (dial->resolving)
        uv_cancel((uv_req_t *)&dial->resolve);
    else if (dial->polling && !uv_is_closing((uv_handle_t *)&dial->poll))
        uv_close((uv_handle_t *)&dial->poll, on_poll_closed);
}
