/* Products of rows with packed weights: out = activation((in * weights + bias) * norm + residual). */
#include "engine/cpu/finish.h"
#include "engine/cpu/tile.h"

/* [panel][depth][COLUMNS] */
size_t KERNEL(packed_floats)(int columns, int runs, int padded_run)
{
    return (size_t)((columns + COLUMNS - 1) / COLUMNS * COLUMNS) * (size_t)(runs * padded_run);
}

void KERNEL(pack)(const double *weight, int columns, int runs, int run, int padded_run, float *panels)
{
    for (int o = 0; o < columns; o++)
        for (int i = 0; i < runs * run; i++) {
            size_t k = (size_t)(i / run * padded_run + i % run);
            panels[((size_t)(o / COLUMNS * runs * padded_run) + k) * COLUMNS + (size_t)(o % COLUMNS)] =
                (float)weight[(size_t)o * (size_t)(runs * run) + (size_t)i];
        }
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
            tiles(n, COLUMNS, p->in + (size_t)(row + i) * p->in_step, p->in_step, p->depth,
                  p->panels + (size_t)j * COLUMNS * (size_t)p->depth, p->bias + j * COLUMNS, NULL, y[0],
                  COLUMNS);
            add_squares(sum, n, y);
        }
        for (int r = 0; r < n; r++)
            factor[i + r] = 1.0f / sqrtf(p->tail_constant + lanes_sum(sum[r]));
    }
}

/* A tile whose panel is not full, or whose values change on the way out. */
static void finished_tile(const noc_cpu_product *p, int row, int rows, int panel, const float *factor)
{
    float y[ROWS][COLUMNS] __attribute__((aligned(64)));
    tiles(rows, p->columns - panel * COLUMNS, p->in + (size_t)row * p->in_step, p->in_step, p->depth,
          p->panels + (size_t)panel * COLUMNS * (size_t)p->depth, p->bias + panel * COLUMNS, NULL, y[0],
          COLUMNS);
    finish_rows(p, row, rows, panel, factor, y);
}

/* Blocks of rows whose part of `in` stays near, every panel of weights over each. */
void KERNEL(product)(const noc_cpu_product *p)
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
                    tiles(n, COLUMNS, p->in + (size_t)(row + i) * p->in_step, p->in_step, p->depth,
                          p->panels + (size_t)j * COLUMNS * (size_t)p->depth, p->bias + j * COLUMNS,
                          p->residual ? p->residual + at : NULL, p->out + at, p->out_step);
                else
                    finished_tile(p, row + i, n, j, p->tail > 0 ? factor + i : NULL);
            }
        }
    }
}
