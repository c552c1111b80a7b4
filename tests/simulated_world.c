#include "tests/simulated_world.h"

#include "engine/base/clock.h"
#include "pipeline/message.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PROCESSES = 4096 };

typedef struct letter {
    struct letter *next;
    uint32_t type;
    int from;
    unsigned char *data;
    size_t size;
} letter;

typedef struct mailbox {
    letter *first, *last;
} mailbox;

struct world_net {
    int size;
    mailbox *under_way; /* [from * size + to] */
    mailbox *arrived;   /* [to] */
};

struct noc_link {
    world_net *net;
    int rank;
};

static double now;
static noc_process_state processes[PROCESSES];
static int64_t last_pid;
static int instants_left;
static bool is_dying;
static void (*death)(void *argument);
static void *death_argument;

/* ---- hashing: FNV-1a over 64-bit words, finished by a multiplication ---- */

uint64_t world_mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * UINT64_C(0x9E3779B97F4A7C15);
    return hash ^ (hash >> 29);
}

uint64_t world_mix_bytes(uint64_t hash, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = 0;
        memcpy(&word, bytes + i, size - i < 8 ? size - i : 8);
        hash = world_mix(hash, word);
    }
    return world_mix(hash, size);
}

/* ---- time ---- */

double world_now(void)
{
    return now;
}

void world_pass(double seconds)
{
    now += seconds;
}

void world_reset(void)
{
    now = 1000;
    last_pid = 0;
    memset(processes, 0, sizeof processes);
    world_arm(0, NULL, NULL);
}

double noc_clock_monotonic(void)
{
    return now;
}

int64_t noc_clock_unix_ns(void)
{
    world_instant();
    return (int64_t)(1.7e18 + now * 1e9);
}

