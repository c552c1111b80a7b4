/* Kernels of rows and lines, and the table of all kernels of an instruction set. */
#include "engine/cpu/vector.h"

/* A tile of rows x COLUMNS: out = bias + in * panel + residual. `rows` is a constant at every call, so that
 * the sums stay in registers. */
INLINE void tile(int rows, const float *in, size_t in_step, int depth, const float *panel, const float *bias,
                 const float *residual, float *out, size_t out_step)
{
    vec sum[ROWS][2];
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        sum[r][0] = bias ? load(bias) : (vec){0};
        sum[r][1] = bias ? load(bias + LANES) : (vec){0};
    }
    for (int k = 0; k < depth; k++) {
        vec b0 = load(panel + (size_t)k * COLUMNS), b1 = load(panel + (size_t)k * COLUMNS + LANES);
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            float x = in[(size_t)r * in_step + (size_t)k];
            sum[r][0] += x * b0;
            sum[r][1] += x * b1;
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        if (residual) {
            sum[r][0] += load(residual + (size_t)r * out_step);
            sum[r][1] += load(residual + (size_t)r * out_step + LANES);
        }
        store(out + (size_t)r * out_step, sum[r][0]);
        store(out + (size_t)r * out_step + LANES, sum[r][1]);
    }
}

/* Any number of rows up to ROWS, a run of at most DEPTH_RUN products each. */
INLINE void short_tiles(int rows, const float *in, size_t in_step, int depth, const float *panel,
                        const float *bias, const float *residual, float *out, size_t out_step)
{
    if (rows == ROWS) {
        tile(ROWS, in, in_step, depth, panel, bias, residual, out, out_step);
        return;
    }
    while (rows > 0) {
        int n = rows >= 8 && ROWS > 8 ? 8 : rows >= 4 && ROWS > 4 ? 4 : rows >= 2 ? 2 : 1;
        if (n == 8)
            tile(least(8, ROWS), in, in_step, depth, panel, bias, residual, out, out_step);
        else if (n == 4)
            tile(4, in, in_step, depth, panel, bias, residual, out, out_step);
        else if (n == 2)
            tile(2, in, in_step, depth, panel, bias, residual, out, out_step);
        else
            tile(1, in, in_step, depth, panel, bias, residual, out, out_step);
        in += (size_t)n * in_step;
        residual = residual ? residual + (size_t)n * out_step : NULL;
        out += (size_t)n * out_step;
        rows -= n;
    }
}

/* Long sums are sums of shorter ones, so that rounding does not grow with the depth: each run starts from
 * zero and is added to what stands in `out`. */
static void tiles(int rows, const float *in, size_t in_step, int depth, const float *panel, const float *bias,
                  const float *residual, float *out, size_t out_step)
{
    for (int k = 0; k < depth; k += DEPTH_RUN)
        short_tiles(rows, in + k, in_step, least(DEPTH_RUN, depth - k), panel + (size_t)k * COLUMNS,
                    k == 0 ? bias : NULL, k == 0 ? residual : out, out, out_step);
}

/* Squares of the tail columns of a block of rows -> the factor of each row. */
static void norms(const noc_cpu_product *p, int row, int rows, float *factor)
{
    float y[ROWS][COLUMNS] __attribute__((aligned(64)));
    int first = (p->columns + COLUMNS - 1) / COLUMNS, last = first + (p->tail + COLUMNS - 1) / COLUMNS;
    for (int i = 0; i < rows; i += ROWS) {
        int n = least(ROWS, rows - i);
        vec sum[ROWS] = {{0}};
        for (int j = first; j < last; j++) {
            tiles(n, p->in + (size_t)(row + i) * p->in_step, p->in_step, p->depth,
                  p->panels + (size_t)j * COLUMNS * (size_t)p->depth, p->bias + j * COLUMNS, NULL, y[0],
                  COLUMNS);
            for (int r = 0; r < n; r++)
                sum[r] += load(y[r]) * load(y[r]) + load(y[r] + LANES) * load(y[r] + LANES);
        }
        for (int r = 0; r < n; r++)
            factor[i + r] = 1.0f / sqrtf(p->tail_constant + lanes_sum(sum[r]));
    }
}

