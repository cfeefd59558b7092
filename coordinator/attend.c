/* Positions are visited in runs of consecutive rows (a page of the cache, or everything), each
 * through one matrix product; a single query goes through plain dot products, which a matrix
 * product would only repack. */
#include "coordinator/attend.h"

#include <cblas.h>
#include <string.h>

#include "common/kernel/kernel.h"

const float *attend_run(const struct attend_source *source, uint32_t position, uint32_t end,
                        uint32_t *count) {
    if (!source->cache) {
        *count = end - position;
        return source->flat + position * source->stride;
    }
    uint32_t in_page = KV_PAGE_POSITIONS - position % KV_PAGE_POSITIONS;
    *count = in_page < end - position ? in_page : end - position;
    return kv_cache_row(source->cache, source->layer, source->sequence, position);
}

static void score_run(const struct attend_source *source, const float *rows, uint32_t positions,
                      const float *queries, uint32_t count, float scale, float *scores,
                      size_t stride) {
    const float *keys = rows + source->key_offset;
    if (count > 1) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)count, (int)positions,
                    (int)source->key_width, scale, queries, (int)source->key_width, keys,
                    (int)source->stride, 0.0f, scores, (int)stride);
        return;
    }
    for (uint32_t p = 0; p < positions; p++)
        scores[p] = scale * kernel_get()->dot[WEIGHT_F32](keys + p * source->stride, queries,
                                                          source->key_width);
}

static void sum_run(const struct attend_source *source, const float *rows, uint32_t positions,
                    const float *scores, size_t stride, uint32_t count, float *out) {
    const float *values = rows + source->value_offset;
    if (count > 1) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)source->value_width,
                    (int)positions, 1.0f, scores, (int)stride, values, (int)source->stride, 1.0f,
                    out, (int)source->value_width);
        return;
    }
    for (uint32_t p = 0; p < positions; p++)
        kernel_get()->add_scaled(scores[p], values + p * source->stride, source->value_width, out);
}

void attend(const struct attend_source *source, const float *queries, uint32_t count,
            const uint32_t *limits, float scale, float *scores, float *out) {
    uint32_t end = 0, run;
    for (uint32_t i = 0; i < count; i++)
        end = limits[i] > end ? limits[i] : end;
    for (uint32_t position = 0; position < end; position += run) {
        const float *rows = attend_run(source, position, end, &run);
        score_run(source, rows, run, queries, count, scale, scores + position, end);
    }
    for (uint32_t i = 0; i < count; i++) {
        kernel_get()->softmax(scores + (size_t)i * end, limits[i]);
        memset(scores + (size_t)i * end + limits[i], 0, (end - limits[i]) * sizeof(float));
    }
    memset(out, 0, (size_t)count * source->value_width * sizeof(float));
    for (uint32_t position = 0; position < end; position += run) {
        const float *rows = attend_run(source, position, end, &run);
        sum_run(source, rows, run, scores + position, end, count, out);
    }
}
