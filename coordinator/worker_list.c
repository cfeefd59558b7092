/* The file is read with the same reader as every configuration file, through a table of one option.
 */
#include "coordinator/worker_list.h"

#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
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
    struct option_list workers = {0};
    const struct option option = {.name = "workers",
                                  .type = OPTION_LIST,
                                  .target = &workers,
                                  .argument = "HOST:PORT",
                                  .help = "The workers of the cluster."};
    const struct command command = {
        .name = "cluster", .summary = "", .usage = "", .options = &option, .option_count = 1};
    struct worker_list list = {.config = config_create()};
    list.addresses = calloc(WORKERS_MAX, sizeof *list.addresses);
    enum status status = list.config && list.addresses ? STATUS_OK : STATUS_NO_MEMORY;
    if (status == STATUS_OK)
        status = config_parse_file(list.config, &command, path);
    for (size_t i = 0; status == STATUS_OK && i < workers.count; i++)
        status = append(&list, workers.items[i], path);
    if (status == STATUS_OK)
        status = check(&list, path);
    if (status)
        worker_list_cleanup(&list);
    else
        *out = list;
    return status;
}

void worker_list_cleanup(struct worker_list *list) {
    free(list->addresses);
    free(list->text);
    config_destroy(list->config);
    *list = (struct worker_list){0};
}
