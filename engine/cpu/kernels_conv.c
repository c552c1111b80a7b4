/* Convolution of a line of outputs without a matrix of patches. In NDHWC the kw taps of an output lie one
 * after another, kw * channels floats of a line of the input, and those of its right neighbour stride *
 * channels floats further: for each (kd, kh) a tile of outputs is a product of overlapping rows.
 *
 *   input line    . . . . . . . . . . . .      stride 2, kw 3: rows 0 1 2, 2 3 4, 4 5 6, ...
 *
 * Taps outside of the map in D and H are left out as whole lines; outputs whose taps leave the map in W go
 * one by one with the taps that are inside. Sums are sums of runs of at least DEPTH_RUN products, cut at the
 * ends of lines or within long ones, so rounding does not grow with the kernel. */
#include "engine/cpu/vector.h"

size_t KERNEL(conv_room)(const noc_cpu_conv *c)
{
    (void)c;
    return 0;
}

/* Where a line of outputs lies: its first tap and the taps [from, to) that are inside, along D and H. */
typedef struct place {
    int at[2], from[2], to[2];
} place;

static place place_of(const noc_cpu_conv *c, int line)
{
    const int out[2] = {line / c->out_grid[1], line % c->out_grid[1]};
    place p;
    for (int a = 0; a < 2; a++) {
        p.at[a] = out[a] * c->stride[a] - c->padding[a];
        p.from[a] = p.at[a] < 0 ? -p.at[a] : 0;
        p.to[a] = least(c->kernel[a], c->grid[a] - p.at[a]);
    }
    return p;
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

/* y = bias + the taps [tap, tap + taps) along W of outputs w.. of the line. `rows` is a constant at every
 * call. */
INLINE void conv_tile(int rows, const noc_cpu_conv *c, const place *p, int w, int tap, int taps,
                      const float *panel, const float *bias, float y[ROWS][COLUMNS])
{
    const size_t step = (size_t)(c->stride[2] * c->channels);
    const int depth = taps * c->channels;
    vec sum[ROWS][2];
    int run = 0, is_first = 1;
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        sum[r][0] = load(bias);
        sum[r][1] = load(bias + LANES);
    }
    for (int a = p->from[0]; a < p->to[0]; a++)
        for (int b = p->from[1]; b < p->to[1]; b++) {
            const ptrdiff_t row = ((ptrdiff_t)(p->at[0] + a) * c->grid[1] + p->at[1] + b) * c->grid[2];
            const float *in = c->in + (row + w * c->stride[2] - c->padding[2] + tap) * c->channels;
            const float *weight =
                panel + (size_t)(((a * c->kernel[1] + b) * c->kernel[2] + tap) * c->channels) * COLUMNS;
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

/* As conv_tile for any number of outputs up to ROWS. */
static void conv_tiles(int rows, const noc_cpu_conv *c, const place *p, int w, int tap, int taps,
                       const float *panel, const float *bias, float y[ROWS][COLUMNS])
{
    if (rows == ROWS) {
        conv_tile(ROWS, c, p, w, tap, taps, panel, bias, y);
        return;
    }
    while (rows > 0) {
        int n = rows >= 8 && ROWS > 8 ? 8 : rows >= 4 && ROWS > 4 ? 4 : rows >= 2 ? 2 : 1;
        if (n == 8)
            conv_tile(least(8, ROWS), c, p, w, tap, taps, panel, bias, y);
        else if (n == 4)
            conv_tile(4, c, p, w, tap, taps, panel, bias, y);
        else if (n == 2)
            conv_tile(2, c, p, w, tap, taps, panel, bias, y);
        else
            conv_tile(1, c, p, w, tap, taps, panel, bias, y);
        w += n;
        y += n;
        rows -= n;
    }
}

/* The next outputs from w on that share their taps along W: at most ROWS with all, or one at a border. */
static int share_taps(const noc_cpu_conv *c, int w, int *tap, int *taps)
{
    int at = w * c->stride[2] - c->padding[2],
        last = (c->grid[2] - c->kernel[2] + c->padding[2]) / c->stride[2];
    int begin = at < 0 ? -at : 0, end = least(c->kernel[2], c->grid[2] - at);
    *tap = begin;
    *taps = end - begin;
    if (*taps < c->kernel[2] || last < w)
        return 1;
    return least(ROWS, least(last, c->out_grid[2] - 1) - w + 1);
}

void KERNEL(conv)(const noc_cpu_conv *c, int line, int first, int last)
{
    const place p = place_of(c, line);
    const size_t depth = (size_t)(c->kernel[0] * c->kernel[1] * c->kernel[2] * c->channels);
    float y[ROWS][COLUMNS] __attribute__((aligned(64)));
    for (int j = first; j < last; j++)
        for (int w = 0, rows, tap, taps; w < c->out_grid[2]; w += rows) {
            rows = share_taps(c, w, &tap, &taps);
            conv_tiles(rows, c, &p, w, tap, taps, c->panels + (size_t)j * COLUMNS * depth,
                       c->bias + j * COLUMNS, y);
            float *out = c->out + ((size_t)line * (size_t)c->out_grid[2] + (size_t)w) * (size_t)c->columns;
            for (int r = 0; r < rows; r++, out += c->columns)
                for (int i = 0, at = j * COLUMNS; i < COLUMNS && at < c->columns; i += LANES, at += LANES)
                    store_part(out + at, load(&y[r][i]), least(LANES, c->columns - at));
        }
}
