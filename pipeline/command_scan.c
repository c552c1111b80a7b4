/* nocturne scan: folders and lists into the catalog. */
#include "pipeline/command.h"

#include "catalog/lock.h"
#include "catalog/scan.h"
#include "engine/manifest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOCK_WAIT_S 15.0

static void warn(void *argument, const char *text)
{
    (void)argument;
    noc_log(NOC_LOG_WARN, "%s", text);
}

/* Before anything is made: a wrong name shall not leave an empty catalog behind. */
static noc_status check_arguments(const noc_settings *settings, noc_error *err)
{
    if (settings->argument_count == 0)
        return noc_fail(err, NOC_EUSAGE, "scan what? a folder, a CSV list, or a NIfTI file");
    for (int i = 0; i < settings->argument_count; i++) {
        if (access(settings->arguments[i], F_OK) != 0)
            return noc_fail(err, NOC_ENOINPUT, "%s: %s", settings->arguments[i], strerror(errno));
    }
    return NOC_OK;
}

static noc_status scan_all(const noc_settings *settings, const noc_manifest *model, noc_catalog *catalog,
                           noc_scan_report *sum, noc_error *err)
{
    const noc_scan_options options = {.layout = settings->layout,
                                      .channels = model ? (const char *const *)model->channels : NULL,
                                      .channel_count = model ? model->network.in_channels : 0,
                                      .warn = warn};
    for (int i = 0; i < settings->argument_count; i++) {
        noc_scan_report report = {0};
        noc_status status = noc_scan(catalog, settings->arguments[i], &options, &report, err);
        if (status != NOC_OK)
            return status;
        if (report.recognised[0])
            noc_log(NOC_LOG_INFO, "layout %s: %s%s", report.layout, report.recognised,
                    report.has_order ? "; taken as the model names them" : "");
        sum->added += report.added;
        sum->changed += report.changed;
        sum->unchanged += report.unchanged;
        sum->unreadable += report.unreadable;
        sum->warnings += report.warnings;
    }
    return NOC_OK;
}

static void print_report(const noc_settings *settings, const noc_scan_report *sum)
{
    long long studies = (long long)(sum->added + sum->changed + sum->unchanged);
    if (settings->json)
        printf("{\"studies\":%lld,\"added\":%lld,\"changed\":%lld,\"unchanged\":%lld,\"unreadable\":%lld,"
               "\"warnings\":%lld}\n",
               studies, (long long)sum->added, (long long)sum->changed, (long long)sum->unchanged,
               (long long)sum->unreadable, (long long)sum->warnings);
    else
        printf("%lld studies: %lld added, %lld changed, %lld unchanged; %lld without a readable header; "
               "%lld warnings\n",
               studies, (long long)sum->added, (long long)sum->changed, (long long)sum->unchanged,
               (long long)sum->unreadable, (long long)sum->warnings);
}

int noc_command_scan(const noc_settings *settings)
{
    noc_error err = {0};
    noc_catalog_lock *lock = NULL;
    noc_catalog *catalog = NULL;
    noc_manifest *model = NULL;
    noc_scan_report sum = {0};
    bool is_new = access(settings->catalog, F_OK) != 0;
    noc_status status = check_arguments(settings, &err);
    if (status == NOC_OK && settings->model)
        status = noc_manifest_load(settings->model, &model, &err);
    if (status == NOC_OK)
        status = noc_catalog_lock_take(settings->catalog, LOCK_WAIT_S, &lock, &err);
    if (status == NOC_OK)
        status = noc_catalog_open(settings->catalog, NOC_CATALOG_CREATE, &catalog, &err);
    if (status == NOC_OK)
        status = scan_all(settings, model, catalog, &sum, &err);
    noc_manifest_free(model);
    noc_catalog_close(catalog);
    if (status != NOC_OK && is_new && sum.added == 0) /* nor what holds nothing */
        unlink(settings->catalog);
    noc_catalog_lock_release(lock);
    if (status != NOC_OK)
        return noc_command_fail(&err);
    print_report(settings, &sum);
    return fflush(stdout) == 0 ? 0 : noc_status_exit(NOC_EIO);
}
