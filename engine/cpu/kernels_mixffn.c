/* The inside of a MixFFN block: fc1 -> depthwise 3x3x3 -> activation -> fc2 + residual, with the 4C wide
 * hidden tensor in cache. It lies as [plane][group of LANES channels][line][token][LANES]: what fc1's tile
 * stores, one vector a token and group, is what the depthwise taps load (depthwise.h). */
#include "engine/cpu/depthwise.h"

/* ---- fc1 ---- */

/* A tile whose two halves lie in two groups. `rows` is a constant at every call. */
INLINE void expand_tile(int rows, const float *in, int depth, const float *panel, const float *bias,
                        float *out0, float *out1)
{
    vec sum[ROWS][2];
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        sum[r][0] = load(bias);
        sum[r][1] = load(bias + LANES);
    }
    for (int k = 0; k < depth; k++) {
        vec b0 = load(panel + (size_t)k * COLUMNS), b1 = load(panel + (size_t)k * COLUMNS + LANES);
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            float x = in[r * depth + k];
            sum[r][0] += x * b0;
            sum[r][1] += x * b1;
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        store(out0 + r * LANES, sum[r][0]);
        store(out1 + r * LANES, sum[r][1]);
    }
}

void KERNEL(expand)(const noc_cpu_mixffn *m, const float *in, int rows, int slot, int token)
{
    const size_t group = (size_t)(m->lines * m->width) * LANES;
    float *plane = (float *)m->ring + (size_t)(slot * m->groups) * group + (size_t)token * LANES;
    for (int j = 0; j < m->groups / 2; j++) {
        const float *panel = m->fc1 + (size_t)j * COLUMNS * (size_t)m->channels,
                    *bias = m->fc1_bias + j * COLUMNS;
        float *out0 = plane + (size_t)(2 * j) * group, *out1 = out0 + group;
        int r = 0;
        for (; r + ROWS <= rows; r += ROWS)
            expand_tile(ROWS, in + r * m->channels, m->channels, panel, bias, out0 + r * LANES,
                        out1 + r * LANES);
        for (; r + 4 <= rows; r += 4)
            expand_tile(4, in + r * m->channels, m->channels, panel, bias, out0 + r * LANES,
                        out1 + r * LANES);
        for (; r + 2 <= rows; r += 2)
            expand_tile(2, in + r * m->channels, m->channels, panel, bias, out0 + r * LANES,
                        out1 + r * LANES);
        for (; r < rows; r++)
            expand_tile(1, in + r * m->channels, m->channels, panel, bias, out0 + r * LANES,
                        out1 + r * LANES);
    }
}

/* ---- depthwise and activation ---- */

INLINE void depthwise_run(const noc_cpu_mixffn *m, const noc_cpu_strip *s, int count, int g, int line, int w,
                          float *out)
{
    vec sum[8];
    strip_sums(m, s, count, g, line, w, sum);
#pragma GCC unroll 8
    for (int i = 0; i < count; i++)
        store(out + i * LANES, activated(sum[i], m->activation));
}

static void depthwise_group(const noc_cpu_mixffn *m, const noc_cpu_strip *s, int g, float *out)
{
    for (int line = s->from; line < s->to; line++, out += m->width * LANES) {
        int w = 0;
        for (; w + 8 <= m->width; w += 8)
            depthwise_run(m, s, 8, g, line, w, out + w * LANES);
        for (; w + 2 <= m->width; w += 2)
            depthwise_run(m, s, 2, g, line, w, out + w * LANES);
        for (; w < m->width; w++)
            depthwise_run(m, s, 1, g, line, w, out + w * LANES);
    }
}

/* ---- fc2 ---- */

/* y = [bias or y] + activated groups [from, to) of `rows` (a constant at every call) tokens times a panel. */
INLINE void contract_tile(int rows, const float *in, size_t group, int from, int to, const float *panel,
                          const float *bias, float y[ROWS][COLUMNS])
{
    vec sum[ROWS][2];
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        sum[r][0] = bias ? load(bias) : (vec){0};
        sum[r][1] = bias ? load(bias + LANES) : (vec){0};
    }
    for (int g = from; g < to; g++)
        for (int k = 0; k < LANES; k++) {
            const float *b = panel + (size_t)(g * LANES + k) * COLUMNS, *a = in + (size_t)g * group + k;
            vec b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 14
            for (int r = 0; r < rows; r++) {
                float x = a[r * LANES];
                sum[r][0] += x * b0;
                sum[r][1] += x * b1;
            }
        }
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 2; i++) {
            if (!bias)
                sum[r][i] += load(&y[r][i * LANES]);
            store(&y[r][i * LANES], sum[r][i]);
        }
}

/* All groups, in runs of DEPTH_RUN products (kernels: tiles). */
INLINE void contract_runs(int rows, const noc_cpu_mixffn *m, const float *in, size_t group,
                          const float *panel, const float *bias, float y[ROWS][COLUMNS])
{
    const int run = DEPTH_RUN / LANES;
    for (int g = 0; g < m->groups; g += run)
        contract_tile(rows, in, group, g, least(g + run, m->groups), panel, g == 0 ? bias : NULL, y);
}

static void contract(const noc_cpu_mixffn *m, const float *in, int tokens, const float *residual, float *out)
{
    const size_t group = (size_t)tokens * LANES, depth = (size_t)m->groups * LANES;
    float y[ROWS][COLUMNS] __attribute__((aligned(64)));
    for (int row = 0, n; row < tokens; row += n) {
        n = tokens - row >= ROWS ? ROWS : tokens - row >= 4 ? 4 : tokens - row >= 2 ? 2 : 1;
        for (int c = 0; c < m->channels; c += COLUMNS) {
            const float *panel = m->fc2 + (size_t)c * depth, *bias = m->fc2_bias + c;
            if (n == ROWS)
                contract_runs(ROWS, m, in + row * LANES, group, panel, bias, y);
            else if (n == 4)
                contract_runs(4, m, in + row * LANES, group, panel, bias, y);
            else if (n == 2)
                contract_runs(2, m, in + row * LANES, group, panel, bias, y);
            else
                contract_runs(1, m, in + row * LANES, group, panel, bias, y);
            size_t to = (size_t)(row * m->channels);
            store_sums(y, n, c, m->channels, residual ? residual + to : NULL, out + to, (size_t)m->channels);
        }
    }
}

void KERNEL(mix_strip)(const noc_cpu_mixffn *m, const noc_cpu_strip *s, const float *residual, float *out)
{
    float *activated_tokens = m->activated;
    int tokens = (s->to - s->from) * m->width;
    for (int g = 0; g < m->groups; g++)
        depthwise_group(m, s, g, activated_tokens + (size_t)(g * tokens) * LANES);
    contract(m, activated_tokens, tokens, residual, out);
}
