/* The two links. Messages to oneself go through a list in memory in both.
 *
 * MPI: Isend with the record as buffer; Improbe, Imrecv and Testsome-like polling, since a blocking call
 * towards a dead rank never returns. Messages of one sender are delivered in the order they were matched,
 * however their transfers end. */
#include "pipeline/link.h"

#include "engine/base/memory.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct transfer {
    struct transfer *next;
    MPI_Request request;
    bool is_complete;
    int peer;
    unsigned char *data;
    size_t size;
} transfer;

typedef struct list {
    transfer *first, **end;
} list;

enum { SMALL_BYTES = 1 << 16 }; /* of a message whose loss nobody else ends */

struct noc_link {
    bool is_mpi, has_lost;
    MPI_Comm communicator;
    int rank, size;
    list arrivals; /* complete ones and those under way, in order of matching; also messages to oneself */
    list sends;
};

static void list_add(list *l, transfer *t)
{
    t->next = NULL;
    *l->end = t;
    l->end = &t->next;
}

/* Unlinks *at. */
static transfer *list_remove(list *l, transfer **at)
{
    transfer *t = *at;
    *at = t->next;
    if (!t->next)
        l->end = at;
    return t;
}

static noc_status link_create(noc_link **link, noc_error *err)
{
    noc_link *l = calloc(1, sizeof *l);
    if (!l)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the link between ranks");
    l->size = 1;
    l->arrivals.end = &l->arrivals.first;
    l->sends.end = &l->sends.first;
    *link = l;
    return NOC_OK;
}

noc_status noc_link_open_local(noc_link **link, noc_error *err)
{
    return link_create(link, err);
}

noc_status noc_link_open_mpi(noc_link **link, noc_error *err)
{
    if (link_create(link, err) != NOC_OK)
        return NOC_ENOMEMORY;
    noc_link *l = *link;
    l->is_mpi = true;
    if (MPI_Comm_dup(MPI_COMM_WORLD, &l->communicator) != MPI_SUCCESS ||
        MPI_Comm_set_errhandler(l->communicator, MPI_ERRORS_RETURN) != MPI_SUCCESS ||
        MPI_Comm_rank(l->communicator, &l->rank) != MPI_SUCCESS ||
        MPI_Comm_size(l->communicator, &l->size) != MPI_SUCCESS) {
        free(l);
        *link = NULL;
        return noc_fail(err, NOC_EUNAVAILABLE, "MPI could not duplicate its communicator");
    }
    return NOC_OK;
}

static void list_free(list *l)
{
    while (l->first) {
        transfer *t = list_remove(l, &l->first);
        if (t->is_complete) /* MPI may still use the buffers of the others */
            free(t->data);
        free(t);
    }
}

void noc_link_close(noc_link *link)
{
    if (!link)
        return;
    list_free(&link->arrivals);
    list_free(&link->sends);
    free(link);
}

int noc_link_rank(const noc_link *link)
{
    return link->rank;
}

int noc_link_size(const noc_link *link)
{
    return link->size;
}

/* MPI counts are ints: beyond 2 GiB - 1 a type of whole mebibytes and a rest stands for the bytes. */
static int bytes_type(size_t size, MPI_Datatype *type, int *count)
{
    const size_t unit = (size_t)1 << 20;
    MPI_Datatype big;
    int lengths[2] = {1, (int)(size % unit)};
    MPI_Aint places[2] = {0, (MPI_Aint)(size - size % unit)};
    if (size <= INT_MAX) {
        *type = MPI_BYTE;
        *count = (int)size;
        return MPI_SUCCESS;
    }
    MPI_Datatype mebibyte;
    MPI_Type_contiguous((int)unit, MPI_BYTE, &mebibyte);
    MPI_Type_contiguous((int)(size / unit), mebibyte, &big);
    MPI_Datatype types[2] = {big, MPI_BYTE};
    MPI_Type_create_struct(2, lengths, places, types, type);
    MPI_Type_free(&big);
    MPI_Type_free(&mebibyte);
    *count = 1;
    return MPI_Type_commit(type);
}

