/* Allocations that fail when a test wants it: malloc and its kin of the whole process, libraries included
 * (they are found in this program first). Counts those of every thread. */
#ifndef NOC_TESTS_FAIL_ALLOC_H
#define NOC_TESTS_FAIL_ALLOC_H

#include "engine/base/error.h"

#include <stddef.h>

/* From now on the n-th allocation fails, and with is_for_good every later one. 0: none fails. */
void fail_alloc(long n, bool is_for_good);
/* True when one has failed since. */
bool fail_alloc_happened(void);
/* Allocations of at least that many bytes fail; 0: none. */
void fail_alloc_above(size_t bytes);

/* Runs what succeeds with each of its allocations failing in turn, until none is left. It must give a status
 * and a sentence (noted), leave nothing behind, and work right afterwards; where it succeeds all the same,
 * its result must be right, which it looks after itself. Returns how many there were. */
typedef noc_status (*fail_alloc_run)(void *argument, noc_error *err);
long fail_alloc_each(fail_alloc_run run, void *argument, bool is_for_good);

/* In such a run instead of Check's assertions, which allocate. */
#define HOLDS(claim) ((claim) ? (void)0 : fail_alloc_claim(__FILE__, __LINE__, #claim))
void fail_alloc_claim(const char *file, int line, const char *claim);

#endif
