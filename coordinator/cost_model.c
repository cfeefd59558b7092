/* What a holder reads and multiplies is linear in the width of its shards, so a placement is judged
 * by two figures for each holder and layer: seconds to read one column of the inner dimension, and
 * seconds to multiply it with one row. The rest is sums and maxima over the placement's parts. */
#include "coordinator/cost_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What the coordinator does for each expert layer and message besides computing, and a worker for
 * each message: taking it from the socket, waking its threads, answering. */
#define LAYER_S   10e-6
#define MESSAGE_S 5e-6
#define REQUEST_S 25e-6
/* Figures are of one loop that goes on; a model's many short ones reach so much of it, see
 * "Figures" in docs/performance.md. */
#define REACHED 0.9
/* One thread copies rows into frames and lets the kernel copy them into the socket. */
#define COPY_BYTES_PER_S 4e9
/* Sums of workers are read, added to others that are read, and written. */
#define COMBINE_PASSES 3
/* What twice as many micro-batches must take at most, of fewer, to be worth it. */
#define OVERLAP_GAIN 0.98
/* From so many rows on, attention multiplies with keys and values as they were before compression.
 */
#define EXPANDED_ROWS 64u

/* Of a shard one column wide. */
struct unit_cost {
    double read_s; /* whatever the rows */
    double row_s;  /* of multiplying, for each row */
    double disk_s; /* to read it from the disk, where it lies there */
};

/* What one holder has of one layer. */
struct tally {
    double busy_s, disk_s, rows, entries;
    uint32_t stamp; /* the last draw that visited it */
};

struct cost_model {
    struct cost_input input;
    uint32_t expert_layers;      /* that take time */
    struct unit_cost *units;     /* (holders, layers) of routed experts */
    struct unit_cost *ffn_units; /* (workers, layers) of what all rows meet */
    struct tally *tallies;       /* (holders) */
    uint32_t *copies;            /* (experts) the copy in use */
    enum wire_format wire;       /* of rows on the way */
};

/* ---- Machines. */

static double read_rate(const struct machine_figures *machine, enum weight_format format) {
    double rate = machine->formats[format].decode_bytes_per_s;
    return REACHED * (rate > 0 ? rate : machine->read_bytes_per_s);
}

/* A format that was not measured is multiplied like the slowest one that was; if none was, batches
 * go row by row at the rate of reading. */
