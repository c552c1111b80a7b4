/* As kernels_product.c, in bf16. Rows are rounded once, then every panel of weights is taken over them;
 * products deeper than DEEP are cut, with the sums so far kept in f32. */
#include "engine/cpu/amx.h"
#include "engine/cpu/finish.h"

enum { ROWS_AT_ONCE = 2 * TILE, DEEP = 2048 };

size_t KERNEL(packed_floats)(int columns, int runs, int padded_run)
{
    return (size_t)((columns + COLUMNS - 1) / COLUMNS * COLUMNS) * (size_t)(runs * padded_run) / 2;
}

void KERNEL(pack)(const double *weight, int columns, int runs, int run, int padded_run, float *panels)
{
    bf16 *out = (bf16 *)panels;
    for (int o = 0; o < columns; o++)
        for (int i = 0; i < runs * run; i++) {
            int k = i / run * padded_run + i % run;
            size_t panel = (size_t)(o / COLUMNS) * COLUMNS * (size_t)(runs * padded_run);
            size_t at = panel + (size_t)(k / STEP) * PANEL_STEP + (size_t)(o % COLUMNS / TILE * TILE * STEP) +
                        (size_t)(k % STEP / 2 * STEP + o % TILE * 2 + k % 2);
            out[at] = round_bf16((float)weight[(size_t)o * (size_t)(runs * run) + (size_t)i]);
        }
}

static void convert_rows(const float *in, size_t in_step, int rows, int depth, bf16 *a)
{
    size_t step = (size_t)(steps_of(depth) * STEP);
    for (int r = 0; r < rows; r++)
        to_bf16(in + (size_t)r * in_step, depth, a + (size_t)r * step);
    memset(a + (size_t)rows * step, 0, (size_t)(ROWS_AT_ONCE - rows) * step * sizeof *a);
}

/* y = bias (or y) + rows * panel, for one cut of the depth. */
static void multiply(int rows, const bf16 *a, int depth, const bf16 *b, const float *bias,
                     float y[ROWS_AT_ONCE][COLUMNS])
{
    int steps = steps_of(depth);
    size_t bytes = (size_t)(steps * STEP) * sizeof *a;
    if (bias) {
        AMX_BEGIN(bias);
    } else {
        _tile_loadd(0, y[0], 4 * COLUMNS);
        _tile_loadd(1, y[0] + TILE, 4 * COLUMNS);
        _tile_loadd(2, y[TILE], 4 * COLUMNS);
        _tile_loadd(3, y[TILE] + TILE, 4 * COLUMNS);
    }
    if (rows > TILE) {
        AMX_MULTIPLY(1, a, bytes, b, steps);
        AMX_END(1, y);
    } else {
        AMX_MULTIPLY(0, a, bytes, b, steps);
        AMX_END(0, y);
    }
}

typedef struct row_block {
    const noc_cpu_product *product;
    const float *in;
    int rows;
    bf16 *a; /* of the last cut that was converted: all of it where the depth is at most DEEP */
} row_block;

static void panel_sums(const row_block *block, int panel, float y[ROWS_AT_ONCE][COLUMNS])
{
    const noc_cpu_product *p = block->product;
    const bf16 *b = (const bf16 *)p->panels + (size_t)panel * (size_t)steps_of(p->depth) * PANEL_STEP;
    for (int k = 0; k < p->depth; k += DEEP) {
        int depth = least(DEEP, p->depth - k);
        if (p->depth > DEEP)
            convert_rows(block->in + k, p->in_step, block->rows, depth, block->a);
        multiply(block->rows, block->a, depth, b + (size_t)(k / STEP) * PANEL_STEP,
                 k == 0 ? p->bias + panel * COLUMNS : NULL, y);
    }
}

static void norms(const row_block *block, float *factor)
{
    const noc_cpu_product *p = block->product;
    int first = (p->columns + COLUMNS - 1) / COLUMNS, last = first + (p->tail + COLUMNS - 1) / COLUMNS;
    float y[ROWS_AT_ONCE][COLUMNS] __attribute__((aligned(64)));
    vec sum[ROWS_AT_ONCE] = {{0}};
    for (int j = first; j < last; j++) {
        panel_sums(block, j, y);
        add_squares(sum, block->rows, y);
    }
    for (int r = 0; r < block->rows; r++)
        factor[r] = 1.0f / sqrtf(p->tail_constant + lanes_sum(sum[r]));
}

void KERNEL(product)(const noc_cpu_product *p)
{
    bf16 a[ROWS_AT_ONCE * DEEP] __attribute__((aligned(64)));
    float y[ROWS_AT_ONCE][COLUMNS] __attribute__((aligned(64))), factor[ROWS_AT_ONCE];
    for (int row = 0; row < p->rows; row += ROWS_AT_ONCE) {
        row_block block = {p, p->in + (size_t)row * p->in_step, least(ROWS_AT_ONCE, p->rows - row), a};
        if (p->depth <= DEEP)
            convert_rows(block.in, p->in_step, block.rows, p->depth, a);
        if (p->tail > 0)
            norms(&block, factor);
        for (int j = p->first; j < p->last; j++) {
            panel_sums(&block, j, y);
            finish_rows(p, row, block.rows, j, p->tail > 0 ? factor : NULL, y);
        }
    }
}
