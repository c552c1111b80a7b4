/* As kernels_mixffn.c, with fc1 and fc2 in bf16 and all between them in f16: its 11 bits are finer than the 8
 * that the activated values are rounded to for fc2, and a vector of it has the 32 channels of a panel. The
 * ring is [slot][panel][line][token][32]. */
#include "engine/cpu/amx.h"

enum { TOKENS = 2 * TILE, RUN = 16, TAPS = 27 };

typedef _Float16 half __attribute__((may_alias));
typedef _Float16 halves __attribute__((vector_size(2 * COLUMNS), may_alias));
typedef _Float16 halves_memory __attribute__((vector_size(2 * COLUMNS), aligned(2), may_alias));

INLINE halves load_halves(const half *p)
{
    return *(const halves_memory *)p;
}

INLINE halves splat_half(float x)
{
    return (halves)_mm512_set1_ph((_Float16)x);
}

/* The larger and the smaller; b where one is not a number. */
INLINE halves larger_halves(halves a, halves b)
{
    return (halves)_mm512_max_ph((__m512h)a, (__m512h)b);
}

INLINE halves smaller_halves(halves a, halves b)
{
    return (halves)_mm512_min_ph((__m512h)a, (__m512h)b);
}

/* f16 ends at 65504: what is larger than 2^11 becomes that, so that 27 of them, times weights up to 1, have a
 * sum. */
INLINE halves to_halves(vec low, vec high)
{
    __m256d l = (__m256d)_mm512_cvtxps_ph((__m512)low), h = (__m256d)_mm512_cvtxps_ph((__m512)high);
    halves v = (halves)_mm512_insertf64x4(_mm512_castpd256_pd512(l), h, 1);
    return smaller_halves(splat_half(2048), larger_halves(splat_half(-2048), v));
}

INLINE void store_halves_bf16(bf16 *out, halves v)
{
    store_bf16(out, (vec)_mm512_cvtxph_ps((__m256h)_mm512_castpd512_pd256((__m512d)v)),
               (vec)_mm512_cvtxph_ps((__m256h)_mm512_extractf64x4_pd((__m512d)v, 1)));
}

/* Sums of fc1 into the ring. */
INLINE void store_hidden(const float y[TOKENS][COLUMNS], int tokens, half *out)
{
#pragma GCC unroll 4
    for (int r = 0; r < tokens; r++)
        *(halves_memory *)(out + r * COLUMNS) = to_halves(load(y[r]), load(y[r] + LANES));
}

void KERNEL(expand)(const noc_cpu_mixffn *m, const float *in, int rows, int slot, int token)
{
    const size_t plane = (size_t)(m->lines * m->width) * COLUMNS;
    const int steps = steps_of(m->channels), panels = m->groups / 2;
    const size_t bytes = (size_t)(steps * STEP) * sizeof(bf16);
    bf16 *a = m->room;
    float y[TOKENS][COLUMNS] __attribute__((aligned(64)));
    for (int row = 0; row < rows; row += TOKENS) {
        int n = least(TOKENS, rows - row);
        for (int r = 0; r < n; r++)
            to_bf16(in + (size_t)((row + r) * m->channels), m->channels, a + r * steps * STEP);
        half *out = (half *)m->ring + (size_t)(slot * panels) * plane + (size_t)(token + row) * COLUMNS;
        for (int j = 0; j < panels; j++) {
            AMX_BEGIN(m->fc1_bias + j * COLUMNS);
            const bf16 *panel = (const bf16 *)m->fc1 + (size_t)(j * steps) * PANEL_STEP;
            if (n > TILE)
                AMX_MULTIPLY(1, a, bytes, panel, steps);
            else
                AMX_MULTIPLY(0, a, bytes, panel, steps);
            if (j > 0) /* while the tiles multiply */
                store_hidden(y, n, out + (size_t)(j - 1) * plane);
            AMX_END(1, y);
        }
        store_hidden(y, n, out + (size_t)(panels - 1) * plane);
    }
}

/* Weights and bias of one panel of channels. */
typedef struct panel_taps {
    halves weight[TAPS], bias;
} panel_taps;

static void fill_taps(const noc_cpu_mixffn *m, int panel, panel_taps *taps)
{
    const float *low = m->dw + (size_t)panel * 2 * TAPS * LANES, *high = low + TAPS * LANES,
                *bias = m->dw_bias + panel * COLUMNS;
    for (int t = 0; t < TAPS; t++)
        taps->weight[t] = to_halves(load(low + t * LANES), load(high + t * LANES));
    taps->bias = to_halves(load(bias), load(bias + LANES));
}

/* The lines of the ring that a line of outputs sums up, each with three taps along W. */
typedef struct line_taps {
    int count;
    const half *line[9];
    const halves *weight[9];
} line_taps;

INLINE void find_lines(const noc_cpu_mixffn *m, const noc_cpu_strip *s, int panel, int line,
                       const panel_taps *taps, line_taps *l)
{
    const size_t width = (size_t)m->width * COLUMNS;
    int from = line > 0 ? line - 1 : 0, to = least(line + 2, s->filled);
    l->count = 0;
    for (int a = 0; a < 3; a++)
        for (int at = from; s->slot[a] >= 0 && at < to; at++) {
            l->line[l->count] = (const half *)m->ring +
                                (size_t)((s->slot[a] * (m->groups / 2) + panel) * m->lines + at) * width;
            l->weight[l->count++] = taps->weight + a * 9 + (at - line + 1) * 3;
        }
}

/* x Phi(x) = max(x, 0) - |x| Phi(-|x|), whose second part is small and so exact enough: to 1.2e-3 absolute
 * below 4, where x has that much. */
