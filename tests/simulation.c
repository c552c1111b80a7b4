#include "tests/simulation.h"

#include "engine/base/file.h"
#include "pipeline/command.h"
#include "pipeline/coordinator_state.h"
#include "pipeline/roles.h"
#include "tests/simulated_parts.h"
#include "tests/simulated_worker.h"
#include "tests/simulated_world.h"

#include <dirent.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { JOBS = 3, ARCHIVE_S = 2000, PARTS = 256 };
#define SILENCE_S 10.0 /* beyond a lease: the supervisor gives a stopped coordinator up */

typedef enum life { LIFE_NONE, LIFE_RUNS, LIFE_STOPPED } life;

typedef struct sim_rank {
    life life;
    int64_t pid;
    noc_roles roles;
    noc_worker *worker;
    int dies_in; /* instants; 0: does not */
    double stopped;
    bool is_held;     /* what it sends */
    uint64_t history; /* of all that it took in */
} sim_rank;

typedef struct sim_job {
    bool is_there;
    noc_layout layout;
    world_net *net;
    sim_rank ranks[SIMULATED_RANKS];
} sim_job;

struct simulation {
    simulation_plan plan;
    char folder[512], kept[520], catalog[560];
    noc_settings settings;
    noc_model *model;
    noc_configuration configuration;
    sim_job jobs[JOBS]; /* 0: the running one */
    sqlite3 *look;
    bool is_finished;
    int exit_code;
    int starts, starts_since_fault;
    bool has_survivors, has_filled, has_broken;
    double fault, ended, recovery_s; /* when the last fault was made, the last job ended before its time */
    uint64_t beginning;              /* hash of what the running job found */
    int attempts[SIMULATED_STUDIES + 1], deaths[SIMULATED_STUDIES + 1];
    char settled[SIMULATED_STUDIES + 1]; /* d, f, q: a state that is for ever */
    int64_t looked_version;
    char broken[512];
};

/* The program's own stands in main.c. */
int noc_command_fail(const noc_error *failure)
{
    return noc_status_exit(failure->status);
}

__attribute__((format(printf, 2, 3))) static void breaks(simulation *s, const char *format, ...)
{
    va_list list;
    if (s->broken[0])
        return;
    va_start(list, format);
    vsnprintf(s->broken, sizeof s->broken, format, list);
    va_end(list);
}

/* ---- files ---- */

static void empty_folder(const char *path)
{
    DIR *folder = opendir(path);
    for (struct dirent *e; folder && (e = readdir(folder));)
        if (e->d_name[0] != '.')
            unlinkat(dirfd(folder), e->d_name, 0);
    if (folder)
        closedir(folder);
}

static void copy_file(const char *from, const char *to)
{
    char *data;
    size_t size;
    if (noc_file_read(from, 1 << 26, &data, &size, NULL) != NOC_OK)
        return;
    FILE *file = fopen(to, "we");
    fwrite(data, 1, size, file);
    fclose(file);
    free(data);
}

static bool is_database(const char *name)
{
    return strcmp(name, "catalog.sqlite") == 0 || strcmp(name, "catalog.sqlite-wal") == 0;
}

static bool is_unfinished(const char *name)
{
    const char *end = strrchr(name, '.');
    return end && strcmp(end, ".open") == 0;
}

/* The folder as it is at this instant: the catalog is copied, other files keep their identity. */
static void keep(simulation *s, bool only_unfinished)
{
    char from[1100], to[1100];
    empty_folder(s->kept);
    DIR *folder = opendir(s->folder);
    for (struct dirent *e; folder && (e = readdir(folder));) {
        if (e->d_name[0] == '.' || strcmp(e->d_name, "catalog.sqlite-shm") == 0 ||
            (only_unfinished && !is_unfinished(e->d_name)))
            continue;
        snprintf(from, sizeof from, "%s/%s", s->folder, e->d_name);
        snprintf(to, sizeof to, "%s/%s", s->kept, e->d_name);
        if (is_database(e->d_name))
            copy_file(from, to);
        else if (link(from, to) != 0)
            breaks(s, "%s cannot be kept", from);
    }
    if (folder)
        closedir(folder);
}

static void keep_all(void *argument)
{
    keep(argument, false);
}

static void keep_unfinished(void *argument)
{
    keep(argument, true);
}

static void put_back(simulation *s, bool only_unfinished)
{
    char from[1100], to[1100];
    if (!only_unfinished)
        empty_folder(s->folder);
    DIR *folder = opendir(s->kept);
    for (struct dirent *e; folder && (e = readdir(folder));) {
        snprintf(from, sizeof from, "%s/%s", s->kept, e->d_name);
        snprintf(to, sizeof to, "%s/%s", s->folder, e->d_name);
        if (e->d_name[0] != '.' && rename(from, to) != 0)
            breaks(s, "%s cannot be put back", to);
    }
    if (folder)
        closedir(folder);
    empty_folder(s->kept); /* renaming a file to another name of itself does nothing */
}

