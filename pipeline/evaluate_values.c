/* Values of cases and classes as one table of numbers, with names as in the reference metrics; means over the
 * cases, with intervals by bootstrap; and the four ways in which they are told. A value that is NaN is left
 * out of its mean. */
#include "pipeline/evaluate.h"

#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "worker/score.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Places in the values of a class. */
enum {
    COUNTS = 4,
    HD95 = COUNTS + NOC_RATIO_COUNT,
    SURFACE_DICE = HD95 + 2,
    VALUES = SURFACE_DICE + NOC_TOLERANCES + 15 /* at most */
};

enum { NAME = 40, RESAMPLES = 1000 };

/* A value's name, and the group of values that it stands in ("" none). */
typedef struct value_name {
    char group[12], name[NAME];
} value_name;

struct noc_values {
    const noc_evaluate *all;
    int names_count, classes, width; /* width: names_count * classes, a row of a case */
    value_name names[VALUES];
    double *rows; /* [case][class][name] of the cases that were scored */
    size_t row_count;
    const noc_case **scored;              /* [row_count] */
    double *means, *low, *high, *counted; /* [class][name] */
};

/* ---- names and values ---- */

static void add_name(noc_values *v, const char *group, const char *name)
{
    value_name *n = &v->names[v->names_count++];

    snprintf(n->group, sizeof n->group, "%s", group);
    snprintf(n->name, sizeof n->name, "%s", name);
}

static void fill_names(noc_values *v)
{
    static const char *const counts[COUNTS] = {"tp", "fp", "fn", "tn"};
    static const char *const areas[] = {"asd_truth_to_prediction", "asd_prediction_to_truth", "truth_mm2",
                                        "prediction_mm2"};
    static const char *const lesions[] = {"dice", "hd95", "tp", "fp", "fn"};
    char name[NAME];

    for (int i = 0; i < COUNTS; i++)
        add_name(v, "", counts[i]);
    for (int i = 0; i < NOC_RATIO_COUNT; i++)
        add_name(v, "", noc_ratio_names[i]);
    add_name(v, "deepmind", "hd95");
    add_name(v, "deepmind", "hd100");
    for (int t = 0; t < v->all->tolerances.count; t++) {
        snprintf(name, sizeof name, "surface_dice_%gmm", v->all->tolerances.mm[t]);
        add_name(v, "deepmind", name);
    }
    for (size_t i = 0; i < sizeof areas / sizeof areas[0]; i++)
        add_name(v, "deepmind", areas[i]);
    add_name(v, "monai", "hd95");
    add_name(v, "monai", "hd100");
    add_name(v, "monai", "assd");
    add_name(v, "", "medpy_hd95");
    add_name(v, "brats", "dice");
    add_name(v, "brats", "hd95");
    for (size_t i = 0; v->all->lesions && i < sizeof lesions / sizeof lesions[0]; i++)
        add_name(v, "lesion_wise", lesions[i]);
}

/* In the order of the names. */
static void fill_values(const noc_evaluate *all, const noc_evaluation *e, double *out)
{
    const noc_metric *m = &e->metric;
    const noc_surface *s = &e->surface;
    double penalty = all->settings->penalty_mm;
    const double counts[COUNTS] = {(double)m->tp, (double)m->fp, (double)m->fn, (double)m->tn};
    const double rest[] = {s->deepmind.asd_truth_to_prediction,
                           s->deepmind.asd_prediction_to_truth,
                           s->deepmind.truth_mm2,
                           s->deepmind.prediction_mm2,
                           s->monai.hd95,
                           s->monai.hd100,
                           s->monai.assd,
                           s->medpy_hd95,
                           noc_brats_ratio(e, m->dice),
                           noc_brats_distance(e, s->deepmind.hd95, penalty)};
    size_t tolerances = (size_t)all->tolerances.count;

    memcpy(out, counts, sizeof counts);
    noc_metric_ratios(m, out + COUNTS);
    out[HD95] = s->deepmind.hd95;
    out[HD95 + 1] = s->deepmind.hd100;
    memcpy(out + SURFACE_DICE, s->deepmind.surface_dice, tolerances * sizeof *out);
    memcpy(out + SURFACE_DICE + tolerances, rest, sizeof rest);
    if (all->lesions) {
        const noc_lesion_scores *l = &e->lesions;
        const double scores[] = {l->dice, l->hd95, (double)l->tp, (double)l->fp, (double)l->fn};
        memcpy(out + SURFACE_DICE + tolerances + sizeof rest / sizeof rest[0], scores, sizeof scores);
    }
    if (strcmp(all->settings->convention, "brats") != 0)
        return;
    for (size_t i = 0; i < tolerances; i++)
        out[SURFACE_DICE + i] = noc_brats_ratio(e, out[SURFACE_DICE + i]);
    for (int i = 0; i < NOC_RATIO_COUNT; i++)
        if (i != NOC_TRUTH_ML && i != NOC_PREDICTION_ML)
            out[COUNTS + i] = noc_brats_ratio(e, out[COUNTS + i]);
    for (int i = HD95; i < SURFACE_DICE; i++)
        out[i] = noc_brats_distance(e, out[i], penalty);
}

