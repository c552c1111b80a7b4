/* nocturne report: a row for each study and label, as CSV, JSON or a table.
 *
 * A ratio whose denominator is zero is nan: no number, and left out of the means. Without a truth there are
 * no counts and no ratios at all. */
#include "pipeline/command.h"
#include "pipeline/opening.h"

#include "catalog/catalog.h"
#include "engine/base/file.h"
#include "engine/base/text.h"
#include "worker/score.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sums over the studies with a truth; a ratio that is nan does not count. */
typedef struct label_mean {
    char label[NOC_METRIC_TEXT], name[NOC_METRIC_TEXT];
    int64_t studies, counted[NOC_RATIO_COUNT];
    double sum[NOC_RATIO_COUNT];
} label_mean;

typedef struct report {
    noc_text rows;     /* CSV or JSON rows, or the table of studies */
    noc_text failures; /* table only */
    noc_text suspects; /* table only */
    int64_t suspect_count;
    label_mean *means;
    int mean_count;
    int64_t states[NOC_STATE_COUNT];
    bool has_rows;
} report;

/* printf may write a nan with a sign. */
static void add_number(noc_text *text, double value, bool is_json)
{
    const char *quote = is_json ? "\"" : "";
    if (isnan(value))
        noc_text_add(text, "%snan%s", quote, quote);
    else if (isinf(value))
        noc_text_add(text, "%s%sinf%s", quote, value < 0 ? "-" : "", quote);
    else if (fabs(value) < 1e7)
        noc_text_add(text, "%#.9g", value); /* all nine digits, zeros too */
    else
        noc_text_add(text, "%.9g", value);
}

/* ---- means ---- */

static noc_status find_mean(report *all, const noc_metric *metric, label_mean **mean, noc_error *err)
{
    for (int i = 0; i < all->mean_count; i++) {
        if (strcmp(all->means[i].label, metric->label) == 0) {
            *mean = &all->means[i];
            return NOC_OK;
        }
    }
    label_mean *grown = reallocarray(all->means, (size_t)all->mean_count + 1, sizeof(*grown));
    if (!grown)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the report");
    all->means = grown;
    *mean = memset(&grown[all->mean_count++], 0, sizeof(*grown));
    memcpy((*mean)->label, metric->label, sizeof((*mean)->label));
    memcpy((*mean)->name, metric->name, sizeof((*mean)->name));
    return NOC_OK;
}

static noc_status add_to_means(report *all, const noc_metric *metric, noc_error *err)
{
    double values[NOC_RATIO_COUNT];
    label_mean *mean = NULL;
    if (!metric->has_truth)
        return NOC_OK;
    noc_status status = find_mean(all, metric, &mean, err);
    if (status != NOC_OK)
        return status;
    noc_metric_ratios(metric, values);
    mean->studies++;
    for (int i = 0; i < NOC_RATIO_COUNT; i++) {
        if (!isnan(values[i])) {
            mean->counted[i]++;
            mean->sum[i] += values[i];
        }
    }
    return NOC_OK;
}

static double mean_of(const label_mean *mean, int ratio)
{
    return mean->counted[ratio] > 0 ? mean->sum[ratio] / (double)mean->counted[ratio] : NAN;
}

/* ---- CSV ---- */

static void csv_header(noc_text *text)
{
    noc_text_add(text, "key,state,failure,label,name,tp,fp,fn,tn");
    for (int i = 0; i < NOC_RATIO_COUNT; i++)
        noc_text_add(text, ",%s", noc_ratio_names[i]);
    noc_text_add(text, "\n");
}

static void csv_metric(noc_text *text, const noc_metric *m)
{
    double values[NOC_RATIO_COUNT];
    noc_metric_ratios(m, values);
    noc_text_add(text, ",");
    noc_text_add_csv(text, m->label);
    noc_text_add(text, ",");
    noc_text_add_csv(text, m->name);
    if (m->has_truth)
        noc_text_add(text, ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64, m->tp, m->fp, m->fn, m->tn);
    else
        noc_text_add(text, ",,,,");
    for (int i = 0; i < NOC_RATIO_COUNT; i++) {
        noc_text_add(text, ",");
        if (m->has_truth || i == NOC_PREDICTION_ML)
            add_number(text, values[i], false);
    }
}

