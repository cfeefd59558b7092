/* Puts the worker's parts together; each of them lives as long as the daemon. Ending is orderly:
 * the handles are closed, the loop runs until the last callback, then memory goes in reverse order.
 */
#include "worker/daemon.h"

#include <stdlib.h>
#include <uv.h>

#include "common/cluster_limits.h"
#include "common/config.h"
#include "common/kernel/kernel.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/threads.h"
#include "common/weights/weights.h"
#include "worker/expert_store.h"
#include "worker/listener.h"
#include "worker/notify.h"
#include "worker/session.h"

struct daemon {
    uv_loop_t loop;
    uv_async_t stop;
    uv_signal_t signals[2]; /* SIGTERM, SIGINT */
    uv_timer_t drain;       /* runs after SIGTERM */
    struct threads *threads;
    struct weights *weights; /* NULL without a copy */
    struct expert_store *store;
    struct session *session;
    struct listener *listener;
};

static void on_control(void *context, int fd, const char *peer) {
    struct daemon *daemon = context;
    session_accept_control(daemon->session, fd, peer);
}

static void on_data(void *context, int fd, uint64_t session_id, const char *peer) {
    struct daemon *daemon = context;
    session_accept_data(daemon->session, fd, session_id, peer);
}

static const struct listener_handlers HANDLERS = {on_control, on_data};

static void close_all(struct daemon *daemon) {
    listener_close(daemon->listener);
    daemon->listener = NULL;
    if (daemon->session)
        session_close(daemon->session);
    for (int i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&daemon->signals[i], NULL);
    uv_close((uv_handle_t *)&daemon->drain, NULL);
    uv_close((uv_handle_t *)&daemon->stop, NULL);
}

static void on_stop(uv_async_t *stop) {
    struct daemon *daemon = stop->data;
    if (!uv_is_closing((uv_handle_t *)stop))
        close_all(daemon);
}

static void on_drain_timeout(uv_timer_t *drain) {
    log_warning("ending with a coordinator that still needs this worker");
    daemon_stop(drain->data);
}

static void on_signal(uv_signal_t *signal, int number) {
    struct daemon *daemon = signal->data;
    notify_stopping();
    if (number == SIGINT || uv_is_active((uv_handle_t *)&daemon->drain)) {
        log_info("signal %d: ending", number);
        daemon_stop(daemon);
        return;
    }
    log_info("signal %d: ending within %d s, as soon as nobody needs this worker", number,
             DRAIN_TIMEOUT_MS / 1000);
    uv_timer_start(&daemon->drain, on_drain_timeout, DRAIN_TIMEOUT_MS, 0);
    session_drain(daemon->session);
}

static void on_drained(void *context) {
    daemon_stop(context);
}

/* Memory, threads and the model: everything that needs no loop. */
static enum status open_resources(struct daemon *daemon, const struct daemon_options *options,
                                  struct session_options *session) {
    enum status status = STATUS_OK;
    uint64_t available;
    if (options->spill_bytes > 0 && !options->cache) {
        log_error("--spill needs a directory for shards; name one with --cache");
        return STATUS_USAGE;
    }
    session->memory_bytes = options->memory_bytes;
    if (session->memory_bytes == 0 && !(status = memory_available(&available)))
        session->memory_bytes = available / 10 * 9;
    if (!status)
        status = expert_store_create(session->memory_bytes, &daemon->store);
    if (!status)
        expert_store_allow_spill(daemon->store, options->spill_bytes);
    if (!status)
        status = threads_create(options->threads, &daemon->threads);
    if (!status && options->model) {
        status = weights_open(options->model, &daemon->weights);
        if (!status)
            status = weights_fingerprint(daemon->weights, &session->fingerprint);
    }
    session->loop = &daemon->loop;
    session->threads = daemon->threads;
    session->store = daemon->store;
    session->isa = kernel_get()->name;
    session->weights = daemon->weights;
    session->cache_directory = options->cache;
    session->cache_bytes_max = options->cache_bytes_max;
    session->spill_bytes = options->spill_bytes;
    session->transport = options->transport;
    session->drained = on_drained;
    session->context = daemon;
    return status;
}

enum status daemon_create(const struct daemon_options *options, struct daemon **out) {
    struct daemon *daemon = calloc(1, sizeof *daemon);
    if (!daemon || uv_loop_init(&daemon->loop)) {
        log_error("no memory for an event loop; end other programs");
        free(daemon);
        return STATUS_NO_MEMORY;
    }
    daemon->stop.data = daemon;
    uv_async_init(&daemon->loop, &daemon->stop, on_stop);
    uv_timer_init(&daemon->loop, &daemon->drain);
    daemon->drain.data = daemon;
    for (int i = 0; i < 2; i++) {
        uv_signal_init(&daemon->loop, &daemon->signals[i]);
        daemon->signals[i].data = daemon;
    }
    struct session_options session = {0};
    enum status status = open_resources(daemon, options, &session);
    if (!status)
        status = session_create(&session, &daemon->session);
    if (!status)
        status = listener_create(&daemon->loop, options->listen, options->insecure, &HANDLERS,
                                 daemon, &daemon->listener);
    if (status) {
        daemon_destroy(daemon);
        return status;
    }
    if (options->handle_signals) {
        uv_signal_start(&daemon->signals[0], on_signal, SIGTERM);
        uv_signal_start(&daemon->signals[1], on_signal, SIGINT);
    }
    char memory[CONFIG_SIZE_TEXT];
    log_info("listening on %s with %u threads, %s kernels and %s for shards",
             listener_address(daemon->listener), threads_count(daemon->threads), session.isa,
             config_format_size(session.memory_bytes, memory));
    *out = daemon;
    return STATUS_OK;
}

const char *daemon_address(const struct daemon *daemon) {
    return listener_address(daemon->listener);
}

void daemon_run(struct daemon *daemon) {
    uv_run(&daemon->loop, UV_RUN_DEFAULT);
}

void daemon_stop(struct daemon *daemon) {
    uv_async_send(&daemon->stop);
}

void daemon_destroy(struct daemon *daemon) {
    if (!daemon)
        return;
    if (!uv_is_closing((uv_handle_t *)&daemon->stop)) {
        close_all(daemon);
        uv_run(&daemon->loop, UV_RUN_DEFAULT);
    }
    session_destroy(daemon->session);
    uv_loop_close(&daemon->loop);
    weights_close(daemon->weights);
    threads_destroy(daemon->threads);
    expert_store_destroy(daemon->store);
    free(daemon);
}