/* ---- means ---- */

/* Sums and counts of what is no NaN. */
static void add_row(const double *row, int width, double *sum, double *counted)
{
    for (int i = 0; i < width; i++) {
        bool is_number = !isnan(row[i]);
        sum[i] += is_number ? row[i] : 0;
        counted[i] += is_number;
    }
}

static double quotient(double sum, double count)
{
    return count > 0 ? sum / count : (double)NAN;
}

/* Vigna's splitmix64: the same resamples on every machine. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

typedef struct bootstrap {
    noc_values *values;
    double *work;      /* [thread][2][width] */
    double *resampled; /* [width][RESAMPLES] */
} bootstrap;

static void resample(void *argument, int piece, int thread)
{
    bootstrap *b = argument;
    noc_values *v = b->values;
    double *sum = b->work + (size_t)thread * 2 * (size_t)v->width, *counted = sum + v->width;
    uint64_t state = (uint64_t)piece << 32;

    memset(sum, 0, 2 * (size_t)v->width * sizeof *sum);
    for (size_t n = 0; n < v->row_count; n++) {
        size_t row = (size_t)((next_random(&state) >> 32) * v->row_count >> 32);
        add_row(v->rows + row * (size_t)v->width, v->width, sum, counted);
    }
    for (int i = 0; i < v->width; i++)
        b->resampled[(size_t)i * RESAMPLES + (size_t)piece] = quotient(sum[i], counted[i]);
}

/* The number of a rank, in ascending order from 0 (Hoare's Find). Exchanges numbers. */
static double select_number(double *numbers, size_t count, size_t rank)
{
    ptrdiff_t low = 0, high = (ptrdiff_t)count - 1, wanted = (ptrdiff_t)rank;

    while (low < high) {
        const double pivot = numbers[wanted];
        ptrdiff_t i = low, j = high;
        while (i <= j) {
            while (numbers[i] < pivot)
                i++;
            while (pivot < numbers[j])
                j--;
            if (i <= j) {
                const double taken = numbers[i];
                numbers[i++] = numbers[j];
                numbers[j--] = taken;
            }
        }
        if (j < wanted)
            low = i;
        if (wanted < i)
            high = j;
    }
    return numbers[wanted];
}

/* From the 2.5th to the 97.5th percentile of the resampled means; of those that have one. */
static void find_interval(void *argument, int i, int thread)
{
    bootstrap *b = argument;
    noc_values *v = b->values;
    double *means = b->resampled + (size_t)i * RESAMPLES;
    size_t count = 0;

    (void)thread;
    for (size_t n = 0; n < RESAMPLES; n++)
        if (!isnan(means[n]))
            means[count++] = means[n];
    v->low[i] = v->high[i] = NAN;
    if (count == 0)
        return;
    v->low[i] = select_number(means, count, (size_t)round(0.025 * (double)(count - 1)));
    v->high[i] = select_number(means, count, (size_t)round(0.975 * (double)(count - 1)));
}

