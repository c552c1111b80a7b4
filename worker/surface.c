/* Surfaces are found by words of bits, 64 corners at a time. The nearest point is looked for only where a
 * distance is asked for: rows of surface bits are tried outwards, until no farther one can be nearer. Masks
 * that resemble each other need few rows. Where they do not, a plane on which rows have been tried as often
 * as it has places is transformed (Felzenszwalb and Huttenlocher, Theory of Computing 8, 2012) and then knows
 * its nearest row: the cost is never more than a few times that of a whole distance transform. */
#include "worker/surface.h"

#include "engine/base/memory.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { WORD = 64 };

/* ---- bits ---- */

noc_status noc_bits_create(const int64_t size[3], noc_bits *bits, noc_error *err)
{
    memset(bits, 0, sizeof *bits);
    for (int axis = 0; axis < 3; axis++)
        if (size[axis] > NOC_SURFACE_AXIS)
            return noc_fail(err, NOC_ETOOLARGE, "a mask of %lld voxels along an axis, %d are measured",
                            (long long)size[axis], (int)NOC_SURFACE_AXIS);
    memcpy(bits->size, size, sizeof bits->size);
    bits->words = (size[0] + 2 + WORD - 1) / WORD;
    bits->rows =
        noc_alloc_zeroed((size_t)((size[1] + 2) * (size[2] + 2) * bits->words), sizeof *bits->rows, err);
    return bits->rows ? NOC_OK : NOC_ENOMEMORY;
}

void noc_bits_clear(noc_bits *bits)
{
    free(bits->rows);
    memset(bits, 0, sizeof *bits);
}

uint64_t *noc_bits_row(const noc_bits *bits, int64_t j, int64_t k)
{
    return bits->rows + ((k + 1) * (bits->size[1] + 2) + j + 1) * bits->words;
}

/* Bits moved by one place along i: each at the place of the one before it, or after it. */
static uint64_t from_after(const uint64_t *row, int64_t word, int64_t words)
{
    return row[word] >> 1 | (word + 1 < words ? row[word + 1] << (WORD - 1) : 0);
}

static uint64_t from_before(const uint64_t *row, int64_t word)
{
    return row[word] << 1 | (word > 0 ? row[word - 1] >> (WORD - 1) : 0);
}

static size_t bits_bytes(const noc_bits *bits)
{
    return (size_t)((bits->size[1] + 2) * (bits->size[2] + 2) * bits->words) * sizeof *bits->rows;
}

noc_status noc_bits_copy(const noc_bits *bits, noc_bits *copy, noc_error *err)
{
    noc_status status = noc_bits_create(bits->size, copy, err);

    if (status == NOC_OK)
        memcpy(copy->rows, bits->rows, bits_bytes(bits));
    return status;
}

/* The places of a word of a row that are none of its margin. */
static uint64_t inner_places(const noc_bits *bits, int64_t word)
{
    uint64_t places = word == 0 ? ~(uint64_t)1 : ~(uint64_t)0;
    int64_t end = bits->size[0] + 1 - word * WORD;

    return end >= WORD ? places : end > 0 ? places & (((uint64_t)1 << end) - 1) : 0;
}

static void dilate_row(const noc_bits *from, int64_t j, int64_t k, uint64_t *to)
{
    const uint64_t *row = noc_bits_row(from, j, k);
    const uint64_t *sides[4] = {noc_bits_row(from, j - 1, k), noc_bits_row(from, j + 1, k),
                                noc_bits_row(from, j, k - 1), noc_bits_row(from, j, k + 1)};
    const uint64_t *edges[4] = {noc_bits_row(from, j - 1, k - 1), noc_bits_row(from, j + 1, k - 1),
                                noc_bits_row(from, j - 1, k + 1), noc_bits_row(from, j + 1, k + 1)};

    for (int64_t w = 0; w < from->words; w++) {
        uint64_t word = row[w] | from_before(row, w) | from_after(row, w, from->words);
        for (int n = 0; n < 4; n++)
            word |=
                sides[n][w] | from_before(sides[n], w) | from_after(sides[n], w, from->words) | edges[n][w];
        to[w] = word & inner_places(from, w);
    }
}

