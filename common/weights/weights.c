/* The directory of all tensors over the open files, and reads by pread. A region whose rows lie
 * close together in the file (a slice of columns) is read in large blocks, gaps included, and
 * copied out: a gap of a few kilobytes costs less to read than one more system call. Which files
 * there are and what their headers say is left to the readers of the formats (index.c,
 * safetensors.c, gguf.c). */
#include "common/weights/weights.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/kernel/kernel.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/weights/directory.h"
#include "common/weights/file.h"
#include "common/weights/gguf.h"
#include "common/weights/index.h"
#include "common/weights/safetensors.h"

#define SUFFIX       ".safetensors"
#define SCALE_SUFFIX "_scale_inv"

/* Rows with a gap of at most this many bytes between what is wanted are read together. */
#define GAP_BYTES_MAX ((uint64_t)16 << 10)
/* The buffer for such reads. */
#define BLOCK_BYTES ((uint64_t)1 << 20)

/* The fingerprint samples this many tensors, and of each this many bytes. */
#define SAMPLE_TENSORS 64u
#define SAMPLE_BYTES   64u

struct weights {
    char *path;
    struct file *files; /* (file_count) */
    uint32_t file_count;
    struct directory directory;
    struct gguf_header header; /* of the first part; empty but for GGUF */
};

/* Rows of bytes at a fixed distance in one file. */
struct rectangle {
    const struct file *file;
    uint64_t offset; /* of the first wanted byte */
    uint64_t stride; /* from row to row */
    size_t row_bytes;
    uint32_t rows;
};

static enum status report_no_memory(const char *what) {
    log_error("no memory for %s; free some and try again", what);
    return STATUS_NO_MEMORY;
}

static enum status reserve_files(struct weights *weights, size_t count) {
    struct file *files = realloc(weights->files, count * sizeof *files);
    if (!files)
        return report_no_memory(weights->path);
    weights->files = files;
    return STATUS_OK;
}

/* Opens one file, reads its header and appends it to the files, which must have room. */
static enum status add_file(struct weights *weights, const char *path, bool optional) {
    struct file *file = &weights->files[weights->file_count];
    enum status status = file_open(path, optional, file);
    if (status != STATUS_OK)
        return status;
    return safetensors_read_header(file, weights->file_count++, &weights->directory);
}

static enum status seal_directory(struct weights *weights) {
    const char **paths = calloc(weights->file_count, sizeof *paths);
    if (!paths)
        return report_no_memory(weights->path);
    for (uint32_t i = 0; i < weights->file_count; i++)
        paths[i] = weights->files[i].path;
    enum status status = directory_seal(&weights->directory, paths);
    free(paths);
    if (status == STATUS_OK && weights->directory.count == 0) {
        log_error("%s holds no tensors; download it again", weights->files[0].path);
        status = STATUS_FORMAT;
    }
    return status;
}

static enum status open_single(struct weights *weights, const char *path, bool optional) {
    enum status status = reserve_files(weights, 1);
    if (status == STATUS_OK)
        status = add_file(weights, path, optional);
    return status == STATUS_OK ? seal_directory(weights) : status;
}

static enum status add_indexed_file(struct weights *weights, const struct index *index,
                                    const char *name) {
    char *path;
    if (asprintf(&path, "%s/%s", weights->path, name) < 0)
        return report_no_memory(weights->path);
    enum status status = add_file(weights, path, true);
    if (status == STATUS_NOT_FOUND)
        log_error("%s is missing, which %s names: download it", path, index->path);
    free(path);
    return status;
}

static enum status open_indexed_files(struct weights *weights, const struct index *index) {
    enum status status = reserve_files(weights, json_object_size(index->files));
    if (status != STATUS_OK)
        return status;
    const char *name;
    json_t *value;
    json_object_foreach(index->files, name, value) {
        status = add_indexed_file(weights, index, name);
        if (status != STATUS_OK)
            return status;
    }
    status = seal_directory(weights);
    return status == STATUS_OK ? index_check(index, &weights->directory) : status;
}

