/* HOST:PORT as users write it, and socket addresses as logs show them. Pure text; resolving is up
 * to the caller. From any thread. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

/* A host name is at most 255 characters, an IPv6 address with its zone fewer. */
#define ADDRESS_HOST_BYTES_MAX 256
/* "[HOST]:PORT" */
#define ADDRESS_TEXT_BYTES_MAX (ADDRESS_HOST_BYTES_MAX + 8)

struct address {
    char host[ADDRESS_HOST_BYTES_MAX]; /* without brackets */
    char port[6];                      /* decimal, 0 to 65535 */
};

/* Splits "HOST:PORT" or "[IPV6]:PORT"; false when it is neither. */
bool address_parse(const char *text, struct address *out);

/* Writes "127.0.0.1:7717" or "[::1]:7717". */
void address_format(const struct sockaddr *address, char out[ADDRESS_TEXT_BYTES_MAX]);

/* Whether only this machine can reach the address. */
bool address_is_loopback(const struct sockaddr *address);