noc_status noc_bits_dilate(noc_bits *bits, int times, noc_error *err)
{
    noc_bits from;
    noc_status status = noc_bits_copy(bits, &from, err);

    for (int n = 0; status == NOC_OK && n < times; n++) {
        memcpy(from.rows, bits->rows, bits_bytes(bits));
        for (int64_t k = 0; k < bits->size[2]; k++)
            for (int64_t j = 0; j < bits->size[1]; j++)
                dilate_row(&from, j, k, noc_bits_row(bits, j, k));
    }
    noc_bits_clear(&from);
    return status;
}

/* ---- surfaces ---- */

typedef struct point {
    uint16_t i, j, k;
    uint8_t code; /* deepmind: which of the 8 voxels are inside */
} point;

/* The points of a surface, in the order of their rows, and as bits. */
typedef struct cloud {
    int64_t size[3], words; /* of a row */
    uint64_t *rows;         /* [k][j][words] owned */
    point *points;          /* owned */
    size_t count, capacity;
} cloud;

static noc_status cloud_create(const int64_t size[3], cloud *c, noc_error *err)
{
    memset(c, 0, sizeof *c);
    memcpy(c->size, size, sizeof c->size);
    c->words = (size[0] + WORD - 1) / WORD;
    c->rows = noc_alloc_zeroed((size_t)(size[1] * size[2]), (size_t)c->words * sizeof *c->rows, err);
    return c->rows ? NOC_OK : NOC_ENOMEMORY;
}

static uint64_t *cloud_row(const cloud *c, int64_t j, int64_t k)
{
    return c->rows + (k * c->size[1] + j) * c->words;
}

static noc_status add_points(cloud *c, uint64_t found, int64_t word, int64_t j, int64_t k, noc_error *err)
{
    if (c->capacity - c->count < WORD) {
        size_t capacity = c->capacity * 2 + 1024;
        point *grown = reallocarray(c->points, capacity, sizeof *grown);
        if (!grown)
            return noc_fail(err, NOC_ENOMEMORY, "no memory for a surface of %zu points", capacity);
        c->points = grown;
        c->capacity = capacity;
    }
    cloud_row(c, j, k)[word] = found;
    for (; found; found &= found - 1)
        c->points[c->count++] = (point){
            .i = (uint16_t)(word * WORD + __builtin_ctzll(found)), .j = (uint16_t)j, .k = (uint16_t)k};
    return NOC_OK;
}

/* side[0..3]: voxels before the corner on i, by (j,k) before before, before after, after before, after after;
 * side[4..7] likewise after it. */
static noc_status add_corners(cloud *c, const uint64_t side[8], int64_t word, int64_t j, int64_t k,
                              noc_error *err)
{
    uint64_t any = 0, all = ~(uint64_t)0;
    size_t first = c->count;

    for (int s = 0; s < 8; s++) {
        any |= side[s];
        all &= side[s];
    }
    if (!(any & ~all))
        return NOC_OK;
    noc_status status = add_points(c, any & ~all, word, j, k, err);
    for (size_t p = first; p < c->count; p++)
        for (int s = 0; s < 8; s++)
            c->points[p].code = (uint8_t)(c->points[p].code << 1 | (side[s] >> (c->points[p].i % WORD) & 1));
    return status;
}

/* Corner (i,j,k) lies before voxel (i,j,k) on each axis. */
static noc_status find_corners(const noc_bits *bits, cloud *c, noc_error *err)
{
    noc_status status = NOC_OK;

    for (int64_t k = 0; k <= bits->size[2]; k++)
        for (int64_t j = 0; j <= bits->size[1]; j++) {
            const uint64_t *rows[4] = {noc_bits_row(bits, j - 1, k - 1), noc_bits_row(bits, j - 1, k),
                                       noc_bits_row(bits, j, k - 1), noc_bits_row(bits, j, k)};
            for (int64_t w = 0; status == NOC_OK && w < bits->words; w++) {
                uint64_t side[8];
                for (int r = 0; r < 4; r++) {
                    side[r] = rows[r][w];
                    side[4 + r] = from_after(rows[r], w, bits->words);
                }
                status = add_corners(c, side, w, j, k, err);
            }
        }
    return status;
}

