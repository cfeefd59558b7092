/* Files are written under a name of their own and renamed. They are not synced: after a power cut
 * a file may be empty, which its reader must expect of a cache anyway. */
#include "common/cache_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"

/* directory/name or, with a `suffix`, directory/.name.suffix; false where that is no path. */
static bool join(const char *directory, const char *name, const char *suffix, char out[PATH_MAX]) {
    int bytes = snprintf(out, PATH_MAX, "%s/%s%s%s", directory, *suffix ? "." : "", name, suffix);
    return bytes < PATH_MAX;
}

/* Up to `capacity` + 1 bytes, so that one too many shows. */
static ssize_t read_all(int fd, char *out, size_t capacity) {
    size_t bytes = 0;
    char extra;
    while (bytes <= capacity) {
        bool full = bytes == capacity;
        ssize_t got = full ? read(fd, &extra, 1) : read(fd, out + bytes, capacity - bytes);
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        bytes += (size_t)got;
    }
    return (ssize_t)bytes;
}

enum status cache_dir_read(const char *directory, const char *name, void *out, size_t capacity,
                           size_t *bytes) {
    char path[PATH_MAX];
    if (!directory || !join(directory, name, "", path))
        return STATUS_NOT_FOUND;
    /* Opening a pipe would wait for its other end. */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return STATUS_NOT_FOUND;
    struct stat stat;
    bool is_file = fd >= 0 && fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode);
    ssize_t got = is_file ? read_all(fd, out, capacity) : -1;
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (got < 0 && (fd < 0 || is_file)) {
        log_warning("cannot read %s: %s; going on without it", path, strerror(error));
        return STATUS_IO;
    }
    if (got < 0 || (size_t)got > capacity) {
        log_warning("%s is no file of at most %zu bytes, as this program writes it; going on "
                    "without it",
                    path, capacity);
        return STATUS_FORMAT;
    }
    *bytes = (size_t)got;
    return STATUS_OK;
}

void cache_dir_make(const char *directory) {
    char path[PATH_MAX];
    if (!join(directory, "", "", path))
        return;
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0777);
        *slash = '/';
    }
}

static bool write_all(int fd, const char *data, size_t bytes) {
    while (bytes > 0) {
        ssize_t put = write(fd, data, bytes);
        if (put < 0)
            return false;
        data += put;
        bytes -= (size_t)put;
    }
    return true;
}

enum status cache_dir_write(const char *directory, const char *name, const void *data,
                            size_t bytes) {
    char path[PATH_MAX], temporary[PATH_MAX];
    if (!directory)
        return STATUS_OK;
    if (!join(directory, name, "", path) || !join(directory, name, ".XXXXXX", temporary)) {
        log_warning("--cache %.200s... is too long for a path; nothing will be remembered",
                    directory);
        return STATUS_IO;
    }
    cache_dir_make(directory);
    int fd = mkostemp(temporary, O_CLOEXEC);
    bool written = fd >= 0 && write_all(fd, data, bytes);
    bool renamed = written && rename(temporary, path) == 0;
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (fd >= 0 && !renamed)
        unlink(temporary);
    if (!renamed) {
        log_warning("cannot write %s: %s; --cache names another directory", path, strerror(error));
        return STATUS_IO;
    }
    return STATUS_OK;
}

json_t *cache_dir_read_object(const char *directory, const char *name, size_t capacity) {
    json_t *object = NULL;
    char *text = malloc(capacity);
    size_t bytes;
    if (text && !cache_dir_read(directory, name, text, capacity, &bytes)) {
        object = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(object)) {
            log_warning("%s/%s is damaged; what it remembers is found out again", directory, name);
            json_decref(object);
            object = NULL;
        }
    }
    free(text);
    return object ? object : json_object();
}

void cache_dir_write_object(const char *directory, const char *name, const json_t *object) {
    char *text = json_dumps(object, JSON_INDENT(1));
    if (text)
        cache_dir_write(directory, name, text, strlen(text)); /* it has warned */
    free(text);
}