/* metric NULL: a study without any. */
static void csv_row(report *all, const noc_result_row *row, const noc_metric *metric)
{
    noc_text_add_csv(&all->rows, row->study.key);
    noc_text_add(&all->rows, ",%s,", noc_study_state_name(row->state));
    noc_text_add_csv(&all->rows, row->failure);
    if (metric)
        csv_metric(&all->rows, metric);
    else
        noc_text_add(&all->rows, ",,,,,,,,,,,,,");
    noc_text_add(&all->rows, "\n");
}

/* ---- JSON ---- */

static void json_metric(noc_text *text, const noc_metric *m)
{
    double values[NOC_RATIO_COUNT];
    noc_metric_ratios(m, values);
    noc_text_add(text, ",\"label\":");
    noc_text_add_json(text, m->label);
    noc_text_add(text, ",\"name\":");
    noc_text_add_json(text, m->name);
    if (m->has_truth)
        noc_text_add(text, ",\"tp\":%" PRIu64 ",\"fp\":%" PRIu64 ",\"fn\":%" PRIu64 ",\"tn\":%" PRIu64, m->tp,
                     m->fp, m->fn, m->tn);
    for (int i = 0; i < NOC_RATIO_COUNT; i++) {
        if (!m->has_truth && i != NOC_PREDICTION_ML)
            continue;
        noc_text_add(text, ",\"%s\":", noc_ratio_names[i]);
        add_number(text, values[i], true);
    }
}

static void json_row(report *all, const noc_result_row *row, const noc_metric *metric)
{
    noc_text_add(&all->rows, "%s{\"key\":", all->has_rows ? ",\n" : "\n");
    noc_text_add_json(&all->rows, row->study.key);
    noc_text_add(&all->rows, ",\"state\":\"%s\"", noc_study_state_name(row->state));
    if (row->failure) {
        noc_text_add(&all->rows, ",\"failure\":");
        noc_text_add_json(&all->rows, row->failure);
        noc_text_add(&all->rows, ",\"sentence\":");
        noc_text_add_json(&all->rows, row->sentence);
    }
    if (row->suspect) {
        noc_text_add(&all->rows, ",\"suspect\":");
        noc_text_add_json(&all->rows, row->suspect);
    }
    if (metric)
        json_metric(&all->rows, metric);
    noc_text_add(&all->rows, "}");
    all->has_rows = true;
}

static void json_means(const report *all, noc_text *text)
{
    for (int i = 0; i < all->mean_count; i++) {
        const label_mean *mean = &all->means[i];
        noc_text_add(text, "%s", i ? "," : "");
        noc_text_add_json(text, mean->label);
        noc_text_add(text, ":{\"name\":");
        noc_text_add_json(text, mean->name);
        noc_text_add(text, ",\"studies\":%" PRId64, mean->studies);
        for (int j = 0; j < NOC_RATIO_COUNT; j++) {
            noc_text_add(text, ",\"%s\":", noc_ratio_names[j]);
            add_number(text, mean_of(mean, j), true);
        }
        noc_text_add(text, "}");
    }
}

/* ---- table ---- */

static void table_cell(noc_text *text, double value, bool is_there)
{
    if (!is_there)
        noc_text_add(text, " %10s", "-");
    else if (isnan(value))
        noc_text_add(text, " %10s", "nan");
    else
        noc_text_add(text, " %10.6f", value);
}

static void table_header(noc_text *text)
{
    noc_text_add(text, "%-32s %-6s %-20s %10s %10s %10s %10s\n", "study", "label", "name", "dice", "iou",
                 "truth ml", "mask ml");
}

static void table_row(report *all, const noc_result_row *row, const noc_metric *m)
{
    noc_text *text = m ? &all->rows : &all->failures;
    if (m) {
        noc_text_add(text, "%-32s %-6s %-20s", row->study.key, m->label, m->name);
        table_cell(text, m->dice, m->has_truth);
        table_cell(text, m->iou, m->has_truth);
        table_cell(text, m->truth_ml, m->has_truth);
        table_cell(text, m->prediction_ml, true);
        noc_text_add(text, "\n");
    } else if (row->state == NOC_FAILED || row->state == NOC_QUARANTINED) {
        noc_text_add(text, "%-32s %s, %s: %s\n", row->study.key, noc_study_state_name(row->state),
                     row->failure ? row->failure : "unknown", row->sentence ? row->sentence : "");
    }
}

