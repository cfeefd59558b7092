/* Ctrl-C: the first asks to stop, the second ends the process. Owned by the main thread. */
#pragma once

#include <poll.h>
#include <stdbool.h>

/* Forgets an earlier Ctrl-C; the next one is noted instead of ending the process, the one after it
 * ends it. Blocking system calls return EINTR when it comes. */
void interrupt_arm(void);

/* Whether Ctrl-C was pressed since interrupt_arm. */
bool interrupt_is_requested(void);

/* Waits as poll does until one of `fds` (count) is ready, which its `revents` tell; false when
 * Ctrl-C came, before or meanwhile, or the wait failed. */
bool interrupt_wait_ready(struct pollfd *fds, nfds_t count);

/* Ctrl-C ends the process again. */
void interrupt_disarm(void);
