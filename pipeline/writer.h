/* A writer: keeps masks that workers delivered until the coordinator confirms them, and writes them into its
 * group's open part, in rounds that all writers of the group take part in. */
#ifndef NOC_WRITER_H
#define NOC_WRITER_H

#include "pipeline/layout.h"
#include "pipeline/link.h"
#include "pipeline/results.h"

typedef struct noc_writer noc_writer;

/* group: MPI_COMM_NULL when this writer has its parts to itself. header is copied but for the manifest it
 * points to; folder is copied. */
noc_status noc_writer_create(noc_link *link, MPI_Comm group, const char *folder,
                             const noc_part_header *header, noc_writer **writer, noc_error *err);
/* After orderly work no part is open. An open one is abandoned. */
void noc_writer_free(noc_writer *writer);

/* MASK, DROP, ROUND, CLOSE. True when the message was for a writer. */
bool noc_writer_handle(noc_writer *writer, noc_message *message);
/* True after a write failed on a shared part: the process must end by _exit. */
bool noc_writer_is_broken(const noc_writer *writer);

#endif