static void start_send(noc_link *link, transfer *t)
{
    MPI_Datatype type;
    int count;
    t->request = MPI_REQUEST_NULL;
    if (bytes_type(t->size, &type, &count) != MPI_SUCCESS ||
        MPI_Isend(t->data, count, type, t->peer, 0, link->communicator, &t->request) != MPI_SUCCESS)
        t->is_complete = true; /* the peer is gone: abandoned */
    if (type != MPI_BYTE)
        MPI_Type_free(&type);
}

void noc_link_send(noc_link *link, int to, noc_record *record)
{
    transfer *t = noc_record_end(record, NULL) == NOC_OK ? calloc(1, sizeof *t) : NULL;
    if (!t) {
        noc_record_free(record);
        link->has_lost = true;
        return;
    }
    t->peer = to;
    t->data = record->data;
    t->size = record->size;
    memset(record, 0, sizeof *record);
    if (to == link->rank) {
        t->is_complete = true;
        list_add(&link->arrivals, t);
    } else {
        start_send(link, t);
        list_add(&link->sends, t);
    }
}

bool noc_link_has_lost(const noc_link *link)
{
    return link->has_lost;
}

static void reap_sends(noc_link *link)
{
    for (transfer **at = &link->sends.first; *at;) {
        int flag = 0;
        transfer *t = *at;
        if (!t->is_complete && MPI_Test(&t->request, &flag, MPI_STATUS_IGNORE) != MPI_SUCCESS)
            flag = 1;
        if (t->is_complete || flag) {
            list_remove(&link->sends, at);
            free(t->data);
            free(t);
        } else {
            at = &t->next;
        }
    }
}

bool noc_link_is_flushed(noc_link *link)
{
    if (link->is_mpi)
        reap_sends(link);
    return !link->sends.first;
}

/* Starts receiving one matched message. False when there was none. */
static bool start_receive(noc_link *link)
{
    int flag = 0, count;
    MPI_Message matched;
    MPI_Status status;
    MPI_Count size;
    MPI_Datatype type;
    if (MPI_Improbe(MPI_ANY_SOURCE, 0, link->communicator, &flag, &matched, &status) != MPI_SUCCESS || !flag)
        return false;
    MPI_Get_elements_x(&status, MPI_BYTE, &size);
    transfer *t = calloc(1, sizeof *t);
    unsigned char *data = noc_alloc((size_t)size, 1, NULL);
    if (!t || !data) { /* no room: it stays matched for ever */
        link->has_lost |= size < SMALL_BYTES;
        free(t);
        free(data);
        return false;
    }
    t->peer = status.MPI_SOURCE;
    t->data = data;
    t->size = (size_t)size;
    if (bytes_type(t->size, &type, &count) != MPI_SUCCESS ||
        MPI_Imrecv(t->data, count, type, &matched, &t->request) != MPI_SUCCESS) {
        free(t->data);
        free(t);
        return false;
    }
    if (type != MPI_BYTE)
        MPI_Type_free(&type);
    list_add(&link->arrivals, t);
    return true;
}

/* True when an earlier arrival of the same sender is still under way. */
static bool must_wait(const noc_link *link, const transfer *t)
{
    for (const transfer *other = link->arrivals.first; other != t; other = other->next)
        if (other->peer == t->peer)
            return true;
    return false;
}

static bool has_arrived(transfer *t)
{
    int flag = 0;
    if (!t->is_complete && MPI_Test(&t->request, &flag, MPI_STATUS_IGNORE) == MPI_SUCCESS && flag)
        t->is_complete = true;
    return t->is_complete;
}

bool noc_link_receive(noc_link *link, noc_message *message)
{
    if (link->is_mpi) {
        reap_sends(link);
        while (start_receive(link))
            continue;
    }
    for (transfer **at = &link->arrivals.first; *at;) {
        transfer *t = *at;
        if (!has_arrived(t) || must_wait(link, t)) {
            at = &t->next;
            continue;
        }
        list_remove(&link->arrivals, at);
        bool is_whole = noc_record_open(&message->record, t->data, t->size, &message->type, NULL) == NOC_OK;
        message->from = t->peer;
        if (!is_whole)
            free(t->data);
        free(t);
        if (is_whole)
            return true;
    }
    return false;
}
