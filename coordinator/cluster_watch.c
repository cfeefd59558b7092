/* The path is asked for by stat, on a thread of libuv's: that sees files which were replaced as
 * well as those that were written to, on whatever file system, and one that hangs stops nobody. A
 * file is read when it looked the same twice, so not while it is being written. */
#include "coordinator/cluster_watch.h"

#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/log.h"
#include "coordinator/member.h"
#include "coordinator/worker_list.h"

/* Between two looks. */
#define WATCH_MS 500

static bool is_same(const struct file_state *a, const struct file_state *b) {
    return a->device == b->device && a->inode == b->inode && a->bytes == b->bytes &&
           a->changed_s == b->changed_s && a->changed_ns == b->changed_ns;
}

/* The worker of that address, which may have been taken out of the list; NULL: there was none. */
static struct member *find_member(struct cluster *cluster, const char *address) {
    for (uint32_t i = 0; i < cluster->count; i++)
        if (cluster->members[i].info.address &&
            strcmp(cluster->members[i].info.address, address) == 0)
            return &cluster->members[i];
    return NULL;
}

/* A place that no worker has had; NULL: there is none left. */
static struct member *find_place(struct cluster *cluster) {
    for (uint32_t i = 0; i < cluster->count; i++)
        if (!cluster->members[i].info.address)
            return &cluster->members[i];
    return NULL;
}

static bool is_listed(const struct worker_list *list, const struct member *member) {
    for (uint32_t i = 0; i < list->count; i++)
        if (strcmp(list->addresses[i], member->info.address) == 0)
            return true;
    return false;
}

static enum status read_list(const char *path, struct worker_list *out) {
    struct address address;
    enum status status = worker_list_read(path, out);
    for (uint32_t i = 0; !status && i < out->count; i++) {
        if (address_parse(out->addresses[i], &address))
            continue;
        log_error("%s: %s is not an address; write HOST:PORT, for example 192.168.0.2:7717", path,
                  out->addresses[i]);
        status = STATUS_USAGE;
    }
    return status;
}

/* Returns how many found no place. */
static uint32_t add_workers(struct cluster *cluster, const struct worker_list *list,
                            uint32_t *added) {
    uint32_t left_out = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        struct member *member = find_member(cluster, list->addresses[i]);
        if (member && member->listed)
            continue;
        if (!member)
            member = find_place(cluster);
        if (member && member_enlist(member, list->addresses[i]) == STATUS_OK)
            (*added)++;
        else
            left_out++;
    }
    return left_out;
}

static uint32_t remove_workers(struct cluster *cluster, const struct worker_list *list) {
    uint32_t removed = 0;
    for (uint32_t i = 0; i < cluster->count; i++) {
        struct member *member = &cluster->members[i];
        if (!member->listed || is_listed(list, member))
            continue;
        member_delist(member);
        removed++;
    }
    return removed;
}

/* Those that are new first, so that they may take over from those that leave. */
static void take_over(struct cluster *cluster) {
    struct cluster_watch *watch = &cluster->watch;
    struct worker_list list = {0};
    bool is_first = !watch->has_read;
    watch->has_read = true;
    if (read_list(watch->path, &list)) {
        log_warning("%s has changed and cannot be taken over; the list of workers stays as it was, "
                    "until the file is corrected",
                    watch->path);
        worker_list_cleanup(&list);
        return;
    }
    uint32_t added = 0, left_out = add_workers(cluster, &list, &added);
    uint32_t removed = remove_workers(cluster, &list);
    if (!is_first || added || removed)
        log_warning("%s has changed: workers added %" PRIu32 ", removed %" PRIu32
                    "; whatever else it says takes effect at the next start",
                    watch->path, added, removed);
    if (left_out)
        log_warning("%s: %" PRIu32 " more workers take part from the next start only; %d addresses "
                    "can be added to a run",
                    watch->path, left_out, WORKERS_JOINING_MAX);
    worker_list_cleanup(&list);
}

static void on_looked(uv_fs_t *request) {
    struct cluster *cluster = request->data;
    struct cluster_watch *watch = &cluster->watch;
    struct file_state now = {0};
    if (request->result == 0)
        now = (struct file_state){.device = request->statbuf.st_dev,
                                  .inode = request->statbuf.st_ino,
                                  .bytes = request->statbuf.st_size,
                                  .changed_s = request->statbuf.st_mtim.tv_sec,
                                  .changed_ns = request->statbuf.st_mtim.tv_nsec};
    uv_fs_req_cleanup(request);
    watch->is_asking = false;
    if (watch->is_closed)
        return;
    bool has_settled = is_same(&now, &watch->seen);
    watch->seen = now;
    if (!has_settled || is_same(&now, &watch->read))
        return;
    watch->read = now;
    take_over(cluster);
}

void cluster_watch_tick(struct cluster *cluster) {
    struct cluster_watch *watch = &cluster->watch;
    pthread_mutex_lock(&cluster->mutex);
    bool follows = watch->path != NULL;
    pthread_mutex_unlock(&cluster->mutex);
    if (!follows || watch->is_asking || clock_now_ns() - watch->asked_ns < WATCH_MS * 1000000ull)
        return;
    watch->asked_ns = clock_now_ns();
    watch->request.data = cluster;
    watch->is_asking = uv_fs_stat(&cluster->loop, &watch->request, watch->path, on_looked) == 0;
}

void cluster_watch_close(struct cluster *cluster) {
    cluster->watch.is_closed = true;
}
