/* Softmax attention of one head, a tile of queries at a time: all scores of the tile (28 KiB for 14 queries
 * and 512 keys) stay in L1, keys and values in L2. */
#include "engine/cpu/tile.h"

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
        tiles(rows, COLUMNS, a->queries + (size_t)row * a->query_step, a->query_step, a->dim,
              a->key_panels + (size_t)j * (size_t)a->dim, NULL, NULL, a->scores + j, (size_t)padded);
    for (int r = 0; r < rows; r++) {
        float *s = a->scores + (size_t)r * (size_t)padded;
        for (int j = a->keys; j < padded; j++)
            s[j] = -3e38f; /* no key: its power is nothing beside the largest's 1 */
        factor[r] = soften(s, padded);
    }
    for (int c = 0; c < a->dim; c += COLUMNS) {
        tiles(rows, a->dim - c, a->scores, (size_t)padded, a->keys,
              a->value_panels + (size_t)c * (size_t)a->keys, NULL, NULL, y[0], COLUMNS);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < COLUMNS && c + i < a->dim; i += LANES)
                store_part(a->out + (size_t)(row + r) * a->out_step + c + i, load(y[r] + i) * factor[r],
                           least(LANES, a->dim - c - i));
    }
}

void KERNEL(attention)(const noc_cpu_attention *a)
{
    for (int row = 0; row < a->rows; row += ROWS)
        attend(a, row, least(ROWS, a->rows - row));
}