static void fill_means(noc_values *v)
{
    for (size_t r = 0; r < v->row_count; r++)
        add_row(v->rows + r * (size_t)v->width, v->width, v->means, v->counted);
    for (int i = 0; i < v->width; i++)
        v->means[i] = quotient(v->means[i], v->counted[i]);
}

static noc_status fill_intervals(noc_values *v, noc_pool *pool, noc_error *err)
{
    size_t width = (size_t)v->width;
    bootstrap b = {.values = v,
                   .work = noc_alloc((size_t)noc_pool_threads(pool) * 2 * width, sizeof *b.work, err),
                   .resampled = noc_alloc(width * RESAMPLES, sizeof *b.resampled, err)};
    bool has_room = b.work && b.resampled;

    if (has_room) {
        noc_pool_run(pool, RESAMPLES, resample, &b);
        noc_pool_run(pool, v->width, find_interval, &b);
    }
    free(b.work);
    free(b.resampled);
    return has_room ? NOC_OK : NOC_ENOMEMORY;
}

static bool allocate(noc_values *v, noc_error *err)
{
    size_t width = (size_t)v->width, cases = v->all->list.count;

    return (v->scored = noc_alloc(cases, sizeof(noc_case *), err)) &&
           (v->rows = noc_alloc(cases * width, sizeof *v->rows, err)) &&
           (v->means = noc_alloc_zeroed(width, sizeof *v->means, err)) &&
           (v->counted = noc_alloc_zeroed(width, sizeof *v->counted, err)) &&
           (v->low = noc_alloc(width, sizeof *v->low, err)) &&
           (v->high = noc_alloc(width, sizeof *v->high, err));
}

noc_status noc_values_create(const noc_evaluate *all, noc_pool *pool, noc_values **values, noc_error *err)
{
    noc_values *v = noc_alloc_zeroed(1, sizeof *v, err);

    if (!v)
        return NOC_ENOMEMORY;
    v->all = all;
    fill_names(v);
    v->classes = noc_evaluate_class_count(all);
    v->width = v->classes * v->names_count;
    noc_status status = allocate(v, err) ? NOC_OK : NOC_ENOMEMORY;
    for (size_t i = 0; status == NOC_OK && i < all->list.count; i++) {
        const noc_case *c = &all->list.cases[i];
        if (c->failure.status != NOC_OK)
            continue;
        for (int class = 0; class < v->classes; class ++)
            fill_values(all, &c->scores[class],
                        v->rows + v->row_count * (size_t)v->width + (size_t) class * (size_t)v->names_count);
        v->scored[v->row_count++] = c;
    }
    if (status == NOC_OK)
        fill_means(v);
    if (status == NOC_OK && pool)
        status = fill_intervals(v, pool, err);
    if (status == NOC_OK)
        *values = v;
    else
        noc_values_free(v);
    return status;
}

void noc_values_free(noc_values *values)
{
    if (!values)
        return;
    free(values->scored);
    free(values->rows);
    free(values->means);
    free(values->counted);
    free(values->low);
    free(values->high);
    free(values);
}

/* As nnU-Net: of the means of all labels; regions only where there are no labels. */
static void foreground_means(const noc_values *v, double means[VALUES])
{
    int count = v->all->label_count > 0 ? v->all->label_count : v->classes;

    for (int i = 0; i < v->names_count; i++) {
        double sum = 0;
        for (int class = 0; class < count; class ++)
            sum += v->means[class * v->names_count + i];
        means[i] = quotient(sum, count);
    }
}

/* ---- numbers ---- */

static void add_number(noc_text *text, double value, const char *quote)
{
    if (isnan(value))
        noc_text_add(text, "%snan%s", quote, quote);
    else if (isinf(value))
        noc_text_add(text, "%sinf%s", quote, quote);
    else
        noc_text_add(text, "%.17g", value);
}

/* ---- JSON ---- */

static void json_number(noc_text *text, const double *low, const double *high)
{
    if (!high) {
        add_number(text, *low, "\"");
        return;
    }
    noc_text_add(text, "[");
    add_number(text, *low, "\"");
    noc_text_add(text, ",");
    add_number(text, *high, "\"");
    noc_text_add(text, "]");
}

