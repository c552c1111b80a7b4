/* nocturne evaluate: masks, made by anyone, against truths. */
#include "pipeline/command.h"
#include "pipeline/evaluate.h"
#include "pipeline/opening.h"

#include "engine/base/cpus.h"
#include "engine/base/file.h"

#include <stdlib.h>

static noc_status list_cases(noc_evaluate *all, noc_done **done, size_t *done_count, noc_error *err)
{
    const noc_settings *s = all->settings;

    if (s->json && s->csv)
        return noc_fail(err, NOC_EUSAGE, "--csv or --json, not both");
    if (!s->stored) {
        if (s->argument_count != 2)
            return noc_fail(err, NOC_EUSAGE,
                            "which masks and truths? give two folders or two files, or --stored");
        return noc_case_list_pair(s->arguments[0], s->arguments[1], s->only, &all->list, err);
    }
    if (s->argument_count > 0)
        return noc_fail(err, NOC_EUSAGE, "--stored takes the masks of --results and the truths of --catalog");
    noc_status status = noc_result_folder_open(s, &all->folder, err);
    if (status == NOC_OK)
        status = noc_result_folder_done(&all->folder, s->only, done, done_count, err);
    if (status == NOC_OK)
        status = noc_case_list_stored(*done, *done_count, &all->list, err);
    if (status == NOC_OK)
        status = noc_evaluate_stored_classes(all, all->list.cases[0].done->metrics,
                                             all->list.cases[0].done->metric_count, err);
    return status;
}

static noc_status write_summary(const char *path, const noc_values *values, noc_error *err)
{
    noc_text text = {0};

    noc_values_add_summary(values, &text);
    noc_status status = text.failed ? noc_fail(err, NOC_ENOMEMORY, "no memory for the summary")
                                    : noc_file_replace(path, text.data, text.size, err);
    noc_text_free(&text);
    return status;
}

static noc_status tell(const noc_evaluate *all, const noc_values *values, noc_error *err)
{
    noc_text text = {0};
    noc_status status = NOC_OK;

    if (all->settings->summary)
        status = write_summary(all->settings->summary, values, err);
    if (all->settings->json)
        noc_values_add_json(values, &text);
    else
        noc_values_add_csv(values, &text);
    if (status == NOC_OK)
        status = noc_opening_print(&text, err);
    if (status == NOC_OK)
        noc_values_log(values);
    noc_text_free(&text);
    return status;
}

static noc_status score_and_tell(noc_evaluate *all, noc_error *err)
{
    noc_pool *pool = NULL;
    noc_values *values = NULL;
    int threads = all->settings->threads > 0 ? all->settings->threads : noc_cpus_usable();
    noc_status status = noc_pool_create(threads, &pool, err);

    if (status == NOC_OK)
        status = noc_evaluate_score(all, pool, err);
    if (status == NOC_OK)
        status = noc_values_create(all, pool, &values, err);
    if (status == NOC_OK)
        status = tell(all, values, err);
    noc_values_free(values);
    noc_pool_free(pool);
    return status;
}

/* 1 when a case failed, each with its line. */
static int say_failures(const noc_case_list *list)
{
    int code = 0;

    for (size_t i = 0; i < list->count; i++) {
        const noc_case *c = &list->cases[i];
        if (c->failure.status == NOC_OK)
            continue;
        noc_log(NOC_LOG_ERROR, "%s: %s: %s", c->name, noc_status_name(c->failure.status), c->failure.text);
        code = 1;
    }
    return code;
}

int noc_command_evaluate(const noc_settings *settings)
{
    noc_evaluate all = {.settings = settings};
    noc_error err = {.status = NOC_OK};
    noc_done *done = NULL;
    size_t done_count = 0;
    noc_status status = noc_evaluate_classes(&all, &err);

    if (status == NOC_OK)
        status = list_cases(&all, &done, &done_count, &err);
    if (status == NOC_OK)
        status = score_and_tell(&all, &err);
    int code = status == NOC_OK ? say_failures(&all.list) : noc_command_fail(&err);
    noc_case_list_clear(&all.list);
    noc_done_free(done, done_count);
    if (settings->stored)
        noc_result_folder_close(&all.folder);
    free(all.labels);
    free(all.regions);
    return code;
}
