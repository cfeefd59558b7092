/* Opening does not block: a path that turns out to be a pipe or a device is refused, not waited
 * for. */
#include "common/weights/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"

static enum status report_open_failure(const char *path, int error, bool optional) {
    bool missing = error == ENOENT || error == ENOTDIR;
    if (missing && optional)
        return STATUS_NOT_FOUND;
    if (error == EMFILE || error == ENFILE)
        log_error("cannot open %s: %s; raise the limit (ulimit -n)", path, strerror(error));
    else
        log_error("cannot open %s: %s; check the path and its permissions", path, strerror(error));
    return missing ? STATUS_NOT_FOUND : STATUS_IO;
}

static enum status check_kind(int descriptor, const char *path, uint64_t *bytes) {
    struct stat facts;
    if (fstat(descriptor, &facts)) {
        log_error("cannot read %s: %s; check the disk", path, strerror(errno));
        return STATUS_IO;
    }
    if (!S_ISREG(facts.st_mode)) {
        log_error("cannot read %s: it is not a regular file; check the path", path);
        return STATUS_IO;
    }
    *bytes = (uint64_t)facts.st_size;
    return STATUS_OK;
}

enum status file_open(const char *path, bool optional, struct file *out) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0)
        return report_open_failure(path, errno, optional);
    uint64_t bytes;
    enum status status = check_kind(descriptor, path, &bytes);
    if (status != STATUS_OK)
        goto err_close_descriptor;
    char *copy = strdup(path);
    if (!copy) {
        log_error("no memory to open %s; free some and try again", path);
        status = STATUS_NO_MEMORY;
        goto err_close_descriptor;
    }
    *out = (struct file){.descriptor = descriptor, .path = copy, .bytes = bytes};
    return STATUS_OK;

err_close_descriptor:
    close(descriptor);
    return status;
}

void file_close(struct file *file) {
    close(file->descriptor);
    free(file->path);
}

enum status file_read(const struct file *file, uint64_t offset, void *out, size_t count) {
    uint8_t *at = out;
    while (count > 0) {
        ssize_t got = pread(file->descriptor, at, count, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            log_error("cannot read %s at byte %" PRIu64 ": %s; check the disk", file->path, offset,
                      strerror(errno));
            return STATUS_IO;
        }
        if (got == 0) {
            log_error("%s ends at byte %" PRIu64 ", it had %" PRIu64 " when it was opened: it was "
                      "changed meanwhile, start again when it is complete",
                      file->path, offset, file->bytes);
            return STATUS_IO;
        }
        at += got;
        offset += (uint64_t)got;
        count -= (size_t)got;
    }
    return STATUS_OK;
}
