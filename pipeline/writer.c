/* The writer's side of rounds. What always holds: a mask is written only after the coordinator confirmed its
 * lease, and is freed right after. */
#include "pipeline/writer.h"

#include "engine/base/memory.h"
#include "pipeline/message.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LEAST_STUDY = 16 }; /* bytes of a study in a message about a round: its lease, a text's length */

typedef struct held {
    struct held *next;
    noc_outcome *outcome;
} held;

struct noc_writer {
    noc_link *link;
    MPI_Comm group;
    int rank, size; /* in the group */
    char *folder;
    noc_part_header header;
    noc_part_writer *part; /* NULL: none open */
    int64_t number;
    held *held;
    bool is_broken;
};

noc_status noc_writer_create(noc_link *link, MPI_Comm group, const char *folder,
                             const noc_part_header *header, noc_writer **writer, noc_error *err)
{
    noc_writer *w = calloc(1, sizeof *w);
    if (!w || !(w->folder = noc_strdup(folder, err))) {
        free(w);
        return noc_fail(err, NOC_ENOMEMORY, "no memory for a writer");
    }
    w->link = link;
    w->group = group;
    w->size = 1;
    w->header = *header;
    if (group != MPI_COMM_NULL) {
        MPI_Comm_rank(group, &w->rank);
        MPI_Comm_size(group, &w->size);
    }
    *writer = w;
    return NOC_OK;
}

void noc_writer_free(noc_writer *writer)
{
    if (!writer)
        return;
    if (writer->part)
        noc_part_abandon(writer->part);
    while (writer->held) {
        held *h = writer->held;
        writer->held = h->next;
        noc_outcome_free(h->outcome);
        free(h);
    }
    free(writer->folder);
    free(writer);
}

bool noc_writer_is_broken(const noc_writer *writer)
{
    return writer->is_broken;
}

/* Unlinks the mask of that lease; NULL when it is not here. */
static noc_outcome *take_held(noc_writer *writer, uint64_t lease)
{
    for (held **at = &writer->held; *at; at = &(*at)->next) {
        held *h = *at;
        if (h->outcome->lease == lease) {
            noc_outcome *outcome = h->outcome;
            *at = h->next;
            free(h);
            return outcome;
        }
    }
    return NULL;
}

static void say_holds(noc_writer *writer, uint64_t lease)
{
    noc_record record;
    noc_record_begin(&record, NOC_SAY_HOLDS);
    noc_record_put_u64(&record, lease);
    noc_link_send(writer->link, 0, &record);
}

/* Its lease ends at once, and the study is granted again. */
static void say_refused(noc_writer *writer, uint64_t lease, const noc_error *failure)
{
    noc_outcome none = {.lease = lease, .failure = *failure};
    noc_record record;
    noc_record_begin(&record, NOC_SAY_FINISHED);
    noc_record_put_outcome(&record, &none, false);
    noc_link_send(writer->link, 0, &record);
}

static void handle_mask(noc_writer *writer, noc_record *record)
{
    noc_outcome *outcome;
    noc_error failure;
    uint64_t lease = noc_record_lease_of(record);
    held *h = calloc(1, sizeof *h);
    noc_status status = h ? noc_record_get_outcome(record, &outcome, &failure)
                          : noc_fail(&failure, NOC_ENOMEMORY, "no memory to keep a mask");
    if (status != NOC_OK) {
        free(h);
        noc_within(&failure, status, "a writer");
        say_refused(writer, lease, &failure);
        return;
    }
    h->outcome = outcome;
    h->next = writer->held;
    writer->held = h;
    say_holds(writer, lease);
}

static void say_part(noc_writer *writer, noc_message_type type, int64_t number, int64_t bytes,
                     const noc_error *error)
{
    noc_record record;
    noc_record_begin(&record, type);
    noc_record_put_u64(&record, (uint64_t)number);
    noc_record_put_u64(&record, (uint64_t)bytes);
    noc_record_put_error(&record, error);
    noc_link_send(writer->link, 0, &record);
}

