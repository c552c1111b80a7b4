/* As kernels_decoder.c, in bf16, and resized along W by the product: a line's sums are
 *     [fine tokens | shares] * [weights; tokens of the coarser maps],
 * where row w of `shares` holds what each of those tokens counts in token w. All lines of a call go through a
 * panel of 32 channels, then through the next: what a panel reads again and again stays in the nearest cache.
 * Its activated sums are one step of the classes' product, whose sums so far wait in f32. */
#include "engine/cpu/amx.h"
#include "engine/cpu/finish.h"

enum { TOKENS = 2 * TILE, PAIR = 2 * COLUMNS /* values of two tokens of a panel, channel by channel */ };

static int pairs_of(const noc_cpu_term *term)
{
    return (term->grid[2] + 1) / 2;
}

/* What a call works with. */
typedef struct desk {
    int pairs;                /* of the coarser maps' lines */
    int own, shares;          /* steps of the left factor: of the fine map, of the coarser maps */
    int blocks, panels;       /* of tokens, of channels */
    int tiles;                /* of classes */
    bf16 *rows;               /* tokens of the coarser maps, of a panel and line: [share step][PANEL_STEP] */
    float *bias;              /* of the sum */
    float *planes;            /* of a panel, blended along D: [coarser map][line][pair][PAIR] */
    float *sums;              /* of the classes: [line][block][tile of classes][TOKENS][TILE] */
    bf16 *patterns;           /* what shares are without norms: [token][share steps] */
    bf16 *left;               /* [line][token][own steps, share steps] */
    int first[NOC_OP_INPUTS]; /* line in planes, of each coarser map */
} desk;

/* Two more pairs for the fine map's bias where a norm scales it. */
static desk shape_of(const noc_cpu_decoder *d)
{
    int pairs = 0;
    for (int t = 0; t < d->count; t++)
        if (d->terms[t].axes)
            pairs += pairs_of(&d->terms[t]);
    return (desk){.pairs = pairs,
                  .own = steps_of(d->fine.depth),
                  .shares = steps_of(2 * (d->fine.tail > 0 ? pairs + 2 : pairs)),
                  .blocks = (d->grid[2] + TOKENS - 1) / TOKENS,
                  .panels = (d->channels + COLUMNS - 1) / COLUMNS,
                  .tiles = (d->classes.columns + TILE - 1) / TILE};
}

enum { LINE_ROWS, BIAS, PLANES, SUMS, PATTERNS, LEFT, PARTS };

/* Floats. */
static void measure(const noc_cpu_decoder *d, const desk *k, size_t parts[PARTS])
{
    size_t tokens = (size_t)(k->blocks * TOKENS), lines = (size_t)d->lines;
    parts[LINE_ROWS] = (size_t)(k->shares * PANEL_STEP) / 2;
    parts[BIAS] = (size_t)(k->panels * COLUMNS);
    parts[PLANES] = 0;
    for (int t = 0; t < d->count; t++)
        if (d->terms[t].axes)
            parts[PLANES] += (size_t)(term_lines(d, &d->terms[t]) * pairs_of(&d->terms[t]) * PAIR);
    parts[SUMS] = lines * tokens * (size_t)(k->tiles * TILE);
    parts[PATTERNS] = tokens * (size_t)(k->shares * STEP) / 2;
    parts[LEFT] = lines * tokens * (size_t)((k->own + k->shares) * STEP) / 2;
}

size_t KERNEL(decoder_floats)(const noc_cpu_decoder *d)
{
    const desk k = shape_of(d);
    size_t parts[PARTS], sum = 0;
    measure(d, &k, parts);
    for (int i = 0; i < PARTS; i++)
        sum += parts[i];
    return sum;
}

static desk desk_of(const noc_cpu_decoder *d, int h_from, float *room)
{
    desk k = shape_of(d);
    size_t parts[PARTS];
    float *part[PARTS];
    measure(d, &k, parts);
    for (int i = 0; i < PARTS; i++, room += parts[i - 1])
        part[i] = room;
    k.rows = (bf16 *)part[LINE_ROWS];
    k.bias = part[BIAS];
    k.planes = part[PLANES];
    k.sums = part[SUMS];
    k.patterns = (bf16 *)part[PATTERNS];
    k.left = (bf16 *)part[LEFT];
    for (int t = 0; t < d->count; t++)
        k.first[t] = d->terms[t].axes ? d->terms[t].axes[1].low[h_from] : 0;
    return k;
}

