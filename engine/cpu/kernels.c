/* Kernels in GCC's vector extensions; the Makefile compiles this file once for each instruction set
 * (NOC_ISA_*), with -ffp-contract=fast so that a product and a sum become one instruction where there is one.
 * Nothing here may be shared with other files as an inline function of external linkage: the copy with the
 * wider instructions could win at link time. */
#include "engine/cpu/kernels.h"

#include <math.h>
#include <string.h>

#if defined(NOC_ISA_AVX512)
#include <immintrin.h>
enum { LANES = 16, ROWS = 14 };
#define TABLE noc_cpu_kernels_avx512
#define NAME "avx512"
#elif defined(NOC_ISA_AVX2)
#include <immintrin.h>
enum { LANES = 8, ROWS = 6 };
#define TABLE noc_cpu_kernels_avx2
#define NAME "avx2"
#else
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif
enum { LANES = 4, ROWS = 4 };
#define TABLE noc_cpu_kernels_portable
#define NAME "portable"
#endif

enum { COLUMNS = 2 * LANES, BLOCK_ROWS = 8 * ROWS, DEPTH_RUN = 128 };

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef float vec_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), may_alias));
typedef uint32_t bits_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *p)
{
    return *(const vec_memory *)p;
}

INLINE void store(float *p, vec v)
{
    *(vec_memory *)p = v;
}

INLINE vec splat(float x)
{
    return (vec){0} + x;
}

/* The first n lanes, zeros behind them. */
INLINE vec load_part(const float *p, int n)
{
    if (n == LANES)
        return load(p);
    vec v = {0};
    for (int i = 0; i < n; i++)
        v[i] = p[i];
    return v;
}

INLINE void store_part(float *p, vec v, int n)
{
    if (n == LANES)
        store(p, v);
    else
        for (int i = 0; i < n; i++)
            p[i] = v[i];
}

INLINE int least(int a, int b)
{
    return a < b ? a : b;
}

/* The larger; b where one is not a number (on x86). */
INLINE vec larger(vec a, vec b)
{
#if defined(NOC_ISA_AVX512)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(NOC_ISA_AVX2)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vec)_mm_max_ps((__m128)a, (__m128)b);
#else
    bits is_a = (bits)(a > b);
    return (vec)(((bits)a & is_a) | ((bits)b & ~is_a));
#endif
}

INLINE vec smaller(vec a, vec b)
{
    return -larger(-a, -b);
}

#if defined(NOC_ISA_AVX512)
#define SWAP_8(v) __builtin_shuffle(v, (bits){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7})
#define SWAP_4(v) __builtin_shuffle(v, (bits){4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11})
#define SWAP_2(v) __builtin_shuffle(v, (bits){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13})
#define SWAP_1(v) __builtin_shuffle(v, (bits){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14})
#elif defined(NOC_ISA_AVX2)
#define SWAP_4(v) __builtin_shuffle(v, (bits){4, 5, 6, 7, 0, 1, 2, 3})
#define SWAP_2(v) __builtin_shuffle(v, (bits){2, 3, 0, 1, 6, 7, 4, 5})
#define SWAP_1(v) __builtin_shuffle(v, (bits){1, 0, 3, 2, 5, 4, 7, 6})
#else
#define SWAP_2(v) __builtin_shuffle(v, (bits){2, 3, 0, 1})
#define SWAP_1(v) __builtin_shuffle(v, (bits){1, 0, 3, 2})
#endif

INLINE float lanes_sum(vec v)
{
#if defined(NOC_ISA_AVX512)
    v += SWAP_8(v);
#endif
#if defined(NOC_ISA_AVX512) || defined(NOC_ISA_AVX2)
    v += SWAP_4(v);
#endif
    v += SWAP_2(v);
    v += SWAP_1(v);
    return v[0];
}

INLINE float lanes_max(vec v)
{
#if defined(NOC_ISA_AVX512)
    v = larger(v, SWAP_8(v));
#endif
#if defined(NOC_ISA_AVX512) || defined(NOC_ISA_AVX2)
    v = larger(v, SWAP_4(v));
#endif
    v = larger(v, SWAP_2(v));
    v = larger(v, SWAP_1(v));
    return v[0];
}

