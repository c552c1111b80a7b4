#include "tests/simulated_link.h"

#include <stdlib.h>

struct noc_link {
    int size;
    void (*sent)(void *argument, int to, uint32_t type, noc_record *record);
    void *argument;
};

noc_link *simulated_link_create(int size)
{
    noc_link *link = calloc(1, sizeof *link);
    link->size = size;
    return link;
}

void simulated_link_watch(noc_link *link,
                          void (*sent)(void *argument, int to, uint32_t type, noc_record *record),
                          void *argument)
{
    link->sent = sent;
    link->argument = argument;
}

void noc_link_close(noc_link *link)
{
    free(link);
}

int noc_link_rank(const noc_link *link)
{
    (void)link;
    return 0;
}

int noc_link_size(const noc_link *link)
{
    return link->size;
}

void noc_link_send(noc_link *link, int to, noc_record *record)
{
    noc_record opened;
    uint32_t type;
    if (noc_record_end(record, NULL) == NOC_OK && link->sent &&
        noc_record_open(&opened, record->data, record->size, &type, NULL) == NOC_OK)
        link->sent(link->argument, to, type, &opened);
    noc_record_free(record);
}

bool noc_link_receive(noc_link *link, noc_message *message)
{
    (void)link;
    (void)message;
    return false;
}

bool noc_link_has_lost(const noc_link *link)
{
    (void)link;
    return false;
}

bool noc_link_is_flushed(noc_link *link)
{
    (void)link;
    return true;
}
