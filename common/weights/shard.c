/* Gate, up and down lie behind one another; each matrix's bytes are a multiple of 64, so each
 * starts aligned. What the checkpoint has is compared with the layout before anything is read into
 * memory that was sized by the layout. */
#include "common/weights/shard.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "common/log.h"

/* "model.layers.4294967295.mlp.experts.4294967295.gate_proj.weight" and some room. */
#define NAME_BYTES 96

/* Where a projection of a shard comes from and goes to. */
struct piece {
    const char *projection;
    enum weight_format format;
    uint32_t rows, columns; /* of the whole expert's matrix */
    struct region region;   /* of the shard in it */
};

/* Returns how many there are. */
static size_t list_pieces(const struct shard_layout *layout, const struct shard *shard,
                          struct piece out[3]) {
    uint32_t hidden = layout->hidden, inner = layout->inner;
    uint32_t begin = shard->begin, width = shard->end - shard->begin;
    struct region rows = {.row = begin, .rows = width, .columns = hidden};
    struct region columns = {.rows = hidden, .column = begin, .columns = width};
    out[0] = (struct piece){"gate", layout->gate, inner, hidden, rows};
    out[1] = (struct piece){"up", layout->up, inner, hidden, rows};
    out[2] = (struct piece){"down", layout->down, hidden, inner, columns};
    return shard->expert == SHARD_HEAD ? 1 : 3;
}

static size_t piece_bytes(const struct piece *piece) {
    return matrix_bytes(piece->format, piece->region.rows, piece->region.columns);
}

size_t shard_bytes(const struct shard_layout *layout, const struct shard *shard) {
    struct piece pieces[3];
    size_t count = list_pieces(layout, shard, pieces), bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += piece_bytes(&pieces[i]);
    return bytes;
}

uint32_t shard_quantum(const struct shard_layout *layout) {
    /* Eight f32 values are a vector register: narrower slices would save no time. All blocks are
     * powers of two, so the largest is a multiple of the others. A slice has rows of gate and up,
     * but columns of down. */
    uint32_t quantum = 8;
    const uint32_t blocks[] = {weight_block_rows(layout->gate), weight_block_rows(layout->up),
                               weight_block(layout->down)};
    for (size_t i = 0; i < 3; i++)
        if (blocks[i] > quantum)
            quantum = blocks[i];
    return quantum;
}

struct expert shard_view(const struct shard_layout *layout, const struct shard *shard,
                         const void *storage) {
    struct piece pieces[3];
    struct matrix views[3] = {{0}};
    size_t count = list_pieces(layout, shard, pieces);
    const uint8_t *at = storage;
    for (size_t i = 0; i < count; i++) {
        const struct region *region = &pieces[i].region;
        views[i] = matrix_view(pieces[i].format, region->rows, region->columns, at);
        at += piece_bytes(&pieces[i]);
    }
    return (struct expert){.gate = views[0], .up = views[1], .down = views[2]};
}

static void format_name(const struct weights *weights, uint32_t layer, uint32_t expert,
                        const char *projection, char out[NAME_BYTES]) {
    if (expert == SHARD_HEAD) {
        snprintf(out, NAME_BYTES, "lm_head.weight");
        return;
    }
    int used = snprintf(out, NAME_BYTES, "model.layers.%" PRIu32 ".mlp.", layer);
    size_t left = NAME_BYTES - (size_t)used;
    if (expert != SHARD_FFN) {
        snprintf(out + used, left, "experts.%" PRIu32 ".%s_proj.weight", expert, projection);
        return;
    }
    snprintf(out + used, left, "shared_experts.%s_proj.weight", projection);
    if (!weights_find(weights, out)) /* then it is a dense layer */
        snprintf(out + used, left, "%s_proj.weight", projection);
}

static enum status check_format(const struct weights *weights, const struct tensor *tensor,
                                enum weight_format wanted) {
    if (tensor->format == wanted)
        return STATUS_OK;
    log_error(
        "%s: tensor %s is of type %s, not %s as the layer's other experts: the files are of two "
        "models, download them again",
        weights_path(weights), tensor->name, tensor->type, weight_format_name(wanted));
    return STATUS_FORMAT;
}

/* Checks the matrices of one expert, or of the head, against the layout. Where `first`, their
 * formats become those of the layout. */
static enum status check_expert(const struct weights *weights, uint32_t layer, uint32_t expert,
                                bool first, struct shard_layout *layout) {
    struct piece pieces[3];
    size_t count = list_pieces(layout, &(struct shard){layer, expert, 0, layout->inner}, pieces);
    enum weight_format *const formats[3] = {&layout->gate, &layout->up, &layout->down};
    for (size_t i = 0; i < count; i++) {
        char name[NAME_BYTES];
        const struct tensor *tensor;
        format_name(weights, layer, expert, pieces[i].projection, name);
        enum status status =
            weights_find_matrix(weights, name, pieces[i].rows, pieces[i].columns, &tensor);
        if (status == STATUS_OK && first)
            *formats[i] = tensor->format;
        if (status == STATUS_OK)
            status = check_format(weights, tensor, *formats[i]);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

enum status shard_find_layout(const struct weights *weights, uint32_t layer, uint32_t experts,
                              uint32_t hidden, uint32_t inner, struct shard_layout *out) {
    assert(experts > 0);
    struct shard_layout layout = {.hidden = hidden, .inner = inner};
    for (uint32_t expert = 0; expert < experts; expert++) {
        enum status status = check_expert(weights, layer, expert, expert == 0, &layout);
        if (status != STATUS_OK)
            return status;
    }
    *out = layout;
    return STATUS_OK;
}

enum status shard_find_ffn_layout(const struct weights *weights, uint32_t layer, uint32_t hidden,
                                  uint32_t inner, struct shard_layout *out) {
    struct shard_layout layout = {.hidden = hidden, .inner = inner};
    enum status status = check_expert(weights, layer, SHARD_FFN, true, &layout);
    if (status == STATUS_OK)
        *out = layout;
    return status;
}

enum status shard_find_head_layout(const struct weights *weights, uint32_t hidden,
                                   uint32_t vocabulary, struct shard_layout *out) {
    struct shard_layout layout = {.hidden = hidden, .inner = vocabulary};
    enum status status = check_expert(weights, 0, SHARD_HEAD, true, &layout);
    if (status == STATUS_OK)
        *out = layout;
    return status;
}

enum status shard_read(const struct weights *weights, const struct shard_layout *layout,
                       const struct shard *shard, void *storage) {
    struct shard_layout expected = *layout;
    enum status status = check_expert(weights, shard->layer, shard->expert, false, &expected);
    if (status != STATUS_OK)
        return status;
    struct piece pieces[3];
    size_t count = list_pieces(layout, shard, pieces);
    uint8_t *at = storage;
    for (size_t i = 0; i < count; i++) {
        char name[NAME_BYTES];
        format_name(weights, shard->layer, shard->expert, pieces[i].projection, name);
        status = weights_read_region(weights, name, &pieces[i].region, at);
        if (status != STATUS_OK)
            return status;
        at += piece_bytes(&pieces[i]);
    }
    return STATUS_OK;
}
