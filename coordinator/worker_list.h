/* The addresses of the workers, as the user named them: in one option, or in a cluster file.
 * Used by runtime, and by cluster_watch while a run goes on. */
#pragma once

#include "common/status.h"
#include "coordinator/cluster_file.h"

/* Zero-initialise; worker_list_cleanup frees what it holds. */
struct worker_list {
    const char **addresses; /* (count) */
    uint32_t count;
    char *text;               /* what addresses of an option point into */
    struct cluster_file file; /* what addresses of a file point into */
};

/* From "HOST:PORT,HOST:PORT". Errors: STATUS_USAGE (an address twice, more than WORKERS_MAX, none),
 * STATUS_NO_MEMORY. */
enum status worker_list_split(const char *text, struct worker_list *out);

/* From the cluster file `path`. Errors: those of cluster_file_read, and STATUS_USAGE where a
 * machine has no address. */
enum status worker_list_read(const char *path, struct worker_list *out);

void worker_list_cleanup(struct worker_list *list);
