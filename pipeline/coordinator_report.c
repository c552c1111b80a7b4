/* What people see of a run: RESULTS/status.json every 5 s, a progress line, and the summary at the end. */
#include "pipeline/command.h"
#include "pipeline/coordinator_state.h"
#include "pipeline/status.h"

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/log.h"
#include "engine/base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STATUS_S 5.0
#define LINE_S 10.0 /* between progress lines where there is no terminal */

static double per_hour(const noc_coordinator *c, double now)
{
    double seconds = now - c->first_grant;
    return c->first_grant > 0 && seconds > 0 ? (double)c->done * 3600 / seconds : 0;
}

/* As long for each as for those that are over; until one is, nothing is known. */
static double seconds_left(const noc_coordinator *c, double now)
{
    noc_schedule_counts counts;
    noc_schedule_counts_of(c->schedule, &counts);
    int64_t left = counts.waiting + counts.granted + counts.secured, over = c->done + c->failed;
    if (left == 0)
        return 0;
    return over > 0 && c->first_grant > 0 ? (now - c->first_grant) * (double)left / (double)over : NAN;
}

static void write_status(noc_coordinator *c, double now)
{
    noc_text text = {0};
    noc_counts counts;
    noc_error err;
    if (noc_catalog_states(c->catalog, c->set, &counts, &err) != NOC_OK)
        return;
    counts.studies_per_hour = per_hour(c, now);
    counts.seconds_left = seconds_left(c, now);
    noc_counts_write_json(&counts, &text);
    char *path = noc_path_join(c->configuration.results, "status.json", NULL);
    if (path && !text.failed && noc_file_replace(path, text.data, text.size, &err) != NOC_OK)
        noc_log(NOC_LOG_DEBUG, "%s", err.text); /* an aid only: a full disk is found where it matters */
    free(path);
    noc_text_free(&text);
}

static void progress_text(const noc_coordinator *c, double now, char *text, size_t size)
{
    noc_schedule_counts counts;
    char left[32] = "time left unknown yet";
    double seconds = seconds_left(c, now);
    noc_schedule_counts_of(c->schedule, &counts);
    if (!isnan(seconds))
        snprintf(left, sizeof left, "%d:%02d:%02d left", (int)(seconds / 3600), (int)(seconds / 60) % 60,
                 (int)seconds % 60);
    snprintf(text, size,
             "%lld of %zu done, %lld failed, %lld in hand, %lld in the open part, %.0f an hour, %s",
             (long long)c->done, c->study_count, (long long)c->failed, (long long)counts.granted,
             (long long)counts.secured, per_hour(c, now), left);
}

static void say_progress(noc_coordinator *c, double now)
{
    char text[256];
    progress_text(c, now, text, sizeof text);
    if (c->control)
        noc_control_say(c->control, "progress %s", text);
    else if (strcmp(c->settings->progress, "none") != 0 && now - c->progress_said >= LINE_S) {
        noc_log(NOC_LOG_INFO, "%s", text);
        c->progress_said = now;
    }
}

void coordinator_report(noc_coordinator *c, double now)
{
    if (c->study_count == 0)
        return; /* a finished archive stays as it is, to the byte */
    if (now - c->status_written >= STATUS_S) {
        write_status(c, now);
        c->status_written = now;
    }
    say_progress(c, now);
}

static void say_summary(noc_coordinator *c, const char *text)
{
    if (c->control && noc_control_is_connected(c->control))
        noc_control_say(c->control, "summary %s", text);
    else
        noc_log(NOC_LOG_INFO, "%s", text);
}

typedef struct workers_sum {
    double seconds, busy, starved;
    int64_t windows;
    size_t peak_bytes; /* of the one with most */
} workers_sum;

static workers_sum sum_workers(const noc_coordinator *c)
{
    workers_sum sum = {0};
    for (int i = 0; i < c->layout.workers; i++) {
        const coordinator_peer *peer = &c->peers[c->layout.first_worker + i];
        sum.seconds += peer->seconds;
        sum.busy += peer->busy;
        sum.starved += peer->starved;
        sum.windows += peer->windows;
        sum.peak_bytes = peer->peak_bytes > sum.peak_bytes ? peer->peak_bytes : sum.peak_bytes;
    }
    return sum;
}

