/* The parts of nocturne evaluate: which pairs there are, what each scores, and how that is told. */
#ifndef NOC_EVALUATE_H
#define NOC_EVALUATE_H

#include "engine/base/pool.h"
#include "engine/base/text.h"
#include "pipeline/result_folder.h"
#include "worker/evaluation.h"

/* A mask and its truth, and what became of them. */
typedef struct noc_case {
    char *name;               /* owned, like the paths; unique */
    char *prediction, *truth; /* NULL: there is none */
    const noc_done *done;     /* a stored mask instead of a prediction's file; NULL otherwise */
    noc_error failure;        /* NOC_OK: scored */
    int64_t size[3];          /* once scored */
    double spacing_mm[3];
    noc_evaluation *scores; /* owned; once complete, one a class, in the order of the classes */
    int score_count;
} noc_case;

typedef struct noc_case_list {
    noc_case *cases;
    size_t count;
} noc_case_list;

/* What is asked for, and the classes that are scored. */
typedef struct noc_evaluate {
    const noc_settings *settings;
    noc_result_folder folder; /* --stored */
    noc_tolerances tolerances;
    noc_lesion_rules lesion_rules;
    const noc_lesion_rules *lesions; /* those; NULL: not asked for */
    noc_class *labels; /* owned; of --labels or, once all cases were scored, found in any file */
    int label_count;
    noc_class *regions; /* owned; of --regions */
    int region_count;
    bool has_labels; /* --labels was given */
    noc_case_list list;
} noc_evaluate;

/* --labels, --regions, --tolerance and --lesion-wise. NOC_EUSAGE. */
noc_status noc_evaluate_classes(noc_evaluate *all, noc_error *err);

/* With --stored: the labels or regions of a study's stored metrics. */
noc_status noc_evaluate_stored_classes(noc_evaluate *all, const noc_metric *metrics, int count,
                                       noc_error *err);

/* Two files, or the files of two folders by their names without extensions. NOC_ENOINPUT, NOC_EDATA without a
 * NIfTI file, NOC_EUSAGE. */
noc_status noc_case_list_pair(const char *predictions, const char *truths, const char *only,
                              noc_case_list *list, noc_error *err);
/* The masks of a results folder whose studies have a truth. `done` must outlive the list. */
noc_status noc_case_list_stored(const noc_done *done, size_t count, noc_case_list *list, noc_error *err);
void noc_case_list_clear(noc_case_list *list);

/* Scores all cases, in the pool's threads; what fails is the case's. Then completes them: every case has
 * every class. */
noc_status noc_evaluate_score(noc_evaluate *all, noc_pool *pool, noc_error *err);

/* ---- telling ---- */

/* One class after the other: labels, then regions. */
int noc_evaluate_class_count(const noc_evaluate *all);
const noc_class *noc_evaluate_class(const noc_evaluate *all, int index);

/* All values of all cases and classes, and their means over the cases, without NaN. pool NULL: no intervals.
 */
typedef struct noc_values noc_values;
noc_status noc_values_create(const noc_evaluate *all, noc_pool *pool, noc_values **values, noc_error *err);
void noc_values_free(noc_values *values);

void noc_values_add_json(const noc_values *values, noc_text *text);
void noc_values_add_csv(const noc_values *values, noc_text *text);
void noc_values_add_summary(const noc_values *values, noc_text *text); /* nnU-Net's summary.json */
void noc_values_log(const noc_values *values);

#endif