static void table_means(const report *all, noc_text *text)
{
    for (int i = 0; i < all->mean_count; i++) {
        const label_mean *mean = &all->means[i];
        char head[48];
        snprintf(head, sizeof(head), "mean of %" PRId64 " (dice of %" PRId64 ")", mean->studies,
                 mean->counted[NOC_DICE]);
        noc_text_add(text, "%-32s %-6s %-20s", head, mean->label, mean->name);
        table_cell(text, mean_of(mean, NOC_DICE), true);
        table_cell(text, mean_of(mean, NOC_IOU), true);
        table_cell(text, mean_of(mean, NOC_TRUTH_ML), true);
        table_cell(text, mean_of(mean, NOC_PREDICTION_ML), true);
        noc_text_add(text, "\n");
    }
}

static void add_tables(const report *all, noc_text *text)
{
    if (all->rows.size > 0) {
        table_header(text);
        noc_text_add(text, "%s", all->rows.data);
    }
    if (all->mean_count > 0) {
        noc_text_add(text, "\n");
        table_means(all, text);
    }
    if (all->failures.size > 0)
        noc_text_add(text, "%sfailures\n%s", text->size > 0 ? "\n" : "", all->failures.data);
    if (all->suspects.size > 0)
        noc_text_add(text, "%ssuspect\n%s", text->size > 0 ? "\n" : "", all->suspects.data);
    noc_text_add(text, "%s", text->size > 0 ? "\n" : "");
    for (int i = 0; i < NOC_STATE_COUNT; i++)
        noc_text_add(text, "%s%" PRId64 " %s", i ? ", " : "", all->states[i],
                     noc_study_state_name((noc_study_state)i));
    if (all->suspect_count > 0)
        noc_text_add(text, ", %" PRId64 " suspect", all->suspect_count);
    noc_text_add(text, "\n");
}

/* ---- all of it ---- */

typedef struct walk {
    report *all;
    void (*add)(report *all, const noc_result_row *row, const noc_metric *metric);
} walk;

static noc_status add_result(void *argument, const noc_result_row *row, noc_error *err)
{
    walk *w = argument;
    w->all->states[row->state]++;
    if (row->suspect) {
        w->all->suspect_count++;
        noc_text_add(&w->all->suspects, "%-32s %s\n", row->study.key, row->suspect);
    }
    for (int i = 0; i < row->metric_count; i++) {
        noc_status status = add_to_means(w->all, &row->metrics[i], err);
        if (status != NOC_OK)
            return status;
        w->add(w->all, row, &row->metrics[i]);
    }
    if (row->metric_count == 0)
        w->add(w->all, row, NULL);
    return NOC_OK;
}

static noc_status read_results(const noc_settings *settings, walk *w, noc_error *err)
{
    noc_catalog *catalog = NULL;
    int64_t set = 0;
    noc_status status = noc_opening_set(settings, &catalog, &set, err);
    if (status == NOC_OK)
        status = noc_catalog_each_result(catalog, set, settings->only, add_result, w, err);
    noc_catalog_close(catalog);
    return status;
}

static void assemble(const noc_settings *settings, const report *all, noc_text *text)
{
    const char *rows = all->rows.data ? all->rows.data : "";
    if (settings->json) {
        noc_text_add(text, "{\"results\":[%s\n],\"means\":{", rows);
        json_means(all, text);
        noc_text_add(text, "}}\n");
    } else if (settings->csv) {
        csv_header(text);
        noc_text_add(text, "%s", rows);
    } else {
        add_tables(all, text);
    }
}

int noc_command_report(const noc_settings *settings)
{
    noc_error err = {0};
    report all = {0};
    noc_text text = {0};
    walk w = {.all = &all, .add = settings->json ? json_row : settings->csv ? csv_row : table_row};
    int code = 0;
    noc_status status = settings->csv && settings->json
                            ? noc_fail(&err, NOC_EUSAGE, "--csv or --json, not both")
                            : read_results(settings, &w, &err);
    if (status == NOC_OK)
        assemble(settings, &all, &text);
    if (status == NOC_OK && (all.rows.failed || all.failures.failed || all.suspects.failed || text.failed))
        status = noc_fail(&err, NOC_ENOMEMORY, "no memory for the report");
    if (status == NOC_OK && (fwrite(text.data, 1, text.size, stdout) != text.size || fflush(stdout) != 0))
        status = noc_fail(&err, NOC_EIO, "the report cannot be written to its output");
    if (status != NOC_OK)
        code = noc_command_fail(&err);
    noc_text_free(&all.rows);
    noc_text_free(&all.failures);
    noc_text_free(&all.suspects);
    noc_text_free(&text);
    free(all.means);
    return code;
}
