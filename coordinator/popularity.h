/* How often each expert was chosen, kept beside a model as JSON:
 *
 *     {"layers": {"1": [12, 0, 733, ...], "2": [...]}}
 *
 * with a count for each expert of a layer. Layers that are missing are taken as even. Used for
 * planning. */
#pragma once

#include <stdint.h>

#include "common/status.h"
#include "coordinator/shape.h"

struct popularity {
    double *counts; /* (layers + 1, experts): zeros where nothing is known */
};

/* Reads the statistics at `path` for a model of that shape; popularity_cleanup frees them. Errors:
 * STATUS_NOT_FOUND, STATUS_FORMAT (not such a file, or of another model), STATUS_NO_MEMORY: one
 * line that names file and layer. */
enum status popularity_read(const char *path, const struct model_shape *shape,
                            struct popularity *out);
void popularity_cleanup(struct popularity *popularity);