/* A tile whose panel is not full, or whose values change on the way out. */
static void finished_tile(const noc_cpu_product *p, int row, int rows, int panel, const float *factor)
{
    float y[ROWS][COLUMNS] __attribute__((aligned(64)));
    tiles(rows, p->in + (size_t)row * p->in_step, p->in_step, p->depth,
          p->panels + (size_t)panel * COLUMNS * (size_t)p->depth, p->bias + panel * COLUMNS, NULL, y[0],
          COLUMNS);
    for (int r = 0; r < rows; r++)
        for (int c = panel * COLUMNS, i = 0; c < p->columns && i < COLUMNS; c += LANES, i += LANES) {
            int n = least(LANES, p->columns - c);
            size_t at = (size_t)(row + r) * p->out_step + (size_t)c;
            vec v = load(y[r] + i);
            if (factor)
                v *= factor[r];
            if (p->residual)
                v += load_part(p->residual + at, n);
            store_part(p->out + at, activated(v, p->activation), n);
        }
}

/* Blocks of rows whose part of `in` stays near, every panel of weights over each. */
static void product(const noc_cpu_product *p)
{
    float factor[BLOCK_ROWS];
    for (int row = 0; row < p->rows; row += BLOCK_ROWS) {
        int rows = least(BLOCK_ROWS, p->rows - row);
        if (p->tail > 0)
            norms(p, row, rows, factor);
        for (int j = p->first; j < p->last; j++) {
            int is_plain =
                p->tail == 0 && p->activation == NOC_ACTIVATION_NONE && (j + 1) * COLUMNS <= p->columns;
            for (int i = 0; i < rows; i += ROWS) {
                int n = least(ROWS, rows - i);
                size_t at = (size_t)(row + i) * p->out_step + (size_t)j * COLUMNS;
                if (is_plain)
                    tiles(n, p->in + (size_t)(row + i) * p->in_step, p->in_step, p->depth,
                          p->panels + (size_t)j * COLUMNS * (size_t)p->depth, p->bias + j * COLUMNS,
                          p->residual ? p->residual + at : NULL, p->out + at, p->out_step);
                else
                    finished_tile(p, row + i, n, j, p->tail > 0 ? factor + i : NULL);
            }
        }
    }
}

static void layer_norm(const float *in, float *out, int rows, int channels, const float *scale,
                       const float *shift, float eps)
{
    for (int r = 0; r < rows; r++, in += channels, out += channels) {
        int full = channels - channels % LANES, rest = channels - full;
        vec sum = {0}, squares = {0};
        for (int c = 0; c < full; c += LANES)
            sum += load(in + c);
        vec mean = splat(lanes_sum(sum + load_part(in + full, rest)) / (float)channels);
        for (int c = 0; c < full; c += LANES) {
            vec x = load(in + c) - mean;
            squares += x * x;
        }
        float square = lanes_sum(squares);
        for (int c = full; c < channels; c++)
            square += (in[c] - mean[0]) * (in[c] - mean[0]);
        float factor = 1.0f / sqrtf(square / (float)channels + eps);
        for (int c = 0; c < channels; c += LANES) {
            int n = least(LANES, channels - c);
            vec y = (load_part(in + c, n) - mean) * factor;
            if (scale)
                y *= load_part(scale + c, n);
            if (shift)
                y += load_part(shift + c, n);
            store_part(out + c, y, n);
        }
    }
}

static void affine(const float *in, float *out, int rows, int channels, const float *scale,
                   const float *shift)
{
    for (int r = 0; r < rows; r++, in += channels, out += channels)
        for (int c = 0; c < channels; c += LANES) {
            int n = least(LANES, channels - c);
            vec x = load_part(in + c, n) * load_part(scale + c, n);
            if (shift)
                x += load_part(shift + c, n);
            store_part(out + c, x, n);
        }
}

static void activate(const float *in, float *out, size_t count, noc_activation activation)
{
    for (size_t i = 0; i < count; i += LANES) {
        int n = count - i < LANES ? (int)(count - i) : LANES;
        store_part(out + i, activated(load_part(in + i, n), activation), n);
    }
}

/* A row of scores -> their powers of e below the maximum, in place; returns one over their sum. */
static float soften(float *s, int count)
{
    const float log2_e = 1.44269504f;
    vec m0 = load(s), m1 = load(s + LANES), t0 = {0}, t1 = {0};
    for (int j = COLUMNS; j < count; j += COLUMNS) {
        m0 = larger(m0, load(s + j));
        m1 = larger(m1, load(s + j + LANES));
    }
    vec m = splat(lanes_max(larger(m0, m1)));
    for (int j = 0; j < count; j += COLUMNS) {
        vec p0 = exp2_of((load(s + j) - m) * log2_e), p1 = exp2_of((load(s + j + LANES) - m) * log2_e);
        t0 += p0;
        t1 += p1;
        store(s + j, p0);
        store(s + j + LANES, p1);
    }
    return 1.0f / lanes_sum(t0 + t1);
}

