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

/* [4][step] of f32 -> [count][4], the number of channels of the published network. Of 16 tokens, the words of
 * two channels each stand in one vector; a permutation brings the four of a token together. */
static void interleave_four_bf16(const float *in, size_t step, int count, bf16 *out)
{
#define TOKENS_FROM(t)                                                                                       \
    t, t + 16, t + 32, t + 48, t + 1, t + 17, t + 33, t + 49, t + 2, t + 18, t + 34, t + 50, t + 3, t + 19,  \
        t + 35, t + 51, t + 4, t + 20, t + 36, t + 52, t + 5, t + 21, t + 37, t + 53, t + 6, t + 22, t + 38, \
        t + 54, t + 7, t + 23, t + 39, t + 55
    static const uint16_t low[STEP] = {TOKENS_FROM(0)}, high[STEP] = {TOKENS_FROM(8)};
#undef TOKENS_FROM
    const __m512i from_low = _mm512_loadu_si512(low), from_high = _mm512_loadu_si512(high);
    int v = 0;
    for (; v + LANES <= count; v += LANES, out += 4 * LANES) {
        const __m512i first = (__m512i)_mm512_cvtne2ps_pbh((__m512)load(in + step + v), (__m512)load(in + v)),
                      second = (__m512i)_mm512_cvtne2ps_pbh((__m512)load(in + 3 * step + v),
                                                            (__m512)load(in + 2 * step + v));
        _mm512_storeu_si512(out, _mm512_permutex2var_epi16(first, from_low, second));
        _mm512_storeu_si512(out + STEP, _mm512_permutex2var_epi16(first, from_high, second));
    }
    for (; v < count; v++)
        for (int c = 0; c < 4; c++)
            *out++ = round_bf16(in[(size_t)c * step + (size_t)v]);
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
    if (c->is_planar && channels == 4)
        interleave_four_bf16(c->in + first, plane, count, out + lead);
    for (int w = 0, n; c->is_planar && channels != 4 && w < count; w += n) {
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
