/* What a cluster file says beyond addresses is for planning, and left alone here. */
#include "coordinator/worker_list.h"

#include <stdlib.h>
#include <string.h>

#include "common/cluster_limits.h"
#include "common/log.h"

static enum status check(const struct worker_list *list, const char *place) {
    if (list->count == 0) {
        log_error("%s names no worker; write HOST:PORT for each", place);
        return STATUS_USAGE;
    }
    for (uint32_t i = 0; i < list->count; i++)
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(list->addresses[i], list->addresses[j]) == 0) {
                log_error("%s names %s twice; name each worker once", place, list->addresses[i]);
                return STATUS_USAGE;
            }
    return STATUS_OK;
}

static enum status append(struct worker_list *list, const char *address, const char *place) {
    if (list->count == WORKERS_MAX) {
        log_error("%s names more than %d workers", place, WORKERS_MAX);
        return STATUS_USAGE;
    }
    if (*address == '\0') {
        log_error("%s has an empty entry; write HOST:PORT for each worker", place);
        return STATUS_USAGE;
    }
    list->addresses[list->count++] = address;
    return STATUS_OK;
}

enum status worker_list_split(const char *text, struct worker_list *out) {
    struct worker_list list = {.text = strdup(text)};
    list.addresses = calloc(WORKERS_MAX, sizeof *list.addresses);
    enum status status = list.text && list.addresses ? STATUS_OK : STATUS_NO_MEMORY;
    char *rest = list.text;
    for (char *item; status == STATUS_OK && (item = strsep(&rest, ","));)
        status = append(&list, item, "--workers");
    if (status == STATUS_OK)
        status = check(&list, "--workers");
    if (status)
        worker_list_cleanup(&list);
    else
        *out = list;
    return status;
}

enum status worker_list_read(const char *path, struct worker_list *out) {
    struct worker_list list = {.addresses = calloc(WORKERS_MAX, sizeof *list.addresses)};
    enum status status = list.addresses ? cluster_file_read(path, &list.file) : STATUS_NO_MEMORY;
    for (uint32_t i = 0; status == STATUS_OK && i < list.file.count; i++) {
        const struct cluster_machine *worker = &list.file.workers[i];
        list.addresses[list.count++] = worker->address;
        if (worker->address)
            continue;
        log_error("%s: worker %u%s%s has no address; only `skein plan` takes machines that are not "
                  "there",
                  path, i + 1, worker->name ? ", " : "", worker->name ? worker->name : "");
        status = STATUS_USAGE;
    }
    if (status)
        worker_list_cleanup(&list);
    else
        *out = list;
    return status;
}

void worker_list_cleanup(struct worker_list *list) {
    free(list->addresses);
    free(list->text);
    cluster_file_cleanup(&list->file);
    *list = (struct worker_list){0};
}