/* The values of one class, named and nested; with `high` a pair each, and no counts. */
static void json_values(const noc_values *v, const double *low, const double *high, noc_text *text)
{
    const char *group = "";

    noc_text_add(text, "{");
    for (int i = high ? COUNTS : 0, first = i; i < v->names_count; i++) {
        const value_name *n = &v->names[i];
        bool is_new = strcmp(group, n->group) != 0;
        if (is_new && group[0])
            noc_text_add(text, "}");
        noc_text_add(text, "%s", i > first ? "," : "");
        if (is_new && n->group[0])
            noc_text_add(text, "\"%s\":{", n->group);
        noc_text_add(text, "\"%s\":", n->name);
        json_number(text, &low[i], high ? &high[i] : NULL);
        group = n->group;
    }
    noc_text_add(text, "%s}", group[0] ? "}" : "");
}

static void json_classes(const noc_values *v, const double *low, const double *high, noc_text *text)
{
    noc_text_add(text, "{");
    for (int class = 0; class < v->classes; class ++) {
        size_t at = (size_t) class * (size_t)v->names_count;
        noc_text_add(text, "%s", class ? "," : "");
        noc_text_add_json(text, noc_evaluate_class(v->all, class)->label);
        noc_text_add(text, ":");
        json_values(v, low + at, high ? high + at : NULL, text);
    }
    noc_text_add(text, "}");
}

static void json_failures(const noc_values *v, noc_text *text)
{
    bool has_one = false;

    for (size_t i = 0; i < v->all->list.count; i++) {
        const noc_case *c = &v->all->list.cases[i];
        if (c->failure.status == NOC_OK)
            continue;
        noc_text_add(text, "%s", has_one ? "," : "");
        noc_text_add_json(text, c->name);
        noc_text_add(text, ":{\"failure\":\"%s\",\"sentence\":", noc_status_name(c->failure.status));
        noc_text_add_json(text, c->failure.text);
        noc_text_add(text, "}");
        has_one = true;
    }
}

void noc_values_add_json(const noc_values *values, noc_text *text)
{
    const noc_values *v = values;
    double foreground[VALUES] = {0};

    noc_text_add(text, "{\"convention\":\"%s\",\"penalty_mm\":%.17g,\"cases\":{",
                 v->all->settings->convention, v->all->settings->penalty_mm);
    for (size_t r = 0; r < v->row_count; r++) {
        noc_text_add(text, "%s\n", r ? "," : "");
        noc_text_add_json(text, v->scored[r]->name);
        noc_text_add(text, ":");
        json_classes(v, v->rows + r * (size_t)v->width, NULL, text);
    }
    noc_text_add(text, "},\n\"means\":");
    json_classes(v, v->means, NULL, text);
    noc_text_add(text, ",\n\"intervals\":");
    json_classes(v, v->low, v->high, text);
    foreground_means(v, foreground);
    noc_text_add(text, ",\n\"foreground_mean\":");
    json_values(v, foreground, NULL, text);
    noc_text_add(text, ",\n\"failures\":{");
    json_failures(v, text);
    noc_text_add(text, "}}\n");
}

/* ---- CSV ---- */

static void csv_case(const noc_values *v, const noc_case *c, const double *row, noc_text *text)
{
    for (int class = 0; class < v->classes; class ++, row += v->names_count) {
        const noc_class *of = noc_evaluate_class(v->all, class);
        noc_text_add_csv(text, c->name);
        noc_text_add(text, ",done,,%s,", of->label);
        noc_text_add_csv(text, of->name);
        for (int i = 0; i < v->names_count; i++) {
            noc_text_add(text, ",");
            add_number(text, row[i], "");
        }
        noc_text_add(text, "\n");
    }
}

