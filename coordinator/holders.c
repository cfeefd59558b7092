#include "coordinator/holders.h"

#include <stdlib.h>
#include <unistd.h>

#include "common/log.h"
#include "proto/wire.h"

static void disconnect(struct holders *holders, uint32_t h) {
    if (holders->all[h].connection)
        transport_remove(holders->transport, holders->all[h].connection);
    holders->all[h].connection = NULL;
    holders->served[h] = 0;
}

static void connect_worker(struct holders *holders, uint32_t h, int fd) {
    struct holder *holder = &holders->all[h];
    if (transport_add(holders->transport, fd, holder->address, &holder->connection) == STATUS_OK)
        return;
    log_error("no resources for the data connection to worker %s; end other programs",
              holder->address);
    holder->connection = NULL;
    cluster_lose(holders->cluster, h, holder->session, NULL);
}

static void refresh_worker(struct holders *holders, uint32_t h) {
    struct holder *holder = &holders->all[h];
    struct cluster_look look;
    cluster_look(holders->cluster, h, &look);
    holder->address = look.address;
    if (!look.serves || look.session != holder->session)
        disconnect(holders, h);
    holder->session = look.session;
    if (look.data_fd >= 0)
        connect_worker(holders, h, look.data_fd);
    holders->served[h] = holder->connection ? look.served : 0;
    holder->silent = look.silent;
    holder->leaving = look.leaving;
}

void holders_refresh(struct holders *holders) {
    if (!holders->cluster)
        return;
    uint32_t changes = cluster_changes(holders->cluster);
    if (changes == holders->seen)
        return;
    holders->seen = changes;
    holders->has_changed = true;
    for (uint32_t h = 0; h < holders->workers; h++)
        refresh_worker(holders, h);
}

enum status holders_create(struct cluster *cluster, struct expert_store *store,
                           const char *transport, struct holders **out) {
    const struct transport_options options = {sizeof(struct wire_header), wire_message_bytes,
                                              transport};
    struct holders *holders = calloc(1, sizeof *holders);
    if (!holders)
        goto err;
    holders->cluster = cluster;
    holders->store = store;
    holders->workers = cluster ? cluster_size(cluster) : 0;
    holders->count = holders->workers + (store ? 1 : 0);
    holders->all = calloc(holders->count, sizeof *holders->all);
    holders->served = calloc(holders->count, sizeof *holders->served);
    if (!holders->all || !holders->served)
        goto err;
    if (cluster) {
        enum status status = transport_create(&options, &holders->transport);
        if (status) {
            holders_destroy(holders);
            return status;
        }
    }
    holders_refresh(holders);
    if (store) {
        holders->all[holders->workers].address = "in process";
        holders->served[holders->workers] = expert_store_held(store);
    }
    *out = holders;
    return STATUS_OK;
err:
    log_error("no memory for the list of workers; end other programs");
    holders_destroy(holders);
    return STATUS_NO_MEMORY;
}

void holders_destroy(struct holders *holders) {
    if (!holders)
        return;
    transport_destroy(holders->transport);
    free(holders->served);
    free(holders->all);
    free(holders);
}

uint32_t holders_find(const struct holders *holders, const struct connection *connection) {
    uint32_t h = 0;
    while (h < holders->workers && holders->all[h].connection != connection)
        h++;
    return h < holders->workers ? h : holders->count;
}

void holders_lose(struct holders *holders, uint32_t holder, const char *reason) {
    cluster_lose(holders->cluster, holder, holders->all[holder].session, reason);
    disconnect(holders, holder);
    holders->has_changed = true;
}
