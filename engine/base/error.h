/* Failures as values: a status and one sentence for people.
 *
 *     if (size < 348)
 *         return noc_fail(err, NOC_EUNREADABLE, "%s: %zu bytes, a NIfTI header has 348", path, size);
 *
 * The first detector writes the sentence; callers may prefix whom they served (noc_within). `err` may always
 * be NULL. Nothing below pipeline/ prints or exits. */
#ifndef NOC_BASE_ERROR_H
#define NOC_BASE_ERROR_H

#include <stdbool.h>

/* X(name, text, exit code). The first block are the failure types of a study: their texts stand in the
 * catalog. */
#define NOC_STATUS_MAP(X)                                                                                    \
    X(OK, "ok", 0)                                                                                           \
    X(EUNREADABLE, "unreadable", 65)                                                                         \
    X(EUNSUPPORTED, "unsupported", 65)                                                                       \
    X(EGEOMETRY, "geometry", 65)                                                                             \
    X(ECHANNELS, "channels", 65)                                                                             \
    X(ENONFINITE, "non_finite", 65)                                                                          \
    X(ETOOLARGE, "too_large", 65)                                                                            \
    X(ETRUTH, "truth_mismatch", 65)                                                                          \
    X(ENOMEMORY, "no_memory", 70)                                                                            \
    X(EDEVICE, "device", 69)                                                                                 \
    X(ETIMEOUT, "timeout", 70)                                                                               \
    X(ECRASH, "crash", 70)                                                                                   \
    X(EINTERNAL, "internal", 70)                                                                             \
    X(EUSAGE, "usage", 64)                                                                                   \
    X(EDATA, "data", 65)                                                                                     \
    X(ENOINPUT, "no_input", 66)                                                                              \
    X(EUNAVAILABLE, "unavailable", 69)                                                                       \
    X(ECANTCREATE, "cannot_create", 73)                                                                      \
    X(EIO, "io", 74)                                                                                         \
    X(ETEMPFAIL, "stopped_early", 75)                                                                        \
    X(ECONFIG, "configuration", 78)

typedef enum noc_status {
#define NOC_STATUS_ENUM(name, text, code) NOC_##name,
    NOC_STATUS_MAP(NOC_STATUS_ENUM)
#undef NOC_STATUS_ENUM
} noc_status;

enum { NOC_ERROR_TEXT = 512 };

typedef struct noc_error {
    noc_status status;
    char text[NOC_ERROR_TEXT]; /* one UTF-8 sentence, always terminated; cut at a character when too long */
} noc_error;

/* Fills err (if any) and returns status. */
noc_status noc_fail(noc_error *err, noc_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the sentence already in err; returns status unchanged. */
noc_status noc_within(noc_error *err, noc_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#ifdef __clang_analyzer__ /* make lint: what it returns is what it was given, no other */
#define noc_fail(err, status, ...) ((void)(noc_fail)(err, status, __VA_ARGS__), (status))
#define noc_within(err, status, ...) ((void)(noc_within)(err, status, __VA_ARGS__), (status))
#endif

/* "unreadable", "geometry", ...; never NULL. */
const char *noc_status_name(noc_status status);

/* The program's exit code for a status (sysexits; 0 for NOC_OK). */
int noc_status_exit(noc_status status);

/* False when no status has that text. */
bool noc_status_from_name(const char *name, noc_status *status);

/* True for the failure types that are tried again: device, no_memory, timeout, crash, internal. */
bool noc_status_is_retryable(noc_status status);

#endif
