/* As kernels_attention.c, in bf16: the products' factors and the weights of softmax; sums are f32. Keys come
 * in an order that is fixed, so the bits do not depend on who computes.
 *
 * A score s comes out of the products as 128 (s log2(e) + 127), which, rounded, is the bf16 of the weight e^s
 * already, but for the curve of 2^x between two powers of 2: a table corrects it (weight_pairs).
 *
 * Keys, times 128 log2(e): [16 keys][step of 32 dims][16 pairs of dims][16 keys][2]; values: [32 keys, in the
 * order of their weights][16 dims][16 pairs of keys][16 dims][2]; zeros behind the last key and dim; behind
 * them, f32, the squared length of each key, in units of log2, and what its scores begin with.
 *
 * Heads of up to 32 dims, those of the published network: 16 queries meet 32 keys at a time, and the products
 * of the next keys and of the last weights run beside the exponentials of these. By Cauchy and Schwarz a
 * score is at most |query| |key|: where that keeps powers of 2 far from the ends of f32, which is nearly
 * always, softmax needs no maximum: w / sum(w) is the same. Else the maxima are found first. The sum of the
 * weights is a product too, with ones.
 *
 * Wider heads: 32 queries against chunks of 128 keys; the maximum of a row is kept from chunk to chunk, and
 * what was summed under a lower one is scaled. */
#include "engine/cpu/amx.h"

#include <stdbool.h>

enum {
    QUERIES = 2 * TILE,
    CHUNK = 128,
    KEY_TILES = CHUNK / TILE,
    DIM_MOST = NOC_CPU_HEAD_DIM,
    DIM_TILES = DIM_MOST / TILE,
    NARROW_CHUNK = 256, /* keys and values: 32 KiB, in L1 */
    NARROW_ROWS = 128   /* queries that take a chunk in turn */
};

/* Of scores: 128 times what is a power of 2, and this for 2^0. */
#define UNIT 128.0f
#define ZERO (127 * UNIT)

/* Powers of 2 up to this, either way, need no maximum: times values and summed over keys, they stay far from
 * the ends of f32. */
static const float SAFE_POWER = 60;

static int padded_keys(int keys)
{
    return (keys + CHUNK - 1) / CHUNK * CHUNK;
}

size_t KERNEL(head_floats)(const noc_cpu_heads *h)
{
    size_t keys = (size_t)padded_keys(h->keys), dims = (size_t)(steps_of(h->dim) * STEP);
    return keys * dims + 2 * keys; /* keys and values of 2 bytes each; lengths and scores */
}

size_t KERNEL(score_floats)(const noc_cpu_heads *h)
{
    return (size_t)QUERIES * (size_t)(steps_of(h->dim) * STEP) / 2;
}

/* Where a head's parts lie. */
typedef struct packed_head {
    bf16 *keys, *values;
    float *squares, *own; /* of each key: squared length, and what its scores begin with */
} packed_head;

static packed_head packed_of(const noc_cpu_heads *h, const float *packed)
{
    const size_t keys = (size_t)padded_keys(h->keys), size = keys * (size_t)(steps_of(h->dim) * STEP);
    packed_head p = {.keys = (bf16 *)(uintptr_t)packed};
    p.values = p.keys + size;
    p.squares = (float *)(p.values + size);
    p.own = p.squares + keys;
    return p;
}

static float square_of(const float *x, int n)
{
    vec sum = {0};
    for (int i = 0; i < n; i += LANES) {
        vec v = load_part(x + i, least(LANES, n - i));
        sum += v * v;
    }
    return lanes_sum(sum);
}

/* 16 values as bf16 in the low halves of 32 bits. */
INLINE __m512i widened_bf16(const float *in, int n)
{
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)load_part(in, n)));
}