/* The share of token i in a token at the position x is max(0, 1 - |i - x|). */
static void fill_patterns(const noc_cpu_decoder *d, const desk *k)
{
    const vec lane = __builtin_convertvector(LANE, vec);
    bf16 *out = k->patterns;
    for (int w = 0; w < k->blocks * TOKENS; w++)
        for (int c = 0; c < k->shares * STEP; c += STEP, out += STEP) {
            vec low = {0}, high = {0};
            for (int t = 0, at = c; t < d->count && w < d->grid[2]; t++) {
                const noc_cpu_axis *axes = d->terms[t].axes;
                if (!axes)
                    continue;
                vec x = lane + (float)(at - axes[2].low[w]) - axes[2].fraction[w], y = x + LANES;
                low += larger((vec){0}, 1 - larger(x, -x));
                high += larger((vec){0}, 1 - larger(y, -y));
                at -= 2 * pairs_of(&d->terms[t]);
            }
            store_bf16(out, low, high);
        }
}

static void scale_row(const float *in, int n, float factor, bf16 *out)
{
    for (int i = 0; i < n; i += STEP)
        store_bf16(out + i, factor * load_part(in + i, least(LANES, n - i)),
                   factor *
                       (n - i > LANES ? load_part(in + i + LANES, least(LANES, n - i - LANES)) : (vec){0}));
}

/* Of the tokens of a block, from their rows in `left`. */
static void norms(const noc_cpu_product *p, const bf16 *left, int left_step, float factor[TOKENS])
{
    const int steps = steps_of(p->depth), panels = (p->tail + COLUMNS - 1) / COLUMNS;
    float y[TOKENS][COLUMNS] __attribute__((aligned(64)));
    vec sum[TOKENS] = {{0}};
    for (int j = p->last; j < p->last + panels; j++) {
        AMX_BEGIN(p->bias + j * COLUMNS);
        AMX_MULTIPLY(1, left, (size_t)left_step * sizeof *left,
                     (const bf16 *)p->panels + (size_t)(j * steps) * PANEL_STEP, steps);
        AMX_END(1, y);
        add_squares(sum, TOKENS, y);
    }
    store(factor, 1 / (vec)_mm512_sqrt_ps((__m512)(lanes_sums(sum) + p->tail_constant)));
    store(factor + LANES, 1 / (vec)_mm512_sqrt_ps((__m512)(lanes_sums(sum + LANES) + p->tail_constant)));
}

/* x without the bits that bf16 has no room for. */
INLINE vec upper(vec x)
{
    return (vec)((bits)x & 0xffff0000);
}

/* The fine map's bias times its norm, in four rows: upper * upper + lower * upper + upper * lower + 0. */
static void share_bias(float factor, bf16 *shares)
{
    float high = upper(splat(factor))[0];
    shares[0] = shares[2] = round_bf16(high);
    shares[1] = round_bf16(factor - high);
}