void noc_clock_utc(int64_t unix_ns, int with_milliseconds, char text[NOC_CLOCK_TEXT])
{
    time_t seconds = (time_t)(unix_ns / 1000000000);
    struct tm utc;
    (void)with_milliseconds;
    gmtime_r(&seconds, &utc);
    strftime(text, NOC_CLOCK_TEXT, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

void noc_clock_sleep(double seconds)
{
    now += seconds > 0 ? seconds : 0;
}

/* ---- processes ---- */

int64_t world_start_process(void)
{
    last_pid = last_pid % (PROCESSES - 1) + 1;
    processes[last_pid] = NOC_PROCESS_RUNS;
    return last_pid;
}

void world_set_process(int64_t pid, noc_process_state state)
{
    processes[pid] = state;
}

noc_process noc_process_look(pid_t pid)
{
    return (noc_process){.state = pid > 0 && pid < PROCESSES ? processes[pid] : NOC_PROCESS_GONE,
                         .start_ticks = 1};
}

int noc_session_kill(pid_t session)
{
    (void)session;
    return 0;
}

/* ---- instants ---- */

void world_arm(int k, void (*on_death)(void *argument), void *argument)
{
    instants_left = k;
    is_dying = false;
    death = on_death;
    death_argument = argument;
}

int world_instants_left(void)
{
    return instants_left;
}

bool world_is_dying(void)
{
    return is_dying;
}

bool world_instant(void)
{
    if (!is_dying && instants_left > 0 && --instants_left == 0) {
        is_dying = true;
        death(death_argument);
    }
    return !is_dying;
}

/* ---- links ---- */

static void put(mailbox *box, letter *l)
{
    l->next = NULL;
    if (box->last)
        box->last->next = l;
    else
        box->first = l;
    box->last = l;
}

static letter *take(mailbox *box)
{
    letter *l = box->first;
    if (!l)
        return NULL;
    box->first = l->next;
    if (!box->first)
        box->last = NULL;
    return l;
}

static void empty(mailbox *box)
{
    for (letter *l; (l = take(box));) {
        free(l->data);
        free(l);
    }
}

world_net *world_net_create(int size)
{
    world_net *net = calloc(1, sizeof *net);
    net->size = size;
    net->under_way = calloc((size_t)(size * size), sizeof *net->under_way);
    net->arrived = calloc((size_t)size, sizeof *net->arrived);
    return net;
}

void world_net_free(world_net *net)
{
    for (int i = 0; i < net->size * net->size; i++)
        empty(&net->under_way[i]);
    for (int i = 0; i < net->size; i++)
        empty(&net->arrived[i]);
    free(net->under_way);
    free(net->arrived);
    free(net);
}

noc_link *world_link(world_net *net, int rank)
{
    noc_link *link = calloc(1, sizeof *link);
    *link = (noc_link){net, rank};
    return link;
}

static mailbox *between(const world_net *net, int from, int to)
{
    return &net->under_way[from * net->size + to];
}

uint32_t world_head(const world_net *net, int from, int to)
{
    const letter *l = between(net, from, to)->first;
    return l ? l->type : 0;
}

void world_deliver(world_net *net, int from, int to)
{
    letter *l = take(between(net, from, to));
    if (l)
        put(&net->arrived[to], l);
}

bool world_has_from(const world_net *net, int from)
{
    for (int to = 0; to < net->size; to++)
        if (between(net, from, to)->first)
            return true;
    return false;
}

void world_lose_from(world_net *net, int from)
{
    for (int to = 0; to < net->size; to++)
        empty(between(net, from, to));
}

void world_lose_to(world_net *net, int to)
{
    for (int from = 0; from < net->size; from++)
        empty(between(net, from, to));
    empty(&net->arrived[to]);
}

bool world_is_small_talk(uint32_t type)
{
    return type == NOC_SAY_PRESENT || type == NOC_SAY_HELLO || type == NOC_SAY_PING ||
           type == NOC_SAY_HEARTBEAT;
}

static uint64_t letter_hash(uint64_t hash, const letter *l)
{
    return world_mix_bytes(world_mix(hash, l->type), l->data, l->size);
}

static uint64_t box_hash(uint64_t hash, const mailbox *box)
{
    for (const letter *l = box->first; l; l = l->next)
        if (!world_is_small_talk(l->type))
            hash = letter_hash(hash, l);
    return world_mix(hash, 1);
}

uint64_t world_head_hash(const world_net *net, int from, int to)
{
    const letter *l = between(net, from, to)->first;
    return l ? letter_hash(0, l) : 0;
}

uint64_t world_net_hash(const world_net *net)
{
    uint64_t hash = 0;
    for (int i = 0; i < net->size * net->size; i++)
        hash = box_hash(hash, &net->under_way[i]);
    return hash;
}

noc_status noc_link_open_local(noc_link **link, noc_error *err)
{
    (void)link;
    return noc_fail(err, NOC_EINTERNAL, "a simulated link is made by world_link");
}

noc_status noc_link_open_mpi(noc_link **link, noc_error *err)
{
    return noc_link_open_local(link, err);
}

void noc_link_close(noc_link *link)
{
    free(link);
}

int noc_link_rank(const noc_link *link)
{
    return link->rank;
}

int noc_link_size(const noc_link *link)
{
    return link->net->size;
}

/* A message to oneself is there at once, as in the real links. */
void noc_link_send(noc_link *link, int to, noc_record *record)
{
    letter *l = world_instant() ? calloc(1, sizeof *l) : NULL;
    noc_record opened;
    if (!l || noc_record_end(record, NULL) != NOC_OK ||
        noc_record_open(&opened, record->data, record->size, &l->type, NULL) != NOC_OK) {
        free(l);
        noc_record_free(record);
        return;
    }
    l->from = link->rank;
    l->data = record->data;
    l->size = record->size;
    memset(record, 0, sizeof *record);
    put(to == link->rank ? &link->net->arrived[to] : between(link->net, link->rank, to), l);
}

bool noc_link_receive(noc_link *link, noc_message *message)
{
    letter *l = take(&link->net->arrived[link->rank]);
    if (!l)
        return false;
    noc_record_open(&message->record, l->data, l->size, &message->type, NULL);
    message->from = l->from;
    free(l);
    return true;
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