static enum status open_index(struct weights *weights) {
    char *path;
    if (asprintf(&path, "%s/model.safetensors.index.json", weights->path) < 0)
        return report_no_memory(weights->path);
    struct index index;
    enum status status = index_read(path, &index);
    if (status == STATUS_NOT_FOUND)
        log_error(
            "%s holds no model: neither model.safetensors nor model.safetensors.index.json is "
            "there; check the path or download the model",
            weights->path);
    if (status == STATUS_OK) {
        status = open_indexed_files(weights, &index);
        index_cleanup(&index);
    }
    free(path);
    return status;
}

/* One file goes before an index: where both lie side by side, the index is left over. */
static enum status open_directory(struct weights *weights) {
    char *path;
    if (asprintf(&path, "%s/model.safetensors", weights->path) < 0)
        return report_no_memory(weights->path);
    enum status status = open_single(weights, path, true);
    free(path);
    return status == STATUS_NOT_FOUND ? open_index(weights) : status;
}

/* Opens one part of a GGUF model and reads its header. The first part's metadata is that of the
 * model. */
static enum status add_gguf_part(struct weights *weights, uint32_t part, uint32_t parts,
                                 uint64_t *tensor_count) {
    char path[PATH_MAX];
    struct gguf_header header;
    struct file *file = &weights->files[weights->file_count];
    enum status status = gguf_part_path(weights->path, part, path);
    if (status != STATUS_OK)
        return status;
    status = file_open(path, parts > 1, file);
    if (status == STATUS_NOT_FOUND && parts > 1)
        log_error("%s is missing, one of the model's %" PRIu32 " parts: download it", path, parts);
    if (status != STATUS_OK)
        return status;
    status = gguf_read_header(file, weights->file_count++, &weights->directory, &header);
    if (status != STATUS_OK)
        return status;
    status = gguf_check_part(header.metadata, path, part, parts);
    *tensor_count += header.tensor_count;
    if (part == 0)
        weights->header = header;
    else
        gguf_header_cleanup(&header);
    return status;
}

static enum status open_gguf(struct weights *weights) {
    uint32_t parts = gguf_count_parts(weights->path);
    uint64_t tensor_count = 0;
    enum status status = reserve_files(weights, parts);
    for (uint32_t part = 0; part < parts && status == STATUS_OK; part++)
        status = add_gguf_part(weights, part, parts, &tensor_count);
    if (status != STATUS_OK)
        return status;
    const json_t *total = json_object_get(weights->header.metadata, "split.tensors.count");
    if (parts > 1 && total && (uint64_t)json_integer_value(total) != tensor_count) {
        log_error("%s: the model's %" PRIu32 " parts hold %" PRIu64 " tensors, not "
                  "%" JSON_INTEGER_FORMAT "; they are of different models, download them again",
                  weights->path, parts, tensor_count, json_integer_value(total));
        return STATUS_FORMAT;
    }
    return seal_directory(weights);
}

static enum status open_path(struct weights *weights) {
    const char *path = weights->path;
    struct stat facts;
    if (stat(path, &facts) == 0 && S_ISDIR(facts.st_mode))
        return open_directory(weights);
    if (gguf_is_path(path))
        return open_gguf(weights);
    size_t length = strlen(path), suffix_length = strlen(SUFFIX);
    bool readable = length >= suffix_length && !strcmp(path + length - suffix_length, SUFFIX);
    if (!readable && access(path, F_OK) == 0) {
        log_error("%s is no model: give the model's directory, a %s file or a .gguf file", path,
                  SUFFIX);
        return STATUS_UNSUPPORTED;
    }
    return open_single(weights, path, false);
}

enum status weights_open(const char *path, struct weights **out) {
    struct weights *weights = calloc(1, sizeof *weights);
    if (!weights)
        return report_no_memory(path);
    enum status status = directory_init(&weights->directory);
    if (status != STATUS_OK)
        goto err_free_weights;
    weights->path = strdup(path);
    status = weights->path ? open_path(weights) : report_no_memory(path);
    if (status != STATUS_OK)
        goto err_close_weights;
    *out = weights;
    return STATUS_OK;

err_close_weights:
    weights_close(weights);
    return status;
err_free_weights:
    free(weights);
    return status;
}