/* 2^x for x <= 0, to 1e-7 relative; below 2^-126 it stays there. */
INLINE vec exp2_of(vec x)
{
    static const float c[7] = {1.0f,           0.693147182f,   0.240226462f,   0.0555032864f,
                               0.00961848907f, 0.00133999309f, 0.000153458124f};
    x = larger(splat(-126.0f), x);
    vec shifted = x + 12582912.0f; /* 1.5 * 2^23: the low bits are now x rounded to an integer */
    vec f = x - (shifted - 12582912.0f), p = splat(c[6]);
#pragma GCC unroll 6
    for (int i = 5; i >= 0; i--)
        p = p * f + c[i];
    return (vec)((bits)p + ((bits)shifted << 23));
}

/* x Phi(x) to 8e-7 absolute: Phi(x) - 1/2 is x times a polynomial of x^2 up to 5.5; beyond it is 0 or x to
 * f32. */
INLINE vec gelu_of(vec x)
{
    static const float c[15] = {0.128551945f,   -0.0641723722f,  0.0477367155f,  -0.0387908146f,
                                0.0320880823f,  -0.0260776971f,  0.0202361774f,  -0.0148146069f,
                                0.0106612826f,  -0.00739237247f, 0.00388049101f, -0.00149289717f,
                                0.00134165934f, -0.00127530703f, 0.000428809552f};
    x = larger(splat(-5.5f), x);
    vec u = smaller(x, splat(5.5f));
    vec t = u * (2 / (5.5f * 5.5f)) * u - 1.0f, p = splat(c[14]);
#pragma GCC unroll 14
    for (int i = 13; i >= 0; i--)
        p = p * t + c[i];
    return x * (u * p + 0.5f);
}

INLINE vec activated(vec x, noc_activation activation)
{
    if (activation == NOC_ACTIVATION_GELU)
        return gelu_of(x);
    return activation == NOC_ACTIVATION_RELU ? larger((vec){0}, x) : x;
}

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

INLINE void copy_floats(float *out, const float *in, int count)
{
    int i = 0;
    for (; i + LANES <= count; i += LANES)
        store(out + i, load(in + i));
    if (i < count && count >= LANES)
        store(out + count - LANES, load(in + count - LANES));
    else
        for (; i < count; i++)
            out[i] = in[i];
}

INLINE void zero_floats(float *out, int count)
{
    for (int i = 0; i < count; i++)
        out[i] = 0;
}

/* One line of a kernel: kw tokens from w0 on, those outside [0, width) are zeros. */
INLINE void patch_line(const float *line, int width, int w0, int kw, int channels, float *out)
{
    int skip = w0 < 0 ? least(-w0, kw) : 0, end = w0 + kw > width ? width - w0 : kw;
    if (end < skip)
        end = skip;
    zero_floats(out, skip * channels);
    copy_floats(out + skip * channels, line + (ptrdiff_t)(w0 + skip) * channels, (end - skip) * channels);
    zero_floats(out + end * channels, (kw - end) * channels);
}

static void patches(const noc_cpu_patches *p, int64_t first, int count, float *out)
{
    int line_floats = p->kernel[2] * p->channels;
    for (int64_t i = first; i < first + count; i++) {
        int w0 = (int)(i % p->out_grid[2]) * p->stride[2] - p->padding[2];
        int h0 = (int)(i / p->out_grid[2] % p->out_grid[1]) * p->stride[1] - p->padding[1];
        int d0 = (int)(i / p->out_grid[2] / p->out_grid[1]) * p->stride[0] - p->padding[0];
        for (int d = d0; d < d0 + p->kernel[0]; d++)
            for (int h = h0; h < h0 + p->kernel[1]; h++, out += line_floats) {
                if (d < 0 || d >= p->grid[0] || h < 0 || h >= p->grid[1])
                    zero_floats(out, line_floats);
                else
                    patch_line(p->in + ((int64_t)d * p->grid[1] + h) * p->grid[2] * p->channels, p->grid[2],
                               w0, p->kernel[2], p->channels, out);
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

const noc_cpu_kernels TABLE = {
    .name = NAME,
    .lanes = LANES,
    .rows = ROWS,
    .columns = COLUMNS,
    .product = product,
    .patches = patches,
    .layer_norm = layer_norm,
    .affine = affine,
    .activate = activate,
    .attention = attention,
    .depthwise = depthwise,
    .blend = blend,
    .mix = mix,
    .spread = spread,
    .divide = divide,
    .argmax = argmax,
    .threshold = threshold,
};