INLINE halves gelu_halves(halves x)
{
    static const float c[7] = {0.0303632949f, -0.129630669f, 0.228591010f,  -0.183796558f,
                               0.0201701391f, 0.0637660832f, -0.0293311951f};
    halves a = smaller_halves(splat_half(3.75f), (halves)_mm512_abs_ph((__m512h)x)),
           t = a * splat_half(2 / 3.75f) - splat_half(1), p = splat_half(c[6]);
#pragma GCC unroll 6
    for (int i = 5; i >= 0; i--)
        p = p * t + splat_half(c[i]);
    return larger_halves((halves){0}, x) - a * p;
}

INLINE halves activated_halves(halves x, noc_activation activation)
{
    if (activation == NOC_ACTIVATION_GELU)
        return gelu_halves(x);
    return activation == NOC_ACTIVATION_RELU ? larger_halves((halves){0}, x) : x;
}

/* What fc2 will write, fetched into L2 a line at a time while the depthwise sums leave the memory idle. */
typedef struct fetches {
    const char *next, *end;
} fetches;

INLINE void fetch(fetches *out)
{
    if (out->next < out->end)
        _mm_prefetch(out->next, _MM_HINT_T1);
    out->next += 64;
}

/* `count` (a constant at every call) outputs from token w of a line of `width` on. */
INLINE void depthwise_run(int count, const line_taps *l, halves bias, int w, int width,
                          noc_activation activation, fetches *fetched, bf16 *out)
{
    static const half zeros[COLUMNS];
    halves sum[RUN];
#pragma GCC unroll 16
    for (int i = 0; i < count; i++)
        sum[i] = bias;
    for (int n = 0; n < l->count; n++) {
        if (count == RUN)
            fetch(fetched);
        const half *line = l->line[n] + w * COLUMNS, *before = w > 0 ? line - COLUMNS : zeros,
                   *after = w + count < width ? line + count * COLUMNS : zeros;
        halves k0 = l->weight[n][0], k1 = l->weight[n][1], k2 = l->weight[n][2];
#pragma GCC unroll 18
        for (int i = -1; i <= count; i++) {
            halves x = load_halves(i < 0 ? before : i == count ? after : line + i * COLUMNS);
            IN_REGISTER(x);
            if (i + 1 < count)
                sum[i + 1] += x * k0;
            if (i >= 0 && i < count)
                sum[i] += x * k1;
            if (i >= 1)
                sum[i - 1] += x * k2;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < count; i++)
        store_halves_bf16(out + i * COLUMNS, activated_halves(sum[i], activation));
}

INLINE void depthwise_panel(const noc_cpu_mixffn *m, const noc_cpu_strip *s, noc_activation activation,
                            int panel, fetches *fetched, bf16 *out)
{
    panel_taps taps;
    fill_taps(m, panel, &taps);
    for (int line = s->from; line < s->to; line++) {
        line_taps l;
        find_lines(m, s, panel, line, &taps, &l);
        int w = 0;
        for (; w + RUN <= m->width; w += RUN, out += RUN * COLUMNS)
            depthwise_run(RUN, &l, taps.bias, w, m->width, activation, fetched, out);
        for (; w + 8 <= m->width; w += 8, out += 8 * COLUMNS)
            depthwise_run(8, &l, taps.bias, w, m->width, activation, fetched, out);
        for (; w + 4 <= m->width; w += 4, out += 4 * COLUMNS)
            depthwise_run(4, &l, taps.bias, w, m->width, activation, fetched, out);
        for (; w < m->width; w++, out += COLUMNS)
            depthwise_run(1, &l, taps.bias, w, m->width, activation, fetched, out);
    }
}

/* in: [panel][token][32], what fc2's tiles of rows load. */
static void contract(const noc_cpu_mixffn *m, const bf16 *in, int tokens, const float *residual, float *out)
{
    const int panels = m->groups / 2;
    const size_t panel = (size_t)tokens * COLUMNS;
    float y[TOKENS][COLUMNS] __attribute__((aligned(64)));
    for (int row = 0; row < tokens; row += TOKENS)
        for (int c = 0; c < m->channels; c += COLUMNS) {
            const bf16 *a = in + row * COLUMNS,
                       *b = (const bf16 *)m->fc2 + (size_t)(c / COLUMNS * panels) * PANEL_STEP;
            AMX_BEGIN(m->fc2_bias + c);
            for (int j = 0; j < panels; j++, a += panel, b += PANEL_STEP)
                if (tokens - row > TILE)
                    AMX_MULTIPLY(1, a, COLUMNS * sizeof *a, b, 1);
                else
                    AMX_MULTIPLY(0, a, COLUMNS * sizeof *a, b, 1);
            AMX_END(1, y);
            size_t to = (size_t)(row * m->channels);
            store_sums(y, least(TOKENS, tokens - row), c, m->channels, residual ? residual + to : NULL,
                       out + to, (size_t)m->channels);
        }
}

void KERNEL(mix_strip)(const noc_cpu_mixffn *m, const noc_cpu_strip *s, const float *residual, float *out)
{
    bf16 *activated_tokens = (bf16 *)m->activated;
    int tokens = (s->to - s->from) * m->width;
    fetches fetched = {(const char *)out, (const char *)(out + (size_t)(tokens * m->channels))};
    for (int j = 0; j < m->groups / 2; j++) {
        bf16 *panel = activated_tokens + (size_t)(j * tokens) * COLUMNS;
        if (m->activation == NOC_ACTIVATION_GELU)
            depthwise_panel(m, s, NOC_ACTIVATION_GELU, j, &fetched, panel);
        else
            depthwise_panel(m, s, m->activation, j, &fetched, panel);
    }
    contract(m, activated_tokens, tokens, residual, out);
}
