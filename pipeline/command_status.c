/* nocturne status: how far the work is. The catalog is read where that is safe, else the file that the
 * coordinator leaves in the results folder. */
#include "pipeline/command.h"
#include "pipeline/opening.h"

#include "catalog/catalog.h"
#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "pipeline/status.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WATCH_SECONDS 1.0

/* ---- where the numbers come from ---- */

static noc_status read_catalog(const noc_settings *settings, noc_counts *counts, noc_error *err)
{
    noc_catalog *catalog = NULL;
    int64_t set = 0;
    noc_status status = noc_opening_set(settings, &catalog, &set, err);
    if (status == NOC_OK)
        status = noc_catalog_counts(catalog, set, counts, err);
    noc_catalog_close(catalog);
    return status;
}

static void read_numbers(const json_t *root, noc_counts *counts)
{
    const char *name;
    json_t *value;
    const json_t *studies = json_object_get(root, "studies");
    for (int i = 0; i < NOC_STATE_COUNT; i++)
        counts->states[i] =
            json_integer_value(json_object_get(studies, noc_study_state_name((noc_study_state)i)));
    json_object_foreach(json_object_get(root, "failures"), name, value)
    {
        noc_status type;
        if (noc_status_from_name(name, &type))
            counts->failures[type] = json_integer_value(value);
    }
    counts->studies_per_hour = json_number_value(json_object_get(root, "studies_per_hour"));
    value = json_object_get(root, "seconds_left");
    counts->seconds_left = json_is_number(value) ? json_number_value(value) : NAN;
}

static noc_status read_file(const noc_settings *settings, noc_counts *counts, noc_error *err)
{
    char *data = NULL;
    size_t size = 0;
    char *path = noc_path_join(settings->results, "status.json", err);
    noc_status status = path ? noc_file_read(path, 1 << 20, &data, &size, err) : NOC_ENOMEMORY;
    json_t *root = status == NOC_OK ? json_loadb(data, size, 0, NULL) : NULL;
    if (status == NOC_OK && !json_is_object(json_object_get(root, "studies")))
        status = noc_fail(err, NOC_EDATA, "%s: not a status file", path);
    if (status == NOC_OK) {
        memset(counts, 0, sizeof(*counts));
        read_numbers(root, counts);
    }
    json_decref(root);
    free(data);
    free(path);
    return status;
}

static noc_status read_counts(const noc_settings *settings, noc_counts *counts, noc_error *err)
{
    noc_status status = read_catalog(settings, counts, err);
    bool is_unsafe = status == NOC_EUNAVAILABLE || status == NOC_EIO || status == NOC_ECANTCREATE;
    if (is_unsafe && read_file(settings, counts, NULL) == NOC_OK)
        return NOC_OK;
    return status;
}

/* ---- printing ---- */

static void add_time_left(const noc_counts *counts, noc_text *text)
{
    if (counts->studies_per_hour <= 0 || isnan(counts->seconds_left))
        return;
    long long minutes = (long long)ceil(counts->seconds_left / 60);
    noc_text_add(text, "\n%.1f studies an hour", counts->studies_per_hour);
    if (counts->seconds_left > 0)
        noc_text_add(text, ", about %lld h %02lld min left", minutes / 60, minutes % 60);
    noc_text_add(text, "\n");
}

static void add_table(const noc_counts *counts, noc_text *text)
{
    long long total = 0;
    bool has_failures = false;
    for (int i = 0; i < NOC_STATE_COUNT; i++) {
        total += (long long)counts->states[i];
        noc_text_add(text, "%-16s %8lld\n", noc_study_state_name((noc_study_state)i),
                     (long long)counts->states[i]);
    }
    noc_text_add(text, "%-16s %8lld\n", "all studies", total);
    for (int i = 0; i < (int)(sizeof(counts->failures) / sizeof(counts->failures[0])); i++) {
        if (counts->failures[i] == 0)
            continue;
        noc_text_add(text, "%s  %-14s %8lld\n", has_failures ? "" : "\nfailures by type\n",
                     noc_status_name((noc_status)i), (long long)counts->failures[i]);
        has_failures = true;
    }
    add_time_left(counts, text);
}

static int print_counts(const noc_settings *settings, const noc_counts *counts, bool is_again)
{
    noc_text text = {0};
    if (settings->json) {
        noc_counts_write_json(counts, &text);
    } else {
        if (is_again)
            noc_text_add(&text, "%s", isatty(STDOUT_FILENO) ? "\033[H\033[J" : "\n");
        add_table(counts, &text);
    }
    bool is_written =
        !text.failed && fwrite(text.data, 1, text.size, stdout) == text.size && fflush(stdout) == 0;
    noc_text_free(&text);
    return is_written ? 0 : noc_status_exit(NOC_EIO);
}

int noc_command_status(const noc_settings *settings)
{
    for (bool is_again = false;; is_again = true) {
        noc_error err = {0};
        noc_counts counts = {0};
        if (read_counts(settings, &counts, &err) != NOC_OK)
            return noc_command_fail(&err);
        int code = print_counts(settings, &counts, is_again);
        const int64_t *states = counts.states;
        bool is_finished = states[NOC_PENDING] + states[NOC_RUNNING] + states[NOC_WRITTEN] == 0;
        if (code != 0 || !settings->watch || is_finished)
            return code;
        noc_clock_sleep(WATCH_SECONDS);
    }
}
