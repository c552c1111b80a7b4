/* As kernels_conv.c, in bf16: up to 32 outputs of a line at a time. The stretch of the input line that they
 * need is rounded into a buffer, zeros where it leaves the map; their windows overlap there, and a tile load
 * with the stride of the convolution reads them as rows. The taps of a line are filled up to whole steps with
 * zero weights, and what stands in the buffer behind a window is finite. */
#include "engine/cpu/amx.h"

enum { OUTPUTS = 2 * TILE };

size_t KERNEL(conv_room)(const noc_cpu_conv *c)
{
    return (size_t)((OUTPUTS * c->stride[2] + c->kernel[2]) * c->channels + 2 * STEP) / 2;
}

/* Inputs [at, at + count) of a line. */
static void convert_stretch(const noc_cpu_conv *c, const float *line, int at, int count, bf16 *out)
{
    int skip = at < 0 ? least(-at, count) : 0, end = least(count, c->grid[2] - at);
    end = end < skip ? skip : end;
    memset(out, 0, (size_t)(skip * c->channels) * sizeof *out);
    to_bf16(line + (ptrdiff_t)(at + skip) * c->channels, (end - skip) * c->channels,
            out + skip * c->channels);
    memset(out + end * c->channels, 0, (size_t)((count - end) * c->channels + STEP) * sizeof *out);
}

static void conv_outputs(const noc_cpu_conv *c, int line, int w, int outputs, int panel,
                         float y[OUTPUTS][COLUMNS])
{
    const int taps = c->kernel[2] * c->channels, steps = steps_of(taps);
    const int d0 = line / c->out_grid[1] * c->stride[0] - c->padding[0],
              h0 = line % c->out_grid[1] * c->stride[1] - c->padding[1];
    const int count = (outputs - 1) * c->stride[2] + c->kernel[2], at = w * c->stride[2] - c->padding[2];
    const size_t bytes = (size_t)(c->stride[2] * c->channels) * sizeof(bf16),
                 panel_bf16 = (size_t)(c->kernel[0] * c->kernel[1] * steps) * PANEL_STEP;
    bf16 *stretch = c->room;
    AMX_BEGIN(c->bias + panel * COLUMNS);
    for (int a = d0 < 0 ? -d0 : 0; a < c->kernel[0] && d0 + a < c->grid[0]; a++)
        for (int b = h0 < 0 ? -h0 : 0; b < c->kernel[1] && h0 + b < c->grid[1]; b++) {
            const bf16 *weight = (const bf16 *)c->panels + (size_t)panel * panel_bf16 +
                                 (size_t)((a * c->kernel[1] + b) * steps) * PANEL_STEP;
            size_t row = ((size_t)(d0 + a) * (size_t)c->grid[1] + (size_t)(h0 + b)) * (size_t)c->grid[2];
            convert_stretch(c, c->in + row * (size_t)c->channels, at, count, stretch);
            if (outputs > TILE)
                AMX_MULTIPLY(1, stretch, bytes, weight, steps);
            else
                AMX_MULTIPLY(0, stretch, bytes, weight, steps);
        }
    if (outputs > TILE)
        AMX_END(1, y);
    else
        AMX_END(0, y);
}

void KERNEL(conv)(const noc_cpu_conv *c, int line, int first, int last)
{
    float y[OUTPUTS][COLUMNS] __attribute__((aligned(64)));
    for (int j = first; j < last; j++)
        for (int w = 0; w < c->out_grid[2]; w += OUTPUTS) {
            int outputs = least(OUTPUTS, c->out_grid[2] - w);
            conv_outputs(c, line, w, outputs, j, y);
            float *out = c->out + ((size_t)line * (size_t)c->out_grid[2] + (size_t)w) * (size_t)c->columns;
            for (int r = 0; r < outputs; r++, out += c->columns)
                for (int i = 0, at = j * COLUMNS; i < COLUMNS && at < c->columns; i += LANES, at += LANES)
                    store_part(out + at, load(&y[r][i]), least(LANES, c->columns - at));
        }
}
