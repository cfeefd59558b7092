/* The metadata of a GGUF file that is written: the inverse of gguf_config.h and gguf_tokenizer.h.
 */
#pragma once

#include <stdint.h>

#include "common/status.h"
#include "common/weights/gguf_writer.h"
#include "common/weights/weights.h"
#include "coordinator/shape.h"

/* Adds all keys for the model in `weights` with this shape to the writer, and sets its alignment.
 * From a GGUF file every key is carried over as it is but those that tell of the file itself; from
 * a Hugging Face directory they are made. `file_type` is general.file_type. Errors:
 * STATUS_UNSUPPORTED (what GGUF has no key for), and those of gguf_vocabulary_write and
 * weights_read_pair. */
enum status gguf_metadata_write(const struct weights *weights, const struct model_shape *shape,
                                uint32_t file_type, struct gguf_writer *writer);
