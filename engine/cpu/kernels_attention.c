/* Softmax attention of one head, a tile of queries at a time: all scores of the tile (28 KiB for 14 queries
 * and 512 keys) stay in L1, keys and values in L2. */
#include "engine/cpu/tile.h"

static int padded(int n)
{
    return (n + COLUMNS - 1) / COLUMNS * COLUMNS;
}

static bool has_own_scores(const noc_cpu_heads *h)
{
    return h->kv_columns > 2 * h->channels;
}

/* Keys as [panel of keys][dim][COLUMNS], times log2(e) so that softmax takes powers of 2; values as
 * [panel of dims][keys][COLUMNS]; the keys' own scores, where they have some, times log2(e) too. */
static size_t own_scores_at(const noc_cpu_heads *h)
{
    return (size_t)padded(h->keys) * (size_t)h->dim + (size_t)padded(h->dim) * (size_t)h->keys;
}

size_t KERNEL(head_floats)(const noc_cpu_heads *h)
{
    return own_scores_at(h) + (has_own_scores(h) ? (size_t)padded(h->keys) : 0);
}

size_t KERNEL(score_floats)(const noc_cpu_heads *h)
{
    return (size_t)ROWS * (size_t)padded(h->keys);
}

void KERNEL(pack_keys)(const noc_cpu_heads *h, const float *kv, int first, int rows, float scale,
                       float *packed)
{
    for (int head = 0; head < h->count; head++, packed += KERNEL(head_floats)(h)) {
        float *values = packed + (size_t)padded(h->keys) * (size_t)h->dim;
        for (int r = 0; r < rows; r++) {
            const float *row = kv + (size_t)r * (size_t)h->kv_columns, *key = row + head * h->dim,
                        *value = key + h->channels;
            int j = first + r;
            if (has_own_scores(h))
                packed[own_scores_at(h) + (size_t)j] = row[2 * h->channels] * LOG2_E;
            for (int c = 0; c < h->dim; c++) {
                packed[(size_t)(j / COLUMNS * h->dim + c) * COLUMNS + (size_t)(j % COLUMNS)] =
                    key[c] * (scale * LOG2_E);
                values[(size_t)(c / COLUMNS * h->keys + j) * COLUMNS + (size_t)(c % COLUMNS)] = value[c];
            }
        }
    }
}

/* A row of scores -> their powers of 2 below the maximum, in place; returns one over their sum. */
static float soften(float *s, int count)
{
    vec m0 = load(s), m1 = load(s + LANES), t0 = {0}, t1 = {0};
    for (int j = COLUMNS; j < count; j += COLUMNS) {
        m0 = larger(m0, load(s + j));
        m1 = larger(m1, load(s + j + LANES));
    }
    vec m = splat(lanes_max(larger(m0, m1)));
    for (int j = 0; j < count; j += COLUMNS) {
        vec p0 = exp2_of(load(s + j) - m), p1 = exp2_of(load(s + j + LANES) - m);
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
    const int keys = a->heads->keys, dim = a->heads->dim, columns = padded(keys);
    const float *values = a->packed + (size_t)columns * (size_t)dim,
                *own = has_own_scores(a->heads) ? a->packed + own_scores_at(a->heads) : NULL;
    for (int j = 0; j < columns; j += COLUMNS)
        tiles(rows, COLUMNS, a->queries + (size_t)row * a->query_step, a->query_step, dim,
              a->packed + (size_t)j * (size_t)dim, own ? own + j : NULL, NULL, a->scores + j,
              (size_t)columns);
    for (int r = 0; r < rows; r++) {
        float *s = a->scores + (size_t)r * (size_t)columns;
        for (int j = keys; j < columns; j++)
            s[j] = -3e38f; /* no key: its power is nothing beside the largest's 1 */
        factor[r] = soften(s, columns);
    }
    for (int c = 0; c < dim; c += COLUMNS) {
        tiles(rows, dim - c, a->scores, (size_t)columns, keys, values + (size_t)c * (size_t)keys, NULL, NULL,
              y[0], COLUMNS);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < COLUMNS && c + i < dim; i += LANES) {
                const size_t at = (size_t)(row + r) * a->out_step + (size_t)(c + i);
                const int n = least(LANES, dim - c - i);
                vec v = load(y[r] + i) * factor[r];
                if (a->residual)
                    v += load_part(a->residual + at, n);
                store_part(a->out + at, v, n);
            }
    }
}

void KERNEL(attention)(const noc_cpu_attention *a)
{
    for (int row = 0; row < a->rows; row += ROWS)
        attend(a, row, least(ROWS, a->rows - row));
}
