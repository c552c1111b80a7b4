/* Records between ranks: versioned, length-prefixed, every read checked against the end. Little-endian, since
 * all ranks of a run are.
 *
 * A record starts with magic, version, type and length; noc_record_open refuses what does not fit. After the
 * first read beyond the end `failed` is set and reads give zeros, so that callers check once. */
#ifndef NOC_RECORD_H
#define NOC_RECORD_H

#include "worker/worker.h"

typedef struct noc_record {
    unsigned char *data;
    size_t size, capacity, at;
    bool failed;       /* memory ended, or a read went beyond the end */
    bool lacks_memory; /* failed because memory ended */
} noc_record;

/* Writing: begin, put..., end; data is then one malloc'ed block of `size` bytes. */
void noc_record_begin(noc_record *record, uint32_t type);
void noc_record_put(noc_record *record, const void *data, size_t size);
void noc_record_put_u64(noc_record *record, uint64_t value);
void noc_record_put_f64(noc_record *record, double value);
void noc_record_put_text(noc_record *record, const char *text);               /* NULL is kept as NULL */
void noc_record_put_block(noc_record *record, const void *data, size_t size); /* with its length */
void noc_record_put_error(noc_record *record, const noc_error *error);
noc_status noc_record_end(noc_record *record, noc_error *err);
void noc_record_free(noc_record *record);

/* Reading a received block (borrowed). NOC_EINTERNAL when magic, version or length are off. */
noc_status noc_record_open(noc_record *record, void *data, size_t size, uint32_t *type, noc_error *err);
void noc_record_get(noc_record *record, void *data, size_t size);
uint64_t noc_record_get_u64(noc_record *record);
double noc_record_get_f64(noc_record *record);
/* A count of things that take `least` bytes each; 0, and failed, when the record is too short for them. */
int noc_record_get_count(noc_record *record, size_t least);
char *noc_record_get_text(noc_record *record);                          /* newly allocated or NULL */
void noc_record_get_fixed(noc_record *record, char *text, size_t size); /* cut to size */
void *noc_record_get_block(noc_record *record, size_t *size); /* newly allocated; NULL for 0 bytes */
void noc_record_get_error(noc_record *record, noc_error *error);

void noc_record_put_study(noc_record *record, const noc_study *study);
noc_status noc_record_get_study(noc_record *record, noc_study *study, noc_error *err);

/* with_voxels: mask and regions too; otherwise they are NULL on the other side. */
void noc_record_put_outcome(noc_record *record, const noc_outcome *outcome, bool with_voxels);
/* NOC_ENOMEMORY, or NOC_EINTERNAL for what cannot be an outcome. */
noc_status noc_record_get_outcome(noc_record *record, noc_outcome **outcome, noc_error *err);
/* The lease of an outcome that is about to be read, with no memory at all; 0 when it is cut short. */
uint64_t noc_record_lease_of(const noc_record *record);

#endif