/* A tile of queries against all keys. */
static void attend(const noc_cpu_attention *a, int row, int rows)
{
    float y[ROWS][COLUMNS] __attribute__((aligned(64))), factor[ROWS];
    int padded = (a->keys + COLUMNS - 1) / COLUMNS * COLUMNS;
    for (int j = 0; j < padded; j += COLUMNS)
        tiles(rows, a->queries + (size_t)row * a->query_step, a->query_step, a->dim,
              a->key_panels + (size_t)j * (size_t)a->dim, NULL, NULL, a->scores + j, (size_t)padded);
    for (int r = 0; r < rows; r++) {
        float *s = a->scores + (size_t)r * (size_t)padded;
        for (int j = a->keys; j < padded; j++)
            s[j] = -3e38f; /* no key: its power is nothing beside the largest's 1 */
        factor[r] = soften(s, padded);
    }
    for (int c = 0; c < a->dim; c += COLUMNS) {
        tiles(rows, a->scores, (size_t)padded, a->keys, a->value_panels + (size_t)c * (size_t)a->keys, NULL,
              NULL, y[0], COLUMNS);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < COLUMNS && c + i < a->dim; i += LANES)
                store_part(a->out + (size_t)(row + r) * a->out_step + c + i, load(y[r] + i) * factor[r],
                           least(LANES, a->dim - c - i));
    }
}

static void attention(const noc_cpu_attention *a)
{
    for (int row = 0; row < a->rows; row += ROWS)
        attend(a, row, least(ROWS, a->rows - row));
}

/* `count` (a constant at every call) neighbours along W of one group of channels; each input is used for
 * three of them. */
INLINE void depthwise_run(const noc_cpu_depthwise *p, int count, int d, int h, int w, int c, int n,
                          const float *weight, vec bias)
{
    vec sum[8];
#pragma GCC unroll 8
    for (int i = 0; i < count; i++)
        sum[i] = bias;
    for (int a = d > 0 ? 0 : 1; a < 3 && d + a - 1 < p->grid[0]; a++)
        for (int b = h > 0 ? 0 : 1; b < 3 && h + b - 1 < p->grid[1]; b++) {
            const float *k = weight + (a * 9 + b * 3) * LANES;
            vec k0 = load(k), k1 = load(k + LANES), k2 = load(k + 2 * LANES);
            ptrdiff_t token = ((ptrdiff_t)(d + a - 1) * p->grid[1] + h + b - 1) * p->grid[2] + w;
            const float *line = p->in + token * p->channels + c;
#pragma GCC unroll 10
            for (int i = -1; i <= count; i++) {
                if ((i < 0 && w == 0) || (i == count && w + i == p->grid[2]))
                    continue;
                vec x = load_part(line + (ptrdiff_t)i * p->channels, n);
                if (i + 1 < count)
                    sum[i + 1] += x * k0;
                if (i >= 0 && i < count)
                    sum[i] += x * k1;
                if (i >= 1)
                    sum[i - 1] += x * k2;
            }
        }
    float *out = p->out + (((ptrdiff_t)d * p->grid[1] + h) * p->grid[2] + w) * p->channels + c;
#pragma GCC unroll 8
    for (int i = 0; i < count; i++)
        store_part(out + (ptrdiff_t)i * p->channels, activated(sum[i], p->activation), n);
}

INLINE void depthwise_line(const noc_cpu_depthwise *p, int d, int h, int c, int n)
{
    const float *weight = p->weight + (size_t)c * 27;
    vec bias = load(p->bias + c);
    int w = 0;
    for (; w + 8 <= p->grid[2]; w += 8)
        depthwise_run(p, 8, d, h, w, c, n, weight, bias);
    for (; w + 2 <= p->grid[2]; w += 2)
        depthwise_run(p, 2, d, h, w, c, n, weight, bias);
    for (; w < p->grid[2]; w++)
        depthwise_run(p, 1, d, h, w, c, n, weight, bias);
}

static void depthwise(const noc_cpu_depthwise *p, int d, int h_from, int h_to)
{
    int c = 0;
    for (; c + LANES <= p->channels; c += LANES)
        for (int h = h_from; h < h_to; h++)
            depthwise_line(p, d, h, c, LANES);
    for (int h = h_from; c < p->channels && h < h_to; h++)
        depthwise_line(p, d, h, c, p->channels - c);
}

