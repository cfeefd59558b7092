/* An IPv6 address contains colons itself, hence the brackets; without them more than one colon is
 * refused instead of guessed at. */
#include "common/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool address_parse(const char *text, struct address *out) {
    const char *host = text, *host_end, *port;
    if (*text == '[') {
        host = text + 1;
        host_end = strchr(host, ']');
        if (!host_end || host_end[1] != ':')
            return false;
        port = host_end + 2;
    } else {
        host_end = strchr(text, ':');
        if (!host_end || strchr(host_end + 1, ':'))
            return false;
        port = host_end + 1;
    }
    size_t host_bytes = (size_t)(host_end - host), digits = strspn(port, "0123456789");
    if (host_bytes == 0 || host_bytes >= sizeof out->host || digits == 0 ||
        digits >= sizeof out->port || port[digits] || atoi(port) > UINT16_MAX)
        return false;
    memcpy(out->host, host, host_bytes);
    out->host[host_bytes] = '\0';
    memcpy(out->port, port, digits + 1);
    return true;
}

void address_format(const struct sockaddr *address, char out[ADDRESS_TEXT_BYTES_MAX]) {
    char host[INET6_ADDRSTRLEN] = "";
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        snprintf(out, ADDRESS_TEXT_BYTES_MAX, "%s:%u", host, ntohs(v4->sin_port));
    } else if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        snprintf(out, ADDRESS_TEXT_BYTES_MAX, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        snprintf(out, ADDRESS_TEXT_BYTES_MAX, "unknown address");
    }
}

bool address_is_loopback(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
    return address->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}
