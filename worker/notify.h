/* What the service manager is told (sd_notify(3)): that the worker is ready, that it is ending, and
 * what it is doing in between, which `systemctl status` shows. All of it says nothing where the
 * worker was not started by a service manager that listens. From any thread. */
#pragma once

/* The worker listens. It is ready before it holds shards: they come with a coordinator. */
void notify_ready(void);

/* One sentence; control characters and bytes that are not UTF-8 are replaced by '?', so that the
 * name of a peer cannot tell the manager anything else. */
void notify_status(const char *format, ...) __attribute__((format(printf, 1, 2)));

void notify_stopping(void);