static void blend(const float *const rows[4], const float weight[4], size_t count, float *out)
{
    for (size_t i = 0; i < count; i += LANES) {
        int n = count - i < LANES ? (int)(count - i) : LANES;
        vec sum = weight[0] * load_part(rows[0] + i, n);
        for (int r = 1; r < 4; r++)
            sum += weight[r] * load_part(rows[r] + i, n);
        store_part(out + i, sum, n);
    }
}

static void mix(const noc_cpu_mix *m)
{
    for (int w = 0; w < m->width; w++)
        for (int c = 0; c < m->channels; c += LANES) {
            int n = least(LANES, m->channels - c);
            vec sum = m->bias ? load_part(m->bias + c, n) : (vec){0};
            for (int t = 0; t < m->count; t++) {
                const float *line = m->lines[t] + c;
                const noc_cpu_axis *axis = m->axes[t];
                if (axis) {
                    float f = axis->fraction[w];
                    sum += (1 - f) * load_part(line + (size_t)axis->low[w] * (size_t)m->channels, n);
                    sum += f * load_part(line + (size_t)axis->high[w] * (size_t)m->channels, n);
                } else {
                    sum += load_part(line + (size_t)w * (size_t)m->channels, n);
                }
            }
            store_part(m->out + (size_t)w * m->out_step + c, activated(sum, m->activation), n);
        }
}

/* Columns [at, at + n) of one block: each samples a vector of the line that holds all that the block needs.
 */
INLINE void spread_block(const noc_cpu_spread *s, int at, int n)
{
    bits low = *(const bits_memory *)(s->low + at), high = *(const bits_memory *)(s->high + at);
    vec f = load(s->fraction + at), e = 1.0f - f, weight = splat(1);
    if (s->weight)
        weight = load_part(s->weight + at, n);
    for (int c = 0; c < s->classes; c++) {
        vec line = load(s->lines + (size_t)c * s->line_step + s->base[at / LANES]);
        vec value = e * __builtin_shuffle(line, low) + f * __builtin_shuffle(line, high);
        float *sum = s->sums + (size_t)c * s->sum_step + (at - s->from);
        store_part(sum, load_part(sum, n) + weight * value, n);
    }
    float *weights = s->weights + (at - s->from);
    store_part(weights, load_part(weights, n) + weight, n);
}

static void spread(const noc_cpu_spread *s)
{
    int at = s->from;
    for (; at + LANES <= s->to; at += LANES)
        spread_block(s, at, LANES);
    if (at < s->to)
        spread_block(s, at, s->to - at);
}

static void divide(float *sums, size_t step, const float *weights, int classes, int count)
{
    for (int c = 0; c < classes; c++, sums += step)
        for (int i = 0; i < count; i++)
            sums[i] /= weights[i];
}

static void argmax(const float *sums, size_t step, int classes, int count, uint32_t *restrict labels,
                   float *restrict best)
{
    for (int i = 0; i < count; i++) {
        labels[i] = 0;
        best[i] = sums[i];
    }
    for (int c = 1; c < classes; c++) {
        const float *sum = sums + (size_t)c * step;
        for (int i = 0; i < count; i++) {
            labels[i] = sum[i] > best[i] ? (uint32_t)c : labels[i];
            best[i] = sum[i] > best[i] ? sum[i] : best[i];
        }
    }
}

static void threshold(const float *sums, size_t step, int classes, int count, float limit,
                      uint32_t *restrict bit_sets)
{
    memset(bit_sets, 0, (size_t)count * sizeof *bit_sets);
    for (int c = 0; c < classes; c++) {
        const float *sum = sums + (size_t)c * step;
        for (int i = 0; i < count; i++)
            bit_sets[i] |= (uint32_t)(sum[i] >= limit) << c;
    }
}

const noc_cpu_kernels KERNEL(kernels) = {
    .name = ISA,
    .lanes = LANES,
    .rows = ROWS,
    .columns = COLUMNS,
    .product = product,
    .conv = KERNEL(conv),
    .layer_norm = layer_norm,
    .affine = affine,
    .activate = activate,
    .attention = attention,
    .depthwise = depthwise,
    .expand = KERNEL(expand),
    .mix_strip = KERNEL(mix_strip),
    .blend = blend,
    .mix = mix,
    .spread = spread,
    .divide = divide,
    .argmax = argmax,
    .threshold = threshold,
};
