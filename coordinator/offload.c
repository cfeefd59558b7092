/* Quanta of the inner dimension go one by one to whoever is then done first, the coordinator or a
 * worker; so nobody is waited for longer than a quantum takes. */
#include "coordinator/offload.h"

#include <math.h>
#include <string.h>

#include "common/cluster_limits.h"

/* Rows of the head go in pieces that are whole panels of any format. */
#define HEAD_QUANTUM 128u

/* The layer at hand, or the head. Takers are the workers, and behind them the coordinator. */
struct division {
    const struct offload_input *input;
    const struct shard_layout *layout;
    uint32_t layer, expert; /* SHARD_FFN or SHARD_HEAD */
    uint32_t quantum;
    double ready_s[HOLDERS_MAX], column_s[HOLDERS_MAX]; /* (workers + 1) */
    double room_bytes[HOLDERS_MAX];                     /* (workers) for this layer */
    uint32_t units[HOLDERS_MAX];                        /* (workers + 1) quanta that each has */
    uint32_t members;                                   /* workers that have any */
};

static uint64_t width_bytes(const struct shard_layout *layout, uint32_t expert, uint32_t width) {
    const struct shard shard = {.expert = expert, .end = width};
    return width ? shard_bytes(layout, &shard) : 0;
}

static bool may_take(const struct division *division, uint32_t worker) {
    uint32_t units = division->units[worker] + 1;
    if (division->units[worker] == 0 && division->members == division->input->members_max)
        return false;
    return (double)width_bytes(division->layout, division->expert, units * division->quantum) <=
           division->room_bytes[worker];
}

/* Who is done first with one quantum more; the coordinator can always take it. */
static uint32_t choose_taker(const struct division *division) {
    uint32_t workers = division->input->workers, best = workers;
    double least = INFINITY;
    for (uint32_t i = 0; i <= workers; i++) {
        double done_s = division->ready_s[i] +
                        (division->units[i] + 1.0) * division->quantum * division->column_s[i];
        if (done_s < least && (i == workers || may_take(division, i))) {
            least = done_s;
            best = i;
        }
    }
    return best;
}

static void divide(struct division *division) {
    uint32_t inner = division->layout->inner;
    for (uint32_t given = 0; given < inner; given += division->quantum) {
        uint32_t taker = choose_taker(division);
        division->members += taker < division->input->workers && division->units[taker] == 0;
        division->units[taker]++;
    }
}

static enum status place(const struct division *division, struct placement *placement) {
    uint32_t workers = division->input->workers, inner = division->layout->inner;
    uint32_t begin = division->units[workers] * division->quantum;
    enum status status = STATUS_OK;
    for (uint32_t w = 0; w < workers && begin < inner && !status; w++) {
        uint32_t end = begin + division->units[w] * division->quantum;
        const struct shard shard = {division->layer, division->expert, begin,
                                    end < inner ? end : inner};
        if (division->units[w] == 0)
            continue;
        status = placement_add(placement, &shard, w);
        begin = end;
    }
    return status;
}

static void find_speeds(struct division *division, const struct placement *placement) {
    const struct offload_input *input = division->input;
    if (input->costs && division->expert == SHARD_HEAD)
        cost_model_profile_head(input->costs, division->ready_s, division->column_s);
    else if (input->costs)
        cost_model_profile_ffn(input->costs, placement, division->layer, input->rows,
                               division->ready_s, division->column_s);
    for (uint32_t i = 0; i <= input->workers; i++) {
        if (input->regardless || !input->costs)
            division->ready_s[i] = 0;
        if (!input->costs)
            division->column_s[i] = 1;
    }
}

/* The n-th thing to divide, in the order of layouts behind those of routed experts. */
static struct division division_of(const struct offload_input *input,
                                   const struct placement *placement, uint32_t n) {
    bool is_head = n == placement->layers;
    struct division division = {.input = input,
                                .layout = &placement->layouts[placement->layers + n],
                                .layer = is_head ? 0 : n,
                                .expert = is_head ? SHARD_HEAD : SHARD_FFN};
    division.quantum = is_head ? HEAD_QUANTUM : shard_quantum(division.layout);
    return division;
}

enum status offload_fill(const struct offload_input *input, struct placement *placement) {
    double left_bytes = 0;
    enum status status = STATUS_OK;
    for (uint32_t n = 0; n <= placement->layers; n++) {
        struct division division = division_of(input, placement, n);
        left_bytes += (double)width_bytes(division.layout, division.expert, division.layout->inner);
    }
    for (uint32_t n = 0; n <= placement->layers && !status; n++) {
        struct division division = division_of(input, placement, n);
        double bytes =
            (double)width_bytes(division.layout, division.expert, division.layout->inner);
        if (bytes == 0)
            continue;
        for (uint32_t w = 0; w < input->workers; w++)
            division.room_bytes[w] =
                ((double)input->memory_bytes[w] - (double)placement->held[w].bytes) *
                fmin(bytes / left_bytes, 1);
        find_speeds(&division, placement);
        divide(&division);
        status = place(&division, placement);
        left_bytes -= bytes;
    }
    return status;
}

static uint64_t placed_bytes(const struct placement *placement, uint32_t layer, uint32_t expert) {
    const struct expert_places *places = placement_find(placement, layer, expert);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < places->count; i++) {
        const struct shard shard = {layer, expert, places->parts[i].begin, places->parts[i].end};
        bytes += placement_shard_bytes(placement, &shard);
    }
    return bytes;
}

uint64_t offload_bytes(const struct placement *placement) {
    uint64_t bytes = placed_bytes(placement, 0, SHARD_HEAD);
    for (uint32_t layer = 0; layer < placement->layers; layer++)
        bytes += placed_bytes(placement, layer, SHARD_FFN);
    return bytes;
}
