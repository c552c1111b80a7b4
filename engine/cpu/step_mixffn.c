/* The MixFFN block: LAYER_NORM -> LINEAR -> DWCONV with its activation -> LINEAR (+ x), one step.
 *
 * A piece is a range of planes and of lines. It walks along D with a ring of three planes of the hidden
 * tensor (and one line more on either side), which fits in L2: plane d + 1 is normalised and expanded, then
 * plane d is finished, a strip of lines at a time. What lies at the border of two pieces is expanded by both,
 * with the same bits; so pieces are as large as the threads allow. A hidden tensor in f32 that is small
 * anyway stays in cache by itself: there the ops run one by one. Which of the two it is depends on the shape
 * alone, as the two differ in their rounding. */
#include "engine/cpu/cpu.h"

#include <unistd.h>

enum {
    LEAST_FLOATS = 1 << 19, /* of a hidden tensor in f32 that is worth it: 2 MiB */
    STRIP_LINES = 4,
    BLOCK_TOKENS = 112, /* normalised at a time, at least */
    ROOM_ROWS = 16,     /* floats: 32 of bf16 */
    DEFAULT_L2_BYTES = 1 << 20,
};

enum { PANELS_FC1, PANELS_FC2 };

/* How a block is cut; nothing here changes a bit. */
typedef struct cut {
    int planes, lines; /* of a piece */
    int along_d, along_h;
} cut;

static int groups_of(const noc_network *network, int hidden)
{
    return 2 * noc_cpu_parts(hidden, network->device->kernels->columns);
}

/* Whole tiles of rows. */
static int block_tokens(const noc_cpu_kernels *kernels)
{
    return noc_cpu_parts(BLOCK_TOKENS, kernels->rows) * kernels->rows;
}

/* Of a line of the hidden tensor. */
static size_t line_bytes(const noc_network *network, const noc_value *hidden)
{
    const noc_cpu_kernels *kernels = network->device->kernels;
    return (size_t)(groups_of(network, hidden->channels) * kernels->lanes * kernels->hidden_bytes) *
           (size_t)hidden->grid[2];
}

/* Planes or lines that a piece of them expands, with those that it shares. */
static int with_borders(int count, int of)
{
    int pieces = noc_cpu_parts(of, count);
    return count + (pieces > 2 ? 2 : pieces - 1);
}

static cut cut_in(int along_h, int depth, int height, int threads)
{
    cut c = {.lines = noc_cpu_parts(noc_cpu_parts(height, along_h), STRIP_LINES) * STRIP_LINES};
    c.along_h = noc_cpu_parts(height, c.lines);
    c.lines = noc_cpu_min(c.lines, height);
    c.along_d = noc_cpu_parts(threads, c.along_h);
    c.planes = noc_cpu_parts(depth, c.along_d);
    c.along_d = noc_cpu_parts(depth, c.planes);
    return c;
}

/* The cut that keeps rings in L2 and is done first, when all threads expand alike. */
static cut cut_of(const noc_network *network, const noc_value *hidden)
{
    long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
    size_t bytes = (size_t)(l2 > 0 ? l2 : DEFAULT_L2_BYTES) / 10 * 8, line = line_bytes(network, hidden);
    int threads = noc_pool_threads(network->device->pool), height = hidden->grid[1], depth = hidden->grid[0];
    int lines = (int)(bytes / (3 * line)) - 2, most = noc_cpu_parts(height, STRIP_LINES);
    int least = noc_cpu_min(noc_cpu_parts(height, lines > STRIP_LINES ? lines : STRIP_LINES), most);
    cut best = {0};
    int64_t best_work = INT64_MAX;
    for (int along_h = least; along_h <= most; along_h++) {
        cut c = cut_in(along_h, depth, height, threads);
        int64_t work = (int64_t)noc_cpu_parts(c.along_d * c.along_h, threads) *
                       with_borders(c.planes, depth) * with_borders(c.lines, height);
        if (work < best_work) {
            best = c;
            best_work = work;
        }
    }
    return best;
}

static int match(const noc_network *network, int first)
{
    const noc_op *op = &network->plan->ops[first];
    if (first + 4 > network->plan->op_count || !noc_cpu_is_plain_norm(op) || op[1].kind != NOC_OP_LINEAR ||
        op[1].tail > 0 || op[1].residual >= 0 || op[1].activation != NOC_ACTIVATION_NONE ||
        op[2].kind != NOC_OP_DWCONV || op[3].kind != NOC_OP_LINEAR || op[3].tail > 0 ||
        op[3].activation != NOC_ACTIVATION_NONE ||
        noc_cpu_value_of(network, op[3].output)->channels !=
            noc_cpu_value_of(network, op[0].output)->channels)
        return 0;
    for (int i = 1; i < 4; i++)
        if (!noc_cpu_follows(network, &op[i], &op[i - 1]))
            return 0;
    const noc_value *hidden = noc_cpu_value_of(network, op[1].output);
    bool is_f32 = network->device->kernels->hidden_bytes == (int)sizeof(float);
    return !is_f32 || noc_cpu_tokens(hidden) * hidden->channels >= LEAST_FLOATS ? 4 : 0;
}

