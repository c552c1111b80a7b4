/* Kernels of rows and lines, and the table of all kernels of an instruction set. */
#include "engine/cpu/vector.h"

/* The values of a row from c on less its mean, zeros behind its end. */
INLINE vec centred(const float *in, int c, int channels, vec mean)
{
    int n = channels - c;
    vec x = load_part(in + c, least(LANES, n)) - mean;
    return n >= LANES ? x : (vec)((bits)x & (bits)(LANE < (bits){0} + (uint32_t)n));
}

/* Up to LANES rows, whose sums are folded together; each row's bits are the same in any company. rows and
 * channels are constants at the calls that matter. */
INLINE void norm_rows(int rows, int channels, const float *in, float *out, const float *scale,
                      const float *shift, float eps)
{
    vec sum[LANES], square[LANES];
    float mean[LANES] __attribute__((aligned(64))), factor[LANES] __attribute__((aligned(64)));
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++) {
        sum[r] = (vec){0};
#pragma GCC unroll 4
        for (int c = 0; r < rows && c < channels; c += LANES)
            sum[r] += load_part(in + r * channels + c, least(LANES, channels - c));
    }
    store(mean, lanes_sums(sum) / (float)channels);
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++) {
        square[r] = (vec){0};
#pragma GCC unroll 4
        for (int c = 0; r < rows && c < channels; c += LANES) {
            vec x = centred(in + r * channels, c, channels, splat(mean[r]));
            square[r] += x * x;
        }
    }
    store(factor, lanes_sums(square) / (float)channels + eps);
    for (int r = 0; r < LANES; r++)
        factor[r] = 1.0f / sqrtf(factor[r]);
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < channels; c += LANES) {
            int n = least(LANES, channels - c);
            vec y = (load_part(in + r * channels + c, n) - mean[r]) * factor[r];
            if (scale)
                y *= load_part(scale + c, n);
            if (shift)
                y += load_part(shift + c, n);
            store_part(out + r * channels + c, y, n);
        }
}

static void layer_norm(const float *in, float *out, int rows, int channels, const float *scale,
                       const float *shift, float eps)
{
    for (int r = 0, n; r < rows; r += n, in += n * channels, out += n * channels) {
        n = least(LANES, rows - r);
        if (n == LANES && channels == 2 * LANES)
            norm_rows(LANES, 2 * LANES, in, out, scale, shift, eps);
        else if (n == LANES && channels == 4 * LANES)
            norm_rows(LANES, 4 * LANES, in, out, scale, shift, eps);
        else
            norm_rows(n, channels, in, out, scale, shift, eps);
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
                IN_REGISTER(x);
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

/* One token of `count` (a constant at every call) terms; low and high are the samples on either side of it.
 */
INLINE void mix_token(int count, const noc_cpu_mix *m, const float *const low[], const float *const high[],
                      const float fraction[], float *restrict out)
{
    for (int c = 0; c < m->channels; c += LANES) {
        int n = least(LANES, m->channels - c);
        vec sum = m->bias ? load_part(m->bias + c, n) : (vec){0};
#pragma GCC unroll 4
        for (int t = 0; t < count; t++) {
            sum += (1 - fraction[t]) * load_part(low[t] + c, n);
            sum += fraction[t] * load_part(high[t] + c, n);
        }
        store_part(out + c, activated(sum, m->activation), n);
    }
}

void KERNEL(mix)(const noc_cpu_mix *m)
{
    for (int w = m->from; w < m->to; w++) {
        const float *low[NOC_OP_INPUTS], *high[NOC_OP_INPUTS];
        float fraction[NOC_OP_INPUTS], *out = m->out + (size_t)(w - m->from) * m->out_step;
        for (int t = 0; t < m->count; t++) {
            const noc_cpu_axis *axis = m->axes[t];
            low[t] = m->lines[t] + (size_t)(axis ? axis->low[w] : w - m->from) * (size_t)m->channels;
            high[t] = m->lines[t] + (size_t)(axis ? axis->high[w] : w - m->from) * (size_t)m->channels;
            fraction[t] = axis ? axis->fraction[w] : 0;
        }
        if (m->count == 4)
            mix_token(4, m, low, high, fraction, out);
        else if (m->count == 3)
            mix_token(3, m, low, high, fraction, out);
        else if (m->count == 2)
            mix_token(2, m, low, high, fraction, out);
        else
            mix_token(1, m, low, high, fraction, out);
    }
}

#if defined(NOC_ISA_AMX)
/* Eight tiles of 16 rows of 64 bytes. They belong to the thread, and make its context switches dearer while
 * it has them. */
static void enter(void)
{
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64))) = {
        .palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&config);
}

static void leave(void)
{
    _tile_release();
}
#endif

const noc_cpu_kernels KERNEL(kernels) = {
    .name = ISA,
    .lanes = LANES,
    .columns = COLUMNS,
#if defined(NOC_ISA_AMX)
    .rows = 2 * LANES,
    .precision = NOC_PRECISION_BF16,
    .depth_step = 32,
    .hidden_bytes = 2,
    .enter = enter,
    .leave = leave,
    .peak_products = KERNEL(peak_products),
#else
    .rows = ROWS,
    .precision = NOC_PRECISION_F32,
    .depth_step = 1,
    .hidden_bytes = sizeof(float),
    .peak_products = KERNEL(peak_vectors),
#endif
    .packed_floats = KERNEL(packed_floats),
    .pack = KERNEL(pack),
    .head_floats = KERNEL(head_floats),
    .score_floats = KERNEL(score_floats),
    .pack_keys = KERNEL(pack_keys),
    .conv_line_floats = KERNEL(conv_line_floats),
    .conv_fill = KERNEL(conv_fill),
    .product = KERNEL(product),
    .conv = KERNEL(conv),
    .layer_norm = layer_norm,
    .affine = affine,
    .activate = activate,
    .attention = KERNEL(attention),
    .depthwise = depthwise,
    .expand = KERNEL(expand),
    .mix_strip = KERNEL(mix_strip),
    .blend = blend,
    .mix = KERNEL(mix),
    .decoder_floats = KERNEL(decoder_floats),
    .decode = KERNEL(decode),
    .spread = KERNEL(spread),
    .divide = KERNEL(divide),
    .argmax = KERNEL(argmax),
    .threshold = KERNEL(threshold),
    .peak_vectors = KERNEL(peak_vectors),
};
