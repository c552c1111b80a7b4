#include "pipeline/roles.h"

#include "pipeline/message.h"

#define AWAY_S 1.0     /* between two looks of the loop: this rank itself was stopped, or blocked by a disk */
#define PATIENCE_S 2.0 /* beyond a lease: a coordinator that was away leaves before it can miss us */

void noc_roles_begin(noc_roles *roles, double now)
{
    roles->heard = roles->looked = now;
}

bool noc_roles_were_missed(noc_roles *roles, double now)
{
    double away = now - roles->looked;
    roles->looked = now;
    if (away > AWAY_S)
        roles->heard += away;
    return roles->coordinator && noc_link_size(roles->link) > 1 &&
           away > roles->lease_s + noc_coordinator_absence_s(roles->coordinator);
}

bool noc_roles_are_abandoned(const noc_roles *roles, double now)
{
    return noc_link_rank(roles->link) > 0 &&
           now - roles->heard > roles->lease_s + PATIENCE_S + roles->absence_s;
}

static void writer_heartbeat(noc_roles *roles, double now)
{
    noc_record record;
    if (noc_link_rank(roles->link) == 0 || !roles->writer || now - roles->last_heartbeat < roles->heartbeat_s)
        return;
    roles->last_heartbeat = now;
    noc_record_begin(&record, NOC_SAY_PING);
    noc_link_send(roles->link, 0, &record);
}

static void handle(noc_roles *roles, noc_message *message, double now)
{
    if (message->from == 0) {
        roles->heard = now;
        if (message->type == NOC_SAY_PING)
            roles->absence_s = (double)noc_record_get_u64(&message->record);
    }
    if (message->type == NOC_SAY_STOP) {
        roles->must_stop = true;
        roles->has_lost_ranks = noc_record_get_u64(&message->record) != 0;
    } else if (roles->agent && noc_agent_handle(roles->agent, message)) {
        return;
    } else if (roles->writer && noc_writer_handle(roles->writer, message)) {
        return;
    } else if (roles->coordinator) {
        noc_coordinator_handle(roles->coordinator, message, now);
    }
}

bool noc_roles_turn(noc_roles *roles, double now)
{
    bool did_something = false;
    noc_message message;
    while (noc_link_receive(roles->link, &message)) {
        handle(roles, &message, now);
        noc_record_free(&message.record);
        did_something = true;
    }
    if (roles->agent)
        did_something |= noc_agent_tick(roles->agent, now);
    writer_heartbeat(roles, now);
    if (roles->coordinator)
        did_something |= noc_coordinator_tick(roles->coordinator, now);
    return did_something;
}
