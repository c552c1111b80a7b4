/* What commands begin and end with. */
#ifndef NOC_OPENING_H
#define NOC_OPENING_H

#include "catalog/catalog.h"
#include "engine/base/text.h"
#include "engine/engine.h"
#include "pipeline/settings.h"

/* The model of -m. NOC_EUSAGE without one. */
noc_status noc_opening_model(const noc_settings *settings, noc_model **model, noc_error *err);
/* NOC_ENOINPUT for the first of the arguments, files, that cannot be read at all: what damaged ones are is
 * told later. */
noc_status noc_opening_files(const noc_settings *settings, noc_error *err);
/* The catalog, for reading, and its result set in --results; *set = 0 when it has none there. */
noc_status noc_opening_set(const noc_settings *settings, noc_catalog **catalog, int64_t *set, noc_error *err);
/* NOC_EUSAGE unless --output was given (and, when needs_input, --input). */
noc_status noc_opening_paths(const noc_settings *settings, bool needs_input, noc_error *err);
/* --memory, or its default for one process of this machine. */
size_t noc_opening_memory(const noc_settings *settings);
/* Warns when the device does not compute in what --precision asked for. */
void noc_opening_say_precision(const noc_settings *settings, const noc_device_info *info);
/* An engine as the settings say, for the one worker of this process; says what noc_opening_say_precision
 * does. */
noc_status noc_opening_engine(const noc_settings *settings, const noc_model *model, noc_engine **engine,
                              noc_error *err);
/* Writes text to stdout. NOC_ENOMEMORY when it is incomplete, NOC_EIO when stdout does not take it. */
noc_status noc_opening_print(const noc_text *text, noc_error *err);

#endif