/* Key j into its column of pairs of dims. */
static void pack_key(const float *key, int dim, float scale, int j, bf16 *keys)
{
    const __m512i rows = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(TILE));
    const int steps = steps_of(dim);
    float scaled[STEP];
    for (int s = 0; s < steps; s++) {
        const int n = least(STEP, dim - s * STEP);
        for (int i = 0; i < STEP; i += LANES)
            store(scaled + i, load_part(key + s * STEP + i, least(LANES, n > i ? n - i : 0)) * scale);
        bf16 *column = keys + (size_t)(j / TILE * steps + s) * (TILE * STEP) + j % TILE * 2;
        _mm512_mask_i32scatter_epi32(
            column, (__mmask16)((1u << ((n + 1) / 2)) - 1), rows,
            (__m512i)_mm512_cvtne2ps_pbh((__m512)load(scaled + LANES), (__m512)load(scaled)), 4);
    }
}

/* Where key j stands among values, as weight_pairs orders the weights: of 32, four of the first 16 and four
 * of the others by turns. An even j and the next stay neighbours. */
INLINE int place_of(int j)
{
    return j / STEP * STEP + j % TILE / 4 * 8 + j % STEP / TILE * 4 + j % 4;
}

/* The value of key j, alone: that of the key it is paired with may be another thread's. */
static void pack_value(const float *value, int dim, int j, bf16 *values)
{
    const int at = place_of(j);
    for (int c = 0; c < dim; c++)
        values[((at / STEP * 2 * steps_of(dim) + c / TILE) * TILE + at % STEP / 2) * STEP + c % TILE * 2 +
               at % 2] = round_bf16(value[c]);
}

/* The values of keys j, which is even, and j + 1. */
static void pack_values(const float *value, const float *next, int dim, int j, bf16 *values)
{
    const int at = place_of(j);
    for (int c = 0; c < dim; c += TILE) {
        const int n = least(TILE, dim - c);
        bf16 *row =
            values +
            ((size_t)(at / STEP * 2 * steps_of(dim) + c / TILE) * TILE + (size_t)(at % STEP / 2)) * STEP;
        _mm512_storeu_si512(row, _mm512_or_si512(widened_bf16(value + c, n),
                                                 _mm512_slli_epi32(widened_bf16(next + c, n), 16)));
    }
}

void KERNEL(pack_keys)(const noc_cpu_heads *h, const float *kv, int first, int rows, float scale,
                       float *packed)
{
    const size_t step = (size_t)h->kv_columns;
    for (int head = 0; head < h->count; head++) {
        const packed_head p = packed_of(h, packed + (size_t)head * KERNEL(head_floats)(h));
        const float *row = kv;
        for (int j = first, n; j < first + rows; j += n, row += (size_t)n * step) {
            n = j % 2 == 0 && j + 1 < first + rows ? 2 : 1;
            const float *key = row + head * h->dim, *value = key + h->channels;
            if (n == 2)
                pack_values(value, value + step, h->dim, j, p.values);
            else
                pack_value(value, h->dim, j, p.values);
            for (int i = 0; i < n; i++) {
                pack_key(key + (size_t)i * step, h->dim, scale * LOG2_E * UNIT, j + i, p.keys);
                p.squares[j + i] =
                    square_of(key + (size_t)i * step, h->dim) * (scale * LOG2_E) * (scale * LOG2_E);
                p.own[j + i] = ZERO;
                if (h->kv_columns > 2 * h->channels)
                    p.own[j + i] += row[(size_t)i * step + (size_t)(2 * h->channels)] * (LOG2_E * UNIT);
            }
        }
    }
}

/* 128 (1 + f - 2^f) for f from 0 to 1 in 64 steps, rounded. */
static const uint8_t bends[64] __attribute__((aligned(64))) = {
    0,  1,  1,  2,  2,  3,  4,  4,  5,  5,  5,  6,  6,  7,  7,  8,  8,  8,  9,  9,  9,  9,
    10, 10, 10, 10, 10, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 10, 10, 10,
    10, 10, 9,  9,  9,  8,  8,  8,  7,  7,  6,  6,  5,  5,  4,  3,  3,  2,  1,  1};

/* The weights of two times 16 scores of a row, at least 0, as bf16: four of the first and four of the others
 * by turns. To half a per cent, of which rounding to bf16 is 0.4. */
INLINE __m512i weight_pairs(vec first, vec second, __m512i bend)
{
    const __m512i linear =
        _mm512_packs_epi32(_mm512_cvtps_epi32((__m512)first), _mm512_cvtps_epi32((__m512)second));
    return _mm512_sub_epi16(
        linear, _mm512_maskz_permutexvar_epi8(0x5555555555555555, _mm512_srli_epi16(linear, 1), bend));
}

