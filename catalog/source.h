/* Inside the scan: the studies that a folder or a list names, before their files are looked at. Only files
 * of this folder include it. */
#ifndef NOC_CATALOG_SOURCE_H
#define NOC_CATALOG_SOURCE_H

#include "catalog/study.h"

#include <stddef.h>

typedef struct noc_source {
    noc_study *studies; /* key, layout and paths are set */
    size_t count, capacity;
    void *seen;                       /* tree of "key\nfirst channel": what is named twice counts once */
    char *folder_given, *folder_real; /* the last folder that was resolved */
    void (*warn)(void *argument, const char *text);
    void *argument;
    int64_t warnings;
} noc_source;

/* What one line or entry says; paths are relative to `folder` or absolute. */
typedef struct noc_source_entry {
    const char *folder, *layout;
    const char *key; /* NULL: from the first channel's name */
    const char *channels[NOC_STUDY_CHANNELS];
    int channel_count;
    const char *truth; /* NULL: none */
} noc_source_entry;

void noc_source_clear(noc_source *source);
void noc_source_warn(noc_source *source, const char *format, ...) __attribute__((format(printf, 2, 3)));
noc_status noc_source_add(noc_source *source, const noc_source_entry *entry, noc_error *err);

/* dataset.json of the Medical Segmentation Decathlon. */
noc_status noc_msd_read(const char *path, noc_source *source, noc_error *err);
/* CSV with a header. */
noc_status noc_list_read(const char *path, noc_source *source, noc_error *err);

#endif
