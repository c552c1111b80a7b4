/* Results in HDF5: parts (part-000001.h5), the index (index.h5 with relative external links), and reading
 * them back.
 *
 * A part is written as part-NNNNNN.h5.open, closed and synced by its writers, renamed (never replacing) by
 * the coordinator, which then commits it to the catalog. All texts are of fixed length, UTF-8. Layout
 * ("nocturne-results/1", the file format of HDF5 1.10, whose metadata has checksums):
 *
 *   /                      schema, created, creator, part (its number), and what made it
 *   /studies/<key>         key, mask_sha256, source, source_sha256, fingerprint, windows,
 *                          seconds_read, seconds_prepare, seconds_compute, seconds_score,
 *                          created (UTC), and what made it; suspect, only where the model's rules of
 *                          plausibility are broken: which; probabilities_sha256, only where there are some
 *     in space             affine (4x4, (i,j,k,1) to mm), space ("RAS+"), spacing_mm
 *     as in the header     nifti_version, qform_code, sform_code, quatern, qoffset, qfac,
 *                          srow (3x4), pixdim, xyzt_units: a mask can leave without its scan
 *     meaning              labels (names) and label_values (numbers) of the mask:
 *                          dict(zip(a["label_values"], a["labels"])); for a model of regions
 *                          region_names, bit 0 first
 *   /studies/<key>/mask    u8 or u16 (nk, nj, ni), whole planes a chunk, shuffle + deflate(1),
 *                          dimension labels k, j, i
 *   /studies/<key>/regions u8, u16 or u32, likewise, for a model of regions
 *   /studies/<key>/probabilities
 *                          only of a run with --save-probabilities: float16 (classes, nk, nj, ni),
 *                          whole planes of a class a chunk, shuffle + deflate(1); classes (names in
 *                          order, background first, or regions), activation ("softmax", or "sigmoid"
 *                          of regions), axes c, k, j, i
 *   /metrics               one compound table, the columns of report --csv in their order, then
 *                          has_truth; without a truth counts are 0 and ratios NaN; attribute
 *                          empty_masks: the convention for ratios of empty masks
 *
 * What made it: configuration (text), model, model_sha256, window, overlap, blend, precision,
 * attention_scale, device, isa, nocturne_version. */
#ifndef NOC_RESULTS_H
#define NOC_RESULTS_H

#include "catalog/catalog.h"
#include "engine/manifest.h"
#include "worker/worker.h"

#include <mpi.h>

/* What is the same for every study of a part. */
typedef struct noc_part_header {
    noc_configuration configuration;
    const noc_manifest *manifest; /* label names, scale */
    char device[128], isa[16], version[64];
    noc_output_kind output;
} noc_part_header;

typedef struct noc_part_writer noc_part_writer;

/* "FOLDER/part-000001.h5", newly allocated; with_open: "....open". */
char *noc_part_path(const char *folder, int64_t number, bool with_open, noc_error *err);

/* [all] Creates the open file. communicator MPI_COMM_NULL: this process alone, serial driver, MPI need not be
 * initialised; otherwise all its ranks make every call below marked [all] together with equal arguments but
 * for the data. NOC_ECANTCREATE, NOC_EIO. */
noc_status noc_part_create(const char *folder, int64_t number, const noc_part_header *header,
                           MPI_Comm communicator, noc_part_writer **part, noc_error *err);

/* What every rank of a group must know of a study to create its datasets; plain bytes, the same on all. */
typedef struct noc_part_entry {
    int owner;           /* rank in the communicator that has the voxels */
    noc_outcome outcome; /* mask and regions pointers only at the owner; metrics everywhere */
    char source[4096];   /* absolute channel paths joined by ';' (cut when longer) */
} noc_part_entry;

/* [all] Writes one round: all entries, in that order. What fails at one rank may keep the others waiting for
 * ever. After a failure the part must not be closed: noc_part_abandon. */
noc_status noc_part_write(noc_part_writer *part, const noc_part_entry *entries, int count, noc_error *err);
/* [all] Writes /metrics, closes, and syncs the file. Frees the writer; *bytes = size of the file. After a
 * failure: noc_part_abandon. */
noc_status noc_part_close(noc_part_writer *part, int64_t *bytes, noc_error *err);
/* After a failure: serial driver: closes and removes what is there. Parallel: frees nothing and returns (the
 * process must leave by _exit). */
void noc_part_abandon(noc_part_writer *part);

/* ---- reading ---- */

/* Everything the catalog needs of a closed part (adoption, verify). with_masks: masks and probabilities are
 * read whole and their SHA-256 taken and compared. NOC_EDATA when the file is damaged or no part, with what
 * is wrong. configuration may be NULL. */
noc_status noc_part_read(const char *path, bool with_masks, noc_part_record *part,
                         noc_configuration *configuration, noc_error *err);

/* One mask out of a part: as outcome (grid, mask, regions, sha). with_probabilities: those too, if there are
 * any. Free by noc_outcome_free. */
noc_status noc_part_read_study(const char *path, const char *key, bool with_probabilities,
                               noc_outcome **outcome, noc_error *err);

/* What the numbers of a study's mask mean: *labels newly allocated, for noc_part_labels_free. */
noc_status noc_part_read_labels(const char *path, const char *key, noc_label **labels, int *count,
                                noc_error *err);
void noc_part_labels_free(noc_label *labels, int count);

/* index.h5: for every done study of the set /studies/<key> -> external link into its part (file names only,
 * so that the folder can be moved). Written beside and renamed; left alone when the links are already right.
 */
noc_status noc_index_write(const char *folder, noc_catalog *catalog, int64_t set, noc_error *err);
/* NOC_EDATA, with what is wrong, unless the index leads to every done mask of the set. It may lead to more:
 * masks of files that have changed since. */
noc_status noc_index_check(const char *folder, noc_catalog *catalog, int64_t set, noc_error *err);

#endif
