#include "tests/exploration.h"

#include "pipeline/message.h"
#include "tests/simulated_world.h"
#include "tests/simulation.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 512, FAULTS = 16, RUN_STEPS = 20000, LAST_FAULT = 600, DEPTH = 4096 };

typedef struct exploration {
    char folder[256];
    uint64_t seed;
    int runs, workers, studies, faults;
    int64_t limit;
    bool is_traced, is_exhaustive, are_deaths_inside;
} exploration;

/* ---- random runs ---- */

typedef struct dice {
    uint64_t state;
} dice;

/* splitmix64 */
static uint64_t roll(dice *d)
{
    uint64_t z = (d->state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static int below(dice *d, int n)
{
    return (int)(roll(d) % (uint64_t)n);
}

typedef struct planned {
    int at; /* step of the run */
    sim_step step;
} planned;

typedef struct campaign { /* sums over the runs */
    int64_t steps, starts, faults[STEP_KINDS], exits[128];
    double recovery_s[1 << 16];
    int recoveries;
} campaign;

typedef struct random_run {
    dice dice;
    simulation_plan plan;
    planned faults[FAULTS];
    int fault_count, made;
    bool is_fair;   /* time passes only when no message is on its way */
    bool is_single; /* the only fault was the end of one worker */
    simulation *s;
} random_run;

static study_fate draw_fate(dice *d, bool *has_poison)
{
    int n = below(d, 20);
    if (n == 0 && !*has_poison) {
        *has_poison = true;
        return FATE_POISON;
    }
    return n < 3 ? FATE_BAD : n < 5 ? FATE_FLAKY : FATE_DONE;
}

static void draw_plan(random_run *r)
{
    dice *d = &r->dice;
    simulation_plan *p = &r->plan;
    bool has_poison = below(d, 3) > 0; /* mostly none */
    p->writers = 1 + below(d, 2);
    p->ranks = below(d, 8) == 0 ? 2 : 1 + p->writers + 1 + below(d, SIMULATED_RANKS - 2 - p->writers);
    if (p->ranks == 2)
        p->writers = 1;
    p->studies = 1 + below(d, SIMULATED_STUDIES);
    p->part_studies = 1 + below(d, 4);
    p->lease_s = below(d, 2) ? 2 : 5;
    p->heartbeat_s = 0.5;
    for (int i = 0; i < p->studies; i++)
        p->fates[i] = draw_fate(d, &has_poison);
    for (int i = 0; i < p->ranks; i++)
        p->is_far[i] = below(d, 3) == 0;
    if (below(d, 8)) /* rarely a coordinator outlives its supervisor */
        p->is_far[0] = false;
}

static void draw_faults(random_run *r)
{
    static const step_kind kinds[] = {STEP_KILL, STEP_KILL,  STEP_KILL_IN, STEP_KILL_IN,  STEP_KILL_IN,
                                      STEP_STOP, STEP_STOP,  STEP_STOP,    STEP_KILL_ALL, STEP_BREAK,
                                      STEP_FILL, STEP_DRAIN, STEP_HOLD};
    dice *d = &r->dice;
    r->fault_count = below(d, 6);
    r->is_fair = r->fault_count == 1;
    for (int i = 0; i < r->fault_count; i++) {
        step_kind kind = kinds[below(d, (int)(sizeof kinds / sizeof kinds[0]))];
        int rank = below(d, 3) == 0 ? 0 : below(d, r->plan.ranks);
        if (kind == STEP_BREAK)
            rank = r->plan.ranks - 1;
        r->faults[i] = (planned){below(d, 60 + 25 * r->plan.studies), {.kind = kind, .rank = rank}};
        r->faults[i].step.from = kind == STEP_KILL_IN ? 1 + below(d, 60) : below(d, 2);
    }
}

/* Who was stopped or held may wake before it was missed, after, or when all is over. */
static void plan_return(random_run *r, const sim_step *fault, int now)
{
    sim_step back = *fault;
    if (fault->kind != STEP_STOP && fault->kind != STEP_HOLD)
        return;
    back.kind = fault->kind == STEP_STOP ? STEP_WAKE : STEP_LET;
    if (r->fault_count < FAULTS)
        r->faults[r->fault_count++] = (planned){now + 1 + below(&r->dice, 300), back};
}

static void do_step(const exploration *e, campaign *c, random_run *r, const sim_step *step)
{
    char text[256];
    if (e->is_traced) {
        simulation_describe(r->s, step, text, sizeof text);
        puts(text);
        fflush(stdout);
    }
    simulation_do(r->s, step);
    c->steps++;
}

/* The fault that is due, wherever its rank lives now. */
static bool make_due_fault(const exploration *e, campaign *c, random_run *r, int now)
{
    for (int i = 0; i < r->fault_count; i++) {
        if (r->faults[i].at != now)
            continue;
        sim_step fault = r->faults[i].step;
        r->faults[i].at = now < LAST_FAULT ? now + 1 : -1; /* not possible yet: as soon as it is */
        bool is_return = fault.kind == STEP_WAKE || fault.kind == STEP_LET;
        for (fault.job = 0; fault.job < (is_return ? 3 : 1); fault.job++)
            if (simulation_can(r->s, &fault)) {
                r->faults[i].at = -1;
                bool is_worker = fault.job == 0 && simulation_is_worker(r->s, fault.rank);
                if (!is_return)
                    r->is_single =
                        r->made++ == 0 && is_worker && (fault.kind == STEP_KILL || fault.kind == STEP_STOP);
                c->faults[fault.kind]++;
                do_step(e, c, r, &fault);
                if (fault.kind == STEP_STOP || fault.kind == STEP_HOLD)
                    plan_return(r, &fault, now);
                return true;
            }
    }
    return false;
}

/* Between the new name of a part and its commit is the most delicate of all instants: it is hit more often
 * than by chance. */
static void threaten_commit(const exploration *e, campaign *c, random_run *r, const sim_step *chosen, int now)
{
    sim_step death = {STEP_KILL_IN, 0, 0, 1 + below(&r->dice, r->plan.ranks + 2 * r->plan.part_studies)};
    if (chosen->job > 0 || now > LAST_FAULT || simulation_message(r->s, chosen) != NOC_SAY_CLOSED ||
        below(&r->dice, 12) > 0 || !simulation_can(r->s, &death))
        return;
    r->made++;
    c->faults[STEP_KILL_IN]++;
    do_step(e, c, r, &death);
}

static bool has_message(const sim_step *steps, int count)
{
    for (int i = 0; i < count; i++)
        if (steps[i].kind == STEP_TAKE)
            return true;
    return false;
}

static void choose_step(const exploration *e, campaign *c, random_run *r, int now)
{
    sim_step steps[STEPS];
    int count = simulation_steps(r->s, steps, STEPS); /* the last one passes time */
    bool may_pass = !r->is_fair || !has_message(steps, count);
    bool passes = count == 1 || (below(&r->dice, 25) == 0 && may_pass);
    sim_step chosen = steps[passes ? count - 1 : below(&r->dice, count - 1)];
    threaten_commit(e, c, r, &chosen, now);
    if (chosen.kind == STEP_TAKE && below(&r->dice, 4) == 0)
        chosen.kind = STEP_ARRIVE;
    do_step(e, c, r, &chosen);
}

/* Whatever is left of earlier jobs comes back, says what it has to say, and leaves. */
static void wake_the_rest(const exploration *e, campaign *c, random_run *r)
{
    static const step_kind kinds[] = {STEP_WAKE, STEP_LET};
    for (int job = 0; job < 3; job++)
        for (int rank = 0; rank < SIMULATED_RANKS; rank++)
            for (int k = 0; k < 2; k++) {
                sim_step back = {kinds[k], job, rank, 0};
                if (simulation_can(r->s, &back))
                    do_step(e, c, r, &back);
            }
}

static void drive(const exploration *e, campaign *c, random_run *r)
{
    int now = 0, rest = 0;
    for (; now < RUN_STEPS && !simulation_broken(r->s); now++) {
        if (simulation_is_over(r->s) && (simulation_is_quiet(r->s) || rest++ > 2000))
            break;
        if (simulation_is_over(r->s) && rest == 1)
            wake_the_rest(e, c, r);
        else if (!make_due_fault(e, c, r, now))
            choose_step(e, c, r, now);
        bool is_late = now == LAST_FAULT || (simulation_is_blocked(r->s) && below(&r->dice, 10) == 0);
        if (is_late) /* nobody sleeps for ever */
            wake_the_rest(e, c, r);
    }
}

static bool has_poison(const simulation_plan *plan)
{
    for (int i = 0; i < plan->studies; i++)
        if (plan->fates[i] == FATE_POISON)
            return true;
    return false;
}

static const char *judge(const random_run *r)
{
    const char *broken = simulation_broken(r->s);
    int workers = r->plan.ranks - 1 - r->plan.writers;
    if (broken)
        return broken;
    if (!simulation_is_over(r->s))
        return "it does not come to an end";
    if (r->is_fair && r->made == 1 && r->is_single && workers >= 3 && !has_poison(&r->plan) &&
        simulation_starts(r->s) > 1)
        return "one worker died and all were started again";
    return NULL;
}

static bool run_once(const exploration *e, campaign *c, uint64_t seed)
{
    random_run r = {.dice = {seed}};
    draw_plan(&r);
    draw_faults(&r);
    r.s = simulation_create(e->folder, &r.plan);
    if (!r.s)
        return false;
    drive(e, c, &r);
    const char *broken = judge(&r);
    if (broken)
        printf("seed %llu: %s\n", (unsigned long long)seed, broken);
    else if (e->is_traced)
        printf("exit code %d after %d starts\n", simulation_exit_code(r.s), simulation_starts(r.s));
    c->starts += simulation_starts(r.s);
    if (simulation_recovery_s(r.s) > 0 &&
        c->recoveries < (int)(sizeof c->recovery_s / sizeof c->recovery_s[0]))
        c->recovery_s[c->recoveries++] = simulation_recovery_s(r.s);
    simulation_free(r.s);
    return !broken;
}

static int compare_seconds(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_campaign(campaign *c, int runs, int broken)
{
    static const char *const names[STEP_KINDS] = {
        [STEP_KILL] = "kill",         [STEP_KILL_IN] = "kill within a turn",
        [STEP_STOP] = "stop",         [STEP_WAKE] = "wake late",
        [STEP_KILL_ALL] = "kill all", [STEP_BREAK] = "device fails",
        [STEP_FILL] = "disk full",    [STEP_DRAIN] = "drain",
        [STEP_HOLD] = "link down",    [STEP_LET] = "link up"};
    printf("%d runs, %lld steps, %lld starts, %d broken\n", runs, (long long)c->steps, (long long)c->starts,
           broken);
    for (int kind = STEP_KILL; kind < STEP_KINDS; kind++)
        printf("  %-20s %lld\n", names[kind], (long long)c->faults[kind]);
    if (c->recoveries == 0)
        return;
    qsort(c->recovery_s, (size_t)c->recoveries, sizeof c->recovery_s[0], compare_seconds);
    printf(
        "  simulated seconds from the last death of a job to the end: median %.1f, 99 %% %.1f, most %.1f\n",
        c->recovery_s[c->recoveries / 2], c->recovery_s[c->recoveries * 99 / 100],
        c->recovery_s[c->recoveries - 1]);
}

static int run_all(const exploration *e)
{
    static campaign c;
    int broken = 0;
    for (int i = 0; i < e->runs && broken < 10; i++)
        broken += !run_once(e, &c, e->seed + (uint64_t)i);
    print_campaign(&c, e->runs, broken);
    return broken > 0;
}

/* ---- every order ----
 *
 * Depth first, each execution from the start (the product's state cannot be copied), cut off where a state
 * was met before. A state is what recovery left to the job, what every rank has taken in since and what is on
 * its way, so that orders of steps that different ranks make independently of each other meet, and so do jobs
 * that begin with the same. Fewer orders still, none of them lost:
 *  - PRESENT, HELLO, PING and HEARTBEAT are taken at once, in the order of the ranks: they only say who
 * lives, which is looked at when time passes, and workers that have taken in nothing are alike.
 *  - What a worker takes in concerns nobody else until it says something, and only the coordinator talks to
 *    it: the steps of one worker with a message in its box are a persistent set.
 *  - Time passes only when no message is on its way (what is late is the random runs' matter), and then until
 *    a fault has been noticed.
 *  - A death or a stop is noticed only when time passes, and before that it is as good as not being chosen
 * for a step: it is tried when nobody else has anything to take. A stopped rank wakes after time has passed;
 *    before, it is a late one. */

typedef struct choice_point {
    int chosen, count;
    sim_step step;
} choice_point;

typedef struct search {
    const exploration *e;
    simulation_plan plan;
    choice_point path[DEPTH];
    int depth;         /* of the path that is being replayed */
    uint64_t *visited; /* open addressing; 0: free */
    size_t mask, states;
    int64_t executions, steps, finished;
} search;

/* True when it was there already. */
static bool visit(search *x, uint64_t hash)
{
    size_t at = (hash = hash ? hash : 1) & x->mask;
    while (x->visited[at] && x->visited[at] != hash)
        at = (at + 1) & x->mask;
    if (x->visited[at])
        return true;
    x->visited[at] = hash;
    x->states++;
    return false;
}

static int add_fault(const simulation *s, sim_step fault, sim_step *steps, int count)
{
    if (simulation_can(s, &fault))
        steps[count++] = fault;
    return count;
}

/* No other rank has anything to take; is_lost: what this one has said does not count, it will be lost. */
static bool are_others_idle(const sim_step *all, int count, int rank, bool is_lost)
{
    for (int i = 0; i < count; i++)
        if (all[i].kind == STEP_TAKE && all[i].job == 0 && all[i].rank != rank &&
            !(is_lost && all[i].from == rank))
            return false;
    return true;
}

/* Faults of one rank, at the only time that they need to be tried. */
static int add_faults(const search *x, const simulation *s, const sim_step *all, int all_count, int rank,
                      sim_step *steps, int count)
{
    if (are_others_idle(all, all_count, rank, true))
        count = add_fault(s, (sim_step){STEP_KILL, 0, rank, 1}, steps, count);
    if (!are_others_idle(all, all_count, rank, false))
        return count;
    count = add_fault(s, (sim_step){STEP_KILL, 0, rank, 0}, steps, count);
    count = add_fault(s, (sim_step){STEP_STOP, 0, rank, 0}, steps, count);
    for (int k = 1; x->e->are_deaths_inside && rank == 0 && k <= 24; k++)
        count = add_fault(s, (sim_step){STEP_KILL_IN, 0, rank, k}, steps, count);
    return count;
}

static bool has_twin_below(const simulation *s, int rank)
{
    for (int other = 0; other < rank; other++)
        if (simulation_is_worker(s, other) && simulation_rank_hash(s, other) == simulation_rank_hash(s, rank))
            return true;
    return false;
}

/* The steps to be tried in this state, in a fixed order. */
static int choices(const search *x, const simulation *s, int faults_left, sim_step *steps)
{
    sim_step all[STEPS];
    int count = simulation_steps(s, all, STEPS) - 1, kept = 0, work = 0; /* without the passing of time */
    for (int i = 0; i < count; i++)                                      /* of one worker with a message */
        if (all[i].kind == STEP_TAKE && all[i].job == 0 && simulation_is_worker(s, all[i].rank)) {
            for (int j = 0; j < count; j++)
                if (all[j].job == 0 && all[j].rank == all[i].rank)
                    steps[kept++] = all[j];
            return faults_left > 0 ? add_faults(x, s, all, count, all[i].rank, steps, kept) : kept;
        }
    for (int i = 0; i < count; i++) {
        steps[kept++] = all[i];
        work += all[i].kind == STEP_FINISH;
    }
    if (kept == work && (work == 0 || simulation_is_hurt(s)))
        steps[kept++] = (sim_step){.kind = STEP_WAIT};
    for (int job = 0; job < 3; job++)
        for (int rank = 0; rank < x->plan.ranks; rank++)
            if (simulation_has_slept(s, job, rank))
                kept = add_fault(s, (sim_step){STEP_WAKE, job, rank, 0}, steps, kept);
    for (int rank = 0; faults_left > 0 && rank < x->plan.ranks; rank++)
        if (!has_twin_below(s, rank))
            kept = add_faults(x, s, all, count, rank, steps, kept);
    return kept;
}

static int costs(const sim_step *step)
{
    return step->kind == STEP_KILL || step->kind == STEP_STOP || step->kind == STEP_KILL_IN;
}

/* One execution: the path as it stands, then always the first choice. False: something is broken. */
static bool execute(search *x)
{
    sim_step steps[STEPS];
    int faults_left = x->e->faults, at = 0;
    simulation *s = simulation_create(x->e->folder, &x->plan);
    if (s)
        simulation_chat(s);
    for (; s && !simulation_is_over(s) && at < DEPTH; at++) {
        if (at >= x->depth) {
            if (visit(x, world_mix(simulation_hash(s), (uint64_t)faults_left)))
                break;
            x->path[at] = (choice_point){0, choices(x, s, faults_left, steps), steps[0]};
            x->path[at].step = steps[0];
            x->depth = at + 1;
        } else if (at == x->depth - 1) {
            choices(x, s, faults_left, steps);
            x->path[at].step = steps[x->path[at].chosen];
        }
        faults_left -= costs(&x->path[at].step);
        simulation_do(s, &x->path[at].step);
        simulation_chat(s);
        x->steps++;
    }
    x->executions++;
    x->finished += s && simulation_is_over(s);
    bool is_sound = s && !simulation_broken(s) && at < DEPTH;
    if (!is_sound)
        printf("broken: %s\n",
               s && simulation_broken(s) ? simulation_broken(s) : "it does not come to an end");
    simulation_free(s);
    return is_sound;
}

/* The path to the next choice that was not taken. False: all were. */
static bool go_back(search *x)
{
    while (x->depth > 0) {
        choice_point *last = &x->path[x->depth - 1];
        if (++last->chosen < last->count)
            return true;
        x->depth--;
    }
    return false;
}

static void print_path(search *x)
{
    char text[256];
    simulation *s = simulation_create(x->e->folder, &x->plan);
    for (int i = 0; s && i < x->depth && !simulation_is_over(s); i++) {
        simulation_chat(s);
        simulation_describe(s, &x->path[i].step, text, sizeof text);
        puts(text);
        simulation_do(s, &x->path[i].step);
    }
    simulation_free(s);
}

static int explore(const exploration *e)
{
    static search x;
    bool is_sound = true, is_more = true;
    x.e = e;
    x.plan = (simulation_plan){.studies = e->studies,
                               .ranks = 2 + e->workers,
                               .writers = 1,
                               .part_studies = 2,
                               .lease_s = 2,
                               .heartbeat_s = 0.5};
    x.mask = ((size_t)1 << 24) - 1;
    x.visited = calloc(x.mask + 1, sizeof *x.visited);
    while (is_sound && is_more && x.executions < e->limit) {
        is_sound = execute(&x);
        if (is_sound)
            is_more = go_back(&x);
    }
    if (!is_sound)
        print_path(&x);
    printf("%d workers, %d studies, %d faults: %zu states, %lld executions, %lld steps, %s\n", e->workers,
           e->studies, e->faults, x.states, (long long)x.executions, (long long)x.steps,
           !is_sound ? "broken"
           : is_more ? "stopped at the limit"
                     : "all");
    free(x.visited);
    return !is_sound;
}

/* ---- the program ---- */

static bool read_options(int argc, char **argv, exploration *e)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},    {"runs", required_argument, NULL, 'r'},
        {"workers", required_argument, NULL, 'w'}, {"studies", required_argument, NULL, 'n'},
        {"faults", required_argument, NULL, 'f'},  {"limit", required_argument, NULL, 'l'},
        {"trace", no_argument, NULL, 't'},         {"explore", no_argument, NULL, 'e'},
        {"inside", no_argument, NULL, 'i'},        {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (c) {
        case 's':
            e->seed = strtoull(optarg, NULL, 10);
            break;
        case 'r':
            e->runs = atoi(optarg);
            break;
        case 'w':
            e->workers = atoi(optarg);
            break;
        case 'n':
            e->studies = atoi(optarg);
            break;
        case 'f':
            e->faults = atoi(optarg);
            break;
        case 'l':
            e->limit = atoll(optarg);
            break;
        case 't':
            e->is_traced = true;
            break;
        case 'e':
            e->is_exhaustive = true;
            break;
        case 'i':
            e->are_deaths_inside = true;
            break;
        default:
            return false;
        }
    return e->workers >= 1 && e->workers <= SIMULATED_RANKS - 2 && e->studies >= 1 &&
           e->studies <= SIMULATED_STUDIES;
}

int exploration_main(int argc, char **argv)
{
    static exploration e = {.seed = 1, .runs = 1, .workers = 3, .studies = 4, .faults = 2, .limit = 1000000};
    const char *base = getenv("NOC_SIMULATION_DIR");
    char command[300];
    if (!read_options(argc, argv, &e))
        return 64;
    snprintf(e.folder, sizeof e.folder, "%s/simulation.XXXXXX", base ? base : "/dev/shm");
    if (!mkdtemp(e.folder) || (!e.is_traced && !freopen("/dev/null", "we", stderr)))
        return 73;
    int code = e.is_exhaustive ? explore(&e) : run_all(&e);
    snprintf(command, sizeof command, "rm -rf '%s'", e.folder);
    return system(command) == 0 ? code : 74;
}