/* Voxels with a background 6-neighbour; i counts from the margin. */
static noc_status find_edges(const noc_bits *bits, cloud *c, noc_error *err)
{
    noc_status status = NOC_OK;

    for (int64_t k = 0; k < bits->size[2]; k++)
        for (int64_t j = 0; j < bits->size[1]; j++) {
            const uint64_t *row = noc_bits_row(bits, j, k);
            const uint64_t *up = noc_bits_row(bits, j - 1, k), *down = noc_bits_row(bits, j + 1, k);
            const uint64_t *front = noc_bits_row(bits, j, k - 1), *back = noc_bits_row(bits, j, k + 1);
            for (int64_t w = 0; status == NOC_OK && w < bits->words; w++) {
                uint64_t inner = from_before(row, w) & from_after(row, w, bits->words) & up[w] & down[w] &
                                 front[w] & back[w];
                if (row[w] & ~inner)
                    status = add_points(c, row[w] & ~inner, w, j, k, err);
            }
        }
    return status;
}

/* Surfels of a corner, each as the absolute values of its normal in eighths, for one of the codes that are
 * alike under mirroring, exchange of axes and complement. The normals are those of marching cubes that
 * surface-distance (Google Inc., Apache-2.0) weighs corners with. */
static const struct {
    uint8_t code, count;
    uint8_t normals[4][3];
} surfels[] = {
    {1, 1, {{1, 1, 1}}},
    {3, 2, {{2, 2, 0}, {2, 2, 0}}},
    {6, 2, {{1, 1, 1}, {1, 1, 1}}},
    {7, 3, {{1, 1, 1}, {2, 2, 2}, {4, 0, 0}}},
    {15, 2, {{4, 0, 0}, {4, 0, 0}}},
    {22, 3, {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}}},
    {23, 4, {{1, 1, 1}, {1, 1, 1}, {2, 2, 2}, {2, 2, 2}}},
    {24, 2, {{1, 1, 1}, {1, 1, 1}}},
    {25, 3, {{0, 2, 2}, {0, 2, 2}, {1, 1, 1}}},
    {27, 4, {{0, 2, 2}, {1, 1, 1}, {2, 0, 2}, {3, 3, 3}}},
    {30, 4, {{1, 1, 1}, {1, 1, 1}, {2, 2, 2}, {4, 0, 0}}},
    {60, 4, {{2, 2, 0}, {2, 2, 0}, {2, 2, 0}, {2, 2, 0}}},
    {105, 4, {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}}},
};

/* The code with its axes exchanged: axis[a] takes the place of a. */
static uint8_t turned_code(uint8_t code, const int axis[3])
{
    uint8_t turned = 0;

    for (int place = 0; place < 8; place++) { /* bit 2: i, bit 1: j, bit 0: k */
        int to = 0;
        for (int a = 0; a < 3; a++)
            to |= (place >> (2 - axis[a]) & 1) << (2 - a);
        turned |= (uint8_t)((code >> (7 - place) & 1) << (7 - to));
    }
    return turned;
}

/* ... with the axes of `mirror` mirrored, bits as above. */
static uint8_t mirrored_code(uint8_t code, int mirror)
{
    if (mirror & 4)
        code = (uint8_t)(code >> 4 | code << 4);
    if (mirror & 2)
        code = (uint8_t)((code & 0xcc) >> 2 | (code & 0x33) << 2);
    if (mirror & 1)
        code = (uint8_t)((code & 0xaa) >> 1 | (code & 0x55) << 1);
    return code;
}