static int64_t open_bytes(const noc_writer *writer)
{
    struct stat info;
    char *path = noc_part_path(writer->folder, writer->number, true, NULL);
    int64_t bytes = path && stat(path, &info) == 0 ? (int64_t)info.st_size : 0;
    free(path);
    return bytes;
}

static void free_entries(noc_part_entry *entries, int count)
{
    for (int i = 0; entries && i < count; i++)
        noc_outcome_drop_results(&entries[i].outcome);
    free(entries);
}

/* Moves outcome into the entry and frees its shell. */
static void fill_entry(noc_part_entry *entry, noc_outcome *outcome, int owner)
{
    entry->outcome = *outcome;
    entry->owner = owner;
    free(outcome);
}

/* The studies that this writer brings to the round, packed for the others of the group. */
static noc_status take_own(noc_writer *writer, noc_record *message, int count, noc_part_entry *entries,
                           noc_error *err)
{
    for (int i = 0; i < count; i++) {
        noc_outcome *outcome = take_held(writer, noc_record_get_u64(message));
        if (!outcome)
            return noc_fail(err, NOC_EINTERNAL, "a round asks for a mask that did not arrive");
        fill_entry(&entries[i], outcome, writer->rank);
        noc_record_get_fixed(message, entries[i].source, sizeof entries[i].source);
    }
    return message->failed ? noc_fail(err, NOC_EINTERNAL, "a round's message is cut short") : NOC_OK;
}

/* Moves the own studies to those that the others sent. */
static noc_status unpack_others(noc_writer *writer, unsigned char *data, const int *sizes, const int *places,
                                noc_part_entry **entries, int *count, noc_part_entry *own, int own_count,
                                noc_error *err)
{
    int total = 0;
    noc_part_entry *all = NULL;
    for (int r = 0; r < writer->size; r++) {
        noc_record record;
        uint32_t type;
        if (noc_record_open(&record, data + places[r], (size_t)sizes[r], &type, err) != NOC_OK)
            goto fail;
        int n = noc_record_get_count(&record, LEAST_STUDY);
        noc_part_entry *grown = realloc(all, ((size_t)total + (size_t)n + 1) * sizeof *all);
        if (!grown) {
            noc_fail(err, NOC_ENOMEMORY, "no memory for a round of %d studies", total + n);
            goto fail;
        }
        all = grown;
        for (int i = 0; i < n && r != writer->rank; i++) {
            noc_outcome *outcome;
            memset(&all[total], 0, sizeof *all);
            if (noc_record_get_outcome(&record, &outcome, err) != NOC_OK)
                goto fail;
            fill_entry(&all[total], outcome, r);
            noc_record_get_fixed(&record, all[total++].source, sizeof all->source);
        }
        if (record.failed || (r == writer->rank && n != own_count)) {
            noc_fail(err, NOC_EINTERNAL, "a round's message of writer %d cannot be", r);
            goto fail;
        }
        for (int i = 0; i < n && r == writer->rank; i++) {
            all[total++] = own[i];
            memset(&own[i], 0, sizeof own[i]);
        }
    }
    *entries = all;
    *count = total;
    return NOC_OK;
fail:
    free_entries(all, total);
    return err->status;
}