void weights_close(struct weights *weights) {
    if (!weights)
        return;
    for (uint32_t i = 0; i < weights->file_count; i++)
        file_close(&weights->files[i]);
    free(weights->files);
    directory_cleanup(&weights->directory);
    gguf_header_cleanup(&weights->header);
    free(weights->path);
    free(weights);
}

const char *weights_path(const struct weights *weights) {
    return weights->path;
}

const json_t *weights_metadata(const struct weights *weights) {
    return weights->header.metadata;
}

enum status weights_read_pair(const struct weights *weights, size_t index, void **out,
                              size_t *bytes) {
    const uint64_t *offsets = weights->header.pair_offsets;
    assert(index < json_object_size(weights->header.metadata));
    size_t count = (size_t)(offsets[index + 1] - offsets[index]);
    void *pair = malloc(count);
    if (!pair)
        return report_no_memory("a file's metadata");
    enum status status = file_read(&weights->files[0], offsets[index], pair, count);
    if (status != STATUS_OK) {
        free(pair);
        return status;
    }
    *out = pair;
    *bytes = count;
    return STATUS_OK;
}

bool weights_has_file(const struct weights *weights, dev_t device, ino_t inode) {
    struct stat facts;
    for (uint32_t i = 0; i < weights->file_count; i++)
        if (fstat(weights->files[i].descriptor, &facts) == 0 && facts.st_dev == device &&
            facts.st_ino == inode)
            return true;
    return false;
}

size_t weights_count(const struct weights *weights) {
    return weights->directory.count;
}

const struct tensor *weights_at(const struct weights *weights, size_t index) {
    assert(index < weights->directory.count);
    return &weights->directory.entries[index].tensor;
}

const struct tensor *weights_find(const struct weights *weights, const char *name) {
    const struct directory_entry *entry = directory_find(&weights->directory, name);
    return entry ? &entry->tensor : NULL;
}

