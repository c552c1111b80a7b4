/* The account of memory that studies in hand may use. A study is admitted when its need fits beside what is
 * in use; a study that must be alone waits until nothing else is in hand. Finished outcomes stay on the
 * account until they are freed, by whom ever holds them; the account therefore lives until the last of them
 * is gone. Thread-safe. */
#ifndef NOC_ADMISSION_H
#define NOC_ADMISSION_H

#include "engine/base/error.h"

#include <stdatomic.h>
#include <stddef.h>

typedef struct noc_admission noc_admission;

/* budget: bytes that all studies together may use. */
noc_status noc_admission_create(size_t budget, noc_admission **admission, noc_error *err);
/* One user less; the last one frees it. NULL is fine. */
void noc_admission_drop(noc_admission *admission);
size_t noc_admission_budget(const noc_admission *admission);

/* Waits until `bytes` (at most the budget) fit, is_alone: and nothing else is in work, then enters them.
 * False, and nothing entered, when *is_cancelled was set (followed by noc_admission_wake). */
bool noc_admission_enter(noc_admission *admission, size_t bytes, bool is_alone,
                         const atomic_bool *is_cancelled);
void noc_admission_wake(noc_admission *admission);
/* A study in work needs less (or more) from now on. */
void noc_admission_change(noc_admission *admission, size_t from, size_t to);
/* A study is no longer in work, and leaves `kept` of its bytes in an outcome. kept > 0: one user more,
 * until noc_admission_leave. */
void noc_admission_finish(noc_admission *admission, size_t from, size_t kept);
/* An outcome is gone: its bytes come back, one user less. */
void noc_admission_leave(noc_admission *admission, size_t kept);

#endif
