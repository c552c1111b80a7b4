/* The link of a coordinator alone: whatever it sends is shown and forgotten. The program that links this file
 * has its own pipeline/link.h. */
#ifndef NOC_SIMULATED_LINK_H
#define NOC_SIMULATED_LINK_H

#include "pipeline/link.h"

/* Of rank 0 among `size`; noc_link_close frees it. */
noc_link *simulated_link_create(int size);
/* `sent` is called within each noc_link_send; the record is the caller's, opened for reading. */
void simulated_link_watch(noc_link *link,
                          void (*sent)(void *argument, int to, uint32_t type, noc_record *record),
                          void *argument);

#endif