/* [all of the group] Everyone learns of every study of the round, in the order of the writers. */
static noc_status gather_entries(noc_writer *writer, noc_part_entry *own, int own_count,
                                 noc_part_entry **entries, int *count, noc_error *err)
{
    noc_record mine;
    int *sizes = calloc((size_t)writer->size * 2, sizeof *sizes), *places = sizes + writer->size, total = 0;
    noc_record_begin(&mine, NOC_SAY_ROUND);
    noc_record_put_u64(&mine, (uint64_t)own_count);
    for (int i = 0; i < own_count; i++) {
        noc_record_put_outcome(&mine, &own[i].outcome, false);
        noc_record_put_text(&mine, own[i].source);
    }
    if (!sizes || noc_record_end(&mine, err) != NOC_OK) { /* the others wait until this process is gone */
        free(sizes);
        noc_record_free(&mine);
        return noc_fail(err, NOC_ENOMEMORY, "no memory for a round");
    }
    int size = (int)mine.size;
    MPI_Allgather(&size, 1, MPI_INT, sizes, 1, MPI_INT, writer->group);
    for (int r = 0; r < writer->size; r++) {
        places[r] = total;
        total += sizes[r];
    }
    unsigned char *data = noc_alloc((size_t)total, 1, err);
    noc_status status = data ? NOC_OK : NOC_ENOMEMORY;
    if (status == NOC_OK) {
        MPI_Allgatherv(mine.data, size, MPI_BYTE, data, sizes, places, MPI_BYTE, writer->group);
        status = unpack_others(writer, data, sizes, places, entries, count, own, own_count, err);
    }
    free(data);
    free(sizes);
    noc_record_free(&mine);
    return status;
}

static noc_status write_round(noc_writer *writer, int64_t number, noc_part_entry *own, int own_count,
                              noc_error *err)
{
    noc_part_entry *entries = own;
    int count = own_count;
    noc_status status = NOC_OK;
    if (!writer->part) {
        status = noc_part_create(writer->folder, number, &writer->header, writer->group, &writer->part, err);
        writer->number = number;
    }
    if (status == NOC_OK && writer->group != MPI_COMM_NULL)
        status = gather_entries(writer, own, own_count, &entries, &count, err);
    if (status == NOC_OK)
        status = noc_part_write(writer->part, entries, count, err);
    if (entries != own)
        free_entries(entries, count);
    return status;
}

/* A part that could not be written is dropped whole; a shared one cannot even be closed. */
static void give_up_part(noc_writer *writer)
{
    if (writer->part)
        noc_part_abandon(writer->part);
    writer->part = NULL;
    writer->is_broken = writer->group != MPI_COMM_NULL;
}

static void handle_round(noc_writer *writer, noc_record *message)
{
    noc_error failure = {.status = NOC_OK};
    int64_t number = (int64_t)noc_record_get_u64(message);
    noc_record_get_fixed(message, writer->header.isa, sizeof writer->header.isa);
    noc_record_get_fixed(message, writer->header.device, sizeof writer->header.device);
    int count = noc_record_get_count(message, LEAST_STUDY);
    noc_part_entry *own = calloc((size_t)count + 1, sizeof *own);
    noc_status status = own ? take_own(writer, message, count, own, &failure)
                            : noc_fail(&failure, NOC_ENOMEMORY, "no memory for a round");
    if (status == NOC_OK)
        status = write_round(writer, number, own, count, &failure);
    free_entries(own, count);
    int64_t bytes = status == NOC_OK ? open_bytes(writer) : 0;
    if (status != NOC_OK)
        give_up_part(writer);
    say_part(writer, NOC_SAY_ROUND_DONE, number, bytes, &failure);
}

static void handle_close(noc_writer *writer, noc_record *message)
{
    noc_error failure = {.status = NOC_OK};
    int64_t number = (int64_t)noc_record_get_u64(message), bytes = 0;
    if (!writer->part || number != writer->number)
        noc_fail(&failure, NOC_EINTERNAL, "part %lld is not open here", (long long)number);
    else if (noc_part_close(writer->part, &bytes, &failure) != NOC_OK)
        give_up_part(writer);
    writer->part = NULL;
    say_part(writer, NOC_SAY_CLOSED, number, bytes, &failure);
}

bool noc_writer_handle(noc_writer *writer, noc_message *message)
{
    switch (message->type) {
    case NOC_SAY_MASK:
        handle_mask(writer, &message->record);
        return true;
    case NOC_SAY_DROP:
        noc_outcome_free(take_held(writer, noc_record_get_u64(&message->record)));
        return true;
    case NOC_SAY_ROUND:
        handle_round(writer, &message->record);
        return true;
    case NOC_SAY_CLOSE:
        handle_close(writer, &message->record);
        return true;
    default:
        return false;
    }
}
