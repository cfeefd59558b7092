/* Follows the cluster file while a run goes on: workers that are added to it are called, those that
 * are taken out are let go.
 *
 * The inside of cluster, which alone uses this, on the loop's thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct cluster;

/* What a path leads to; all 0 where that is nothing. */
struct file_state {
    uint64_t device, inode, bytes;
    int64_t changed_s, changed_ns;
};

struct cluster_watch {
    char *path; /* NULL: no file is followed; under the cluster's mutex until the first tick */
    uv_fs_t request;
    bool is_asking; /* `request` is under way */
    bool has_read, is_closed;
    uint64_t asked_ns;
    struct file_state seen; /* when it was last looked at */
    struct file_state read; /* when it was last read */
};

/* Looks at the file now and then, and takes over its list once it has changed and changes no more.
 */
void cluster_watch_tick(struct cluster *cluster);

/* Nothing is taken over any more; the loop runs out of it. */
void cluster_watch_close(struct cluster *cluster);
