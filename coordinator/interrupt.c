/* A signal handler can reach nothing but file-scope state, and sig_atomic_t is what the standard
 * lets it write; hence the one flag below. SA_RESETHAND makes the second Ctrl-C deadly without any
 * code, so it works even if we hang. SA_RESTART lets an answer that is being written go on, of
 * which stdio would lose what it has not written; waits for events end in any case. */
#include "coordinator/interrupt.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t requested;

static void note_request(int number) {
    (void)number;
    requested = 1;
}

void interrupt_arm(void) {
    requested = 0;
    struct sigaction action = {.sa_handler = note_request,
                               .sa_flags = (int)(SA_RESETHAND | SA_RESTART)};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

bool interrupt_is_requested(void) {
    return requested != 0;
}

/* SIGINT is let in only inside ppoll, so that it cannot slip in between the look at the flag and
 * the wait. */
bool interrupt_wait_ready(struct pollfd *fds, nfds_t count) {
    sigset_t only_sigint, before;
    sigemptyset(&only_sigint);
    sigaddset(&only_sigint, SIGINT);
    pthread_sigmask(SIG_BLOCK, &only_sigint, &before);
    int ready = 0;
    while (!requested && (ready = ppoll(fds, count, NULL, &before)) < 0 && errno == EINTR)
        continue;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !requested && ready > 0;
}

void interrupt_disarm(void) {
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}
