/* A message is lines of VARIABLE=VALUE. That one could not be sent is no reason to stop: the
 * manager that hears nothing ends the service itself. */
#include "worker/notify.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "common/limits.h"
#include "common/utf8.h"

void notify_ready(void) {
    sd_notify(0, "READY=1\nSTATUS=waiting for a coordinator");
}

void notify_status(const char *format, ...) {
    char text[NOTIFY_STATUS_BYTES_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    utf8_replace_unprintable(text, strlen(text));
    sd_notifyf(0, "STATUS=%s", text);
}

void notify_stopping(void) {
    sd_notify(0, "STOPPING=1");
}
