/* Parts without HDF5: the program that links this file has its own writing and reading of pipeline/results.h.
 * The files, their names, renames and removals are real; inside is a header, a row a study, and an end that
 * only a closed part has. */
#ifndef NOC_SIMULATED_PARTS_H
#define NOC_SIMULATED_PARTS_H

#include "pipeline/results.h"

/* The next `count` writes fail for want of room. */
void simulated_parts_fail(int count);
bool simulated_parts_can_fail(void); /* false for real parts */

#endif
