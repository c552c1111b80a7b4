/* What a product does after its sums: the norm, the residual, the activation. */
#ifndef NOC_CPU_FINISH_H
#define NOC_CPU_FINISH_H

#include "engine/cpu/vector.h"

/* Sums of `rows` rows from `row` on, one panel. factor: of each row, or NULL. */
static inline void finish_rows(const noc_cpu_product *p, int row, int rows, int panel, const float *factor,
                               float (*y)[COLUMNS])
{
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

/* Adds the squares of one panel of the tail to the sum of each row. */
INLINE void add_squares(vec *sum, int rows, float (*y)[COLUMNS])
{
    for (int r = 0; r < rows; r++)
        sum[r] += load(y[r]) * load(y[r]) + load(y[r] + LANES) * load(y[r] + LANES);
}

#endif
