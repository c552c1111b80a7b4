/* As kernels_conv.c, in bf16: the copied lines are rounded, and a tile load with the stride of the
 * convolution reads the overlapping windows of 16 outputs as its rows. The taps of a line are filled up to
 * whole steps with zero weights, and a line reaches as far. Rows of a tile behind the last output are
 * anything; their sums are not stored. */
#include "engine/cpu/amx.h"
#include "engine/cpu/interleave.h"

enum { OUTPUTS = 2 * TILE, STRETCH = 1024 /* floats */ };

/* Up to the end of the last window's last step: what stands behind its taps counts nothing, but must be
 * finite. */
static int line_values(const noc_cpu_conv *c)
{
    int last = (c->out_grid[2] - 1) * c->stride[2] * c->channels;
    return (last + steps_of(c->kernel[2] * c->channels) * STEP + STEP - 1) / STEP * STEP;
}

size_t KERNEL(conv_line_floats)(const noc_cpu_conv *c)
{
    return (size_t)line_values(c) / 2;
}

void KERNEL(conv_fill)(const noc_cpu_conv *c, int d, int h)
{
    const int channels = c->channels, lead = c->padding[2] * channels, values = line_values(c);
    const int count = least(c->grid[2], (values - lead) / channels), end = lead + count * channels;
    const size_t first = (size_t)(d * c->grid[1] + h) * (size_t)c->grid[2],
                 plane = (size_t)c->grid[0] * (size_t)c->grid[1] * (size_t)c->grid[2];
    bf16 *out = (bf16 *)c->lines + conv_line(c, d, h) * (size_t)values;
    memset(out, 0, (size_t)lead * sizeof *out);
    if (!c->is_planar)
        to_bf16_exactly(c->in + first * (size_t)channels, count * channels, out + lead);
    for (int w = 0, n; c->is_planar && w < count; w += n) {
        float mixed[STRETCH] __attribute__((aligned(64)));
        n = least(STRETCH / channels, count - w);
        interleave_values(c->in + first + w, channels, plane, n, mixed);
        to_bf16_exactly(mixed, n * channels, out + lead + w * channels);
    }
    memset(out + end, 0, (size_t)(values - end) * sizeof *out);
}

static void conv_outputs(const noc_cpu_conv *c, int line, int w, int panel, float y[OUTPUTS][COLUMNS])
{
    const int steps = steps_of(c->kernel[2] * c->channels), values = line_values(c);
    const int d0 = line / c->out_grid[1] * c->stride[0] - c->padding[0],
              h0 = line % c->out_grid[1] * c->stride[1] - c->padding[1];
    const size_t bytes = (size_t)(c->stride[2] * c->channels) * sizeof(bf16);
    const bf16 *weight =
        (const bf16 *)c->panels + (size_t)(panel * c->kernel[0] * c->kernel[1] * steps) * PANEL_STEP;
    bool is_two = c->out_grid[2] - w > TILE;
    AMX_BEGIN(c->bias + panel * COLUMNS);
    for (int a = d0 < 0 ? -d0 : 0; a < c->kernel[0] && d0 + a < c->grid[0]; a++)
        for (int b = h0 < 0 ? -h0 : 0; b < c->kernel[1] && h0 + b < c->grid[1]; b++) {
            const bf16 *taps = weight + (size_t)((a * c->kernel[1] + b) * steps) * PANEL_STEP;
            const bf16 *in = (const bf16 *)c->lines + conv_line(c, d0 + a, h0 + b) * (size_t)values +
                             (size_t)(w * c->stride[2] * c->channels);
            if (is_two)
                AMX_MULTIPLY(1, in, bytes, taps, steps);
            else
                AMX_MULTIPLY(0, in, bytes, taps, steps);
        }
    if (is_two)
        AMX_END(1, y);
    else
        AMX_END(0, y);
}

void KERNEL(conv)(const noc_cpu_conv *c, int line, int first, int last)
{
    float y[OUTPUTS][COLUMNS] __attribute__((aligned(64)));
    for (int j = first; j < last; j++)
        for (int w = 0; w < c->out_grid[2]; w += OUTPUTS) {
            conv_outputs(c, line, w, j, y);
            float *out = c->out + ((size_t)line * (size_t)c->out_grid[2] + (size_t)w) * (size_t)c->columns;
            store_sums(y, least(OUTPUTS, c->out_grid[2] - w), j * COLUMNS, c->columns, NULL, out,
                       (size_t)c->columns);
        }
}
