/* Follows the table of well-formed sequences in the Unicode standard: only the second byte has
 * bounds that depend on the first. An invalid piece is as long as what was well formed in it, so
 * that text repaired here looks like text repaired by browsers and by Python. */
#include "common/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* The bytes that a character with this first byte has, and the bounds of its second; 0 for a byte
 * that opens none. */
static size_t sequence_bytes(uint8_t first, uint8_t *second_min, uint8_t *second_max) {
    *second_min = 0x80;
    *second_max = 0xbf;
    if (first < 0x80)
        return 1;
    if (first < 0xc2 || first > 0xf4)
        return 0;
    if (first < 0xe0)
        return 2;
    if (first == 0xe0)
        *second_min = 0xa0;
    else if (first == 0xed)
        *second_max = 0x9f;
    else if (first == 0xf0)
        *second_min = 0x90;
    else if (first == 0xf4)
        *second_max = 0x8f;
    return first < 0xf0 ? 3 : 4;
}

enum utf8_kind utf8_next(const char *text, size_t bytes, size_t *length) {
    uint8_t min, max;
    size_t wanted = sequence_bytes((uint8_t)text[0], &min, &max);
    *length = 1;
    if (wanted == 0)
        return UTF8_INVALID;
    for (; *length < wanted; (*length)++) {
        if (*length == bytes)
            return UTF8_INCOMPLETE;
        uint8_t byte = (uint8_t)text[*length];
        if (byte < min || byte > max)
            return UTF8_INVALID;
        min = 0x80;
        max = 0xbf;
    }
    return UTF8_VALID;
}

void utf8_replace_unprintable(char *text, size_t bytes) {
    for (size_t at = 0, length; at < bytes; at += length) {
        bool valid = utf8_next(text + at, bytes - at, &length) == UTF8_VALID;
        if (!valid || (unsigned char)text[at] < 0x20 || text[at] == 0x7f)
            memset(text + at, '?', length);
    }
}
