/* Counts what a test's process asks of the allocator: every malloc, calloc, realloc, aligned block and free,
 * of all threads and libraries. */
#ifndef NOC_TESTS_ALLOCATIONS_H
#define NOC_TESTS_ALLOCATIONS_H

/* Calls since the first call of this function. */
long allocations_count(void);

#endif