static double batch_rate(const struct machine_figures *machine, enum weight_format format) {
    const struct format_figures *formats = machine->formats;
    if (formats[format].batch_macs_per_s > 0)
        return REACHED * formats[format].batch_macs_per_s;
    double slowest = INFINITY;
    for (size_t f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        if (formats[f].batch_macs_per_s > 0)
            slowest = fmin(slowest, formats[f].batch_macs_per_s);
    return isfinite(slowest)
               ? REACHED * slowest
               : read_rate(machine, format) * 256 / (double)weight_row_bytes(format, 256);
}

static double sum_seconds(const struct matrix_sum *sum, const struct machine_figures *machine,
                          double rows) {
    double seconds = 0;
    for (size_t f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        if (sum->values[f])
            seconds += fmax((double)sum->bytes[f] / read_rate(machine, (enum weight_format)f),
                            rows < 2 ? 0
                                     : rows * (double)sum->values[f] /
                                           batch_rate(machine, (enum weight_format)f));
    return seconds;
}

static struct unit_cost find_unit_cost(const struct shard_layout *layout,
                                       const struct machine_figures *machine) {
    const enum weight_format formats[] = {layout->gate, layout->up, layout->down};
    struct unit_cost unit = {0};
    for (size_t i = 0; i < 3; i++) {
        double bytes = i < 2 ? (double)matrix_bytes(formats[i], layout->inner, layout->hidden)
                             : (double)matrix_bytes(formats[i], layout->hidden, layout->inner);
        unit.read_s += bytes / layout->inner / read_rate(machine, formats[i]);
        unit.row_s += layout->hidden / batch_rate(machine, formats[i]);
        if (machine->disk_bytes_per_s > 0)
            unit.disk_s += bytes / layout->inner / (REACHED * machine->disk_bytes_per_s);
    }
    return unit;
}

/* ---- The model. */

static struct unit_cost *unit_of(const struct cost_model *model, uint32_t holder, uint32_t layer) {
    return &model->units[(size_t)holder * model->input.layers + layer];
}

static struct unit_cost *ffn_unit_of(const struct cost_model *model, uint32_t worker,
                                     uint32_t layer) {
    return &model->ffn_units[(size_t)worker * model->input.layers + layer];
}

enum status cost_model_create(const struct cost_input *input, struct cost_model **out) {
    struct cost_model *model = calloc(1, sizeof *model);
    if (!model)
        return STATUS_NO_MEMORY;
    model->input = *input;
    model->units = calloc((size_t)input->holders * input->layers + 1, sizeof *model->units);
    model->ffn_units = calloc((size_t)input->workers * input->layers + 1, sizeof *model->ffn_units);
    model->tallies = calloc(input->holders + 1u, sizeof *model->tallies);
    model->copies = calloc(input->shape->experts, sizeof *model->copies);
    if (!model->units || !model->ffn_units || !model->tallies || !model->copies) {
        cost_model_destroy(model);
        return STATUS_NO_MEMORY;
    }
    for (uint32_t layer = 0; layer < input->layers; layer++) {
        const struct outline_layer *outline = &input->outline->layers[layer];
        for (uint32_t h = 0; h < input->workers && outline->ffn.inner; h++)
            *ffn_unit_of(model, h, layer) = find_unit_cost(&outline->ffn, &input->machines[h]);
        if (!input->shape->is_expert_layer[layer])
            continue;
        model->expert_layers += layer < input->shape->layers;
        for (uint32_t h = 0; h < input->holders; h++)
            *unit_of(model, h, layer) = find_unit_cost(&outline->routed, &input->machines[h]);
    }
    *out = model;
    return STATUS_OK;
}

void cost_model_destroy(struct cost_model *model) {
    if (!model)
        return;
    free(model->units);
    free(model->ffn_units);
    free(model->tallies);
    free(model->copies);
    free(model);
}

/* ---- What the holders have of a layer. */

static void clear_tallies(struct cost_model *model) {
    for (uint32_t h = 0; h < model->input.holders; h++)
        model->tallies[h] = (struct tally){.stamp = UINT32_MAX};
}

/* An expert as a layer's rows meet it. */
struct demand {
    double touched; /* the probability that any row does */
    double rows;    /* that do, on average */
};

static double part_seconds(const struct cost_model *model, uint32_t layer,
                           const struct placed_shard *part, const struct demand *demand) {
    const struct unit_cost *unit = unit_of(model, part->holder, layer);
    double width = part->end - part->begin, multiply_s = demand->rows * unit->row_s;
    /* One row is multiplied while its weights are read. */
    if (demand->rows <= 1)
        return width * demand->touched * unit->read_s;
    return width * fmax(demand->touched * unit->read_s, multiply_s);
}

/* Reading of the part from its holder's disk, which goes on beside computing. */
static double part_disk_seconds(const struct cost_model *model, const struct placement *placement,
                                uint32_t layer, const struct placed_shard *part,
                                const struct demand *demand) {
    if (!placement_is_spilled(placement, part->holder, part->slot))
        return 0;
    return (part->end - part->begin) * demand->touched *
           unit_of(model, part->holder, layer)->disk_s;
}

/* Chooses as dispatch does: the copy whose busiest holder then has least to do. */
static uint32_t choose_copy(const struct cost_model *model, const struct placement *placement,
                            uint32_t layer, const struct expert_places *places,
                            const struct demand *demand) {
    uint32_t best = 0;
    double least = INFINITY;
    for (uint32_t first = 0, end; first < places->count; first = end) {
        double most = 0;
        end = placement_copy_end(places, first);
        if (first == 0 && end == places->count)
            return 0;
        for (uint32_t i = first; i < end; i++) {
            const struct placed_shard *part = &places->parts[i];
            double busy_s =
                model->tallies[part->holder].busy_s + part_seconds(model, layer, part, demand);
            double disk_s = model->tallies[part->holder].disk_s +
                            part_disk_seconds(model, placement, layer, part, demand);
            if (disk_s > busy_s) /* fmax here breaks GCC 12 for aarch64 */
                busy_s = disk_s;
            if (busy_s > most)
                most = busy_s;
        }
        if (most < least) {
            least = most;
            best = first;
        }
    }
    return best;
}

/* Adds an expert's work to the holders of the copy in use. */
static void add_expert(struct cost_model *model, const struct placement *placement, uint32_t layer,
                       uint32_t expert, const struct demand *demand) {
    const struct expert_places *places = placement_find(placement, layer, expert);
    uint32_t first = choose_copy(model, placement, layer, places, demand);
    model->copies[expert] = first;
    for (uint32_t i = first, end = placement_copy_end(places, first); i < end; i++) {
        struct tally *tally = &model->tallies[places->parts[i].holder];
        tally->busy_s += part_seconds(model, layer, &places->parts[i], demand);
        tally->disk_s += part_disk_seconds(model, placement, layer, &places->parts[i], demand);
        tally->entries += demand->rows;
    }
}

/* Marks the holders that a drawn token visits, each once, with `rows` rows. */
static void add_visits(struct cost_model *model, const struct placement *placement, uint32_t layer,
                       uint32_t draw, double rows) {
    uint32_t k = model->input.shape->experts_per_token;
    const uint16_t *experts = routing_draws(model->input.routing, layer) + (size_t)draw * k;
    for (uint32_t i = 0; i < k; i++) {
        const struct expert_places *places = placement_find(placement, layer, experts[i]);
        uint32_t first = model->copies[experts[i]], end = placement_copy_end(places, first);
        for (uint32_t p = first; p < end; p++) {
            struct tally *tally = &model->tallies[places->parts[p].holder];
            if (tally->stamp != draw)
                tally->rows += rows;
            tally->stamp = draw;
        }
    }
}

static void tally_token(struct cost_model *model, const struct placement *placement, uint32_t layer,
                        uint32_t draw) {
    static const struct demand ONE = {1, 1};
    uint32_t k = model->input.shape->experts_per_token;
    const uint16_t *experts = routing_draws(model->input.routing, layer) + (size_t)draw * k;
    clear_tallies(model);
    for (uint32_t i = 0; i < k; i++)
        add_expert(model, placement, layer, experts[i], &ONE);
    add_visits(model, placement, layer, draw, 1);
}

static struct demand demand_of(double probability, double rows) {
    return (struct demand){1 - pow(1 - probability, rows), rows * probability};
}

static void tally_batch(struct cost_model *model, const struct placement *placement, uint32_t layer,
                        double rows) {
    const float *probabilities = routing_probabilities(model->input.routing, layer);
    struct demand demand = {0};
    clear_tallies(model);
    for (uint32_t e = 0; e < model->input.shape->experts; e++) {
        if (e == 0 || probabilities[e] != probabilities[e - 1]) /* powers take long */
            demand = demand_of(probabilities[e], rows);
        add_expert(model, placement, layer, e, &demand);
    }
    for (uint32_t d = 0; d < ROUTING_DRAWS; d++)
        add_visits(model, placement, layer, d, rows / ROUTING_DRAWS);
}

/* Of one column that all rows meet. */
static double column_seconds(const struct unit_cost *unit, double rows) {
    return rows <= 1 ? unit->read_s : fmax(unit->read_s, rows * unit->row_s);
}

/* Adds what workers have of the feed-forward that all rows meet, to a layer that was tallied. */
static void add_ffn(struct cost_model *model, const struct placement *placement, uint32_t layer,
                    double rows) {
    const struct expert_places *places = placement_find(placement, layer, SHARD_FFN);
    for (uint32_t i = 0; i < places->count; i++) {
        const struct placed_shard *part = &places->parts[i];
        struct tally *tally = &model->tallies[part->holder];
        tally->busy_s += (part->end - part->begin) *
                         column_seconds(ffn_unit_of(model, part->holder, layer), rows);
        tally->rows = rows;
        tally->entries += rows;
    }
}

/* The part of it that is left to the coordinator. */
static double own_ffn(const struct cost_model *model, const struct placement *placement,
                      uint32_t layer) {
    const struct expert_places *places = placement_find(placement, layer, SHARD_FFN);
    return places->count
               ? (double)places->parts[0].begin / model->input.outline->layers[layer].ffn.inner
               : 1;
}

/* ---- From there to time. */

/* Of a row to a worker, and of its answer. */
static double out_row_bytes(const struct cost_model *model) {
    return (double)wire_row_bytes(model->wire, model->input.shape->hidden);
}

static double in_row_bytes(const struct cost_model *model) {
    return (double)wire_row_bytes(wire_answer_format(model->wire), model->input.shape->hidden);
}

static double out_bytes(const struct cost_model *model, const struct tally *tally) {
    return tally->rows > 0
               ? (double)sizeof(struct wire_header) + tally->rows * out_row_bytes(model) +
                     tally->entries * (double)sizeof(struct wire_entry)
               : 0;
}

static double in_bytes(const struct cost_model *model, const struct tally *tally) {
    return tally->rows > 0 ? (double)sizeof(struct wire_header) + tally->rows * in_row_bytes(model)
                           : 0;
}

/* What all workers together exchange with the coordinator in a layer. */
struct exchange {
    double messages, out_bytes, in_bytes;
    double own_out_s, own_in_s; /* on the coordinator's own link */
};

static struct exchange sum_exchange(const struct cost_model *model) {
    struct exchange sum = {0};
    for (uint32_t h = 0; h < model->input.workers; h++) {
        const struct tally *tally = &model->tallies[h];
        sum.messages += fmin(1, tally->rows);
        sum.out_bytes += out_bytes(model, tally);
        sum.in_bytes += in_bytes(model, tally);
    }
    if (model->input.link_bytes_per_s > 0) {
        sum.own_out_s = sum.out_bytes / model->input.link_bytes_per_s;
        sum.own_in_s = sum.in_bytes / model->input.link_bytes_per_s;
    }
    return sum;
}

/* One worker's part of a layer. */
struct remote {
    double round_trip_s, out_s, compute_s, in_s;
    double disk_s;     /* of compute_s, beyond computing */
    double own_link_s; /* of out_s and in_s, where the coordinator's own link takes longest */
};

static double remote_seconds(const struct remote *remote) {
    return remote->round_trip_s + remote->out_s + remote->compute_s + remote->in_s;
}

static struct remote find_remote(const struct cost_model *model, uint32_t worker,
                                 const struct exchange *all) {
    const struct link_figures *link = &model->input.links[worker];
    const struct tally *tally = &model->tallies[worker];
    if (tally->rows <= 0)
        return (struct remote){0};
    double out_s = out_bytes(model, tally) / link->to_bytes_per_s;
    double in_s = in_bytes(model, tally) / link->from_bytes_per_s;
    return (struct remote){
        .round_trip_s = link->round_trip_s,
        .out_s = fmax(out_s, all->own_out_s),
        .compute_s = REQUEST_S + fmax(tally->busy_s, tally->disk_s),
        .in_s = fmax(in_s, all->own_in_s),
        .disk_s = fmax(0, tally->disk_s - tally->busy_s),
        .own_link_s = (all->own_out_s > out_s ? all->own_out_s : 0) +
                      (all->own_in_s > in_s ? all->own_in_s : 0),
    };
}

/* The slowest worker of the layer that was tallied; `workers` where none has anything to do.
 * `*occupied_s`: how long the busiest worker or link cannot begin with the next micro-batch. */
static uint32_t find_slowest(const struct cost_model *model, const struct exchange *all,
                             struct remote *slowest, double *occupied_s) {
    uint32_t found = model->input.workers;
    *slowest = (struct remote){0};
    *occupied_s = 0;
    for (uint32_t h = 0; h < model->input.workers; h++) {
        struct remote remote = find_remote(model, h, all);
        *occupied_s = fmax(*occupied_s, fmax(remote.compute_s, fmax(remote.out_s, remote.in_s)));
        if (remote_seconds(&remote) <= remote_seconds(slowest))
            continue;
        *slowest = remote;
        found = h;
    }
    return found;
}

/* Adds the layer that was tallied to the prediction, `weight` times. `own` has what the coordinator
 * does for each micro-batch before its experts. */
static void add_tallied(const struct cost_model *model, const struct cost_parts *own,
                        uint32_t layer, const struct cost_step *step, double weight,
                        struct cost_prediction *out) {
    struct exchange all = sum_exchange(model);
    struct remote slowest;
    double occupied_s;
    uint32_t last = find_slowest(model, &all, &slowest, &occupied_s);
    double rows = (double)step->rows / step->micro_batches, visits = 0;
    for (uint32_t h = 0; h < model->input.holders; h++) {
        const struct tally *tally = &model->tallies[h];
        struct cost_holder *holder = &out->holders[h];
        visits += tally->rows;
        holder->busy_s += weight * step->micro_batches * fmax(tally->busy_s, tally->disk_s);
        holder->disk_s += weight * step->micro_batches * tally->disk_s;
        holder->rows += weight * step->micro_batches * tally->rows;
        if (h >= model->input.workers)
            continue;
        holder->out_bytes += weight * step->micro_batches * out_bytes(model, tally);
        holder->in_bytes += weight * step->micro_batches * in_bytes(model, tally);
    }
    struct cost_parts parts = *own;
    for (uint32_t h = model->input.workers; h < model->input.holders; h++)
        parts.experts += model->tallies[h].busy_s;
    parts.send = LAYER_S + all.messages * MESSAGE_S + all.out_bytes / COPY_BYTES_PER_S;
    parts.combine = COMBINE_PASSES * all.in_bytes / model->input.coordinator->read_bytes_per_s;
    double before_s = parts.attention + parts.router + parts.send;
    double local_s = parts.shared + parts.experts;
    double own_s = before_s + local_s + parts.combine;
    double remote_s = remote_seconds(&slowest);
    double layer_s = before_s + fmax(local_s, remote_s) + parts.combine;
    if (step->micro_batches > 1) /* its own work, or the others' where that takes longer */
        layer_s = fmax(step->micro_batches * fmax(own_s, occupied_s), layer_s);
    double n = weight * step->micro_batches;
    out->layer_s[layer] += weight * layer_s;
    if (model->input.shape->is_expert_layer[layer])
        out->fanout += weight * visits / rows / model->expert_layers;
    out->parts.attention += n * parts.attention;
    out->parts.router += n * parts.router;
    out->parts.shared += n * parts.shared;
    out->parts.experts += n * parts.experts;
    out->parts.send += n * parts.send;
    out->parts.combine += n * parts.combine;
    out->parts.wait += weight * (layer_s - step->micro_batches * own_s);
    out->parts.round_trip += n * slowest.round_trip_s;
    out->parts.out += n * slowest.out_s;
    out->parts.compute += n * slowest.compute_s;
    out->parts.in += n * slowest.in_s;
    out->parts.disk += n * slowest.disk_s;
    out->parts.own_link += n * slowest.own_link_s;
    if (last < model->input.workers && layer_s > step->micro_batches * own_s) {
        out->holders[last].slowest += weight / model->expert_layers;
        out->holders[last].waited_s += weight * (layer_s - step->micro_batches * own_s);
    }
}

/* ---- The coordinator's own work. */

/* What the absorbed form of latent attention takes longer than its weights say: for several rows Wk
 * is expanded to f32 before it is multiplied, and so costs what weights of f32 would; one row adds
 * it as it is stored, in a third of that time. */
static double absorb_seconds(const struct cost_model *model, double rows) {
    const struct model_shape *shape = model->input.shape;
    if (shape->attention != ATTENTION_LATENT || rows >= EXPANDED_ROWS)
        return 0;
    double seconds = (double)shape->heads * shape->nope_dim * shape->kv_rank * sizeof(float) /
                     read_rate(model->input.coordinator, WEIGHT_F32);
    return rows < 2 ? seconds / 3 : seconds;
}

static double attention_seconds(const struct cost_model *model, uint32_t layer, double rows,
                                double context) {
    const struct model_shape *shape = model->input.shape;
    const struct machine_figures *machine = model->input.coordinator;
    double macs = 2.0 * shape->heads * shape->head_dim; /* for a row and a position */
    if (shape->attention == ATTENTION_LATENT)
        macs = shape->heads * (rows < EXPANDED_ROWS
                                   ? 2.0 * shape->kv_rank + shape->rope_dim
                                   : (double)shape->nope_dim + shape->rope_dim + shape->v_dim);
    return sum_seconds(&model->input.outline->layers[layer].attention, machine, rows) +
           absorb_seconds(model, rows) +
           context * fmax(model->input.kv_bytes / machine->read_bytes_per_s,
                          rows * macs / batch_rate(machine, WEIGHT_F32));
}

static void add_layer(struct cost_model *model, const struct placement *placement, uint32_t layer,
                      const struct cost_step *step, struct cost_prediction *out) {
    const struct outline_layer *outline = &model->input.outline->layers[layer];
    const struct machine_figures *machine = model->input.coordinator;
    double rows = (double)step->rows / step->micro_batches;
    struct cost_parts own = {
        .attention = attention_seconds(model, layer, rows, step->context),
        .router = sum_seconds(&outline->router, machine, rows),
        .shared =
            own_ffn(model, placement, layer) * sum_seconds(&outline->local_ffn, machine, rows),
    };
    bool is_dense = !model->input.shape->is_expert_layer[layer];
    if (is_dense && placement_find(placement, layer, SHARD_FFN)->count == 0) {
        out->layer_s[layer] = step->micro_batches * (own.attention + own.shared);
        out->parts.dense += out->layer_s[layer];
    } else if (is_dense) {
        clear_tallies(model);
        add_ffn(model, placement, layer, rows);
        add_tallied(model, &own, layer, step, 1, out);
    } else if (rows < 2) {
        for (uint32_t draw = 0; draw < ROUTING_DRAWS; draw++) {
            tally_token(model, placement, layer, draw);
            add_ffn(model, placement, layer, rows);
            add_tallied(model, &own, layer, step, 1.0 / ROUTING_DRAWS, out);
        }
    } else {
        tally_batch(model, placement, layer, rows);
        add_ffn(model, placement, layer, rows);
        add_tallied(model, &own, layer, step, 1, out);
    }
}

/* One row of logits from so many rows of the head, by a worker. */
static double worker_head_seconds(const struct cost_model *model, uint32_t worker, double rows) {
    const struct link_figures *link = &model->input.links[worker];
    const struct shard_layout *head = &model->input.outline->head_rows;
    double out_bytes = head->hidden * sizeof(float), in_bytes = rows * sizeof(float);
    double read_bytes = (double)weight_row_bytes(head->gate, head->hidden) * rows;
    return link->round_trip_s + REQUEST_S + out_bytes / link->to_bytes_per_s +
           read_bytes / read_rate(&model->input.machines[worker], head->gate) +
           in_bytes / link->from_bytes_per_s;
}

/* One row of logits: the coordinator's own part of the head, or a worker's where that takes longer,
 * and what comes back once more, copied and over the coordinator's own link. */
static double head_seconds(const struct cost_model *model, const struct placement *placement) {
    const struct cost_input *input = &model->input;
    double seconds = sum_seconds(&input->outline->head, input->coordinator, 1), away = 0;
    const struct expert_places *places = placement_find(placement, 0, SHARD_HEAD);
    if (places->count == 0)
        return seconds;
    seconds *= (double)places->parts[0].begin / input->outline->head_rows.inner;
    for (uint32_t i = 0; i < places->count; i++) {
        double rows = places->parts[i].end - places->parts[i].begin;
        seconds = fmax(seconds, worker_head_seconds(model, places->parts[i].holder, rows));
        away += rows;
    }
    if (input->link_bytes_per_s > 0)
        seconds = fmax(seconds, away * sizeof(float) / input->link_bytes_per_s);
    return seconds + places->count * MESSAGE_S + away * sizeof(float) / COPY_BYTES_PER_S;
}

void cost_model_profile_head(const struct cost_model *model, double *ready_s, double *column_s) {
    const struct cost_input *input = &model->input;
    for (uint32_t h = 0; h < input->workers; h++) {
        ready_s[h] = worker_head_seconds(model, h, 0);
        column_s[h] = worker_head_seconds(model, h, 1) - ready_s[h];
    }
    ready_s[input->workers] = 0;
    column_s[input->workers] =
        sum_seconds(&input->outline->head, input->coordinator, 1) / input->outline->head_rows.inner;
}

void cost_model_set_wire(struct cost_model *model, enum wire_format wire) {
    model->wire = wire;
}

void cost_model_predict(struct cost_model *model, const struct placement *placement,
                        const struct cost_step *step, struct cost_prediction *out) {
    memset(out, 0, sizeof *out);
    for (uint32_t layer = 0; layer < model->input.shape->layers; layer++) {
        add_layer(model, placement, layer, step, out);
        out->step_s += out->layer_s[layer];
    }
    out->parts.head = head_seconds(model, placement);
}

uint32_t cost_model_predict_best(struct cost_model *model, const struct placement *placement,
                                 struct cost_step step, struct cost_prediction *out) {
    struct cost_prediction next;
    uint32_t best = 1;
    step.micro_batches = 1;
    cost_model_predict(model, placement, &step, out);
    double undivided_s = out->step_s;
    for (uint32_t parts = 2; model->input.workers && parts <= TICKETS_MAX && parts <= step.rows;
         parts *= 2) {
        step.micro_batches = parts;
        cost_model_predict(model, placement, &step, &next);
        if (next.step_s >= OVERLAP_GAIN * out->step_s)
            continue;
        *out = next;
        best = parts;
    }
    out->undivided_s = undivided_s;
    return best;
}

/* ---- For dividing work. */

static double whole_layer_seconds(const struct cost_model *model, uint32_t holder, uint32_t layer,
                                  uint32_t rows) {
    const struct model_shape *shape = model->input.shape;
    const float *probabilities = routing_probabilities(model->input.routing, layer);
    double seconds = 0;
    for (uint32_t e = 0; e < shape->experts; e++) {
        const struct placed_shard whole = {.end = shape->expert_inner, .holder = holder};
        struct demand demand = demand_of(probabilities[e], rows);
        if (rows == 1) /* whose few experts are read whole, not a little of each */
            demand = (struct demand){probabilities[e], probabilities[e]};
        seconds += part_seconds(model, layer, &whole, &demand);
    }
    return seconds;
}

void cost_model_profile(const struct cost_model *model, uint32_t rows, double visits,
                        double *fixed_s, double *load_s) {
    const struct cost_input *input = &model->input;
    double k = input->shape->experts_per_token, layers = fmax(1, model->expert_layers);
    double out_bytes = rows * out_row_bytes(model), in_bytes = rows * in_row_bytes(model);
    for (uint32_t h = 0; h < input->holders; h++) {
        double compute_s = 0, local_s = 0;
        for (uint32_t layer = 0; layer < input->shape->layers; layer++) {
            if (!input->shape->is_expert_layer[layer])
                continue;
            compute_s += whole_layer_seconds(model, h, layer, rows);
            local_s +=
                sum_seconds(&input->outline->layers[layer].local_ffn, input->coordinator, rows);
        }
        load_s[h] = compute_s / layers / k;
        fixed_s[h] = local_s / layers;
        if (h >= input->workers)
            continue;
        const struct link_figures *link = &input->links[h];
        double row_s = out_bytes / link->to_bytes_per_s + in_bytes / link->from_bytes_per_s;
        fixed_s[h] = link->round_trip_s + REQUEST_S + visits * row_s;
        /* What is not fixed comes with each expert; several of a token's share a row. */
        load_s[h] += (1 - visits) * row_s / 2;
    }
}

/* Adds when the workers, all of which get `rows` rows, are done with the layer that was tallied. */
static void add_ready(struct cost_model *model, double rows, double weight, double *ready_s) {
    uint32_t workers = model->input.workers;
    for (uint32_t h = 0; h < workers; h++)
        model->tallies[h].rows = rows;
    struct exchange all = sum_exchange(model);
    for (uint32_t h = 0; h < workers; h++) {
        struct remote remote = find_remote(model, h, &all);
        ready_s[h] += weight * remote_seconds(&remote);
    }
    for (uint32_t h = workers; h < model->input.holders; h++)
        ready_s[workers] += weight * model->tallies[h].busy_s;
}

void cost_model_profile_ffn(struct cost_model *model, const struct placement *placement,
                            uint32_t layer, double rows, double *ready_s, double *column_s) {
    const struct cost_input *input = &model->input;
    const struct outline_layer *outline = &input->outline->layers[layer];
    for (uint32_t h = 0; h < input->workers; h++)
        column_s[h] = column_seconds(ffn_unit_of(model, h, layer), rows);
    column_s[input->workers] =
        sum_seconds(&outline->local_ffn, input->coordinator, rows) / outline->ffn.inner;
    memset(ready_s, 0, (input->workers + 1u) * sizeof *ready_s);
    if (!input->shape->is_expert_layer[layer]) {
        clear_tallies(model);
        add_ready(model, rows, 1, ready_s);
    } else if (rows < 2) {
        for (uint32_t draw = 0; draw < ROUTING_DRAWS; draw++) {
            tally_token(model, placement, layer, draw);
            add_ready(model, rows, 1.0 / ROUTING_DRAWS, ready_s);
        }
    } else {
        tally_batch(model, placement, layer, rows);
        add_ready(model, rows, 1, ready_s);
    }
}