/* ---- looking into the catalog ---- */

static void look_away(simulation *s)
{
    sqlite3_close(s->look);
    s->look = NULL;
}

static sqlite3_stmt *ask(simulation *s, const char *sql)
{
    sqlite3_stmt *rows = NULL;
    if (!s->look && sqlite3_open_v2(s->catalog, &s->look, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
        breaks(s, "the catalog cannot be opened: %s", sqlite3_errmsg(s->look));
    if (sqlite3_prepare_v2(s->look, sql, -1, &rows, NULL) != SQLITE_OK)
        breaks(s, "the catalog cannot be read: %s", sqlite3_errmsg(s->look));
    return rows;
}

static int64_t ask_number(simulation *s, const char *sql)
{
    sqlite3_stmt *rows = ask(s, sql);
    int64_t number = sqlite3_step(rows) == SQLITE_ROW ? sqlite3_column_int64(rows, 0) : -1;
    sqlite3_finalize(rows);
    return number;
}

int64_t simulation_count(const simulation *s, const char *state)
{
    char sql[128];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM result WHERE state = '%s'", state);
    simulation *open = (simulation *)(uintptr_t)s; /* the connection is opened when it is needed */
    return ask_number(open, sql);
}

static uint64_t hash_rows(simulation *s, uint64_t hash, const char *sql)
{
    sqlite3_stmt *rows = ask(s, sql);
    while (sqlite3_step(rows) == SQLITE_ROW)
        for (int i = 0; i < sqlite3_column_count(rows); i++) {
            const void *text = sqlite3_column_blob(rows, i);
            hash = world_mix_bytes(hash, text ? text : "", (size_t)sqlite3_column_bytes(rows, i));
        }
    sqlite3_finalize(rows);
    return hash;
}

static int compare_names(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_part(const struct dirent *entry)
{
    return strncmp(entry->d_name, "part-", 5) == 0;
}

/* Endings alone: with the catalog's parts in order they tell each file, whatever its number. */
static uint64_t hash_folder(const simulation *s, uint64_t hash)
{
    struct dirent **entries;
    int count = scandir(s->folder, &entries, is_part, compare_names);
    for (int i = 0; i < count; i++) {
        const char *end = strchr(entries[i]->d_name, '.');
        hash = world_mix_bytes(hash, end ? end : "", end ? strlen(end) : 0);
        free(entries[i]);
    }
    free(entries);
    return hash;
}

/* Of what recovery has left to a new job, but for numbers that only count: of runs, attempts (as rows) and
 * parts. Of those it counts who lies with whom, and that the next number is a new one. */
static uint64_t hash_of_rest(simulation *s)
{
    uint64_t hash = hash_rows(
        s, 1,
        "SELECT study_id, state, attempts, is_suspect, deaths_alone, failure, (SELECT count(*) FROM "
        "part WHERE number <= r.part) FROM result r ORDER BY study_id");
    hash = hash_rows(s, hash, "SELECT count(*), (SELECT last_part FROM result_set) >= max(number) FROM part");
    hash = hash_folder(s, hash);
    hash = world_mix_bytes(hash, s->attempts, sizeof s->attempts);
    return world_mix_bytes(hash, s->deaths, sizeof s->deaths);
}

/* ---- what must always hold ---- */

/* Which part of those that the catalog knows holds each study, -1: more than one. */
static void check_parts(simulation *s, int64_t *part_of)
{
    sqlite3_stmt *rows = ask(s, "SELECT number, bytes, studies FROM part ORDER BY number");
    while (sqlite3_step(rows) == SQLITE_ROW) {
        noc_part_record part = {0};
        noc_error err;
        int64_t number = sqlite3_column_int64(rows, 0), id;
        char *path = noc_part_path(s->folder, number, false, &err), mask_sha256[65];
        unsigned char mask[8];
        if (noc_part_read(path, true, &part, NULL, &err) != NOC_OK)
            breaks(s, "the catalog counts on a part that is not whole: %s", err.text);
        else if (part.bytes != sqlite3_column_int64(rows, 1) ||
                 (int64_t)part.study_count != sqlite3_column_int64(rows, 2))
            breaks(s, "part %lld is not as the catalog says", (long long)number);
        for (size_t i = 0; i < part.study_count; i++) {
            simulated_mask(part.studies[i].key, mask, mask_sha256);
            if (sscanf(part.studies[i].key, "study_%lld", (long long *)&id) != 1 || id < 1 ||
                id > s->plan.studies || strcmp(mask_sha256, part.studies[i].mask_sha256) != 0)
                breaks(s, "part %lld holds a strange mask of %s", (long long)number, part.studies[i].key);
            else
                part_of[id] = part_of[id] ? -1 : number;
        }
        noc_part_record_clear(&part);
        free(path);
    }
    sqlite3_finalize(rows);
}

/* Deaths of workers, or what passed for one, that are on record: one in company, two while alone. */
static int64_t count_crashes(simulation *s, int64_t id)
{
    char sql[128];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM attempt WHERE study_id = %lld AND outcome = 'crash'",
             (long long)id);
    return ask_number(s, sql);
}

static void check_failure(simulation *s, int64_t id, sqlite3_stmt *row, char state)
{
    const char *type = (const char *)sqlite3_column_text(row, 3);
    study_fate fate = s->plan.fates[id - 1];
    if (!type || !sqlite3_column_text(row, 4) || !sqlite3_column_text(row, 4)[0]) {
        breaks(s, "study %lld failed without a type and a sentence", (long long)id);
        return;
    }
    if (state == 'q' &&
        (strcmp(type, "crash") != 0 || count_crashes(s, id) < 3 || sqlite3_column_int(row, 5) != 2))
        breaks(s, "study %lld is quarantined as %s after %lld deaths, %d of them alone", (long long)id, type,
               (long long)count_crashes(s, id), sqlite3_column_int(row, 5));
    if (state == 'f' && (fate != FATE_BAD || strcmp(type, "unreadable") != 0))
        breaks(s, "study %lld failed as %s, which is not its fate", (long long)id, type);
}

static void check_result(simulation *s, sqlite3_stmt *row, const int64_t *part_of)
{
    int64_t id = sqlite3_column_int64(row, 0), part = sqlite3_column_int64(row, 2);
    const char *name = (const char *)sqlite3_column_text(row, 1);
    char state = name ? name[0] : '-';
    if (id < 1 || id > s->plan.studies || !strchr("prwdfq", state)) {
        breaks(s, "study %lld is %s", (long long)id, name ? name : "in no state");
        return;
    }
    if (state == 'd' && part_of[id] != part)
        breaks(s, "study %lld is done in part %lld, and its mask is in %lld", (long long)id, (long long)part,
               (long long)part_of[id]);
    if (state != 'd' && part_of[id])
        breaks(s, "study %lld is %s, and its mask is in part %lld", (long long)id, name,
               (long long)part_of[id]);
    if (state == 'd' && s->plan.fates[id - 1] == FATE_BAD)
        breaks(s, "study %lld is done although it cannot be read", (long long)id);
    if (s->settled[id] && s->settled[id] != state)
        breaks(s, "study %lld was %c and is %s", (long long)id, s->settled[id], name);
    if (strchr("dfq", state))
        s->settled[id] = state;
    if (state == 'f' || state == 'q')
        check_failure(s, id, row, state);
}

static void check_catalog(simulation *s)
{
    int64_t part_of[SIMULATED_STUDIES + 1] = {0};
    int seen = 0;
    check_parts(s, part_of);
    sqlite3_stmt *rows = ask(s, "SELECT s.id, r.state, r.part, r.failure, r.sentence, r.deaths_alone FROM "
                                "study s LEFT JOIN result r ON r.study_id = s.id ORDER BY s.id");
    for (; sqlite3_step(rows) == SQLITE_ROW; seen++)
        check_result(s, rows, part_of);
    sqlite3_finalize(rows);
    if (seen != s->plan.studies)
        breaks(s, "there are %d studies instead of %d", seen, s->plan.studies);
}

/* Only when the catalog has changed since. */
static void check(simulation *s)
{
    int64_t version = ask_number(s, "PRAGMA data_version");
    if (version == s->looked_version)
        return;
    s->looked_version = version;
    check_catalog(s);
}

static void check_anew(simulation *s)
{
    s->looked_version = -1;
    check(s);
}

static void check_end(simulation *s)
{
    struct dirent **entries;
    check_anew(s);
    for (int id = 1; id <= s->plan.studies; id++)
        if (!s->settled[id])
            breaks(s, "the run is over with exit code %d, and study %d is not", s->exit_code, id);
        else if (s->plan.fates[id - 1] == FATE_POISON && s->settled[id] != 'q')
            breaks(s, "study %d kills its worker and is not quarantined", id);
    bool has_failed = simulation_count(s, "failed") + simulation_count(s, "quarantined") > 0;
    if (s->exit_code != has_failed)
        breaks(s, "the exit code is %d", s->exit_code);
    int count = scandir(s->folder, &entries, is_part, compare_names), closed = 0;
    int64_t known = ask_number(s, "SELECT count(*) FROM part");
    for (int i = 0; i < count; i++) {
        if (!is_unfinished(entries[i]->d_name))
            closed++;
        else if (!s->has_survivors) /* of an earlier job, that writes although nobody waits for it */
            breaks(s, "%s is left", entries[i]->d_name);
        free(entries[i]);
    }
    if (closed != known)
        breaks(s, "%d parts lie in the folder, the catalog knows %lld", closed, (long long)known);
    free(entries);
}

/* ---- ranks ---- */

static sim_rank *rank_of(simulation *s, int job, int rank)
{
    return &s->jobs[job].ranks[rank];
}

static const sim_rank *look_at(const simulation *s, int job, int rank)
{
    return &s->jobs[job].ranks[rank];
}

static void free_roles(sim_rank *r)
{
    noc_writer_free(r->roles.writer);
    noc_agent_free(r->roles.agent);
    simulated_worker_free(r->worker);
    noc_coordinator_free(r->roles.coordinator);
    noc_link_close(r->roles.link);
    memset(&r->roles, 0, sizeof r->roles);
    r->worker = NULL;
    r->history = 0; /* whatever it knew */
    r->life = LIFE_NONE;
    r->dies_in = 0;
}

/* The process is gone; what it would do in an orderly end is undone. is_kept: the folder was kept already. */
static void kill_rank(simulation *s, int job, int rank, bool is_kept)
{
    sim_rank *r = rank_of(s, job, rank);
    bool is_coordinator = r->roles.coordinator != NULL;
    if (r->life == LIFE_NONE)
        return;
    if (is_coordinator)
        look_away(s);
    if (!is_kept)
        keep(s, !is_coordinator);
    world_arm(0, NULL, NULL);
    world_set_process(r->pid, NOC_PROCESS_GONE);
    free_roles(r);
    world_lose_to(s->jobs[job].net, rank);
    put_back(s, !is_coordinator);
}

/* It leaves in order. */
static void leave(simulation *s, int job, int rank)
{
    sim_rank *r = rank_of(s, job, rank);
    if (r->roles.coordinator)
        look_away(s);
    world_set_process(r->pid, NOC_PROCESS_GONE);
    free_roles(r);
}

static void turn(simulation *s, int job, int rank)
{
    sim_rank *r = rank_of(s, job, rank);
    double now = world_now();
    if (r->life != LIFE_RUNS)
        return;
    if (noc_roles_were_missed(&r->roles, now) ||
        (s->jobs[job].layout.ranks > 1 && noc_roles_are_abandoned(&r->roles, now))) {
        kill_rank(s, job, rank, false);
        return;
    }
    if (job > 0 && r->roles.coordinator)
        noc_coordinator_drain(r->roles.coordinator, "the supervisor is gone");
    if (r->dies_in > 0)
        world_arm(r->dies_in, r->roles.coordinator ? keep_all : keep_unfinished, s);
    noc_roles_turn(&r->roles, now);
    if (world_is_dying()) {
        kill_rank(s, job, rank, true);
        return;
    }
    if (r->dies_in > 0)
        r->dies_in = world_instants_left();
    world_arm(0, NULL, NULL);
    noc_verdict verdict;
    bool is_over = job > 0 && r->roles.coordinator && noc_coordinator_is_over(r->roles.coordinator, &verdict);
    if (r->roles.must_stop || is_over)
        leave(s, job, rank);
}

static void say(noc_roles *roles, noc_record *record)
{
    noc_record_end(record, NULL);
    noc_link_send(roles->link, 0, record);
}

static void say_present(sim_rank *r, bool is_far)
{
    noc_record record;
    char host[128] = "";
    gethostname(host, sizeof host - 1);
    noc_record_begin(&record, NOC_SAY_PRESENT);
    noc_record_put_text(&record, is_far ? "far" : host);
    noc_record_put_u64(&record, (uint64_t)r->pid);
    noc_record_put_u64(&record, 1);
    say(&r->roles, &record);
}

static void say_hello(sim_rank *r)
{
    noc_record record;
    noc_record_begin(&record, NOC_SAY_HELLO);
    noc_record_put_text(&record, "arithmetic");
    noc_record_put_text(&record, "device");
    noc_record_put_text(&record, "isa");
    noc_record_put_error(&record, &(noc_error){.status = NOC_OK});
    noc_record_put_text(&record, "");
    say(&r->roles, &record);
}

static noc_status start_coordinator(simulation *s, sim_rank *r, noc_error *err)
{
    noc_coordinator_options options = {.settings = &s->settings,
                                       .model = s->model,
                                       .configuration = s->configuration,
                                       .layout = s->jobs[0].layout,
                                       .link = r->roles.link};
    return noc_coordinator_create(&options, &r->roles.coordinator, err);
}

static noc_status start_rank(simulation *s, int rank, noc_error *err)
{
    sim_job *job = &s->jobs[0];
    sim_rank *r = &job->ranks[rank];
    noc_part_header header = {.configuration = s->configuration,
                              .manifest = s->model->manifest,
                              .output = s->model->manifest->output,
                              .version = "simulated"};
    bool is_writer = noc_layout_group_of(&job->layout, rank) >= 0;
    *r = (sim_rank){.life = LIFE_RUNS, .pid = world_start_process(), .history = (uint64_t)rank};
    r->roles = (noc_roles){
        .link = world_link(job->net, rank), .lease_s = s->plan.lease_s, .heartbeat_s = s->plan.heartbeat_s};
    say_present(r, s->plan.is_far[rank]);
    noc_status status = rank == 0 ? start_coordinator(s, r, err) : NOC_OK;
    if (status == NOC_OK && is_writer)
        status = noc_writer_create(r->roles.link, MPI_COMM_NULL, s->folder, &header, &r->roles.writer, err);
    if (status == NOC_OK && noc_layout_is_worker(&job->layout, rank)) {
        r->worker = simulated_worker_create();
        status = noc_agent_create(r->roles.link, r->worker, s->plan.heartbeat_s, &r->roles.agent, err);
    }
    if (rank > 0 || job->layout.ranks == 1)
        say_hello(r);
    noc_roles_begin(&r->roles, world_now());
    return status;
}

/* ---- the supervisor ---- */

static bool is_survivor(const simulation *s, int rank)
{
    return s->plan.is_far[rank];
}

static void forget_job(simulation *s, int job)
{
    if (!s->jobs[job].is_there)
        return;
    for (int rank = 0; rank < s->jobs[job].layout.ranks; rank++)
        kill_rank(s, job, rank, false);
    world_net_free(s->jobs[job].net);
    memset(&s->jobs[job], 0, sizeof s->jobs[job]);
}

/* What can be reached is killed; the rest lives on until it notices. */
static void clear_session(simulation *s)
{
    for (int rank = 0; rank < s->jobs[0].layout.ranks; rank++)
        if (!is_survivor(s, rank))
            kill_rank(s, 0, rank, false);
    forget_job(s, JOBS - 1);
    memmove(&s->jobs[1], &s->jobs[0], (JOBS - 1) * sizeof s->jobs[0]);
    memset(&s->jobs[0], 0, sizeof s->jobs[0]);
    for (int rank = 0; rank < s->jobs[1].layout.ranks; rank++)
        if (s->jobs[1].ranks[rank].life != LIFE_NONE) {
            s->has_survivors = true;
            return;
        }
    forget_job(s, 1);
}

/* A coordinator of an earlier job lives and has the lock. */
static bool is_held_by_another(const simulation *s)
{
    for (int job = 1; job < JOBS; job++)
        if (s->jobs[job].is_there && s->jobs[job].ranks[0].life != LIFE_NONE)
            return true;
    return false;
}

static void start_job(simulation *s)
{
    noc_error err = {.status = NOC_OK};
    sim_job *job = &s->jobs[0];
    double before = world_now();
    noc_layout_make(s->plan.ranks, s->plan.writers, 1, &job->layout, &err);
    job->is_there = true;
    job->net = world_net_create(s->plan.ranks);
    s->starts++;
    s->starts_since_fault++;
    look_away(s);
    for (int rank = 0; rank < job->layout.ranks; rank++) {
        noc_status status = start_rank(s, rank, &err);
        if (status == NOC_ETEMPFAIL && is_held_by_another(s)) {
            world_pass(before - world_now()); /* the others had no turn meanwhile */
            s->starts_since_fault--;
            s->starts--;
            forget_job(s, 0);
            return;
        }
        if (status != NOC_OK)
            breaks(s, "rank %d cannot begin: %s", rank, err.text);
    }
    check_anew(s);
    s->beginning = hash_of_rest(s);
}

/* Exit codes below 64 end an archive; the others ask for the same command again. */
static void take_verdict(simulation *s, const noc_verdict *verdict)
{
    s->exit_code = verdict->exit_code;
    if (verdict->exit_code > 1 && verdict->exit_code != 75 && !(verdict->exit_code == 74 && s->has_filled) &&
        !(verdict->exit_code == 69 && s->has_broken))
        breaks(s, "a run ends with exit code %d", verdict->exit_code);
    if (!verdict->wants_restart && verdict->exit_code < 64) {
        s->is_finished = true;
        s->recovery_s = s->ended > 0 ? world_now() - s->ended : 0;
    }
}

static void supervise(simulation *s)
{
    noc_verdict verdict;
    sim_rank *first = rank_of(s, 0, 0);
    double lease = s->plan.lease_s;
    bool is_silent = first->life == LIFE_STOPPED && world_now() - first->stopped > lease + SILENCE_S;
    bool is_heard = first->life != LIFE_NONE && !is_silent;
    if (!s->jobs[0].is_there && !s->is_finished) {
        start_job(s);
        return;
    }
    if (s->is_finished || (is_heard && !noc_coordinator_is_over(first->roles.coordinator, &verdict)))
        return;
    if (is_heard) {
        take_verdict(s, &verdict);
        leave(s, 0, 0);
        check_anew(s);
        if (s->is_finished)
            check_end(s);
    }
    if (!s->is_finished)
        s->ended = world_now();
    clear_session(s);
    check_anew(s);
    if (!s->is_finished && !s->broken[0])
        start_job(s);
}

/* ---- steps ---- */

static bool is_fault(step_kind kind)
{
    return kind >= STEP_KILL;
}

static void finish_study(simulation *s, const sim_step *step)
{
    sim_rank *r = rank_of(s, step->job, step->rank);
    int64_t id = simulated_worker_current(r->worker);
    noc_error failure = {.status = NOC_OK};
    study_fate fate = s->plan.fates[id - 1];
    if (fate == FATE_POISON) {
        s->deaths[id]++;
        s->starts_since_fault = 0;
        kill_rank(s, step->job, step->rank, false);
        return;
    }
    if (fate == FATE_BAD)
        noc_fail(&failure, NOC_EUNREADABLE, "no scan");
    if (fate == FATE_FLAKY && s->attempts[id]++ == 0)
        noc_fail(&failure, NOC_ENOMEMORY, "no memory");
    simulated_worker_finish(r->worker, &failure);
    turn(s, step->job, step->rank);
}

static void pass(simulation *s)
{
    world_pass(0.5);
    for (int job = 0; job < JOBS; job++)
        for (int rank = 0; rank < s->jobs[job].layout.ranks; rank++)
            turn(s, job, rank);
}

static bool is_small_talk(const simulation *s, const sim_step *step)
{
    return (step->kind == STEP_TAKE || step->kind == STEP_ARRIVE) &&
           world_is_small_talk(world_head(s->jobs[step->job].net, step->from, step->rank));
}

/* Small talk that is on its way is taken. True when something else is on its way too. */
static bool chat(simulation *s)
{
    sim_step steps[256];
    for (int i = 0, count = simulation_steps(s, steps, 256); i < count; i++) {
        if (steps[i].kind != STEP_TAKE)
            continue;
        if (!is_small_talk(s, &steps[i]))
            return true;
        world_deliver(s->jobs[steps[i].job].net, steps[i].from, steps[i].rank);
        turn(s, steps[i].job, steps[i].rank);
        i = -1, count = simulation_steps(s, steps, 256);
    }
    return false;
}

void simulation_chat(simulation *s)
{
    chat(s);
    supervise(s);
}

static void wait_on(simulation *s)
{
    int starts = s->starts;
    for (int i = 0; i < 80 && s->starts == starts && !simulation_is_over(s); i++) {
        pass(s);
        supervise(s);
        if (chat(s) || (i > 0 && !simulation_is_hurt(s)))
            return;
        supervise(s);
    }
}

static void kill_all(simulation *s)
{
    for (int rank = 0; rank < s->jobs[0].layout.ranks; rank++)
        kill_rank(s, 0, rank, false);
}

static void make_fault(simulation *s, const sim_step *step)
{
    sim_rank *r = rank_of(s, step->job, step->rank);
    s->starts_since_fault = 0;
    s->fault = world_now();
    switch (step->kind) {
    case STEP_KILL:
        kill_rank(s, step->job, step->rank, false);
        if (step->from)
            world_lose_from(s->jobs[step->job].net, step->rank);
        break;
    case STEP_KILL_IN:
        r->dies_in = step->from;
        break;
    case STEP_STOP:
        r->life = LIFE_STOPPED;
        r->stopped = world_now();
        world_set_process(r->pid, NOC_PROCESS_STOPPED);
        break;
    case STEP_WAKE:
        r->life = LIFE_RUNS;
        world_set_process(r->pid, NOC_PROCESS_RUNS);
        break;
    case STEP_KILL_ALL:
        kill_all(s);
        break;
    case STEP_BREAK:
        s->has_broken = true;
        simulated_worker_finish(r->worker, &(noc_error){.status = NOC_EDEVICE, .text = "the device is gone"});
        break;
    case STEP_FILL:
        s->has_filled = true;
        simulated_parts_fail(1);
        break;
    case STEP_DRAIN:
        noc_coordinator_drain(rank_of(s, 0, 0)->roles.coordinator, "asked to stop");
        break;
    case STEP_HOLD:
        r->is_held = true;
        break;
    case STEP_LET:
        r->is_held = false;
        break;
    default:
        break;
    }
}

static void note_history(simulation *s, const sim_step *step)
{
    sim_rank *r = rank_of(s, step->job, step->rank);
    uint64_t message = 0;
    if (step->kind == STEP_PASS || is_small_talk(s, step))
        return;
    if (step->kind == STEP_ARRIVE || step->kind == STEP_TAKE)
        message = world_head_hash(s->jobs[step->job].net, step->from, step->rank);
    if (step->kind != STEP_KILL && step->kind != STEP_KILL_ALL)
        r->history = world_mix(world_mix(world_mix(r->history, step->kind), (uint64_t)step->from), message);
}

void simulation_do(simulation *s, const sim_step *step)
{
    note_history(s, step);
    if (step->kind == STEP_ARRIVE || step->kind == STEP_TAKE)
        world_deliver(s->jobs[step->job].net, step->from, step->rank);
    if (step->kind == STEP_TAKE)
        turn(s, step->job, step->rank);
    else if (step->kind == STEP_FINISH)
        finish_study(s, step);
    else if (step->kind == STEP_PASS)
        pass(s);
    else if (step->kind == STEP_WAIT)
        wait_on(s);
    else if (is_fault(step->kind))
        make_fault(s, step);
    if (rank_of(s, 0, 0)->life != LIFE_NONE)
        check(s);
    else
        check_anew(s);
    supervise(s);
    if (s->starts_since_fault > 3)
        breaks(s, "started %d times since the last fault", s->starts_since_fault);
    if (world_now() > 1000 + ARCHIVE_S)
        breaks(s, "not finished after %d s", ARCHIVE_S);
}

static bool has_work(const sim_rank *r)
{
    return r->life == LIFE_RUNS && r->worker && simulated_worker_current(r->worker) > 0;
}

int simulation_steps(const simulation *s, sim_step *steps, int capacity)
{
    int count = 0;
    for (int job = 0; job < JOBS; job++) {
        const sim_job *j = &s->jobs[job];
        for (int rank = 0; rank < j->layout.ranks; rank++) {
            const sim_rank *r = &j->ranks[rank];
            for (int from = 0; r->life == LIFE_RUNS && from < j->layout.ranks; from++)
                if (count < capacity && world_head(j->net, from, rank) && !j->ranks[from].is_held)
                    steps[count++] = (sim_step){STEP_TAKE, job, rank, from};
            if (count < capacity && has_work(r))
                steps[count++] = (sim_step){STEP_FINISH, job, rank, 0};
        }
    }
    if (count < capacity)
        steps[count++] = (sim_step){.kind = STEP_PASS};
    return count;
}

bool simulation_can(const simulation *s, const sim_step *step)
{
    const sim_job *job = &s->jobs[step->job];
    const sim_rank *r = look_at(s, step->job, step->rank);
    if (!job->is_there || step->rank >= job->layout.ranks)
        return false;
    switch (step->kind) {
    case STEP_KILL:
        return r->life != LIFE_NONE && (!step->from || world_has_from(job->net, step->rank));
    case STEP_KILL_IN:
    case STEP_STOP:
        return r->life == LIFE_RUNS && r->dies_in == 0;
    case STEP_WAKE:
        return r->life == LIFE_STOPPED;
    case STEP_KILL_ALL:
        return step->job == 0;
    case STEP_HOLD:
        return r->life == LIFE_RUNS && !r->is_held;
    case STEP_LET:
        return r->is_held;
    case STEP_BREAK:
        return has_work(r);
    case STEP_FILL:
        return step->job == 0 && simulated_parts_can_fail();
    case STEP_DRAIN:
        return step->job == 0 && look_at(s, 0, 0)->life == LIFE_RUNS;
    default:
        return false;
    }
}

/* ---- life ---- */

static noc_status add_studies(noc_catalog *catalog, const simulation_plan *plan, noc_error *err)
{
    noc_status status = NOC_OK;
    for (int i = 1; status == NOC_OK && i <= plan->studies; i++) {
        noc_study study = {.layout = "file", .channel_count = 1, .has_shape = true};
        noc_put what;
        char text[64];
        snprintf(study.key, sizeof study.key, "study_%d", i);
        snprintf(text, sizeof text, "/scans/study_%d.nii.gz", i);
        study.channels[0] = strdup(text);
        study.fingerprint = strdup("1000:1700000000000000000");
        for (int a = 0; a < 3; a++)
            study.size[a] = 20 + 30 * (i * 7 % 5);
        status = noc_catalog_put_study(catalog, &study, &what, err);
        noc_study_clear(&study);
    }
    return status;
}

/* An empty catalog takes longer to make than a run: it is kept for the next one. */
static noc_status make_catalog(simulation *s, noc_error *err)
{
    static char *made[SIMULATED_STUDIES + 1];
    static size_t size[SIMULATED_STUDIES + 1];
    int n = s->plan.studies;
    noc_catalog *catalog;
    int64_t set;
    if (made[n])
        return noc_file_replace(s->catalog, made[n], size[n], err);
    noc_status status = noc_catalog_open(s->catalog, NOC_CATALOG_CREATE, &catalog, err);
    if (status == NOC_OK)
        status = add_studies(catalog, &s->plan, err);
    if (status == NOC_OK)
        status = noc_catalog_open_set(catalog, &s->configuration, &set, err);
    noc_catalog_close(catalog);
    return status == NOC_OK ? noc_file_read(s->catalog, 1 << 26, &made[n], &size[n], err) : status;
}

static noc_status prepare(simulation *s, noc_error *err)
{
    static noc_model *model; /* of all */
    static char verb[] = "run";
    bool is_help;
    noc_status status = noc_settings_parse(1, (char *[]){verb, NULL}, &s->settings, &is_help, err);
    if (status == NOC_OK && !model)
        status = noc_model_load("tests/data/models/tiny", &model, err);
    if (status != NOC_OK)
        return status;
    s->model = model;
    s->settings.catalog = s->catalog;
    s->settings.part_studies = s->plan.part_studies;
    s->settings.lease_s = s->plan.lease_s;
    s->settings.heartbeat_s = s->plan.heartbeat_s;
    s->settings.disk_reserve = 0;
    s->settings.progress = "none";
    s->configuration = (noc_configuration){.model = "tiny",
                                           .model_sha256 = "00",
                                           .window = {32, 32, 32},
                                           .overlap = 0.5,
                                           .blend = "gaussian",
                                           .precision = "f32"};
    snprintf(s->configuration.results, sizeof s->configuration.results, "%s", s->folder);
    return make_catalog(s, err);
}

simulation *simulation_create(const char *folder, const simulation_plan *plan)
{
    noc_error err = {.text = "no memory"};
    simulation *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->plan = *plan;
    s->looked_version = -1;
    snprintf(s->folder, sizeof s->folder, "%s/run", folder);
    snprintf(s->kept, sizeof s->kept, "%s/kept", folder);
    snprintf(s->catalog, sizeof s->catalog, "%s/run/catalog.sqlite", folder);
    world_reset();
    simulated_parts_fail(0);
    mkdir(s->folder, 0777);
    mkdir(s->kept, 0777);
    empty_folder(s->folder);
    empty_folder(s->kept);
    if (prepare(s, &err) != NOC_OK) {
        fprintf(stderr, "%s\n", err.text);
        simulation_free(s);
        return NULL;
    }
    start_job(s);
    return s;
}

void simulation_free(simulation *s)
{
    if (!s)
        return;
    for (int job = 0; job < JOBS; job++)
        forget_job(s, job);
    look_away(s);
    noc_settings_free(&s->settings);
    free(s);
}

/* ---- asking ---- */

const char *simulation_broken(const simulation *s)
{
    return s->broken[0] ? s->broken : NULL;
}

bool simulation_is_over(const simulation *s)
{
    return s->is_finished || s->broken[0];
}

bool simulation_is_quiet(const simulation *s)
{
    for (int job = 0; job < JOBS; job++)
        for (int rank = 0; rank < s->jobs[job].layout.ranks; rank++)
            if (s->jobs[job].ranks[rank].life == LIFE_RUNS)
                return false;
    return true;
}

uint64_t simulation_hash(const simulation *s)
{
    uint64_t hash = world_mix(s->beginning, (uint64_t)s->is_finished);
    for (int job = 0; job < JOBS; job++) {
        const sim_job *j = &s->jobs[job];
        for (int rank = 0; rank < j->layout.ranks; rank++)
            hash = world_mix(world_mix(hash, j->ranks[rank].history), j->ranks[rank].life);
        if (j->is_there)
            hash = world_mix(hash, world_net_hash(j->net));
    }
    return hash;
}

uint64_t simulation_rank_hash(const simulation *s, int rank)
{
    return s->jobs[0].ranks[rank].history;
}

bool simulation_is_worker(const simulation *s, int rank)
{
    return noc_layout_is_worker(&s->jobs[0].layout, rank);
}

uint32_t simulation_message(const simulation *s, const sim_step *step)
{
    return step->kind == STEP_TAKE ? world_head(s->jobs[step->job].net, step->from, step->rank) : 0;
}

bool simulation_is_hurt(const simulation *s)
{
    bool is_stopped = s->jobs[0].is_there && s->jobs[0].ranks[0].life == LIFE_STOPPED;
    return s->fault > 0 && world_now() - s->fault < s->plan.lease_s + (is_stopped ? SILENCE_S + 1 : 3);
}

bool simulation_has_slept(const simulation *s, int job, int rank)
{
    const sim_rank *r = look_at(s, job, rank);
    return r->life == LIFE_STOPPED && world_now() > r->stopped;
}

bool simulation_is_blocked(const simulation *s)
{
    return !s->jobs[0].is_there && !s->is_finished;
}

int simulation_starts(const simulation *s)
{
    return s->starts;
}

double simulation_recovery_s(const simulation *s)
{
    return s->recovery_s;
}

int simulation_exit_code(const simulation *s)
{
    return s->exit_code;
}

void simulation_describe(const simulation *s, const sim_step *step, char *text, size_t size)
{
    static const char *const names[STEP_KINDS] = {"arrive", "take",    "finish", "pass", "wait",
                                                  "kill",   "kill-in", "stop",   "wake", "kill-all",
                                                  "break",  "fill",    "drain",  "hold", "let"};
    static const char *const messages[] = {"",         "HELLO",   "PRESENT", "HEARTBEAT",  "FINISHED",
                                           "RETURNED", "BROKEN",  "HOLDS",   "ROUND_DONE", "CLOSED",
                                           "GRANT",    "DELIVER", "DISCARD", "WITHDRAW",   "DROP",
                                           "ROUND",    "CLOSE",   "PING",    "STOP",       "MASK"};
    const sim_job *job = &s->jobs[step->job];
    bool is_message = step->kind == STEP_ARRIVE || step->kind == STEP_TAKE;
    snprintf(text, size, "%8.1f  start %d%s  rank %d  %-8s %d %s", world_now(), s->starts,
             step->job ? " (an earlier one)" : "", step->rank, names[step->kind], step->from,
             is_message && job->is_there ? messages[world_head(job->net, step->from, step->rank)] : "");
}
