/* Names and exit codes live in one table so that a new status cannot be forgotten in either. */
#include "common/status.h"

#include <stddef.h>

static const char *const STATUS_NAMES[STATUS_COUNT] = {
    [STATUS_OK] = "ok",
    [STATUS_USAGE] = "wrong usage",
    [STATUS_NOT_FOUND] = "not found",
    [STATUS_IO] = "input/output error",
    [STATUS_FORMAT] = "malformed data",
    [STATUS_UNSUPPORTED] = "not supported",
    [STATUS_NO_MEMORY] = "out of memory",
    [STATUS_CONNECTION] = "connection lost",
    [STATUS_PROTOCOL] = "protocol violation",
    [STATUS_REFUSED] = "refused by a peer",
    [STATUS_TIMEOUT] = "timed out",
    [STATUS_CANCELLED] = "cancelled",
};

const char *status_name(enum status status) {
    const char *name = (unsigned)status < STATUS_COUNT ? STATUS_NAMES[status] : NULL;
    return name ? name : "unknown status";
}

int status_exit_code(enum status status) {
    if (status == STATUS_OK)
        return 0;
    return status == STATUS_USAGE ? 2 : 1;
}
