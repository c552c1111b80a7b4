/* As kernels_mixffn.c, with fc1 and fc2 in bf16. fc1's tile of sums, 16 tokens x 16 channels, is the ring's
 * layout, so it is stored there as it is; the depthwise sums are f32, and what the activation gives is
 * rounded for fc2. */
#include "engine/cpu/amx.h"
#include "engine/cpu/depthwise.h"

enum { TOKENS = 2 * TILE };

/* Tokens of a tile that is not full must not touch the next group's. */
static void store_tokens(const float y[TILE][COLUMNS], int tokens, float *out0, float *out1)
{
    for (int r = 0; r < tokens; r++) {
        store(out0 + r * LANES, load(y[r]));
        store(out1 + r * LANES, load(y[r] + LANES));
    }
}

void KERNEL(expand)(const noc_cpu_mixffn *m, const float *in, int rows, int slot, int token)
{
    const size_t group = (size_t)(m->lines * m->width) * LANES;
    const int steps = steps_of(m->channels);
    const size_t bytes = (size_t)(steps * STEP) * sizeof(bf16);
    bf16 *a = m->room;
    float y[TOKENS][COLUMNS] __attribute__((aligned(64)));
    for (int row = 0; row < rows; row += TOKENS) {
        int n = least(TOKENS, rows - row);
        for (int r = 0; r < n; r++)
            to_bf16(in + (size_t)((row + r) * m->channels), m->channels, a + r * steps * STEP);
        for (int j = 0; j < m->groups / 2; j++) {
            const bf16 *panel = (const bf16 *)m->fc1 + (size_t)(j * steps) * PANEL_STEP;
            float *out0 =
                      m->ring + (size_t)(slot * m->groups + 2 * j) * group + (size_t)(token + row) * LANES,
                  *out1 = out0 + group;
            AMX_BEGIN(m->fc1_bias + j * COLUMNS);
            AMX_MULTIPLY(1, a, bytes, panel, steps);
            if (n == TOKENS) {
                _tile_stored(0, out0, 64);
                _tile_stored(1, out1, 64);
                _tile_stored(2, out0 + TILE * LANES, 64);
                _tile_stored(3, out1 + TILE * LANES, 64);
            } else {
                AMX_END(1, y);
                store_tokens(y, n, out0, out1);
            }
        }
    }
}

/* x Phi(x) to 1.1e-4 absolute, which rounding to bf16 hides. */
INLINE vec gelu_coarse(vec x)
{
    static const float c[7] = {0.184752809f,  -0.0870389777f, 0.0551343232f, -0.0336242171f,
                               0.0207394239f, -0.0126813947f, 0.00428551426f};
    vec u = larger(splat(-3.8f), smaller(x, splat(3.8f))), t = u * (2 / (3.8f * 3.8f)) * u - 1.0f,
        p = splat(c[6]);
#pragma GCC unroll 6
    for (int i = 5; i >= 0; i--)
        p = p * t + c[i];
    return x * (u * p + 0.5f);
}

/* is_gelu is a constant at every call. */
INLINE void depthwise_run(const noc_cpu_mixffn *m, const noc_cpu_strip *s, int count, int is_gelu, int g,
                          int line, int w, bf16 *out, size_t step)
{
    vec sum[8];
    strip_sums(m, s, count, g, line, w, sum);
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
        vec x = is_gelu ? gelu_coarse(sum[i]) : activated(sum[i], m->activation);
        _mm256_storeu_si256((__m256i *)(out + (size_t)i * step), (__m256i)_mm512_cvtneps_pbh((__m512)x));
    }
}

/* [token][hidden] */
INLINE void depthwise_group(const noc_cpu_mixffn *m, const noc_cpu_strip *s, int is_gelu, int g, bf16 *out)
{
    const size_t step = (size_t)(m->groups * LANES);
    for (int line = s->from; line < s->to; line++, out += (size_t)m->width * step) {
        int w = 0;
        for (; w + 8 <= m->width; w += 8)
            depthwise_run(m, s, 8, is_gelu, g, line, w, out + (size_t)w * step, step);
        for (; w + 2 <= m->width; w += 2)
            depthwise_run(m, s, 2, is_gelu, g, line, w, out + (size_t)w * step, step);
        for (; w < m->width; w++)
            depthwise_run(m, s, 1, is_gelu, g, line, w, out + (size_t)w * step, step);
    }
}

static void contract(const noc_cpu_mixffn *m, const bf16 *in, int tokens, const float *residual, float *out)
{
    const int depth = m->groups * LANES, steps = steps_of(depth);
    float y[TOKENS][COLUMNS] __attribute__((aligned(64)));
    for (int row = 0; row < tokens; row += TOKENS)
        for (int c = 0; c < m->channels; c += COLUMNS) {
            const bf16 *panel = (const bf16 *)m->fc2 + (size_t)(c / COLUMNS * steps) * PANEL_STEP;
            AMX_BEGIN(m->fc2_bias + c);
            AMX_MULTIPLY(1, in + (size_t)row * (size_t)depth, (size_t)depth * sizeof *in, panel, steps);
            AMX_END(1, y);
            size_t to = (size_t)(row * m->channels);
            store_sums(y, least(TOKENS, tokens - row), c, m->channels, residual ? residual + to : NULL,
                       out + to, (size_t)m->channels);
        }
}

void KERNEL(mix_strip)(const noc_cpu_mixffn *m, const noc_cpu_strip *s, const float *residual, float *out)
{
    bf16 *activated_tokens = (bf16 *)m->activated;
    for (int g = 0; g < m->groups; g++)
        if (m->activation == NOC_ACTIVATION_GELU)
            depthwise_group(m, s, 1, g, activated_tokens + g * LANES);
        else
            depthwise_group(m, s, 0, g, activated_tokens + g * LANES);
    contract(m, activated_tokens, (s->to - s->from) * m->width, residual, out);
}