/* ---- heads of up to 32 dims ---- */

/* What stands of 16 queries between two chunks of keys: sums of weighted values, and of weights (each column
 * has them). */
typedef struct sums {
    float out[2][TILE][TILE], weight[TILE][TILE];
} sums;

typedef struct narrow {
    bf16 queries[NARROW_ROWS][STEP] __attribute__((aligned(64)));
    sums sums[NARROW_ROWS / TILE] __attribute__((aligned(64)));
    float top[NARROW_ROWS] __attribute__((aligned(64))); /* how far the largest score is above ZERO */
    bool is_shifted[NARROW_ROWS / TILE];
    float scores[2][2][TILE][TILE] __attribute__((aligned(64))); /* [turn] */
    bf16 weights[2][TILE][STEP] __attribute__((aligned(64)));    /* [turn] */
    bf16 ones[2][TILE * STEP] __attribute__((aligned(64)));      /* for 32 keys, and for the last of them */
} narrow;

/* Scores of 32 keys for the queries in tile 3. */
static void score_narrow(const bf16 *keys, const float *own, float scores[2][TILE][TILE])
{
    _tile_loadd(6, own, 0);
    _tile_loadd(4, keys, 64);
    _tile_dpbf16ps(6, 3, 4);
    _tile_stored(6, scores[0], 64);
    _tile_loadd(7, own + TILE, 0);
    _tile_loadd(5, keys + TILE * STEP, 64);
    _tile_dpbf16ps(7, 3, 5);
    _tile_stored(7, scores[1], 64);
}

/* Tiles 0 and 1 are the weighted values, tile 2 the sum of the weights. */
static void weigh_narrow(bf16 weights[TILE][STEP], const bf16 *values, const bf16 *ones)
{
    TILES_READ();
    _tile_loadd(5, weights, 64);
    _tile_loadd(4, values, 64);
    _tile_dpbf16ps(0, 5, 4);
    _tile_loadd(4, values + TILE * STEP, 64);
    _tile_dpbf16ps(1, 5, 4);
    _tile_loadd(4, ones, 64);
    _tile_dpbf16ps(2, 5, 4);
}

/* is_shifted is a constant at every call. What stands behind the last key may be above the maximum. */
INLINE void soften_row(float scores[2][TILE][TILE], int r, bool is_shifted, const float *top, __m512i bend,
                       bf16 weights[TILE][STEP])
{
    vec a = load(scores[0][r]), b = load(scores[1][r]);
    if (is_shifted) {
        a = larger(smaller(a - top[r], splat(ZERO)), splat(0));
        b = larger(smaller(b - top[r], splat(ZERO)), splat(0));
    }
    _mm512_store_si512(weights[r], weight_pairs(a, b, bend));
}

/* The queries of a block and a chunk of keys and values, in steps: all of the chunk for one tile of queries,
 * then for the next. */
typedef struct chunk {
    const bf16 *keys, *values;
    const float *own; /* scores of the keys */
    int steps;        /* of 32 keys */
    bool is_first, is_last;
} chunk;

enum { KEYS_STEP = STEP * STEP };

/* The sums of tile g - 1 of the queries go, those of tile g come. */
static void change_sums(narrow *n, const chunk *c, int g, int tiles)
{
    if (g > 0) {
        _tile_stored(0, n->sums[g - 1].out[0], 64);
        _tile_stored(1, n->sums[g - 1].out[1], 64);
        _tile_stored(2, n->sums[g - 1].weight, 64);
    }
    if (g == tiles)
        return;
    if (c->is_first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
    } else {
        _tile_loadd(0, n->sums[g].out[0], 64);
        _tile_loadd(1, n->sums[g].out[1], 64);
        _tile_loadd(2, n->sums[g].weight, 64);
    }
}

static const bf16 *ones_of(const narrow *n, const chunk *c, int step)
{
    return n->ones[c->is_last && step == c->steps - 1];
}