static noc_status prepare(noc_network *network, noc_cpu_step *step, noc_error *err)
{
    const noc_value *hidden = noc_cpu_value_of(network, step->ops[1].output);
    cut c = cut_of(network, hidden);
    size_t channels = (size_t)noc_cpu_value_of(network, step->ops->output)->channels;
    size_t lines = line_bytes(network, hidden) / sizeof(float) * (size_t)(3 * (c.lines + 2) + STRIP_LINES),
           rows = (size_t)(block_tokens(network->device->kernels) + ROOM_ROWS);
    noc_cpu_want(network, lines + rows * (channels + 32), 0);
    noc_status status = noc_cpu_pack(network, &step->ops[1], 0, &step->panels[PANELS_FC1], err);
    if (status == NOC_OK)
        status = noc_cpu_pack_depthwise(network, &step->ops[2], &step->weight, &step->bias, err);
    if (status != NOC_OK)
        return status;
    int depth = groups_of(network, hidden->channels) *
                network->device->kernels->lanes; /* zeros behind the last group */
    return noc_cpu_pack(network, &step->ops[3], depth, &step->panels[PANELS_FC2], err);
}

typedef struct mixffn_job {
    const noc_network *network;
    const noc_cpu_step *step;
    cut cut;
    int depth, height;
    size_t line;           /* floats of a line of the hidden tensor */
    noc_cpu_mixffn mixffn; /* but its memory */
    const float *in, *residual;
    float *out;
} mixffn_job;

/* Lines [lo, lo + filled) of plane d, normalised and expanded into the ring. */
static void fill_plane(const mixffn_job *job, const noc_cpu_mixffn *m, int d, int lo, int filled,
                       float *normed)
{
    const noc_cpu_kernels *kernels = job->network->device->kernels;
    int tokens = filled * m->width, block = block_tokens(kernels);
    const float *in =
        job->in + ((size_t)d * (size_t)job->height + (size_t)lo) * (size_t)(m->width * m->channels);
    for (int t = 0, n; t < tokens; t += n) {
        n = noc_cpu_min(block, tokens - t);
        kernels->layer_norm(in + (size_t)(t * m->channels), normed, n, m->channels, NULL, NULL,
                            (float)job->step->ops->eps);
        kernels->expand(m, normed, n, d % 3, t);
    }
}

static void mixffn_piece(void *argument, int i, int thread)
{
    const mixffn_job *job = argument;
    const noc_cpu_kernels *kernels = job->network->device->kernels;
    noc_cpu_mixffn m = job->mixffn;
    int d0 = i / job->cut.along_h * job->cut.planes, d1 = noc_cpu_min(d0 + job->cut.planes, job->depth);
    int h0 = i % job->cut.along_h * job->cut.lines, h1 = noc_cpu_min(h0 + job->cut.lines, job->height);
    int lo = h0 > 0 ? h0 - 1 : 0, filled = noc_cpu_min(h1 + 1, job->height) - lo;
    float *ring = noc_cpu_scratch(job->network, thread), *activated = ring + 3 * (size_t)filled * job->line,
          *normed = activated + STRIP_LINES * job->line;
    m.lines = filled;
    m.ring = ring;
    m.activated = activated;
    m.room = normed + block_tokens(kernels) * m.channels;
    for (int d = d0 > 0 ? d0 - 1 : 0; d <= d0; d++)
        fill_plane(job, &m, d, lo, filled, normed);
    for (int d = d0; d < d1; d++) {
        if (d + 1 < job->depth)
            fill_plane(job, &m, d + 1, lo, filled, normed);
        for (int h = h0; h < h1; h += STRIP_LINES) {
            noc_cpu_strip s = {.filled = filled, .from = h - lo, .to = noc_cpu_min(h + STRIP_LINES, h1) - lo};
            for (int a = 0; a < 3; a++)
                s.slot[a] = d + a - 1 < 0 || d + a - 1 >= job->depth ? -1 : (d + a - 1) % 3;
            size_t at = ((size_t)d * (size_t)job->height + (size_t)h) * (size_t)(m.width * m.channels);
            kernels->mix_strip(&m, &s, job->residual ? job->residual + at : NULL, job->out + at);
        }
    }
}

static void run(noc_network *network, const noc_cpu_step *step)
{
    const noc_op *op = step->ops;
    const noc_value *hidden = noc_cpu_value_of(network, op[1].output);
    mixffn_job job = {.network = network,
                      .step = step,
                      .cut = cut_of(network, hidden),
                      .depth = hidden->grid[0],
                      .height = hidden->grid[1],
                      .line = line_bytes(network, hidden) / sizeof(float),
                      .mixffn = {.width = hidden->grid[2],
                                 .channels = step->panels[PANELS_FC2].columns,
                                 .groups = groups_of(network, hidden->channels),
                                 .fc1 = step->panels[PANELS_FC1].weight,
                                 .fc1_bias = step->panels[PANELS_FC1].bias,
                                 .dw = step->weight,
                                 .dw_bias = step->bias,
                                 .activation = op[2].activation,
                                 .fc2 = step->panels[PANELS_FC2].weight,
                                 .fc2_bias = step->panels[PANELS_FC2].bias},
                      .in = noc_cpu_value(network, op->input[0]),
                      .residual = op[3].residual >= 0 ? noc_cpu_value(network, op[3].residual) : NULL,
                      .out = noc_cpu_value(network, op[3].output)};
    noc_cpu_run(network->device, job.cut.along_d * job.cut.along_h, mixffn_piece, &job);
}

const noc_cpu_step_kind noc_cpu_mixffn_step = {match, prepare, run};
