/* What writing and reading of results files have in common: how HDF5 is opened and silenced, the sentence for
 * its failures, the types of strings and of a row of /metrics. Only part_*.c and index.c include this.
 *
 * Parts are in the file format of HDF5 1.10, the index in that of 1.8: there each piece of the library's own
 * records carries a checksum, so that a flipped bit is an error and not a wild pointer. */
#ifndef NOC_PART_FORMAT_H
#define NOC_PART_FORMAT_H

#include "catalog/catalog.h"

#include <hdf5.h>

#define PART_SCHEMA "nocturne-results/1"
#define PART_INDEX_SCHEMA "nocturne-index/1"

enum { PART_WORD = 16 };

/* One row of /metrics, in memory as in the file: a conversion would keep ranks from writing it together. */
typedef struct __attribute__((packed)) part_metric {
    char key[128];
    char state[PART_WORD], failure[PART_WORD];
    char label[NOC_METRIC_TEXT], name[NOC_METRIC_TEXT];
    uint64_t tp, fp, fn, tn;
    double dice, iou, precision, recall, truth_ml, prediction_ml, volume_similarity;
    uint8_t has_truth;
} part_metric;

/* Starts the library and stops it from printing. */
noc_status part_library_open(noc_error *err);

/* "PATH: WHAT: the library's innermost reason", of the last call but part_release. */
noc_status part_fail(noc_error *err, noc_status status, const char *path, const char *what);

/* Lets go of any identifier, and keeps the library's reason for a failure. Negative: nothing. */
void part_release(hid_t id);

/* Each is a new identifier, negative on failure. */
hid_t part_string_type(size_t size); /* fixed length, UTF-8, ended by 0 */
hid_t part_metric_type(void);        /* part_metric */
hid_t part_half_type(void);          /* IEEE binary16, little-endian */
hid_t part_access(
    H5F_libver_t format); /* of files: that format, no locking, everything closes with the file */

/* part_driver.c: files created through `access` put the system's number of their first failed write into
 * *failure (0 before), which must outlive them, and go on as if nothing were wrong. False when it cannot be.
 */
bool part_use_driver(hid_t access, int *failure);

/* Attributes of one object. The first failure is kept in err; after it the calls do nothing. */
typedef struct part_attributes {
    hid_t object;
    const char *path;
    noc_status status;
    noc_error *err;
} part_attributes;

void part_put(part_attributes *a, const char *name, hid_t type, size_t count,
              const void *data); /* count 0: scalar */
void part_put_matrix(part_attributes *a, const char *name, const double *data, size_t rows, size_t columns);
void part_put_text(part_attributes *a, const char *name, const char *text);
void part_put_real(part_attributes *a, const char *name, double value);
void part_put_integer(part_attributes *a, const char *name, int64_t value);
/* count strings of `size` bytes each, one after another. */
void part_put_texts(part_attributes *a, const char *name, const char *texts, size_t size, size_t count);
/* model, model_sha256, window, overlap, blend, precision, configuration. */
void part_put_configuration(part_attributes *a, const noc_configuration *configuration);

/* Exactly count elements, numbers converted to type. Texts must fit, with their end, into size. */
void part_get(part_attributes *a, const char *name, hid_t type, size_t count, void *data);
void part_get_text(part_attributes *a, const char *name, char *text, size_t size);
double part_get_real(part_attributes *a, const char *name);
int64_t part_get_integer(part_attributes *a, const char *name);
void part_get_configuration(part_attributes *a, noc_configuration *configuration);

#endif