/* Step i of tile g: exponentials of its scores; meanwhile the scores of the step after it and the weighing of
 * the one before. The tile instructions stand between the rows: a core looks ahead by a few rows only, and
 * finds work for both kinds of units then. turn: the steps so far. */
INLINE void narrow_step(narrow *n, const chunk *c, int g, int i, int tiles, int turn, bool is_shifted)
{
    float(*scores)[TILE][TILE] = n->scores[turn % 2], (*next)[TILE][TILE] = n->scores[(turn + 1) % 2];
    bf16(*weights)[STEP] = n->weights[turn % 2], (*last)[STEP] = n->weights[(turn + 1) % 2];
    const float *top = n->top + g * TILE;
    const __m512i bend = _mm512_load_si512(bends);
    const int next_step = i + 1 < c->steps ? i + 1 : 0, last_step = i > 0 ? i - 1 : c->steps - 1;
    const bool has_next = i + 1 < c->steps || g + 1 < tiles, has_last = turn > 0;
    const bf16 *keys = c->keys + next_step * KEYS_STEP, *values = c->values + last_step * KEYS_STEP;
    const float *own = c->own + next_step * STEP;
    TILES_READ();
#define ROW(r, condition, instructions)                                                                      \
    soften_row(scores, r, is_shifted, top, bend, weights);                                                   \
    if (condition) {                                                                                         \
        instructions;                                                                                        \
    }
    if (next_step == 0 && has_next)
        _tile_loadd(3, n->queries[(g + 1) * TILE], 64);
    ROW(0, has_next, _tile_loadd(4, keys, 64))
    ROW(1, has_next, _tile_loadd(6, own, 0); _tile_dpbf16ps(6, 3, 4))
    ROW(2, has_next, _tile_loadd(4, keys + TILE * STEP, 64))
    ROW(3, has_next, _tile_loadd(7, own + TILE, 0); _tile_dpbf16ps(7, 3, 4))
    ROW(4, has_last, _tile_loadd(5, last, 64))
    ROW(5, has_last, _tile_loadd(4, values, 64))
    ROW(6, has_last, _tile_dpbf16ps(0, 5, 4))
    ROW(7, has_next, _tile_stored(6, next[0], 64))
    ROW(8, has_last, _tile_loadd(4, values + TILE * STEP, 64))
    ROW(9, has_last, _tile_dpbf16ps(1, 5, 4))
    ROW(10, has_last, _tile_loadd(4, ones_of(n, c, last_step), 64))
    ROW(11, has_last, _tile_dpbf16ps(2, 5, 4))
    ROW(12, has_next, _tile_stored(7, next[1], 64))
    ROW(13, false, )
    ROW(14, false, )
    ROW(15, i == 0, change_sums(n, c, g, tiles))
#undef ROW
}

static void attend_chunk(narrow *n, const chunk *c, int tiles)
{
    int turn = 0;
    _tile_loadd(3, n->queries[0], 64);
    score_narrow(c->keys, c->own, n->scores[0]);
    for (int g = 0; g < tiles; g++)
        for (int i = 0; i < c->steps; i++, turn++)
            if (n->is_shifted[g])
                narrow_step(n, c, g, i, tiles, turn, true);
            else
                narrow_step(n, c, g, i, tiles, turn, false);
    weigh_narrow(n->weights[(turn - 1) % 2], c->values + (c->steps - 1) * KEYS_STEP,
                 ones_of(n, c, c->steps - 1));
    change_sums(n, c, tiles, tiles);
}

/* Lanes from n on become `other`. */
INLINE vec keep_lanes(vec v, int n, float other)
{
    return n >= LANES
               ? v
               : (vec)_mm512_mask_blend_ps((__mmask16)((1u << n) - 1), (__m512)splat(other), (__m512)v);
}

/* How far the scores of tile g reach above ZERO. */
static void find_tops(narrow *n, int g, const packed_head *p, int keys)
{
    vec most[TILE];
    for (int r = 0; r < TILE; r++)
        most[r] = splat(-3e38f);
    _tile_loadd(3, n->queries[g * TILE], 64);
    for (int j = 0; j < keys; j += STEP) {
        score_narrow(p->keys + (size_t)j * STEP, p->own + j, n->scores[0]);
        for (int r = 0; r < TILE; r++)
            for (int i = 0; i < 2 && j + i * TILE < keys; i++)
                most[r] = larger(most[r], keep_lanes(load(n->scores[0][i][r]), keys - j - i * TILE, -3e38f));
    }
    store(n->top + g * TILE, lanes_maxima(most) - ZERO);
}

