/* Studies with known masks and metrics, to be written into parts. */
#ifndef NOC_PART_SAMPLE_H
#define NOC_PART_SAMPLE_H

#include "pipeline/results.h"

enum {
    SAMPLE_STUDIES = 6
}; /* number 3 has 16-bit labels, number 4 is larger than a chunk, 1 and 4 have probabilities */

/* A model of labels, or of regions. */
void sample_header(noc_output_kind output, noc_part_header *header);
/* Study `number` in [0, SAMPLE_STUDIES); voxels and metrics are newly allocated. */
void sample_entry(noc_output_kind output, int number, noc_part_entry *entry);
void sample_entry_clear(noc_part_entry *entry);

/* Writes, closes and renames FOLDER/part-NUMBER.h5 with `count` studies from `first`, in two rounds. */
noc_status sample_write_part(const char *folder, noc_output_kind output, int64_t number, int first, int count,
                             int64_t *bytes, noc_error *err);

/* FOLDER/catalog.sqlite with every study of the sample, and the set of the folder itself. */
noc_status sample_catalog_create(const char *folder, noc_catalog **catalog, int64_t *set, noc_error *err);
/* sample_write_part with labels, committed to the catalog. */
noc_status sample_commit(const char *folder, noc_catalog *catalog, int64_t set, int64_t number, int first,
                         int count, noc_error *err);

/* True when a part says of the study what the sample does; prints the first difference to stderr. */
bool sample_is_study(const noc_part_entry *entry, const noc_part_study *study);
/* The same for its voxels and its place in space. */
bool sample_is_outcome(const noc_part_entry *entry, const noc_outcome *outcome);

#endif
