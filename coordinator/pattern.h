/* Compiles the regular expressions of tokenizer.json, which are written for Oniguruma. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/status.h"

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

/* Compiles `source` (UTF-8) so that it matches what Oniguruma would match; with `literal` it is a
 * plain string. `place` opens the error line. The caller frees *out with pcre2_code_free; any
 * thread may match with it. Errors: STATUS_FORMAT (not a regular expression), STATUS_UNSUPPORTED (a
 * construct that the two engines read differently, named in the line), STATUS_NO_MEMORY. */
enum status pattern_compile(const char *place, const char *source, size_t bytes, bool literal,
                            pcre2_code **out);
