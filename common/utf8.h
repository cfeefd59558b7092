/* The one place that knows how UTF-8 is built: characters are read strictly (no overlong forms, no
 * surrogates, nothing above U+10FFFF). */
#pragma once

#include <stddef.h>

enum utf8_kind {
    UTF8_VALID,     /* a whole character */
    UTF8_INVALID,   /* bytes that no character can contain: read as one U+FFFD */
    UTF8_INCOMPLETE /* the text ends inside what may become a character */
};

/* U+FFFD, which stands for bytes that are not UTF-8. */
#define UTF8_REPLACEMENT       "\xef\xbf\xbd"
#define UTF8_REPLACEMENT_BYTES 3u

/* Looks at the start of `text` (`bytes` > 0). `*length`: the bytes of the character, or of the
 * invalid or incomplete piece: the longest start of a character that is there, at least 1. */
enum utf8_kind utf8_next(const char *text, size_t bytes, size_t *length);

/* Control characters and bytes that are not UTF-8 become '?', in place: text from a file or a peer
 * that has to stay on one line. */
void utf8_replace_unprintable(char *text, size_t bytes);
