/* Reads one shard after another and keeps SHIP_WRITES_MAX chunks under way: memory is one shard and
 * 4 MiB, whatever the size of the model. A read that is under way cannot be called back, so a
 * shipment that ends in the middle of one is freed when that is done. */
#include "coordinator/shipment.h"

#include <stdlib.h>

#include "common/cluster_limits.h"

struct shipment {
    struct shipment_options options;
    struct shipment_item item; /* that is read or sent */
    uint8_t *buffer;           /* the largest shard */
    size_t bytes, offset;      /* of the shard in the buffer; what of it was sent */
    uv_work_t read;
    enum status status; /* of the read */
    bool reading, ended;
};

static void shipment_free(struct shipment *shipment) {
    free(shipment->buffer);
    free(shipment);
}

static void run_read(uv_work_t *work) {
    struct shipment *shipment = work->data;
    const struct shipment_item *item = &shipment->item;
    const struct placement *placement = shipment->options.placement;
    shipment->status = shard_read(shipment->options.weights,
                                  shard_layout(placement->layouts, placement->layers, &item->shard),
                                  &item->shard, shipment->buffer);
}

static void on_read_done(uv_work_t *work, int error) {
    (void)error;
    struct shipment *shipment = work->data;
    shipment->reading = false;
    if (shipment->ended) {
        shipment_free(shipment);
        return;
    }
    if (shipment->status) {
        shipment->options.failed(shipment->options.context, shipment->status);
        return;
    }
    shipment->offset = 0;
    shipment->bytes = placement_shard_bytes(shipment->options.placement, &shipment->item.shard);
    shipment_continue(shipment);
}

static void send_chunk(struct shipment *shipment) {
    size_t rest = shipment->bytes - shipment->offset;
    Control__ShardData data = CONTROL__SHARD_DATA__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    data.slot = shipment->item.slot;
    data.offset = shipment->offset;
    data.data.data = shipment->buffer + shipment->offset;
    data.data.len = rest < SHIP_CHUNK_BYTES ? rest : SHIP_CHUNK_BYTES;
    message.kind_case = CONTROL__MESSAGE__KIND_SHARD_DATA;
    message.shard_data = &data;
    shipment->offset += data.data.len;
    channel_send(shipment->options.channel, &message);
    if (shipment->offset == shipment->bytes)
        shipment->options.sent(shipment->options.context, shipment->item.slot);
}

/* Sends what the window allows of the shard in the buffer, then has the next one read. */
void shipment_continue(struct shipment *shipment) {
    if (shipment->reading)
        return;
    while (shipment->offset < shipment->bytes &&
           channel_pending(shipment->options.channel) < SHIP_WRITES_MAX)
        send_chunk(shipment);
    if (shipment->offset < shipment->bytes ||
        !shipment->options.next(shipment->options.context, &shipment->item))
        return;
    shipment->reading = true;
    shipment->read.data = shipment;
    uv_queue_work(shipment->options.loop, &shipment->read, run_read, on_read_done);
}

enum status shipment_start(const struct shipment_options *options, struct shipment **out) {
    struct shipment *shipment = calloc(1, sizeof *shipment);
    if (!shipment)
        return STATUS_NO_MEMORY;
    shipment->options = *options;
    /* shard_bytes is a multiple of 64. */
    shipment->buffer = aligned_alloc(64, options->shard_bytes_max);
    if (!shipment->buffer) {
        shipment_free(shipment);
        return STATUS_NO_MEMORY;
    }
    *out = shipment;
    return STATUS_OK;
}

void shipment_end(struct shipment *shipment) {
    if (!shipment)
        return;
    shipment->ended = true;
    if (!shipment->reading)
        shipment_free(shipment);
}