INLINE vec interleave_low(vec a, vec b)
{
    return __builtin_shuffle(a, b, (bits){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
}

INLINE vec interleave_high(vec a, vec b)
{
    return __builtin_shuffle(a, b, (bits){8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
}

/* Where the values of a pair stand among the rows, those of the other half of its panel TILE * STEP behind.
 */
INLINE bf16 *pair_at(const desk *k, int pair)
{
    return k->rows + (size_t)((unsigned)pair / TILE * PANEL_STEP + (unsigned)pair % TILE * STEP);
}

static void bias_rows(const noc_cpu_decoder *d, const desk *k, int panel)
{
    for (int half = 0; half < 2; half++) {
        vec bias = load(d->fine.bias + panel * COLUMNS + half * LANES), high = upper(bias), low = bias - high,
            none = {0};
        bf16 *to = pair_at(k, k->pairs) + half * TILE * STEP,
             *next = pair_at(k, k->pairs + 1) + half * TILE * STEP;
        store_bf16(to, interleave_low(high, high), interleave_high(high, high));
        store_bf16(next, interleave_low(low, none), interleave_high(low, none));
    }
}

/* A block's rows of the left factor; a norm scales the fine map's values and the shares of its bias. Rows
 * behind the last token are anything: their sums are not stored. */
static void fill_block(const noc_cpu_decoder *d, const desk *k, const float *in, int w, bf16 *left)
{
    const int step = (k->own + k->shares) * STEP, tokens = least(TOKENS, d->grid[2] - w);
    for (int r = 0; r < TOKENS; r++)
        for (int c = 0; c < k->shares * STEP; c += STEP)
            *(__m512i *)(left + r * step + k->own * STEP + c) =
                *(const __m512i *)(k->patterns + (size_t)((w + r) * k->shares * STEP + c));
    for (int r = 0; r < tokens; r++)
        to_bf16(in + (size_t)r * d->fine.in_step, d->fine.depth, left + r * step);
    if (d->fine.tail == 0)
        return;
    float factor[TOKENS];
    norms(&d->fine, left, step, factor);
    for (int r = 0; r < tokens; r++) {
        scale_row(in + (size_t)r * d->fine.in_step, d->fine.depth, factor[r], left + r * step);
        share_bias(factor[r], left + r * step + k->own * STEP + 2 * k->pairs);
    }
}

/* A token's channels on the planes below and above; of a token behind the line's end, zeros. */
typedef struct sample {
    const float *low, *high;
} sample;

/* Half a panel of two tokens, blended along D; n of its channels are there. */
INLINE void blend_pair(sample a, sample b, float fraction, int n, float *out)
{
    const vec f = splat(fraction), e = splat(1 - fraction);
    vec x = e * load_part(a.low, n) + f * load_part(a.high, n),
        y = e * load_part(b.low, n) + f * load_part(b.high, n);
    store(out, interleave_low(x, y));
    store(out + LANES, interleave_high(x, y));
}

/* n: channels of the panel, a constant where that matters. */
INLINE void blend_tokens(sample line, int width, int channels, float fraction, int n, float *out)
{
    static const float none[COLUMNS];
    for (int w = 0; w < width; w += 2, out += PAIR) {
        sample a = {line.low + w * channels, line.high + w * channels}, b = {none, none};
        if (w + 1 < width)
            b = (sample){a.low + channels, a.high + channels};
        blend_pair(a, b, fraction, least(LANES, n), out);
        if (n <= LANES) {
            store(out + COLUMNS, (vec){0});
            store(out + COLUMNS + LANES, (vec){0});
            continue;
        }
        a = (sample){a.low + LANES, a.high + LANES};
        b = (sample){b.low + LANES, b.high + LANES};
        blend_pair(a, b, fraction, n - LANES, out + COLUMNS);
    }
}

static void blend_planes(const noc_cpu_decoder *p, const desk *k, int panel, int d, int h_last)
{
    const int n = least(COLUMNS, p->channels - panel * COLUMNS);
    float *out = k->planes;
    for (int t = 0; t < p->count; t++) {
        const noc_cpu_term *term = &p->terms[t];
        if (!term->axes)
            continue;
        const size_t line = (size_t)(term->grid[2] * p->channels), plane = line * (size_t)term->grid[1];
        const float *in = term->in + panel * COLUMNS, fraction = term->axes[0].fraction[d];
        for (int h = k->first[t]; h <= term->axes[1].high[h_last]; h++, out += pairs_of(term) * PAIR) {
            sample s = {in + (size_t)term->axes[0].low[d] * plane + (size_t)h * line,
                        in + (size_t)term->axes[0].high[d] * plane + (size_t)h * line};
            if (n == COLUMNS)
                blend_tokens(s, term->grid[2], p->channels, fraction, COLUMNS, out);
            else
                blend_tokens(s, term->grid[2], p->channels, fraction, n, out);
        }
    }
}

/* Along H, for the line h. */
static void blend_line(const noc_cpu_decoder *d, const desk *k, int h, int h_last)
{
    const float *planes = k->planes;
    for (int t = 0, pair = 0; t < d->count; t++) {
        const noc_cpu_axis *axes = d->terms[t].axes;
        if (!axes)
            continue;
        const int pairs = pairs_of(&d->terms[t]);
        const float *low = planes + (axes[1].low[h] - k->first[t]) * pairs * PAIR,
                    *high = planes + (axes[1].high[h] - k->first[t]) * pairs * PAIR;
        const vec f = splat(axes[1].fraction[h]), e = 1 - f;
        planes += (axes[1].high[h_last] - k->first[t] + 1) * pairs * PAIR;
        for (int i = 0; i < pairs; i++, pair++, low += PAIR, high += PAIR) {
            bf16 *to = pair_at(k, pair);
            store_bf16(to, e * load(low) + f * load(high), e * load(low + LANES) + f * load(high + LANES));
            store_bf16(to + TILE * STEP, e * load(low + 2 * LANES) + f * load(high + 2 * LANES),
                       e * load(low + 3 * LANES) + f * load(high + 3 * LANES));
        }
    }
}

/* `activation` is a constant where that matters. */
INLINE void activate_sums(float y[TOKENS][COLUMNS], noc_activation activation, bf16 z[TOKENS][STEP])
{
#pragma GCC unroll 4
    for (int r = 0; r < TOKENS; r++)
        store_bf16(z[r], activated(load(y[r]), activation), activated(load(y[r] + LANES), activation));
}

/* One panel of a block's tokens: its activated sums are a step of the classes' product. */
static void add_panel(const noc_cpu_decoder *d, const desk *k, const bf16 *left, int panel, float *sums)
{
    const size_t bytes = (size_t)((k->own + k->shares) * STEP) * sizeof(bf16);
    const bf16 *weight = (const bf16 *)d->classes.panels + (size_t)panel * PANEL_STEP;
    float y[TOKENS][COLUMNS] __attribute__((aligned(64)));
    bf16 z[TOKENS][STEP] __attribute__((aligned(64)));
    AMX_BEGIN(k->bias + panel * COLUMNS);
    AMX_MULTIPLY(1, left, bytes, (const bf16 *)d->fine.panels + (size_t)(panel * k->own) * PANEL_STEP,
                 k->own);
    AMX_MULTIPLY(1, left + k->own * STEP, bytes, k->rows, k->shares);
    AMX_END(1, y);
    if (d->activation == NOC_ACTIVATION_RELU)
        activate_sums(y, NOC_ACTIVATION_RELU, z);
    else
        activate_sums(y, d->activation, z);
    _tile_loadd(4, z[0], 64);
    _tile_loadd(5, z[TILE], 64);
    for (int c = 0; c < k->tiles; c++, sums += TOKENS * TILE) {
        if (panel == 0) {
            _tile_loadd(0, d->classes.bias + c * TILE, 0);
            _tile_loadd(1, d->classes.bias + c * TILE, 0);
        } else {
            _tile_loadd(0, sums, 64);
            _tile_loadd(1, sums + TILE * TILE, 64);
        }
        _tile_loadd(6, weight + (size_t)(c / 2 * k->panels) * PANEL_STEP + c % 2 * TILE * STEP, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_stored(0, sums, 64);
        _tile_stored(1, sums + TILE * TILE, 64);
    }
}

static void store_classes(const noc_cpu_decoder *d, const desk *k, int line, size_t token)
{
    const noc_cpu_product *p = &d->classes;
    const float *sums = k->sums + (size_t)(line * k->blocks * k->tiles * TOKENS * TILE);
    for (int w = 0; w < d->grid[2]; w += TOKENS)
        for (int c = 0; c < k->tiles; c++, sums += TOKENS * TILE)
            for (int r = 0, n = least(TOKENS, d->grid[2] - w); r < n; r++)
                store_part(p->out + (token + (size_t)(w + r)) * p->out_step + c * TILE,
                           activated(load(sums + r * TILE), p->activation),
                           least(TILE, p->columns - c * TILE));
}

static void begin(const noc_cpu_decoder *d, const desk *k)
{
    for (int c = 0; c < k->panels * COLUMNS; c += LANES) {
        vec bias = d->fine.tail > 0 ? (vec){0} : load(d->fine.bias + c);
        if (d->bias && c < d->channels)
            bias += load_part(d->bias + c, least(LANES, d->channels - c));
        store(k->bias + c, bias);
    }
    memset(k->rows, 0, (size_t)(k->shares * PANEL_STEP) * sizeof *k->rows);
    fill_patterns(d, k);
}

void KERNEL(decode)(const noc_cpu_decoder *p, int d, int h_from, int h_to, float *room)
{
    const desk k = desk_of(p, h_from, room);
    const size_t width = (size_t)p->grid[2], token = (size_t)(d * p->grid[1] + h_from) * width;
    const size_t block = (size_t)(TOKENS * (k.own + k.shares) * STEP),
                 block_sums = (size_t)(k.tiles * TOKENS * TILE);
    const int lines = h_to - h_from;
    begin(p, &k);
    for (int b = 0; b < lines * k.blocks; b++) {
        int w = b % k.blocks * TOKENS;
        fill_block(p, &k, p->fine.in + (token + (size_t)(b / k.blocks) * width + (size_t)w) * p->fine.in_step,
                   w, k.left + (size_t)b * block);
    }
    for (int panel = 0; panel < k.panels; panel++) {
        blend_planes(p, &k, panel, d, h_to - 1);
        if (p->fine.tail > 0)
            bias_rows(p, &k, panel);
        for (int i = 0; i < lines; i++) {
            blend_line(p, &k, h_from + i, h_to - 1);
            for (int b = i * k.blocks; b < (i + 1) * k.blocks; b++)
                add_panel(p, &k, k.left + (size_t)b * block, panel, k.sums + (size_t)b * block_sums);
        }
    }
    for (int i = 0; i < lines; i++)
        store_classes(p, &k, i, token + (size_t)i * width);
}
