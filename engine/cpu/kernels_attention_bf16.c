/* As kernels_attention.c, in bf16: 32 queries against chunks of 128 keys. Scores, weights and sums of a chunk
 * are 24 KiB and stay in L1; the maximum of a row is kept from chunk to chunk, and what was summed under a
 * lower one is scaled. The maxima of 16 rows are found together. Scores, exponentials and their sums are f32;
 * the weights are rounded to bf16 for the product with the values. Chunks begin at fixed keys, so the bits do
 * not depend on who computes.
 *
 * Keys, times log2(e) so that softmax takes powers of 2: [16 keys][step of 32 dims][16 pairs of dims][16
 * keys][2]; values: [32 keys][16 dims][16 pairs of keys][16 dims][2]; zeros behind the last key and dim. */
#include "engine/cpu/amx.h"

#include <stdbool.h>

enum {
    QUERIES = 2 * TILE,
    CHUNK = 128,
    KEY_TILES = CHUNK / TILE,
    DIM_MOST = NOC_CPU_HEAD_DIM,
    DIM_TILES = DIM_MOST / TILE
};

static int padded_keys(int keys)
{
    return (keys + CHUNK - 1) / CHUNK * CHUNK;
}

size_t KERNEL(head_floats)(const noc_cpu_heads *h)
{
    size_t keys = (size_t)padded_keys(h->keys), dims = (size_t)(steps_of(h->dim) * STEP);
    return keys * dims; /* keys and values, 2 bytes each */
}

size_t KERNEL(score_floats)(const noc_cpu_heads *h)
{
    return (size_t)QUERIES * (size_t)(steps_of(h->dim) * STEP) / 2;
}

void KERNEL(pack_keys)(const noc_cpu_heads *h, const float *kv, int first, int rows, float scale,
                       float *packed)
{
    const int steps = steps_of(h->dim), dim_tiles = 2 * steps;
    for (int head = 0; head < h->count; head++) {
        bf16 *keys = (bf16 *)(packed + (size_t)head * KERNEL(head_floats)(h)),
             *values = keys + (size_t)padded_keys(h->keys) * (size_t)(steps * STEP);
        for (int r = 0; r < rows; r++) {
            const float *key = kv + (size_t)r * 2 * (size_t)h->channels + (size_t)(head * h->dim),
                        *value = key + h->channels;
            int j = first + r;
            for (int c = 0; c < h->dim; c++) {
                keys[((j / TILE * steps + c / STEP) * TILE + c % STEP / 2) * STEP + j % TILE * 2 + c % 2] =
                    round_bf16(key[c] * (scale * LOG2_E));
                values[((j / STEP * dim_tiles + c / TILE) * TILE + j % STEP / 2) * STEP + c % TILE * 2 +
                       j % 2] = round_bf16(value[c]);
            }
        }
    }
}

typedef struct state {
    float scores[2][KEY_TILES][TILE][TILE] __attribute__((aligned(64))); /* [half of the queries] */
    bf16 weights[2][CHUNK / STEP][TILE][STEP] __attribute__((aligned(64)));
    float out[DIM_TILES][2][TILE][TILE] __attribute__((aligned(64)));
    vec sum[QUERIES];
    float top[QUERIES] __attribute__((aligned(64)));
} state;

/* Scores of the chunk's keys for both halves of the queries. */
static void score(const bf16 *queries, const bf16 *keys, int steps, state *s)
{
    for (int j = 0; j < KEY_TILES; j += 2) {
        const bf16 *b = keys + (size_t)(j * steps) * (TILE * STEP);
        _tile_zero(4);
        _tile_zero(5);
        _tile_zero(6);
        _tile_zero(7);
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
    store(factor, exp2_of(before - after));
    for (int r = 0; r < TILE; r++) {
        s->sum[g * TILE + r] *= factor[r];
        for (int t = 0; t < dim_tiles; t++)
            store(s->out[t][g][r], load(s->out[t][g][r]) * factor[r]);
    }
}

/* 2^x for x <= 0 to 1.1e-4 relative, which rounding to bf16 hides. */
INLINE vec exp2_coarse(vec x)
{
    vec f = (vec)_mm512_reduce_ps((__m512)x, 0x09), p = splat(7.8024521e-2f);
    p = p * f + 2.2606716e-1f;
    p = p * f + 6.9583354e-1f;
    p = p * f + 9.9989270e-1f;
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)x);
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
        vec top = splat(s->top[g * TILE + r]), a = {0}, b = {0};
#pragma GCC unroll 4
        for (int j = 0; j < KEY_TILES; j += 2) {
            vec p0 = exp2_coarse(load(s->scores[g][j][r]) - top),
                p1 = exp2_coarse(load(s->scores[g][j + 1][r]) - top);
            a += p0;
            b += p1;
            store_bf16(s->weights[g][j / 2][r], p0, p1);
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
    const bf16 *key = (const bf16 *)a->packed,
               *value = key + (size_t)padded_keys(keys) * (size_t)(steps * STEP);
    bf16 *queries = (bf16 *)a->scores;
    for (int r = 0; r < QUERIES; r++) {
        s->top[r] = -3e38f;
        if (r < rows)
            to_bf16(a->queries + (size_t)(row + r) * a->query_step, a->heads->dim,
                    queries + r * steps * STEP);
    }
    for (int c = 0; c < keys; c += CHUNK) {
        score(queries, key + (size_t)(c / TILE * steps) * (TILE * STEP), steps, s);
        if (keys - c < CHUNK)
            mask_scores(s, keys - c);
        soften(s, 0, dim_tiles, c == 0);
        if (rows > TILE)
            soften(s, 1, dim_tiles, c == 0);
        weigh(s, value + (size_t)(c / STEP * dim_tiles) * (TILE * STEP), dim_tiles, c == 0);
    }
    for (int r = 0; r < rows; r++) {
        float factor = 1.0f / lanes_sum(s->sum[r]);
        for (int t = 0; t * TILE < a->heads->dim; t++)
            store_part(a->out + (size_t)(row + r) * a->out_step + t * TILE,
                       load(s->out[t][r / TILE][r % TILE]) * factor, least(TILE, a->heads->dim - t * TILE));
    }
}

void KERNEL(attention)(const noc_cpu_attention *a)
{
    state s;
    for (int row = 0; row < a->rows; row += QUERIES)
        attend(a, row, least(QUERIES, a->rows - row), &s);
}
