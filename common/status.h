/* The one error convention: every function that can fail returns an enum status, 0 is success.
 *
 * Codes of the operating system, libuv and other libraries are translated where they enter. The
 * function that first decides an error logs it once (common/log.h) with the place and the remedy;
 * its callers only pass the status on. Output parameters are set on success only. */
#pragma once

enum status {
    STATUS_OK = 0,
    STATUS_USAGE,       /* the command line or the configuration is wrong */
    STATUS_NOT_FOUND,   /* a file, tensor or key that is needed does not exist */
    STATUS_IO,          /* the operating system failed to read or write */
    STATUS_FORMAT,      /* bytes contradict the format they claim to have */
    STATUS_UNSUPPORTED, /* valid, but skein does not do it */
    STATUS_NO_MEMORY,   /* memory, or a stated memory limit, does not suffice */
    STATUS_CONNECTION,  /* a peer cannot be reached or has gone */
    STATUS_PROTOCOL,    /* a peer sent what the protocol forbids, or speaks another version */
    STATUS_REFUSED,     /* a peer says that it cannot do what it is asked for */
    STATUS_TIMEOUT,     /* a deadline passed */
    STATUS_CANCELLED,   /* the user asked to stop */
    STATUS_COUNT
};

/* A short English name, "ok" for STATUS_OK. Never NULL. */
const char *status_name(enum status status);

/* The exit status of a process that ends with `status`: 0 done, 1 failed at run time, 2 wrong
 * usage. */
int status_exit_code(enum status status);
