/* Inside the scan: the studies that a folder or a list names, before their files are looked at. Only files
 * of this folder include it. */
#ifndef NOC_CATALOG_SOURCE_H
#define NOC_CATALOG_SOURCE_H

#include "catalog/scan.h"
#include "catalog/study.h"
#include "engine/base/json.h"

#include <stddef.h>

typedef struct noc_source {
    noc_study *studies; /* key, layout and paths are set */
    size_t count, capacity;
    void *seen;                       /* tree of "key\nfirst channel": what is named twice counts once */
    char *folder_given, *folder_real; /* the last folder that was resolved */
    const noc_scan_options *options;  /* layout is not read here */
    bool has_order;                   /* channels stand as the options name them */
    int64_t warnings;
    char recognised[320]; /* by what the layout was known */
} noc_source;

/* What one line or entry says; paths are relative to `folder` or absolute. */
typedef struct noc_source_entry {
    const char *folder, *layout;
    const char *key;  /* NULL: from a name */
    const char *name; /* of a file, that the key is made of; NULL: the first channel's */
    const char *channels[NOC_STUDY_CHANNELS];
    int channel_count;
    const char *truth; /* NULL: none */
} noc_source_entry;

void noc_source_clear(noc_source *source);
void noc_source_warn(noc_source *source, const char *format, ...) __attribute__((format(printf, 2, 3)));
noc_status noc_source_add(noc_source *source, const noc_source_entry *entry, noc_error *err);

/* Any dataset.json: a JSON object, for json_decref. */
noc_status noc_dataset_load(const char *path, json_t **root, noc_error *err);
/* A text of it that can be a path; NULL otherwise. */
const char *noc_dataset_path(const json_t *value);
/* path: of the dataset.json, for complaints and its folder. */
noc_status noc_msd_read(const char *path, const json_t *root, noc_source *source, noc_error *err);
/* CSV with a header. */
noc_status noc_list_read(const char *path, noc_source *source, noc_error *err);

/* The studies of a path in the layout ("auto": whichever it is), as noc_scan says. */
noc_status noc_layout_read(const char *path, const char *layout, noc_source *source, noc_error *err);

#endif