/* How busy the workers' engines were, and the highest resident memory among them. */
static void summarise_workers(noc_coordinator *c, const workers_sum *sum)
{
    char text[256];
    if (sum->seconds <= 0)
        return;
    snprintf(text, sizeof text,
             "%lld windows; the engine was busy %.0f %% of the time, waited for scans %.0f %%; a worker's "
             "resident memory was at most %zu MiB",
             (long long)sum->windows, 100 * sum->busy / sum->seconds, 100 * sum->starved / sum->seconds,
             sum->peak_bytes >> 20);
    say_summary(c, text);
}

/* How many workers each GPU has, by its UUID. */
static void add_gpus(const noc_coordinator *c, noc_text *text)
{
    const coordinator_peer *workers = &c->peers[c->layout.first_worker];
    bool has_some = false;
    noc_text_add(text, ",\"gpus\":{");
    for (int i = 0; i < c->layout.workers; i++) {
        int before = 0, count = 0;
        for (int j = 0; j < c->layout.workers; j++)
            if (strcmp(workers[j].uuid, workers[i].uuid) == 0)
                j < i ? before++ : count++;
        if (workers[i].uuid[0] == '\0' || before > 0)
            continue;
        noc_text_add(text, has_some ? "," : "");
        noc_text_add_json(text, workers[i].uuid);
        noc_text_add(text, ":%d", count);
        has_some = true;
    }
    noc_text_add(text, "}");
}

/* RESULTS/run.json: the figures of the last run that had something to do. */
static void write_run(const noc_coordinator *c, double seconds, const workers_sum *sum)
{
    noc_text text = {0};
    noc_error err;
    double all = sum->seconds > 0 ? sum->seconds : 1;
    noc_text_add(&text, "{\"version\":");
    noc_text_add_json(&text, noc_version());
    noc_text_add(&text, ",\"device\":");
    noc_text_add_json(&text, c->device);
    add_gpus(c, &text);
    noc_text_add(&text,
                 ",\"isa\":\"%s\",\"ranks\":%d,\"writers\":%d,\"workers\":%d,\"done\":%lld,\"failed\":%lld,"
                 "\"seconds\":%.3f,"
                 "\"windows\":%lld,\"engine_busy\":%.4f,\"engine_starved\":%.4f,\"worker_peak_bytes\":%zu,"
                 "\"exit\":%d}\n",
                 c->isa, c->layout.ranks, c->layout.writers, c->layout.workers, (long long)c->done,
                 (long long)c->failed, seconds, (long long)sum->windows, sum->busy / all, sum->starved / all,
                 sum->peak_bytes, c->exit_code);
    char *path = noc_path_join(c->configuration.results, "run.json", NULL);
    if (path && !text.failed && noc_file_replace(path, text.data, text.size, &err) != NOC_OK)
        noc_log(NOC_LOG_DEBUG, "%s", err.text);
    free(path);
    noc_text_free(&text);
}

void coordinator_summary(noc_coordinator *c, double now)
{
    char text[320];
    if (c->study_count == 0) {
        say_summary(c, "nothing was pending");
        return;
    }
    write_status(c, now);
    snprintf(text, sizeof text, "%lld studies done, %lld failed or quarantined in %.1f s (%.0f an hour)",
             (long long)c->done, (long long)c->failed, c->first_grant > 0 ? now - c->first_grant : 0,
             per_hour(c, now));
    say_summary(c, text);
    workers_sum sum = sum_workers(c);
    summarise_workers(c, &sum);
    write_run(c, c->first_grant > 0 ? now - c->first_grant : 0, &sum);
    if (c->failure.status != NOC_OK) {
        snprintf(text, sizeof text, "stopped early: %.280s", c->failure.text);
        say_summary(c, text);
    } else if (c->is_draining && !c->wants_restart) {
        say_summary(c, "stopped early: the same command goes on with what is left");
    }
}