void noc_values_add_csv(const noc_values *values, noc_text *text)
{
    const noc_values *v = values;
    size_t row = 0;

    noc_text_add(text, "key,state,failure,label,name");
    for (int i = 0; i < v->names_count; i++)
        noc_text_add(text, ",%s%s%s", v->names[i].group, v->names[i].group[0] ? "_" : "", v->names[i].name);
    noc_text_add(text, "\n");
    for (size_t i = 0; i < v->all->list.count; i++) {
        const noc_case *c = &v->all->list.cases[i];
        if (c->failure.status == NOC_OK) {
            csv_case(v, c, v->rows + row++ * (size_t)v->width, text);
            continue;
        }
        noc_text_add_csv(text, c->name);
        noc_text_add(text, ",failed,%s,,", noc_status_name(c->failure.status));
        for (int n = 0; n < v->names_count; n++)
            noc_text_add(text, ",");
        noc_text_add(text, "\n");
    }
}

/* ---- nnU-Net's summary.json ---- */

/* json.dump of numpy's numbers, keys sorted; counts of cases are whole, means are not. */
static void summary_number(noc_text *text, const char *key, double value, bool is_first)
{
    noc_text_add(text, "%s\"%s\": ", is_first ? "" : ", ", key);
    if (isnan(value))
        noc_text_add(text, "NaN");
    else
        noc_text_add(text, "%.17g", value);
}

static void summary_values(const double *value, noc_text *text)
{
    noc_text_add(text, "{");
    summary_number(text, "Dice", value[COUNTS + NOC_DICE], true);
    summary_number(text, "FN", value[2], false);
    summary_number(text, "FP", value[1], false);
    summary_number(text, "IoU", value[COUNTS + NOC_IOU], false);
    summary_number(text, "TN", value[3], false);
    summary_number(text, "TP", value[0], false);
    summary_number(text, "n_pred", value[0] + value[1], false);
    summary_number(text, "n_ref", value[0] + value[2], false);
    noc_text_add(text, "}");
}

/* "1"; a region is a tuple: "(1, 2)" */
static void summary_classes(const noc_values *v, const double *row, noc_text *text)
{
    noc_text_add(text, "{");
    for (int class = 0; class < v->classes; class ++, row += v->names_count) {
        const noc_class *of = noc_evaluate_class(v->all, class);
        noc_text_add(text, "%s\"%s%d", class ? ", " : "", of->label_count > 1 ? "(" : "", of->labels[0]);
        for (int l = 1; l < of->label_count; l++)
            noc_text_add(text, ", %d", of->labels[l]);
        noc_text_add(text, "%s\": ", of->label_count > 1 ? ")" : "");
        summary_values(row, text);
    }
    noc_text_add(text, "}");
}

void noc_values_add_summary(const noc_values *values, noc_text *text)
{
    const noc_values *v = values;
    double foreground[VALUES] = {0};

    foreground_means(v, foreground);
    noc_text_add(text, "{\n    \"foreground_mean\": ");
    summary_values(foreground, text);
    noc_text_add(text, ",\n    \"mean\": ");
    summary_classes(v, v->means, text);
    noc_text_add(text, ",\n    \"metric_per_case\": [");
    for (size_t r = 0; r < v->row_count; r++) {
        noc_text_add(text, "%s\n        {\"metrics\": ", r ? "," : "");
        summary_classes(v, v->rows + r * (size_t)v->width, text);
        noc_text_add(text, ", \"prediction_file\": ");
        noc_text_add_json(text, v->scored[r]->prediction ? v->scored[r]->prediction : v->scored[r]->name);
        noc_text_add(text, ", \"reference_file\": ");
        noc_text_add_json(text, v->scored[r]->truth);
        noc_text_add(text, "}");
    }
    noc_text_add(text, "\n    ]\n}\n");
}

/* ---- the log ---- */

void noc_values_log(const noc_values *values)
{
    const noc_values *v = values;

    for (int class = 0; class < v->classes; class ++) {
        size_t first = (size_t)(class * v->names_count), dice = first + COUNTS + NOC_DICE,
               hd95 = first + HD95;
        noc_log(NOC_LOG_INFO,
                "label %s: Dice %.4f (%.4f to %.4f) of %.0f cases, HD95 %.2f mm (%.2f to %.2f) of %.0f",
                noc_evaluate_class(v->all, class)->label, v->means[dice], v->low[dice], v->high[dice],
                v->counted[dice], v->means[hd95], v->low[hd95], v->high[hd95], v->counted[hd95]);
    }
}