/* Rounds the queries and finds out whether their scores need a maximum; reach: see find_reach. */
static void take_queries(const noc_cpu_attention *a, int row, int rows, const float reach[2],
                         const packed_head *p, narrow *n)
{
    const int dim = a->heads->dim;
    for (int g = 0; g * TILE < rows; g++) {
        vec square[TILE];
        for (int i = 0; i < TILE; i++) {
            int r = g * TILE + i;
            square[i] = (vec){0};
            if (r >= rows)
                continue;
            const float *query = a->queries + (size_t)(row + r) * a->query_step;
            vec low = load_part(query, least(LANES, dim)),
                high = dim > LANES ? load_part(query + LANES, dim - LANES) : (vec){0};
            store_bf16(n->queries[r], low, high);
            square[i] = low * low + high * high;
        }
        float most = sqrtf(_mm512_reduce_max_ps((__m512)lanes_sums(square)) * reach[0]) + reach[1];
        n->is_shifted[g] = !(most <= SAFE_POWER); /* not a number: shifted */
        if (n->is_shifted[g])
            find_tops(n, g, p, a->heads->keys);
    }
}

static void give_rows(const noc_cpu_attention *a, int row, int rows, const narrow *n)
{
    const int dim = a->heads->dim;
    for (int r = 0; r < rows; r++) {
        const sums *s = &n->sums[r / TILE];
        float *out = a->out + (size_t)(row + r) * a->out_step;
        vec sum = load(s->weight[r % TILE]), factor = (vec)_mm512_rcp14_ps((__m512)sum);
        factor *= 2.0f - sum * factor;
        for (int c = 0; c < dim; c += LANES) {
            const int part = least(LANES, dim - c);
            vec v = load(s->out[c / LANES][r % TILE]) * factor;
            if (a->residual)
                v += load_part(a->residual + (size_t)(row + r) * a->out_step + c, part);
            store_part(out + c, v, part);
        }
    }
}

/* Ones for 32 keys, and for those of them that there are in the last 32. */
static void fill_ones(int keys, narrow *n)
{
    const uint32_t first = 0x3f80, both = 0x3f803f80; /* of a pair of keys */
    const int last = (keys - 1) % STEP + 1;
    for (int j = 0; j < STEP; j += 2) {
        const uint32_t some = j + 1 < last ? both : j < last ? first : 0;
        const int row = place_of(j) / 2 * STEP;
        store((float *)(n->ones[0] + row), (vec)((bits){0} + both));
        store((float *)(n->ones[1] + row), (vec)((bits){0} + some));
    }
}

static void attend_narrow(const noc_cpu_attention *a, int row, int rows, const float reach[2],
                          const packed_head *p, narrow *n)
{
    const int steps = steps_of(a->heads->keys);
    take_queries(a, row, rows, reach, p, n);
    for (int s = 0; s < steps; s += NARROW_CHUNK / STEP) {
        const chunk c = {.keys = p->keys + (size_t)s * KEYS_STEP,
                         .values = p->values + (size_t)s * KEYS_STEP,
                         .own = p->own + s * STEP,
                         .steps = least(NARROW_CHUNK / STEP, steps - s),
                         .is_first = s == 0,
                         .is_last = s + NARROW_CHUNK / STEP >= steps};
        attend_chunk(n, &c, (rows + TILE - 1) / TILE);
    }
    give_rows(a, row, rows, n);
}

/* The largest square of a key, and how far its scores begin from 2^0 at most, in powers of 2. */
static void find_reach(const packed_head *p, int keys, float reach[2])
{
    vec square = {0}, own = {0};
    for (int j = 0; j < keys; j += LANES) {
        vec score = keep_lanes(load(p->own + j), keys - j, ZERO) - ZERO;
        square = larger(load(p->squares + j), square); /* a NaN stays */
        own = larger(larger(score, -score), own);
    }
    reach[0] = _mm512_reduce_max_ps((__m512)square);
    reach[1] = _mm512_reduce_max_ps((__m512)own) / UNIT;
}

