/* The agent. A finished mask stays here until the coordinator names its writer or says that nobody wants it
 * any more, and on the worker's account of memory until it has left for the writer. */
#include "pipeline/agent.h"

#include "pipeline/message.h"

#include <stdlib.h>

typedef struct finished {
    struct finished *next;
    noc_outcome *outcome;
} finished;

struct noc_agent {
    noc_link *link;
    noc_worker *worker;
    finished *finished, *leaving;
    double heartbeat_s, last_heartbeat;
    bool has_said_broken, is_stuck;
};

noc_status noc_agent_create(noc_link *link, noc_worker *worker, double heartbeat_s, noc_agent **agent,
                            noc_error *err)
{
    noc_agent *a = calloc(1, sizeof *a);
    if (!a)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for a worker's agent");
    a->link = link;
    a->worker = worker;
    a->heartbeat_s = heartbeat_s;
    *agent = a;
    return NOC_OK;
}

static void free_list(finished **list)
{
    while (*list) {
        finished *f = *list;
        *list = f->next;
        noc_outcome_free(f->outcome);
        free(f);
    }
}

void noc_agent_free(noc_agent *agent)
{
    if (!agent)
        return;
    free_list(&agent->finished);
    free_list(&agent->leaving);
    free(agent);
}

/* Heartbeats renew a lease, so that what cannot be done must be said. */
static void say_failed(noc_agent *agent, uint64_t lease, const noc_error *failure)
{
    noc_outcome none = {.lease = lease, .failure = *failure};
    noc_record record;
    noc_record_begin(&record, NOC_SAY_FINISHED);
    noc_record_put_outcome(&record, &none, false);
    noc_link_send(agent->link, 0, &record);
}

static void handle_grant(noc_agent *agent, noc_record *record)
{
    noc_study study;
    noc_error failure;
    uint64_t lease = noc_record_get_u64(record);
    if (noc_record_get_study(record, &study, &failure) != NOC_OK) {
        say_failed(agent, lease, &failure);
        return;
    }
    if (noc_worker_submit(agent->worker, &study, lease, &failure) != NOC_OK)
        say_failed(agent, lease, &failure);
    noc_study_clear(&study);
}

/* Unlinks it, as a list of its own; NULL: it is not here. */
static finished *take_finished(noc_agent *agent, uint64_t lease)
{
    for (finished **at = &agent->finished; *at; at = &(*at)->next) {
        finished *f = *at;
        if (f->outcome->lease == lease) {
            *at = f->next;
            f->next = NULL;
            return f;
        }
    }
    return NULL;
}

static void handle_deliver(noc_agent *agent, noc_record *record)
{
    uint64_t lease = noc_record_get_u64(record);
    int writer = (int)noc_record_get_u64(record);
    finished *f = take_finished(agent, lease);
    noc_record mask;
    noc_error failure;
    if (!f)
        return;
    noc_record_begin(&mask, NOC_SAY_MASK);
    noc_record_put_outcome(&mask, f->outcome, true);
    noc_status status = noc_record_end(&mask, &failure);
    noc_outcome_drop_results(f->outcome);
    f->next = agent->leaving;
    agent->leaving = f;
    if (status == NOC_OK)
        noc_link_send(agent->link, writer, &mask);
    else
        say_failed(agent, lease, &failure);
}

static void handle_discard(noc_agent *agent, uint64_t lease)
{
    finished *f = take_finished(agent, lease);
    free_list(&f);
}

static void say_returned(void *argument, int64_t study, uint64_t lease)
{
    noc_agent *agent = argument;
    noc_record record;
    (void)study;
    noc_record_begin(&record, NOC_SAY_RETURNED);
    noc_record_put_u64(&record, lease);
    noc_link_send(agent->link, 0, &record);
}

bool noc_agent_handle(noc_agent *agent, noc_message *message)
{
    switch (message->type) {
    case NOC_SAY_GRANT:
        handle_grant(agent, &message->record);
        return true;
    case NOC_SAY_DELIVER:
        handle_deliver(agent, &message->record);
        return true;
    case NOC_SAY_DISCARD:
        handle_discard(agent, noc_record_get_u64(&message->record));
        return true;
    case NOC_SAY_WITHDRAW:
        noc_worker_withdraw(agent->worker, say_returned, agent);
        return true;
    default:
        return false;
    }
}

static void say_heartbeat(noc_agent *agent)
{
    noc_record record;
    noc_worker_stats stats;
    noc_worker_stats_of(agent->worker, &stats);
    noc_record_begin(&record, NOC_SAY_HEARTBEAT);
    noc_record_put_u64(&record, (uint64_t)noc_worker_in_hand(agent->worker));
    noc_record_put_f64(&record, stats.seconds);
    noc_record_put_f64(&record, stats.seconds_busy);
    noc_record_put_f64(&record, stats.seconds_starved);
    noc_record_put_u64(&record, (uint64_t)stats.windows);
    noc_record_put_u64(&record, (uint64_t)stats.peak_bytes);
    noc_link_send(agent->link, 0, &record);
}

/* The coordinator hears of a mask before the mask moves. */
static void say_finished(noc_agent *agent, noc_outcome *outcome)
{
    noc_record record;
    finished *f = outcome->failure.status == NOC_OK ? calloc(1, sizeof *f) : NULL;
    if (outcome->failure.status == NOC_OK && !f)
        noc_fail(&outcome->failure, NOC_ENOMEMORY, "no memory to keep a finished mask");
    noc_record_begin(&record, NOC_SAY_FINISHED);
    noc_record_put_outcome(&record, outcome, false);
    noc_link_send(agent->link, 0, &record);
    if (!f) {
        noc_outcome_free(outcome);
        return;
    }
    f->outcome = outcome;
    f->next = agent->finished;
    agent->finished = f;
}

static void say_broken(noc_agent *agent, const noc_error *failure)
{
    noc_record record;
    noc_record_begin(&record, NOC_SAY_BROKEN);
    noc_record_put_error(&record, failure);
    noc_link_send(agent->link, 0, &record);
    agent->has_said_broken = true;
}

/* That study is charged; the coordinator gives away what else is here. */
static void look_for_stuck(noc_agent *agent)
{
    uint64_t lease;
    noc_error failure;
    if (agent->is_stuck || !noc_worker_is_stuck(agent->worker, &lease))
        return;
    noc_fail(&failure, NOC_ETIMEOUT,
             "its worker did not come back from a file or the device within its time");
    say_failed(agent, lease, &failure);
    say_broken(agent, &failure);
    agent->is_stuck = true;
}

bool noc_agent_is_stuck(const noc_agent *agent)
{
    return agent->is_stuck;
}

bool noc_agent_tick(noc_agent *agent, double now)
{
    bool did_something = false;
    noc_outcome *outcome;
    if (agent->leaving && noc_link_is_flushed(agent->link))
        free_list(&agent->leaving);
    while ((outcome = noc_worker_take(agent->worker))) {
        did_something = true;
        if (outcome->failure.status == NOC_EDEVICE && !agent->has_said_broken &&
            noc_worker_is_broken(agent->worker))
            say_broken(agent, &outcome->failure);
        say_finished(agent, outcome);
    }
    /* with the last outcome at once, so that the figures of a short run reach its summary */
    bool is_last = did_something && noc_worker_in_hand(agent->worker) == 0;
    if (is_last || now - agent->last_heartbeat >= agent->heartbeat_s) {
        say_heartbeat(agent);
        look_for_stuck(agent);
        agent->last_heartbeat = now;
    }
    return did_something;
}