void noc_surfel_areas(const double spacing_mm[3], double areas_mm2[256])
{
    static const int axes[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    const double face[3] = {spacing_mm[1] * spacing_mm[2] / 8, spacing_mm[0] * spacing_mm[2] / 8,
                            spacing_mm[0] * spacing_mm[1] / 8};

    areas_mm2[0] = areas_mm2[255] = 0;
    for (size_t s = 0; s < sizeof surfels / sizeof surfels[0]; s++)
        for (int x = 0; x < 6; x++) {
            double area = 0;
            for (int n = 0; n < surfels[s].count; n++) {
                double square = 0;
                for (int a = 0; a < 3; a++) {
                    double part = surfels[s].normals[n][axes[x][a]] * face[a];
                    square += part * part;
                }
                area += sqrt(square);
            }
            uint8_t turned = turned_code(surfels[s].code, axes[x]);
            for (int mirror = 0; mirror < 8; mirror++) {
                uint8_t code = mirrored_code(turned, mirror);
                areas_mm2[code] = areas_mm2[255 - code] = area;
            }
        }
}

/* ---- nearest points ---- */

typedef struct field {
    const cloud *cloud;
    double spacing[3];
    uint16_t *nearest;  /* [k][j][i] row of the plane with the nearest point, once the plane is transformed */
    int64_t *tries;     /* [k] rows that were tried; or: */
    int64_t *parabolas; /* [j] work of transform_column */
    double *from;       /* [j] */
} field;

enum { TRANSFORMED = -1, NO_PLANE = -2 /* without a point */ };

static void field_clear(field *f)
{
    free(f->nearest);
    free(f->tries);
    free(f->parabolas);
    free(f->from);
}

static uint16_t *field_place(const field *f, int64_t i, int64_t j, int64_t k)
{
    return f->nearest + (k * f->cloud->size[1] + j) * f->cloud->size[0] + i;
}

/* The pages of `nearest` cost nothing before a plane is transformed. */
static noc_status field_create(const cloud *c, const double spacing[3], field *f, noc_error *err)
{
    memset(f, 0, sizeof *f);
    f->cloud = c;
    memcpy(f->spacing, spacing, sizeof f->spacing);
    f->nearest = noc_alloc((size_t)(c->size[0] * c->size[1] * c->size[2]), sizeof *f->nearest, err);
    f->tries = noc_alloc((size_t)c->size[2], sizeof *f->tries, err);
    f->parabolas = noc_alloc((size_t)c->size[1], sizeof *f->parabolas, err);
    f->from = noc_alloc((size_t)c->size[1], sizeof *f->from, err);
    if (!f->nearest || !f->tries || !f->parabolas || !f->from) {
        field_clear(f);
        return NOC_ENOMEMORY;
    }
    for (int64_t k = 0; k < c->size[2]; k++)
        f->tries[k] = NO_PLANE;
    for (size_t p = 0; p < c->count; p++)
        f->tries[c->points[p].k] = 0;
    return NOC_OK;
}

static inline int64_t smaller_place(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Places from i to the nearest bit of a row; -1 without any. Words are looked at outwards, as long as a
 * nearer bit may be there. */
static inline int64_t nearest_bit(const uint64_t *row, int64_t words, int64_t i)
{
    int64_t word = i / WORD, nearest = INT64_MAX;
    uint64_t left = row[word] << (WORD - 1 - i % WORD), right = row[word] >> (i % WORD);

    if (left)
        nearest = __builtin_clzll(left);
    if (right && __builtin_ctzll(right) < nearest)
        nearest = __builtin_ctzll(right);
    for (int64_t w = word; w > 0 && i - w * WORD + 1 < nearest;)
        if (row[--w])
            nearest = smaller_place(nearest, i - w * WORD - (WORD - 1 - __builtin_clzll(row[w])));
    for (int64_t w = word + 1; w < words && w * WORD - i < nearest; w++)
        if (row[w])
            nearest = smaller_place(nearest, w * WORD + __builtin_ctzll(row[w]) - i);
    return nearest == INT64_MAX ? -1 : nearest;
}

/* Squared distance from place i to the nearest point of row (j,k), which is so many rows away; `beyond`: the
 * share of k. */
static inline double row_distance(const field *f, int64_t i, int64_t j, int64_t k, int64_t rows_away,
                                  double beyond)
{
    int64_t places = nearest_bit(cloud_row(f->cloud, j, k), f->cloud->words, i);
    double dj = (double)rows_away * f->spacing[1], di = (double)places * f->spacing[0];

    return places < 0 ? INFINITY : beyond + dj * dj + di * di;
}

/* The lower envelope of the parabolas that the rows of a plane make over one column: which row is the nearest
 * to each. */
static void transform_column(field *f, int64_t i, int64_t k)
{
    int64_t count = 0, at = 0, n = f->cloud->size[1];
    const double s = f->spacing[1];

    for (int64_t j = 0; j < n; j++) {
        double height = row_distance(f, i, j, k, 0, 0), start = -INFINITY;
        if (height == INFINITY)
            continue;
        for (; count > 0; count--) {
            int64_t last = f->parabolas[count - 1];
            double other = row_distance(f, i, last, k, 0, 0);
            start = ((height - other) / ((double)(j - last) * s) + (double)(j + last) * s) / 2;
            if (start > f->from[count - 1])
                break;
            start = -INFINITY;
        }
        f->parabolas[count] = j;
        f->from[count++] = start;
    }
    for (int64_t j = 0; j < n; j++) {
        while (at + 1 < count && f->from[at + 1] <= (double)j * s)
            at++;
        *field_place(f, i, j, k) = (uint16_t)f->parabolas[at];
    }
}

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

/* The smaller of `best` and the squared distance to the nearest point of plane k; `beyond`: the share of k.
 */
static double plane_distance(field *f, int64_t i, int64_t j, int64_t k, double beyond, double best)
{
    const int64_t *size = f->cloud->size;
    if (f->tries[k] == NO_PLANE)
        return best;
    if (f->tries[k] > size[0] * size[1]) {
        for (int64_t column = 0; column < size[0]; column++)
            transform_column(f, column, k);
        f->tries[k] = TRANSFORMED;
    }
    if (f->tries[k] == TRANSFORMED) {
        int64_t nearest = *field_place(f, i, j, k);
        return smaller(best, row_distance(f, i, nearest, k, nearest - j, beyond));
    }
    int64_t away = 0;
    for (; away <= j || j + away < size[1]; away++) {
        double dj = (double)away * f->spacing[1];
        if (beyond + dj * dj >= best)
            break;
        if (away <= j)
            best = smaller(best, row_distance(f, i, j - away, k, away, beyond));
        if (away > 0 && j + away < size[1])
            best = smaller(best, row_distance(f, i, j + away, k, away, beyond));
    }
    f->tries[k] += away;
    return best;
}

/* In mm; infinite without any point. */
static double nearest_distance(field *f, const point *p)
{
    double best = INFINITY;

    for (int64_t away = 0; away <= p->k || p->k + away < f->cloud->size[2]; away++) {
        double dk = (double)away * f->spacing[2], beyond = dk * dk;
        if (beyond >= best)
            break;
        if (away <= p->k)
            best = plane_distance(f, p->i, p->j, p->k - away, beyond, best);
        if (away > 0 && p->k + away < f->cloud->size[2])
            best = plane_distance(f, p->i, p->j, p->k + away, beyond, best);
    }
    return sqrt(best);
}

/* ---- distances ---- */

typedef struct sample {
    double mm, weight;
} sample;

/* Those of one direction, and sums over them. Masks that resemble each other share much of their surfaces:
 * points on both, 0 mm away, have no sample. */
typedef struct distances {
    sample *samples;
    size_t count, shared; /* samples; points on both surfaces */
    double weight, shared_weight, mm_weight, most;
} distances;

static double middle(double a, double b, double c)
{
    return fmax(fmin(a, b), fmin(fmax(a, b), c));
}

/* The first distance, in ascending order, up to which the weights amount to `wanted`; `below` is that of 0
 * mm. Exchanges samples. */
static double select_distance(sample *s, size_t count, double below, double wanted)
{
    size_t low = 0, high = count;

    if (below >= wanted || count == 0)
        return 0;
    while (high - low > 1) {
        double pivot = middle(s[low].mm, s[low + (high - low) / 2].mm, s[high - 1].mm), less = 0, equal = 0;
        size_t less_end = low, more_begin = high;
        for (size_t at = low; at < more_begin;) {
            sample taken = s[at];
            if (taken.mm < pivot) {
                less += taken.weight;
                s[at++] = s[less_end];
                s[less_end++] = taken;
            } else if (taken.mm > pivot) {
                s[at] = s[--more_begin];
                s[more_begin] = taken;
            } else {
                equal += taken.weight;
                at++;
            }
        }
        if (less_end > low && below + less >= wanted) {
            high = less_end;
        } else if (below + less + equal >= wanted || more_begin == high) {
            return pivot;
        } else {
            below += less + equal;
            low = more_begin;
        }
    }
    return s[low].mm;
}

static bool is_on(const cloud *c, const point *p)
{
    return cloud_row(c, p->j, p->k)[p->i / WORD] >> (p->i % WORD) & 1;
}

/* areas NULL: all of weight 1. */
static void measure(const cloud *c, field *f, const double areas[256], sample *samples, distances *d)
{
    double weight = 0;

    *d = (distances){.samples = samples};
    for (const point *p = c->points; p < c->points + c->count; p++) {
        sample s = {.weight = areas ? areas[p->code] : 1};
        if (is_on(f->cloud, p)) {
            d->shared++;
            d->shared_weight += s.weight;
            continue;
        }
        s.mm = nearest_distance(f, p);
        weight += s.weight;
        d->mm_weight += s.mm * s.weight;
        d->most = fmax(d->most, s.mm);
        samples[d->count++] = s;
    }
    d->weight = d->shared_weight + weight;
}

/* As numpy.percentile, of samples of weight 1 and `shared` points at 0 mm. */
static double percentile_95(sample *samples, size_t count, size_t shared)
{
    double place = 0.95 * (double)(count + shared - 1), whole = floor(place);
    double low = select_distance(samples, count, (double)shared, whole + 0.5);

    if (place == whole)
        return low;
    return low + (place - whole) * (select_distance(samples, count, (double)shared, whole + 1.5) - low);
}

/* Two clouds and the distances of each to the other; samples has room for both. */
typedef struct opposite {
    cloud clouds[2]; /* truth, prediction */
    sample *samples; /* owned: the truth's, followed by the prediction's */
    distances from[2];
} opposite;

static void opposite_clear(opposite *o)
{
    for (int side = 0; side < 2; side++) {
        free(o->clouds[side].points);
        free(o->clouds[side].rows);
    }
    free(o->samples);
}

static noc_status measure_both(opposite *o, const double spacing[3], const double areas[256], noc_error *err)
{
    noc_status status = NOC_OK;

    o->samples = noc_alloc(o->clouds[0].count + o->clouds[1].count, sizeof *o->samples, err);
    if (!o->samples)
        return NOC_ENOMEMORY;
    for (int side = 0; side < 2 && status == NOC_OK; side++) {
        field f;
        status = field_create(&o->clouds[!side], spacing, &f, err);
        if (status != NOC_OK)
            break;
        measure(&o->clouds[side], &f, areas, o->samples + (side ? o->from[0].count : 0), &o->from[side]);
        field_clear(&f);
    }
    return status;
}

typedef noc_status find_surface(const noc_bits *bits, cloud *c, noc_error *err);

static noc_status compare(const noc_bits *const masks[2], find_surface *find, const double spacing[3],
                          const double areas[256], opposite *o, noc_error *err)
{
    /* of corners, and of voxels counted from the margin along i */
    const int64_t size[3] = {masks[0]->size[0] + 2, masks[0]->size[1] + 1, masks[0]->size[2] + 1};
    noc_status status = NOC_OK;

    for (int side = 0; side < 2 && status == NOC_OK; side++) {
        status = cloud_create(size, &o->clouds[side], err);
        if (status == NOC_OK)
            status = find(masks[side], &o->clouds[side], err);
    }
    if (status == NOC_OK)
        status = measure_both(o, spacing, areas, err);
    return status;
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : (double)NAN;
}

/* In the order of the sum of all weights, so that all of them are exactly all. */
static double weight_within(const distances *d, double mm)
{
    double weight = 0;

    for (size_t p = 0; p < d->count; p++)
        weight += d->samples[p].mm <= mm ? d->samples[p].weight : 0;
    return d->shared_weight + weight;
}

static size_t points_of(const distances *d)
{
    return d->count + d->shared;
}

static double weighted_95(const distances *d)
{
    return select_distance(d->samples, d->count, d->shared_weight, 0.95 * d->weight);
}

static void weigh_corners(const opposite *o, const double *tolerances, int count, noc_surface *out)
{
    const distances *truth = &o->from[0], *prediction = &o->from[1];

    out->deepmind.truth_mm2 = truth->weight;
    out->deepmind.prediction_mm2 = prediction->weight;
    out->deepmind.asd_truth_to_prediction = ratio(truth->mm_weight, truth->weight);
    out->deepmind.asd_prediction_to_truth = ratio(prediction->mm_weight, prediction->weight);
    for (int t = 0; t < count; t++)
        out->deepmind.surface_dice[t] =
            ratio(weight_within(truth, tolerances[t]) + weight_within(prediction, tolerances[t]),
                  truth->weight + prediction->weight);
    out->deepmind.hd95 = out->deepmind.hd100 = INFINITY;
    if (points_of(truth) == 0 || points_of(prediction) == 0)
        return;
    out->deepmind.hd100 = fmax(truth->most, prediction->most);
    out->deepmind.hd95 = fmax(weighted_95(truth), weighted_95(prediction));
}

static void weigh_edges(const opposite *o, noc_surface *out)
{
    const distances *truth = &o->from[0], *prediction = &o->from[1];
    size_t points = points_of(truth) + points_of(prediction);

    out->monai.hd95 = out->medpy_hd95 = NAN;
    out->monai.hd100 = out->monai.assd = points > 0 ? INFINITY : NAN;
    if (points_of(truth) == 0 || points_of(prediction) == 0)
        return;
    out->monai.hd100 = fmax(truth->most, prediction->most);
    out->monai.assd = (truth->mm_weight + prediction->mm_weight) / (double)points;
    out->monai.hd95 = fmax(percentile_95(truth->samples, truth->count, truth->shared),
                           percentile_95(prediction->samples, prediction->count, prediction->shared));
    out->medpy_hd95 =
        percentile_95(o->samples, truth->count + prediction->count, truth->shared + prediction->shared);
}

noc_status noc_surface_measure(const noc_bits *truth, const noc_bits *prediction, const double spacing_mm[3],
                               const double *tolerances_mm, int tolerance_count, noc_surface *surface,
                               noc_error *err)
{
    const noc_bits *const masks[2] = {truth, prediction};
    double areas[256];
    opposite corners = {.samples = NULL}, edges = {.samples = NULL};

    noc_surfel_areas(spacing_mm, areas);
    noc_status status = compare(masks, find_corners, spacing_mm, areas, &corners, err);
    if (status == NOC_OK)
        status = compare(masks, find_edges, spacing_mm, NULL, &edges, err);
    if (status == NOC_OK) {
        memset(surface, 0, sizeof *surface);
        weigh_corners(&corners, tolerances_mm, tolerance_count, surface);
        weigh_edges(&edges, surface);
    }
    opposite_clear(&corners);
    opposite_clear(&edges);
    return status;
}
