/* The end of a decoder: the coarser maps are blended along D once for all lines of a call, along H for each
 * line, along W for each token, and a tile of tokens goes through to the classes. */
#include "engine/cpu/vector.h"

static size_t line_floats(const noc_cpu_decoder *d, const noc_cpu_term *term)
{
    return (size_t)(term->grid[2] * d->channels);
}

/* A tile of tokens of the fine map and of the sum; then of each coarser map its lines, and one of them. */
size_t KERNEL(decoder_floats)(const noc_cpu_decoder *d)
{
    size_t floats = 2 * ROWS * (size_t)d->channels;
    for (int t = 0; t < d->count; t++)
        if (d->terms[t].axes)
            floats += (size_t)(term_lines(d, &d->terms[t]) + 1) * line_floats(d, &d->terms[t]);
    return floats;
}

/* out = (1 - fraction) * low + fraction * high */
static void lerp(const float *low, const float *high, float fraction, size_t count, float *out)
{
    vec f = splat(fraction), e = splat(1 - fraction);
    for (size_t i = 0; i < count; i += LANES) {
        int n = count - i < LANES ? (int)(count - i) : LANES;
        store_part(out + i, e * load_part(low + i, n) + f * load_part(high + i, n), n);
    }
}

/* Lines of a coarser map blended along D, from line `first` on. */
typedef struct blended {
    float *lines, *room;
    int first;
} blended;

static void blend_planes(const noc_cpu_decoder *p, int d, int h_from, int h_to,
                         blended coarser[NOC_OP_INPUTS], float *room)
{
    for (int t = 0; t < p->count; t++) {
        const noc_cpu_axis *axes = p->terms[t].axes;
        if (!axes)
            continue;
        size_t line = line_floats(p, &p->terms[t]), plane = line * (size_t)p->terms[t].grid[1];
        int first = axes[1].low[h_from];
        size_t at = (size_t)first * line, count = (size_t)(axes[1].high[h_to - 1] - first + 1) * line;
        coarser[t] = (blended){.lines = room, .room = room + count, .first = first};
        lerp(p->terms[t].in + (size_t)axes[0].low[d] * plane + at,
             p->terms[t].in + (size_t)axes[0].high[d] * plane + at, axes[0].fraction[d], count, room);
        room += count + line;
    }
}

/* The coarser maps on the line h, each with its own W. */
static void blend_lines(const noc_cpu_decoder *p, int h, const blended coarser[NOC_OP_INPUTS], noc_cpu_mix *m)
{
    for (int t = 0; t < p->count; t++) {
        const noc_cpu_axis *axes = p->terms[t].axes;
        if (!axes)
            continue;
        size_t line = line_floats(p, &p->terms[t]);
        lerp(coarser[t].lines + (size_t)(axes[1].low[h] - coarser[t].first) * line,
             coarser[t].lines + (size_t)(axes[1].high[h] - coarser[t].first) * line, axes[1].fraction[h],
             line, coarser[t].room);
        m->lines[t] = coarser[t].room;
        m->axes[t] = &axes[2];
    }
}

/* Tokens of one line, from the fine map to the classes; `token` is the first. */
static void finish_line(const noc_cpu_decoder *d, size_t token, noc_cpu_mix *m, float *fine)
{
    for (m->from = 0; m->from < d->grid[2]; token += (size_t)(m->to - m->from), m->from = m->to) {
        m->to = least(m->from + ROWS, d->grid[2]);
        noc_cpu_product p = d->fine;
        p.in += token * p.in_step;
        p.rows = m->to - m->from;
        p.out = fine;
        p.out_step = (size_t)d->channels;
        KERNEL(product)(&p);
        KERNEL(mix)(m);
        p = d->classes;
        p.in = m->out;
        p.in_step = (size_t)d->channels;
        p.rows = m->to - m->from;
        p.out += token * p.out_step;
        KERNEL(product)(&p);
    }
}

void KERNEL(decode)(const noc_cpu_decoder *p, int d, int h_from, int h_to, float *room)
{
    size_t tile = ROWS * (size_t)p->channels;
    blended coarser[NOC_OP_INPUTS] = {{0}};
    noc_cpu_mix m = {.count = p->count,
                     .channels = p->channels,
                     .out = room + tile,
                     .out_step = (size_t)p->channels,
                     .activation = p->activation,
                     .bias = p->bias};
    for (int t = 0; t < p->count; t++)
        m.lines[t] = room; /* of the fine map */
    blend_planes(p, d, h_from, h_to, coarser, room + 2 * tile);
    for (int h = h_from; h < h_to; h++) {
        blend_lines(p, h, coarser, &m);
        finish_line(p, (size_t)(d * p->grid[1] + h) * (size_t)p->grid[2], &m, room);
    }
}
