/* The process of a rank: makes its roles, turns them until the end, and hears signals, the supervisor and the
 * launcher's death in between. */
#include "pipeline/rank.h"

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "pipeline/command.h"
#include "pipeline/message.h"
#include "pipeline/opening.h"
#include "pipeline/process.h"
#include "pipeline/roles.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAP_SHORT_S 0.0005 /* while there was something to do a moment ago */
#define NAP_LONG_S 0.01
#define AWAKE_S 0.05
#define FLUSH_S 5.0
#define WORK_S 1.0  /* for a worker to come to the end of a window or file that nobody wants any more */
#define LOOK_S 1.0  /* between two looks of a guard */
#define ROUND_S 330 /* for a round of a group of writers: the coordinator gives up sooner */
#define AGAIN_S 1.0 /* between two signals that mean more than one */

typedef struct rank {
    const noc_rank_options *options;
    int number;
    noc_roles roles;
    noc_engine *engine;
    noc_worker *worker;
    pid_t parent;
    pthread_t guard;       /* of a writer that shares its parts, */
    _Atomic double turned; /* and when this rank last came out of a call of MPI */
    double asked;          /* to drain, by a signal; 0: not yet */
    int pressed;           /* signals by then, or within AGAIN_S of it */
} rank;

static volatile sig_atomic_t signalled, urgent_signals; /* the latter without SIGUSR1 */

static void on_signal(int number)
{
    signalled = number;
    if (number != SIGUSR1)
        urgent_signals++;
}