/* FNV-1a: not against forgers, only against copies of different models. */
static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t count) {
    const uint8_t *at = bytes;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ at[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* Numbers enter as little-endian bytes, so that machines of all kinds agree. */
static uint64_t hash_number(uint64_t hash, uint64_t number) {
    uint8_t bytes[8];
    for (unsigned i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(number >> 8 * i);
    return hash_bytes(hash, bytes, sizeof bytes);
}

static uint64_t hash_declaration(uint64_t hash, const struct tensor *tensor) {
    hash = hash_bytes(hash, tensor->name, strlen(tensor->name) + 1);
    hash = hash_bytes(hash, tensor->type, strlen(tensor->type) + 1);
    hash = hash_number(hash, tensor->dimensions);
    for (size_t i = 0; i < 4; i++)
        hash = hash_number(hash, tensor->shape[i]);
    return hash_number(hash, tensor->bytes);
}

enum status weights_fingerprint(const struct weights *weights, uint64_t *out) {
    const struct directory *directory = &weights->directory;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < directory->count; i++)
        hash = hash_declaration(hash, &directory->entries[i].tensor);
    size_t samples = directory->count < SAMPLE_TENSORS ? directory->count : SAMPLE_TENSORS;
    for (size_t i = 0; i < samples; i++) {
        const struct directory_entry *entry = &directory->entries[i * directory->count / samples];
        uint8_t sample[SAMPLE_BYTES];
        uint64_t bytes = entry->tensor.bytes;
        size_t count = bytes < SAMPLE_BYTES ? (size_t)bytes : SAMPLE_BYTES;
        enum status status = file_read(&weights->files[entry->file],
                                       entry->offset + (bytes - count) / 2, sample, count);
        if (status != STATUS_OK)
            return status;
        hash = hash_bytes(hash, sample, count);
    }
    *out = hash;
    return STATUS_OK;
}

static enum status read_rows_singly(const struct rectangle *rectangle, uint8_t *out) {
    for (uint32_t row = 0; row < rectangle->rows; row++) {
        enum status status = file_read(rectangle->file, rectangle->offset + row * rectangle->stride,
                                       out + row * rectangle->row_bytes, rectangle->row_bytes);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static enum status read_rows_by_block(const struct rectangle *rectangle, uint32_t block_rows,
                                      uint8_t *out) {
    size_t row_bytes = rectangle->row_bytes;
    uint8_t *block = malloc((block_rows - 1) * rectangle->stride + row_bytes);
    if (!block)
        return report_no_memory(rectangle->file->path);
    enum status status = STATUS_OK;
    for (uint32_t row = 0; row < rectangle->rows && status == STATUS_OK; row += block_rows) {
        uint32_t left = rectangle->rows - row;
        uint32_t rows = left < block_rows ? left : block_rows;
        /* Not up to the last row's end: behind the last tensor there is no more file. */
        status = file_read(rectangle->file, rectangle->offset + row * rectangle->stride, block,
                           (rows - 1) * rectangle->stride + row_bytes);
        for (uint32_t i = 0; i < rows && status == STATUS_OK; i++)
            memcpy(out + (size_t)(row + i) * row_bytes, block + i * rectangle->stride, row_bytes);
    }
    free(block);
    return status;
}

/* Reads the rows behind one another into `out`. */
static enum status read_rectangle(const struct rectangle *rectangle, void *out) {
    if (rectangle->stride == rectangle->row_bytes)
        return file_read(rectangle->file, rectangle->offset, out,
                         rectangle->rows * rectangle->row_bytes);
    uint64_t block_rows = BLOCK_BYTES / rectangle->stride;
    if (block_rows < 2 || rectangle->stride - rectangle->row_bytes > GAP_BYTES_MAX)
        return read_rows_singly(rectangle, out);
    if (block_rows > rectangle->rows)
        block_rows = rectangle->rows;
    return read_rows_by_block(rectangle, (uint32_t)block_rows, out);
}

/* The bytes of a region of a matrix that has been checked to contain it. */
static struct rectangle locate_region(const struct weights *weights,
                                      const struct directory_entry *entry,
                                      const struct region *region) {
    enum weight_format format = entry->tensor.format;
    uint64_t stride = weight_row_bytes(format, (uint32_t)entry->tensor.shape[1]);
    return (struct rectangle){
        .file = &weights->files[entry->file],
        .offset = entry->offset + region->row * stride + weight_row_bytes(format, region->column),
        .stride = stride,
        .row_bytes = weight_row_bytes(format, region->columns),
        .rows = region->rows,
    };
}

/* Finds a tensor that skein can read. */
static enum status find_readable(const struct weights *weights, const char *name,
                                 const struct directory_entry **out) {
    const struct directory_entry *entry = directory_find(&weights->directory, name);
    if (!entry) {
        log_error(
            "%s: there is no tensor %s: the model is incomplete or of another kind, download it "
            "again",
            weights->path, name);
        return STATUS_NOT_FOUND;
    }
    if (entry->tensor.format == WEIGHT_FORMAT_COUNT) {
        log_error("%s: tensor %s is of type %s, which skein cannot read: it takes BF16, F16, F32, "
                  "F8_E4M3, and from GGUF files Q2_K to Q8_0, IQ4_NL and IQ4_XS",
                  weights->files[entry->file].path, name, entry->tensor.type);
        return STATUS_UNSUPPORTED;
    }
    *out = entry;
    return STATUS_OK;
}

/* Finds a readable tensor that is a matrix. */
static enum status find_matrix(const struct weights *weights, const char *name,
                               const struct directory_entry **out) {
    const struct directory_entry *entry;
    enum status status = find_readable(weights, name, &entry);
    if (status != STATUS_OK)
        return status;
    const struct tensor *tensor = &entry->tensor;
    if (tensor->dimensions != 2 || tensor->shape[0] > UINT32_MAX || tensor->shape[1] > UINT32_MAX) {
        log_error("%s: tensor %s has %" PRIu32 " dimensions, a matrix is needed: the model is of "
                  "another kind",
                  weights->files[entry->file].path, name, tensor->dimensions);
        return STATUS_FORMAT;
    }
    *out = entry;
    return STATUS_OK;
}

static enum status check_region(const struct weights *weights, const struct directory_entry *entry,
                                const struct region *region) {
    const struct tensor *tensor = &entry->tensor;
    uint64_t row_end = (uint64_t)region->row + region->rows;
    uint64_t column_end = (uint64_t)region->column + region->columns;
    if (!region->rows || !region->columns || row_end > tensor->shape[0] ||
        column_end > tensor->shape[1]) {
        log_error("%s: tensor %s is (%" PRIu64 ", %" PRIu64 "): it has no rows [%" PRIu32
                  ", %" PRIu64 ") with columns [%" PRIu32 ", %" PRIu64
                  "), the model is of another shape",
                  weights->files[entry->file].path, tensor->name, tensor->shape[0],
                  tensor->shape[1], region->row, row_end, region->column, column_end);
        return STATUS_FORMAT;
    }
    uint32_t block = weight_block(tensor->format), block_rows = weight_block_rows(tensor->format);
    bool rows_fit = row_end % block_rows == 0 || row_end == tensor->shape[0];
    bool columns_fit = column_end % block == 0 || column_end == tensor->shape[1];
    if (region->row % block_rows || region->column % block || !rows_fit || !columns_fit) {
        log_error("%s: tensor %s of type %s can only be cut at multiples of %" PRIu32
                  " rows and %" PRIu32 " columns",
                  weights->files[entry->file].path, tensor->name, tensor->type, block_rows, block);
        return STATUS_UNSUPPORTED;
    }
    return STATUS_OK;
}

/* Reads a rectangle of `count` values in all as f32. */
static enum status read_floats(const struct rectangle *rectangle, enum weight_format format,
                               size_t count, float *out) {
    if (format == WEIGHT_F32)
        return read_rectangle(rectangle, out);
    void *values = malloc(rectangle->rows * rectangle->row_bytes);
    if (!values)
        return report_no_memory(rectangle->file->path);
    enum status status = read_rectangle(rectangle, values);
    if (status == STATUS_OK)
        kernel_get()->expand[format](values, count, 1.0F, out);
    free(values);
    return status;
}

static uint32_t count_blocks(uint64_t values) {
    return (uint32_t)((values + FP8_BLOCK - 1) / FP8_BLOCK);
}

/* Finds the scales of an FP8 matrix: one value for each of its blocks. */
static enum status find_scales(const struct weights *weights, const struct directory_entry *matrix,
                               const struct directory_entry **out) {
    char name[TENSOR_NAME_BYTES_MAX + sizeof SCALE_SUFFIX];
    snprintf(name, sizeof name, "%s" SCALE_SUFFIX, matrix->tensor.name);
    const struct directory_entry *entry;
    enum status status = find_matrix(weights, name, &entry);
    if (status != STATUS_OK)
        return status;
    uint32_t rows = count_blocks(matrix->tensor.shape[0]);
    uint32_t columns = count_blocks(matrix->tensor.shape[1]);
    const struct tensor *scales = &entry->tensor;
    if (weight_block(scales->format) > 1 || scales->shape[0] != rows ||
        scales->shape[1] != columns) {
        log_error("%s: the scales %s are (%" PRIu64 ", %" PRIu64 ") of %s, not (%" PRIu32
                  ", %" PRIu32 ") of F32: only blocks of %u x %u are supported",
                  weights->files[entry->file].path, name, scales->shape[0], scales->shape[1],
                  scales->type, rows, columns, FP8_BLOCK, FP8_BLOCK);
        return STATUS_FORMAT;
    }
    *out = entry;
    return STATUS_OK;
}

static enum status read_scales(const struct weights *weights, const struct directory_entry *matrix,
                               const struct region *region, float *out) {
    const struct directory_entry *entry;
    enum status status = find_scales(weights, matrix, &entry);
    if (status != STATUS_OK)
        return status;
    struct region blocks = {
        .row = region->row / FP8_BLOCK,
        .rows = count_blocks(region->rows),
        .column = region->column / FP8_BLOCK,
        .columns = count_blocks(region->columns),
    };
    struct rectangle rectangle = locate_region(weights, entry, &blocks);
    return read_floats(&rectangle, entry->tensor.format, (size_t)blocks.rows * blocks.columns, out);
}

enum status weights_read_region(const struct weights *weights, const char *name,
                                const struct region *region, void *storage) {
    const struct directory_entry *entry;
    enum status status = find_matrix(weights, name, &entry);
    if (status == STATUS_OK)
        status = check_region(weights, entry, region);
    if (status != STATUS_OK)
        return status;
    struct rectangle rectangle = locate_region(weights, entry, region);
    status = read_rectangle(&rectangle, storage);
    if (status != STATUS_OK || entry->tensor.format != WEIGHT_FP8_E4M3)
        return status;
    struct matrix view = matrix_view(entry->tensor.format, region->rows, region->columns, storage);
    size_t scales_offset = (size_t)((const uint8_t *)view.scales - view.data);
    return read_scales(weights, entry, region,
                       (float *)(void *)((uint8_t *)storage + scales_offset));
}

enum status weights_read_bytes(const struct weights *weights, const char *name, uint64_t offset,
                               void *out, size_t count) {
    const struct directory_entry *entry = directory_find(&weights->directory, name);
    assert(entry && offset <= entry->tensor.bytes && count <= entry->tensor.bytes - offset);
    return file_read(&weights->files[entry->file], entry->offset + offset, out, count);
}

enum status weights_find_matrix(const struct weights *weights, const char *name, uint32_t rows,
                                uint32_t columns, const struct tensor **out) {
    const struct directory_entry *entry;
    enum status status = find_matrix(weights, name, &entry);
    if (status != STATUS_OK)
        return status;
    const struct tensor *tensor = &entry->tensor;
    if (tensor->shape[0] != rows || tensor->shape[1] != columns) {
        log_error("%s: tensor %s is (%" PRIu64 ", %" PRIu64
                  "), the model's configuration needs (%" PRIu32 ", %" PRIu32
                  "): both must be of one model",
                  weights->files[entry->file].path, name, tensor->shape[0], tensor->shape[1], rows,
                  columns);
        return STATUS_FORMAT;
    }
    *out = tensor;
    return STATUS_OK;
}

enum status weights_load_matrix(const struct weights *weights, const char *name, uint32_t rows,
                                uint32_t columns, struct arena *arena, struct matrix *out) {
    const struct tensor *tensor;
    enum status status = weights_find_matrix(weights, name, rows, columns, &tensor);
    if (status != STATUS_OK)
        return status;
    void *storage = arena_take(arena, matrix_bytes(tensor->format, rows, columns), 1);
    if (!storage)
        return report_no_memory(name);
    struct region whole = {.rows = rows, .columns = columns};
    status = weights_read_region(weights, name, &whole, storage);
    if (status == STATUS_OK)
        *out = matrix_view(tensor->format, rows, columns, storage);
    return status;
}

enum status weights_load_vector(const struct weights *weights, const char *name, size_t count,
                                struct arena *arena, float **out) {
    const struct directory_entry *entry;
    enum status status = find_readable(weights, name, &entry);
    if (status != STATUS_OK)
        return status;
    const struct file *file = &weights->files[entry->file];
    const struct tensor *tensor = &entry->tensor;
    if (weight_block(tensor->format) > 1) {
        log_error("%s: tensor %s is of type %s, only F32, F16 and BF16 are supported for it",
                  file->path, name, tensor->type);
        return STATUS_UNSUPPORTED;
    }
    size_t value_bytes = weight_row_bytes(tensor->format, 1);
    if (tensor->bytes / value_bytes != count) {
        log_error("%s: tensor %s has %" PRIu64
                  " values, the model's configuration needs %zu: both must "
                  "be of one model",
                  file->path, name, tensor->bytes / value_bytes, count);
        return STATUS_FORMAT;
    }
    float *values = arena_take(arena, count, sizeof *values);
    if (!values)
        return report_no_memory(name);
    struct rectangle row = {file, entry->offset, tensor->bytes, (size_t)tensor->bytes, 1};
    status = read_floats(&row, tensor->format, count, values);
    if (status == STATUS_OK)
        *out = values;
    return status;
}
