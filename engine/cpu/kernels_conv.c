/* Convolution of a line of outputs without a matrix of patches. The input is copied once, its lines with
 * zeros on both sides as far as windows reach; in such a line the kw taps of an output lie one after another,
 * kw * channels floats, and those of its right neighbour stride * channels floats further: for each (kd, kh)
 * a tile of outputs is a product of overlapping rows.
 *
 *   line          0 . . . . . . . . . . 0      stride 2, kw 3: rows 0 1 2, 2 3 4, 4 5 6, ...
 *
 * Taps outside of the map in D and H are left out as whole lines. Sums are sums of runs of at least DEPTH_RUN
 * products, cut at the ends of lines or within long ones, so rounding does not grow with the kernel. */
#include "engine/cpu/interleave.h"
#include "engine/cpu/vector.h"

size_t KERNEL(conv_line_floats)(const noc_cpu_conv *c)
{
    size_t floats = (size_t)(((c->out_grid[2] - 1) * c->stride[2] + c->kernel[2]) * c->channels);
    return (floats + LANES - 1) / LANES * LANES;
}

void KERNEL(conv_fill)(const noc_cpu_conv *c, int d, int h)
{
    const int channels = c->channels, lead = c->padding[2] * channels,
              floats = (int)KERNEL(conv_line_floats)(c);
    const int count = least(c->grid[2], (floats - lead) / channels), end = lead + count * channels;
    const size_t first = (size_t)(d * c->grid[1] + h) * (size_t)c->grid[2],
                 plane = (size_t)c->grid[0] * (size_t)c->grid[1] * (size_t)c->grid[2];
    float *out = c->lines + conv_line(c, d, h) * (size_t)floats;
    memset(out, 0, (size_t)lead * sizeof *out);
    if (c->is_planar)
        interleave_values(c->in + first, channels, plane, count, out + lead);
    else
        memcpy(out + lead, c->in + first * (size_t)channels, (size_t)(count * channels) * sizeof *out);
    memset(out + end, 0, (size_t)(floats - end) * sizeof *out);
}

/* The sums so far pass into y; `is_first` says whether they begin it. */
INLINE void flush(int rows, vec sum[ROWS][2], float y[ROWS][COLUMNS], int is_first)
{
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 2; i++) {
            if (!is_first)
                sum[r][i] += load(&y[r][i * LANES]);
            store(&y[r][i * LANES], sum[r][i]);
            sum[r][i] = (vec){0};
        }
}

/* y = bias + all taps of outputs w.. of the line. `rows` is a constant at every call. */
INLINE void conv_tile(int rows, const noc_cpu_conv *c, int line, int w, const float *panel, const float *bias,
                      float y[ROWS][COLUMNS])
{
    const size_t step = (size_t)(c->stride[2] * c->channels), line_floats = KERNEL(conv_line_floats)(c);
    const int depth = c->kernel[2] * c->channels;
    const int d0 = line / c->out_grid[1] * c->stride[0] - c->padding[0],
              h0 = line % c->out_grid[1] * c->stride[1] - c->padding[1];
    vec sum[ROWS][2];
    int run = 0, is_first = 1;
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        sum[r][0] = load(bias);
        sum[r][1] = load(bias + LANES);
    }
    for (int a = d0 < 0 ? -d0 : 0; a < c->kernel[0] && d0 + a < c->grid[0]; a++)
        for (int b = h0 < 0 ? -h0 : 0; b < c->kernel[1] && h0 + b < c->grid[1]; b++) {
            const float *in = c->lines + conv_line(c, d0 + a, h0 + b) * line_floats + (size_t)w * step;
            const float *weight = panel + (size_t)((a * c->kernel[1] + b) * depth) * COLUMNS;
            for (int k = 0, end; k < depth; k = end) {
                end = least(k + DEPTH_RUN, depth);
                run += end - k;
                for (int i = k; i < end; i++) {
                    vec b0 = load(weight + (size_t)i * COLUMNS),
                        b1 = load(weight + (size_t)i * COLUMNS + LANES);
#pragma GCC unroll 14
                    for (int r = 0; r < rows; r++) {
                        float x = in[(size_t)r * step + (size_t)i];
                        sum[r][0] += x * b0;
                        sum[r][1] += x * b1;
                    }
                }
                if (run >= DEPTH_RUN) {
                    flush(rows, sum, y, is_first);
                    run = is_first = 0;
                }
            }
        }
    flush(rows, sum, y, is_first);
}

/* Up to ROWS outputs; returns how many. */
static int conv_tiles(int rows, const noc_cpu_conv *c, int line, int w, const float *panel, const float *bias,
                      float y[ROWS][COLUMNS])
{
    if (rows >= ROWS)
        conv_tile(ROWS, c, line, w, panel, bias, y);
    else if (ROWS > 8 && rows >= 8)
        conv_tile(least(8, ROWS), c, line, w, panel, bias, y);
    else if (ROWS > 4 && rows >= 4)
        conv_tile(4, c, line, w, panel, bias, y);
    else if (rows >= 2)
        conv_tile(2, c, line, w, panel, bias, y);
    else
        conv_tile(1, c, line, w, panel, bias, y);
    return rows >= ROWS ? ROWS : ROWS > 8 && rows >= 8 ? 8 : ROWS > 4 && rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
}

void KERNEL(conv)(const noc_cpu_conv *c, int line, int first, int last)
{
    const size_t depth = (size_t)(c->kernel[0] * c->kernel[1] * c->kernel[2] * c->channels);
    float y[ROWS][COLUMNS] __attribute__((aligned(64)));
    for (int j = first; j < last; j++)
        for (int w = 0, rows; w < c->out_grid[2]; w += rows) {
            rows = conv_tiles(c->out_grid[2] - w, c, line, w, c->panels + (size_t)j * COLUMNS * depth,
                              c->bias + j * COLUMNS, y);
            float *out = c->out + ((size_t)line * (size_t)c->out_grid[2] + (size_t)w) * (size_t)c->columns;
            store_sums(y, rows, j * COLUMNS, c->columns, NULL, out, (size_t)c->columns);
        }
}
