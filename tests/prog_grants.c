/* How fast the coordinator answers.
 *
 *   prog_grants latency [STUDIES [WORKERS [GRANTS]]]   the real coordinator with its catalog (in $TMPDIR):
 * time from a word that frees a worker to the grant that it causes */
#include "engine/base/file.h"
#include "pipeline/command.h"
#include "pipeline/coordinator.h"
#include "pipeline/message.h"
#include "pipeline/schedule.h"
#include "tests/simulated_link.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WRITER = 1, FIRST_WORKER = 2 };

/* The program's own stands in main.c. */
int noc_command_fail(const noc_error *failure)
{
    return noc_status_exit(failure->status);
}

static void must(noc_status status, const noc_error *err)
{
    if (status == NOC_OK)
        return;
    fprintf(stderr, "%s\n", err->text);
    exit(noc_status_exit(status));
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---- latency ---- */

typedef struct bench {
    char folder[512], path[600];
    noc_settings settings;
    noc_model *model;
    noc_link *link;
    noc_coordinator *coordinator;
    int studies, workers, wanted;
    double *latency; /* of each grant, in seconds */
    int grants;
    double turn_began; /* the coordinator's, by the real clock */
    noc_outcome *held; /* the study of each grant that is not answered yet, oldest first */
    int *holder;
    int first, last;
    uint64_t part, to_close; /* the open one; and when it is to be closed */
} bench;

static void add_studies(bench *b, noc_catalog *catalog)
{
    noc_error err;
    noc_put what;
    must(noc_catalog_begin(catalog, &err), &err);
    for (int i = 1; i <= b->studies; i++) {
        noc_study study = {.layout = "file", .channel_count = 1, .has_shape = true};
        char text[64];
        snprintf(study.key, sizeof study.key, "study_%06d", i);
        snprintf(text, sizeof text, "/scans/study_%06d.nii.gz", i);
        study.channels[0] = strdup(text);
        study.fingerprint = strdup("1000:1700000000000000000");
        for (int a = 0; a < 3; a++)
            study.size[a] = 100 + i * 37 % 200;
        must(noc_catalog_put_study(catalog, &study, &what, &err), &err);
        noc_study_clear(&study);
    }
    must(noc_catalog_commit(catalog, &err), &err);
}

static void open_bench(bench *b)
{
    const char *base = getenv("TMPDIR");
    static char verb[] = "run";
    noc_catalog *catalog;
    noc_error err;
    bool is_help;
    noc_coordinator_options options = {.settings = &b->settings};
    snprintf(b->folder, sizeof b->folder, "%s/grants.XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(b->folder))
        exit(73);
    snprintf(b->path, sizeof b->path, "%s/catalog.sqlite", b->folder);
    must(noc_settings_parse(1, (char *[]){verb, NULL}, &b->settings, &is_help, &err), &err);
    must(noc_model_load("tests/data/models/tiny", &b->model, &err), &err);
    must(noc_catalog_open(b->path, NOC_CATALOG_CREATE, &catalog, &err), &err);
    add_studies(b, catalog);
    noc_catalog_close(catalog);
    b->settings.catalog = b->path;
    b->settings.progress = "none";
    b->settings.disk_reserve = 0;
    options.model = b->model;
    options.link = b->link = simulated_link_create(b->workers + FIRST_WORKER);
    options.configuration = (noc_configuration){.model = "tiny",
                                                .model_sha256 = "00",
                                                .window = {32, 32, 32},
                                                .overlap = 0.5,
                                                .blend = "gaussian",
                                                .precision = "f32"};
    snprintf(options.configuration.results, sizeof options.configuration.results, "%s", b->folder);
    must(noc_layout_make(b->workers + FIRST_WORKER, 1, 1, &options.layout, &err), &err);
    double began = seconds();
    must(noc_coordinator_create(&options, &b->coordinator, &err), &err);
    printf("%d studies: the coordinator is ready after %.2f s\n", b->studies, seconds() - began);
}

static void close_bench(bench *b)
{
    char command[600];
    noc_coordinator_free(b->coordinator);
    noc_link_close(b->link);
    noc_model_free(b->model);
    noc_settings_free(&b->settings);
    free(b->latency);
    free(b->held);
    free(b->holder);
    snprintf(command, sizeof command, "rm -rf '%s'", b->folder);
    if (system(command) != 0)
        exit(74);
}

/* A grant leaves the coordinator: the instant that counts. */
static void note_grant(bench *b, int to, noc_record *record)
{
    noc_error err;
    noc_study study;
    noc_outcome *o = &b->held[b->last];
    memset(o, 0, sizeof *o);
    o->lease = noc_record_get_u64(record);
    must(noc_record_get_study(record, &study, &err), &err);
    o->study = study.id;
    memcpy(o->key, study.key, sizeof o->key);
    snprintf(o->fingerprint, sizeof o->fingerprint, "%s", study.fingerprint);
    noc_study_clear(&study);
    b->holder[b->last++] = to;
}

static void on_send(void *argument, int to, uint32_t type, noc_record *record)
{
    bench *b = argument;
    if (type == NOC_SAY_ROUND)
        b->part = noc_record_get_u64(record);
    if (type == NOC_SAY_CLOSE)
        b->to_close = b->part;
    if (type != NOC_SAY_GRANT)
        return;
    if (b->turn_began > 0 && b->grants < b->wanted)
        b->latency[b->grants++] = seconds() - b->turn_began;
    note_grant(b, to, record);
}

/* What the coordinator hears, and its turn. */
static void hear(bench *b, int from, noc_record *record)
{
    noc_message message = {.from = from};
    noc_error err;
    must(noc_record_end(record, &err), &err);
    must(noc_record_open(&message.record, record->data, record->size, &message.type, &err), &err);
    b->turn_began = seconds();
    noc_coordinator_handle(b->coordinator, &message, b->turn_began);
    noc_coordinator_tick(b->coordinator, b->turn_began);
    b->turn_began = 0;
    noc_record_free(&message.record);
}

static void say_hello(bench *b, int from)
{
    noc_record record;
    noc_record_begin(&record, NOC_SAY_HELLO);
    noc_record_put_text(&record, "arithmetic");
    noc_record_put_text(&record, "device");
    noc_record_put_text(&record, "isa");
    noc_record_put_error(&record, &(noc_error){.status = NOC_OK});
    noc_record_put_text(&record, "");
    hear(b, from, &record);
}

static void say_part(bench *b, noc_message_type type)
{
    noc_record record;
    noc_record_begin(&record, type);
    noc_record_put_u64(&record, b->part);
    noc_record_put_u64(&record, 3);
    noc_record_put_error(&record, &(noc_error){.status = NOC_OK});
    hear(b, WRITER, &record);
}

static void close_part(bench *b)
{
    noc_error err;
    char *path = noc_part_path(b->folder, (int64_t)b->part, true, &err);
    b->to_close = 0;
    must(path ? noc_file_replace(path, "hdf", 3, &err) : NOC_ENOMEMORY, &err);
    free(path);
    say_part(b, NOC_SAY_CLOSED);
}

/* The oldest grant is answered, delivered and written. */
static void answer_one(bench *b)
{
    noc_record record;
    noc_outcome o = b->held[b->first];
    int worker = b->holder[b->first++];
    o.grid.size[0] = o.grid.size[1] = o.grid.size[2] = 1;
    o.mask_bytes = 1;
    noc_record_begin(&record, NOC_SAY_FINISHED);
    noc_record_put_outcome(&record, &o, false);
    hear(b, worker, &record);
    noc_record_begin(&record, NOC_SAY_HOLDS);
    noc_record_put_u64(&record, o.lease);
    hear(b, WRITER, &record);
    say_part(b, NOC_SAY_ROUND_DONE);
    if (b->to_close)
        close_part(b);
}

static int latency(int argc, char **argv)
{
    bench b = {.studies = argc > 2 ? atoi(argv[2]) : 100000,
               .workers = argc > 3 ? atoi(argv[3]) : 64,
               .wanted = argc > 4 ? atoi(argv[4]) : 20000};
    b.latency = calloc((size_t)b.wanted + 1, sizeof *b.latency);
    b.held = calloc((size_t)b.studies + 1, sizeof *b.held);
    b.holder = calloc((size_t)b.studies + 1, sizeof *b.holder);
    open_bench(&b);
    simulated_link_watch(b.link, on_send, &b);
    for (int rank = WRITER; rank < FIRST_WORKER + b.workers; rank++)
        say_hello(&b, rank);
    b.grants = 0;
    double began = seconds();
    while (b.grants < b.wanted && b.first < b.last)
        answer_one(&b);
    double took = seconds() - began;
    int n = b.grants;
    qsort(b.latency, (size_t)n, sizeof *b.latency, compare);
    if (n > 0)
        printf("%d workers, %d grants: p50 %.3f ms, p99 %.3f ms, most %.3f ms; %.0f grants a second\n",
               b.workers, n, 1e3 * b.latency[n / 2], 1e3 * b.latency[n * 99 / 100], 1e3 * b.latency[n - 1],
               n / took);
    close_bench(&b);
    return n > 0 ? 0 : 70;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "latency") == 0)
        return latency(argc, argv);
    fprintf(stderr, "usage: prog_grants latency [STUDIES [WORKERS [GRANTS]]]\n");
    return 64;
}
