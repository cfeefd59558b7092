/* What a GGUF file says about its model, as config.json would say it, so that shape.c checks one
 * form only. */
#pragma once

#include <jansson.h>

#include "common/status.h"
#include "common/weights/weights.h"

/* Translates the metadata of an open GGUF file of architecture `deepseek` or `deepseek2`; the
 * caller json_decref()s *out. Where the file lacks the expert groups, those of the published models
 * are taken, recognised by layers and experts, and the log says so. Errors: STATUS_NOT_FOUND (a
 * needed key is missing), STATUS_FORMAT (a value of another type), STATUS_UNSUPPORTED (another
 * architecture, score function), STATUS_NO_MEMORY: one line that names file and key. */
enum status gguf_config_read(const struct weights *weights, json_t **out);