static void attention_narrow(const noc_cpu_attention *a)
{
    narrow n;
    float reach[2];
    const packed_head p = packed_of(a->heads, a->packed);
    find_reach(&p, a->heads->keys, reach);
    fill_ones(a->heads->keys, &n);
    for (int row = 0; row < a->rows; row += NARROW_ROWS)
        attend_narrow(a, row, least(NARROW_ROWS, a->rows - row), reach, &p, &n);
}

/* ---- wider heads ---- */

typedef struct state {
    float scores[2][KEY_TILES][TILE][TILE] __attribute__((aligned(64))); /* [half of the queries] */
    bf16 weights[2][CHUNK / STEP][TILE][STEP] __attribute__((aligned(64)));
    float out[DIM_TILES][2][TILE][TILE] __attribute__((aligned(64)));
    vec sum[QUERIES];
    float top[QUERIES] __attribute__((aligned(64)));
} state;

/* Scores of the chunk's keys for both halves of the queries. */
static void score(const bf16 *queries, const bf16 *keys, const float *own, int steps, state *s)
{
    for (int j = 0; j < KEY_TILES; j += 2) {
        const bf16 *b = keys + (size_t)(j * steps) * (TILE * STEP);
        _tile_loadd(4, own + j * TILE, 0);
        _tile_loadd(5, own + j * TILE, 0);
        _tile_loadd(6, own + (j + 1) * TILE, 0);
        _tile_loadd(7, own + (j + 1) * TILE, 0);
        for (int k = 0; k < steps; k++) {
            _tile_loadd(0, queries + k * STEP, steps * STEP * 2);
            _tile_loadd(1, queries + TILE * steps * STEP + k * STEP, steps * STEP * 2);
            _tile_loadd(2, b + k * (TILE * STEP), 64);
            _tile_dpbf16ps(4, 0, 2);
            _tile_dpbf16ps(5, 1, 2);
            _tile_loadd(3, b + (steps + k) * (TILE * STEP), 64);
            _tile_dpbf16ps(6, 0, 3);
            _tile_dpbf16ps(7, 1, 3);
        }
        _tile_stored(4, s->scores[0][j], 64);
        _tile_stored(5, s->scores[1][j], 64);
        _tile_stored(6, s->scores[0][j + 1], 64);
        _tile_stored(7, s->scores[1][j + 1], 64);
    }
}

/* Keys from `count` of the chunk on are none: their powers are nothing. */
static void mask_scores(state *s, int count)
{
    for (int g = 0; g < 2; g++)
        for (int j = count / TILE; j < KEY_TILES; j++)
            for (int r = 0; r < TILE; r++)
                for (int i = 0; i < TILE; i++)
                    if (j * TILE + i >= count)
                        s->scores[g][j][r][i] = -3e38f;
}

/* What was summed under the old maxima, under the new ones. */
static void rescale(state *s, int g, int dim_tiles, vec before, vec after)
{
    float factor[TILE];
    store(factor, exp2_of((before - after) / UNIT));
    for (int r = 0; r < TILE; r++) {
        s->sum[g * TILE + r] *= factor[r];
        for (int t = 0; t < dim_tiles; t++)
            store(s->out[t][g][r], load(s->out[t][g][r]) * factor[r]);
    }
}

static void soften(state *s, int g, int dim_tiles, bool is_first)
{
    vec most[LANES];
#pragma GCC unroll 16
    for (int r = 0; r < TILE; r++) {
        most[r] = load(s->scores[g][0][r]);
#pragma GCC unroll 8
        for (int j = 1; j < KEY_TILES; j++)
            most[r] = larger(most[r], load(s->scores[g][j][r]));
    }
    vec before = load(s->top + g * TILE), after = larger(before, lanes_maxima(most));
    store(s->top + g * TILE, after);
    if (!is_first && _mm512_cmp_ps_mask((__m512)after, (__m512)before, _CMP_GT_OQ))
        rescale(s, g, dim_tiles, before, after);
    for (int r = 0; r < TILE; r++) {
        vec top = splat(s->top[g * TILE + r] - ZERO), a = {0}, b = {0};
#pragma GCC unroll 4
        for (int j = 0; j < KEY_TILES; j += 2) {
            const __m512i pairs =
                weight_pairs(larger(load(s->scores[g][j][r]) - top, splat(0)),
                             larger(load(s->scores[g][j + 1][r]) - top, splat(0)), _mm512_load_si512(bends));
            a += (vec)_mm512_slli_epi32(pairs, 16);
            b += (vec)_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000));
            _mm512_store_si512(s->weights[g][j / 2][r], pairs);
        }
        s->sum[g * TILE + r] = is_first ? a + b : s->sum[g * TILE + r] + (a + b);
    }
}