/* Only the coordinator drains; launchers forward these signals to every rank. */
static void catch_signals(bool is_coordinator)
{
    struct sigaction action = {.sa_handler = is_coordinator ? on_signal : SIG_IGN};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    if (is_coordinator)
        sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void say_present(const rank *r)
{
    noc_record record;
    char host[128] = "";
    gethostname(host, sizeof host - 1);
    noc_record_begin(&record, NOC_SAY_PRESENT);
    noc_record_put_text(&record, host);
    noc_record_put_u64(&record, (uint64_t)getpid());
    noc_record_put_u64(&record, noc_process_look(getpid()).start_ticks);
    noc_link_send(r->options->link, 0, &record);
}

static void say_hello(const rank *r, const noc_device_info *info, const noc_error *failure)
{
    noc_record record;
    char arithmetic[256];
    snprintf(arithmetic, sizeof arithmetic, "%s, %s, %s, %s", info->kind, info->isa, info->precision,
             info->library);
    noc_record_begin(&record, NOC_SAY_HELLO);
    noc_record_put_text(&record, arithmetic);
    noc_record_put_text(&record, info->name);
    noc_record_put_text(&record, info->isa);
    noc_record_put_error(&record, failure);
    noc_record_put_text(&record, info->uuid);
    noc_link_send(r->options->link, 0, &record);
}

/* ---- worker ---- */

/* Before any thread starts: threads and the memory that they touch first stay where this one is. Who asks for
 * more threads than a share has CPUs gets no share. */
static void place_worker(const noc_rank_options *o, noc_engine_options *engine)
{
    noc_error why;
    noc_placement placement = noc_placement_of(&o->topology, o->sharers, o->share);
    if (engine->host.threads == 0)
        engine->host.threads = placement.threads;
    if (engine->host.threads <= placement.count &&
        noc_placement_pin(&o->topology, &placement, &why) != NOC_OK)
        noc_log(NOC_LOG_WARN, "%s", why.text);
}

/* Of what the coordinator lets a worker hold, one study is computed and the others are read. Beside a GPU,
 * which takes a hundredth of the time that inflating a scan does, most of the CPUs are there for it. */
static int readers_of(const noc_device_info *info)
{
    enum { MOST = NOC_STUDIES_HELD - 1, CPUS_OF_A_READER = 2, BESIDE_AN_ENGINE = 4 };
    int readers = info->threads / (strcmp(info->kind, "cuda") == 0 ? CPUS_OF_A_READER : BESIDE_AN_ENGINE);

    return readers < 1 ? 1 : readers > MOST ? MOST : readers;
}

static noc_status open_worker(rank *r, noc_device_info *info, noc_error *err)
{
    const noc_rank_options *o = r->options;
    noc_engine_options engine = NOC_ENGINE_DEFAULTS;
    noc_worker_options worker = {.memory = o->settings->memory,
                                 .study_timeout_s = o->settings->study_timeout_s,
                                 .assume_ras = o->settings->assume_ras};
    noc_settings_engine(o->settings, &engine);
    engine.host.process = o->node_worker;
    engine.host.processes = o->node_workers;
    place_worker(o, &engine);
    if (worker.memory == 0)
        worker.memory = noc_memory_limit() / 10 * 8 / (size_t)o->node_workers;
    noc_status status = noc_engine_open(&engine, o->model, &r->engine, err);
    if (status == NOC_OK) {
        noc_engine_describe(r->engine, info);
        worker.readers = readers_of(info);
        status = noc_worker_create(r->engine, &worker, &r->worker, err);
    }
    if (status == NOC_OK)
        status = noc_agent_create(o->link, r->worker, o->settings->heartbeat_s, &r->roles.agent, err);
    if (status != NOC_OK)
        return status;
    if (strcmp(info->precision, o->configuration.precision) != 0)
        return noc_fail(err, NOC_ECONFIG, "this node computes %s, the results are %s: give --precision",
                        info->precision, o->configuration.precision);
    return NOC_OK;
}

static void say_place(const noc_device_info *info)
{
    noc_text cpus = {0};
    noc_placement_add_cpus(&cpus);
    noc_log(NOC_LOG_DEBUG, "worker on %s (%s), %s, %d threads on CPUs %s", info->name, info->isa,
            info->precision, info->threads, cpus.data ? cpus.data : "unknown");
    noc_text_free(&cpus);
}

/* A worker whose device does not open says so and stays, so that the coordinator hears the reason. */
static void start_worker(rank *r)
{
    noc_device_info info = {.kind = ""};
    noc_error failure = {.status = NOC_OK};
    bool is_open = open_worker(r, &info, &failure) == NOC_OK;
    if (is_open && r->number == r->options->layout.first_worker) /* one for all: they compute alike */
        noc_opening_say_precision(r->options->settings, &info);
    if (is_open)
        say_place(&info);
    say_hello(r, &info, &failure);
}

/* ---- writer ---- */

/* A rank that must not or cannot leave in order: other threads and MPI are left as they are. */
static void leave(int exit_code)
{
    fflush(stderr);
    _exit(exit_code);
}

/* before: the coordinator at the start, or gone where it is on another node. */
static bool is_alone(const rank *r, const noc_process *before)
{
    noc_process now = noc_process_look(r->options->coordinator);
    bool is_gone = now.state == NOC_PROCESS_GONE || now.start_ticks != before->start_ticks;
    return (before->state != NOC_PROCESS_GONE && is_gone) || getppid() != r->parent;
}

/* A round waits inside MPI for all of its group, also when one of them is dead and nobody is left to end it.
 */
static void *guard(void *argument)
{
    const rank *r = argument;
    noc_process before = noc_process_look(r->options->coordinator);
    for (;; noc_clock_sleep(LOOK_S)) {
        double away_s = noc_clock_monotonic() - r->turned;
        if (away_s > ROUND_S || (away_s > LOOK_S && is_alone(r, &before)))
            leave(noc_status_exit(NOC_ETEMPFAIL));
    }
    return NULL;
}

static noc_status start_writer(rank *r, noc_error *err)
{
    const noc_rank_options *o = r->options;
    noc_part_header header = {.configuration = o->configuration,
                              .manifest = o->model->manifest,
                              .output = o->model->manifest->output};
    snprintf(header.version, sizeof header.version, "%s", noc_version());
    noc_status status =
        noc_writer_create(o->link, o->group, o->configuration.results, &header, &r->roles.writer, err);
    if (status == NOC_OK && o->group != MPI_COMM_NULL && pthread_create(&r->guard, NULL, guard, r) != 0)
        status = noc_fail(err, NOC_ENOMEMORY, "no thread to guard a writer");
    if (status == NOC_OK && r->number > 0)
        say_hello(r, &(noc_device_info){.kind = ""}, &(noc_error){.status = NOC_OK});
    return status;
}

/* ---- loop ---- */

/* The first one drains; a second one that is not its echo is in a hurry. */
static void obey_signals(rank *r, double now)
{
    if (r->asked == 0) {
        r->asked = now;
        noc_coordinator_drain(r->roles.coordinator, signalled == SIGUSR1 ? "asked to stop" : "interrupted");
    }
    if (now - r->asked < AGAIN_S)
        r->pressed = urgent_signals;
    else if (urgent_signals > r->pressed)
        noc_coordinator_hurry(r->roles.coordinator, now);
}

/* What asks a coordinator to drain: signals, the supervisor's word or death, the time. */
static void watch_for_drain(rank *r, double now)
{
    noc_control *control = r->options->control;
    const char *line;
    while (control && (line = noc_control_hear(control)))
        if (strcmp(line, "drain") == 0)
            noc_coordinator_drain(r->roles.coordinator, "asked to stop");
        else if (strcmp(line, "hurry") == 0)
            noc_coordinator_hurry(r->roles.coordinator, now);
    if (control && noc_control_is_cut(control))
        noc_coordinator_drain(r->roles.coordinator, "the supervisor is gone");
    if (signalled)
        obey_signals(r, now);
    if (r->options->until_unix_s > 0 && noc_clock_unix_ns() / 1000000000 >= r->options->until_unix_s)
        noc_coordinator_drain(r->roles.coordinator, "the time given by --until has come");
}

/* Nobody to work for any more: what is unfinished is granted again by the next start. */
static bool is_abandoned(const rank *r, double now)
{
    return r->options->layout.ranks > 1 &&
           (getppid() != r->parent || noc_roles_are_abandoned(&r->roles, now));
}

/* What was sent last must leave before the process does; the dead never take it. */
static void flush(const rank *r, bool has_dead_ranks)
{
    double end = noc_clock_monotonic() + (has_dead_ranks ? 0.5 : FLUSH_S);
    while (!noc_link_is_flushed(r->options->link) && noc_clock_monotonic() < end)
        noc_clock_sleep(NAP_SHORT_S);
}

/* A worker that will never be free again; in one process with the coordinator it is the latter's to end the
 * run. */
static bool is_stuck(const rank *r)
{
    if (r->roles.coordinator || !r->roles.agent || !noc_agent_is_stuck(r->roles.agent))
        return false;
    flush(r, false);
    return true;
}

static void loop(rank *r, noc_verdict *verdict)
{
    noc_coordinator *coordinator = r->roles.coordinator;
    double active = noc_clock_monotonic();
    *verdict = (noc_verdict){.exit_code = 0};
    noc_roles_begin(&r->roles, active);
    while (!r->roles.must_stop) {
        double now = noc_clock_monotonic();
        r->turned = now;
        if (noc_roles_were_missed(&r->roles, now) || is_abandoned(r, now)) /* not one old order more */
            leave(noc_status_exit(NOC_ETEMPFAIL));
        if (coordinator)
            watch_for_drain(r, now);
        if (noc_roles_turn(&r->roles, now))
            active = now;
        if (coordinator && noc_coordinator_is_over(coordinator, verdict))
            break;
        if (noc_link_has_lost(r->options->link))
            noc_log(NOC_LOG_ERROR, "this rank leaves: no memory for a message between ranks");
        if (is_stuck(r) || noc_link_has_lost(r->options->link))
            leave(noc_status_exit(NOC_ETEMPFAIL));
        noc_clock_sleep(now - active < AWAKE_S ? NAP_SHORT_S : NAP_LONG_S);
    }
    if (!coordinator)
        verdict->has_dead_ranks = r->roles.has_lost_ranks;
}

static noc_status start(rank *r, noc_error *err)
{
    const noc_rank_options *o = r->options;
    noc_status status = NOC_OK;
    say_present(r);
    if (r->number == 0) {
        noc_coordinator_options options = {.settings = o->settings,
                                           .model = o->model,
                                           .configuration = o->configuration,
                                           .layout = o->layout,
                                           .link = o->link,
                                           .control = o->control,
                                           .since_ns = o->since_ns};
        status = noc_coordinator_create(&options, &r->roles.coordinator, err);
    }
    if (status == NOC_OK && noc_layout_group_of(&o->layout, r->number) >= 0)
        status = start_writer(r, err);
    if (status == NOC_OK && noc_layout_is_worker(&o->layout, r->number))
        start_worker(r);
    return status;
}

/* A coordinator that cannot begin sends the others home, so that all leave in order. */
static void dismiss(const rank *r)
{
    for (int to = 1; to < r->options->layout.ranks; to++) {
        noc_record record;
        noc_record_begin(&record, NOC_SAY_STOP);
        noc_record_put_u64(&record, 0);
        noc_link_send(r->options->link, to, &record);
    }
}

/* A worker that is still at something may never come back from it: it is left as it is. */
static void end_worker(rank *r, noc_verdict *verdict)
{
    double end = noc_clock_monotonic() + WORK_S;
    while (r->worker && noc_worker_is_at_work(r->worker) && noc_clock_monotonic() < end)
        noc_clock_sleep(NAP_LONG_S);
    if (r->worker && noc_worker_is_at_work(r->worker)) {
        verdict->has_dead_ranks = true;
        if (r->options->layout.ranks == 1) {
            noc_coordinator_free(r->roles.coordinator);
            leave(verdict->exit_code);
        }
        return;
    }
    noc_agent_free(r->roles.agent);
    noc_worker_free(r->worker);
    noc_engine_close(r->engine);
}

noc_status noc_rank_run(const noc_rank_options *options, noc_verdict *verdict, noc_error *err)
{
    rank r = {.options = options,
              .number = noc_link_rank(options->link),
              .roles = {.link = options->link,
                        .lease_s = options->settings->lease_s,
                        .heartbeat_s = options->settings->heartbeat_s},
              .parent = getppid(),
              .turned = noc_clock_monotonic()};
    catch_signals(r.number == 0);
    noc_status status = start(&r, err);
    if (status == NOC_OK)
        loop(&r, verdict);
    else if (r.number == 0)
        dismiss(&r);
    if (r.guard) {
        pthread_cancel(r.guard);
        pthread_join(r.guard, NULL);
    }
    flush(&r, status == NOC_OK && verdict->has_dead_ranks);
    if (r.roles.writer &&
        noc_writer_is_broken(r.roles.writer)) /* a part that failed in parallel cannot be closed */
        verdict->has_dead_ranks = true;
    else
        noc_writer_free(r.roles.writer);
    end_worker(&r, verdict);
    noc_coordinator_free(r.roles.coordinator);
    return status;
}
