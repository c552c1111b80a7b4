#include "pipeline/opening.h"

#include "engine/base/file.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

noc_status noc_opening_model(const noc_settings *settings, noc_model **model, noc_error *err)
{
    if (!settings->model)
        return noc_fail(err, NOC_EUSAGE, "which model? give its folder with -m");
    noc_model *loaded = NULL;
    noc_status status = noc_model_load(settings->model, &loaded, err);
    if (status == NOC_OK && settings->mirror >= 0)
        status = noc_model_mirror(loaded, (unsigned)settings->mirror, err);
    if (status == NOC_OK)
        *model = loaded;
    else
        noc_model_free(loaded);
    return status;
}

noc_status noc_opening_paths(const noc_settings *settings, bool needs_input, noc_error *err)
{
    if (needs_input && !settings->input)
        return noc_fail(err, NOC_EUSAGE, "which tensor? give its file with --input");
    if (!settings->output)
        return noc_fail(err, NOC_EUSAGE, "where to? give a file with --output");
    return NOC_OK;
}

noc_status noc_opening_files(const noc_settings *settings, noc_error *err)
{
    for (int i = 0; i < settings->argument_count; i++)
        if (access(settings->arguments[i], R_OK) != 0)
            return noc_fail(err, NOC_ENOINPUT, "%s: %s", settings->arguments[i], strerror(errno));
    return NOC_OK;
}

noc_status noc_opening_set(const noc_settings *settings, noc_catalog **catalog, int64_t *set, noc_error *err)
{
    char *results = noc_path_absolute(settings->results, err);
    noc_status status =
        results ? noc_catalog_open(settings->catalog, NOC_CATALOG_READ, catalog, err) : NOC_ENOMEMORY;
    if (status == NOC_OK)
        status = noc_catalog_find_set(*catalog, results, set, err);
    free(results);
    return status;
}

void noc_opening_say_precision(const noc_settings *settings, const noc_device_info *info)
{
    if (strcmp(settings->precision, "auto") != 0 && strcmp(settings->precision, info->precision) != 0)
        noc_log(NOC_LOG_WARN, "--precision %s: this device (%s) computes %s", settings->precision, info->kind,
                info->precision);
}

noc_status noc_opening_engine(const noc_settings *settings, const noc_model *model, noc_engine **engine,
                              noc_error *err)
{
    noc_engine_options options = NOC_ENGINE_DEFAULTS;
    noc_device_info info;
    noc_settings_engine(settings, &options);
    noc_status status = noc_engine_open(&options, model, engine, err);
    if (status != NOC_OK)
        return status;
    noc_engine_describe(*engine, &info);
    noc_opening_say_precision(settings, &info);
    return NOC_OK;
}

size_t noc_opening_memory(const noc_settings *settings)
{
    return settings->memory > 0 ? settings->memory : noc_memory_limit() / 10 * 8;
}

noc_status noc_opening_print(const noc_text *text, noc_error *err)
{
    if (text->failed)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the text to print");
    if (fwrite(text->data, 1, text->size, stdout) != text->size || fflush(stdout) != 0)
        return noc_fail(err, NOC_EIO, "stdout cannot be written");
    return NOC_OK;
}