/* out += weights * values, two tiles of dims at a time. */
static void weigh(state *s, const bf16 *values, int dim_tiles, bool is_first)
{
    for (int t = 0; t < dim_tiles; t += 2) {
        if (is_first) {
            _tile_zero(4);
            _tile_zero(5);
            _tile_zero(6);
            _tile_zero(7);
        } else {
            _tile_loadd(4, s->out[t][0], 64);
            _tile_loadd(5, s->out[t + 1][0], 64);
            _tile_loadd(6, s->out[t][1], 64);
            _tile_loadd(7, s->out[t + 1][1], 64);
        }
        for (int j = 0; j < CHUNK / STEP; j++) {
            const bf16 *b = values + (size_t)(j * dim_tiles + t) * (TILE * STEP);
            _tile_loadd(0, s->weights[0][j], 64);
            _tile_loadd(2, b, 64);
            _tile_dpbf16ps(4, 0, 2);
            _tile_loadd(3, b + TILE * STEP, 64);
            _tile_dpbf16ps(5, 0, 3);
            _tile_loadd(1, s->weights[1][j], 64);
            _tile_dpbf16ps(6, 1, 2);
            _tile_dpbf16ps(7, 1, 3);
        }
        _tile_stored(4, s->out[t][0], 64);
        _tile_stored(5, s->out[t + 1][0], 64);
        _tile_stored(6, s->out[t][1], 64);
        _tile_stored(7, s->out[t + 1][1], 64);
    }
}

static void attend(const noc_cpu_attention *a, int row, int rows, state *s)
{
    const int steps = steps_of(a->heads->dim), dim_tiles = 2 * steps, keys = a->heads->keys;
    const packed_head p = packed_of(a->heads, a->packed);
    bf16 *queries = (bf16 *)a->scores;
    for (int r = 0; r < QUERIES; r++) {
        s->top[r] = -3e38f;
        if (r < rows)
            to_bf16(a->queries + (size_t)(row + r) * a->query_step, a->heads->dim,
                    queries + r * steps * STEP);
    }
    for (int c = 0; c < keys; c += CHUNK) {
        score(queries, p.keys + (size_t)(c / TILE * steps) * (TILE * STEP), p.own + c, steps, s);
        if (keys - c < CHUNK)
            mask_scores(s, keys - c);
        soften(s, 0, dim_tiles, c == 0);
        if (rows > TILE)
            soften(s, 1, dim_tiles, c == 0);
        weigh(s, p.values + (size_t)(c / STEP * dim_tiles) * (TILE * STEP), dim_tiles, c == 0);
    }
    for (int r = 0; r < rows; r++) {
        float factor = 1.0f / lanes_sum(s->sum[r]);
        for (int t = 0; t * TILE < a->heads->dim; t++) {
            const size_t at = (size_t)(row + r) * a->out_step + (size_t)(t * TILE);
            const int part = least(TILE, a->heads->dim - t * TILE);
            vec v = load(s->out[t][r / TILE][r % TILE]) * factor;
            if (a->residual)
                v += load_part(a->residual + at, part);
            store_part(a->out + at, v, part);
        }
    }
}

void KERNEL(attention)(const noc_cpu_attention *a)
{
    state s;
    if (a->heads->dim <= STEP) {
        attention_narrow(a);
        return;
    }
    for (int row = 0; row < a->rows; row += QUERIES)
        attend(a, row, least(QUERIES, a->rows - row), &s);
}
