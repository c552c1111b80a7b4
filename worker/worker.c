/* Queueing and the threads of the three stages.
 *
 *   submit -> pending -> [reader: admit, read, prepare] -> prepared -> [engine: windows] -> segmented
 *          -> [finisher] -> ready -> take
 *
 * `pending` and `ready` are lists under the mutex, without bounds, so that submit and take never wait;
 * `prepared` and `segmented` are bounded queues. Whatever fails, a job goes straight to `ready` with its
 * failure. Admission is one reader's at a time, in the order of submission. */
#include "worker/worker.h"

#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/base/queue.h"
#include "worker/active.h"
#include "worker/job.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Blocks of this size or more are mapped, so that a volume's memory is the system's again as soon as it is
 * freed; left alone, the library would raise this to the largest block ever freed. */
enum { MAPPED_BLOCK = 1 << 20 };

enum { PREPARED_AHEAD = 2, SEGMENTED_AHEAD = 4, MAX_THREADS = 16 };

/* Beyond its time limit, until a call counts as one that never returns: as long again, and at least this. */
#define STUCK_EXTRA_S 5.0

typedef struct job_list {
    noc_job *first, *last;
} job_list;

/* What a thread is busy with; between two of them it looks at the time limit. */
typedef struct task {
    bool is_on;
    uint64_t lease;
    double since;
} task;

struct noc_worker {
    noc_engine *engine;
    noc_job_rules rules;
    noc_admission *admission;
    noc_queue *prepared, *segmented;
    double created;
    atomic_bool is_stopping, is_broken;

    pthread_mutex_t admission_turn; /* held by the reader whose job is at the admission */

    pthread_mutex_t mutex; /* everything below */
    pthread_cond_t has_pending;
    job_list pending, ready;
    noc_job *at_admission; /* its reading has not begun */
    int in_hand;
    double seconds_busy, seconds_starved;
    double starved_since; /* negative: not now */
    int64_t windows, studies;
    task tasks[2 * MAX_THREADS + 1]; /* one a thread */
    int task_count;

    pthread_t readers[MAX_THREADS], finishers[MAX_THREADS], engine_thread;
    int reader_count, finisher_count;
    bool has_engine_thread;
};

static void list_add(job_list *list, noc_job *job)
{
    job->next = NULL;
    if (list->last)
        list->last->next = job;
    else
        list->first = job;
    list->last = job;
}

static noc_job *list_take(job_list *list)
{
    noc_job *job = list->first;

    if (!job)
        return NULL;
    list->first = job->next;
    if (!list->first)
        list->last = NULL;
    job->next = NULL;
    return job;
}

/* ---- what threads are busy with ---- */

static task *task_of_thread(noc_worker *w)
{
    pthread_mutex_lock(&w->mutex);
    task *t = &w->tasks[w->task_count++];
    pthread_mutex_unlock(&w->mutex);
    return t;
}

static void begin_task(noc_worker *w, task *t, const noc_job *job)
{
    double now = noc_clock_monotonic();

    pthread_mutex_lock(&w->mutex);
    *t = (task){.is_on = true, .lease = job->outcome->lease, .since = now};
    pthread_mutex_unlock(&w->mutex);
}

static void end_task(noc_worker *w, task *t)
{
    pthread_mutex_lock(&w->mutex);
    t->is_on = false;
    pthread_mutex_unlock(&w->mutex);
}

bool noc_worker_is_stuck(noc_worker *worker, uint64_t *lease)
{
    double limit = worker->rules.timeout_s, now = noc_clock_monotonic();
    bool is_stuck = false;

    if (limit <= 0)
        return false;
    pthread_mutex_lock(&worker->mutex);
    for (int i = 0; i < worker->task_count && !is_stuck; i++) {
        const task *t = &worker->tasks[i];
        is_stuck = t->is_on && now - t->since > limit + (limit > STUCK_EXTRA_S ? limit : STUCK_EXTRA_S);
        if (is_stuck)
            *lease = t->lease;
    }
    pthread_mutex_unlock(&worker->mutex);
    return is_stuck;
}

bool noc_worker_is_at_work(noc_worker *worker)
{
    bool is_at_work = false;

    pthread_mutex_lock(&worker->mutex);
    for (int i = 0; i < worker->task_count; i++)
        is_at_work |= worker->tasks[i].is_on;
    pthread_mutex_unlock(&worker->mutex);
    return is_at_work;
}

/* ---- the end of a job ---- */

/* Passes what the job has been admitted with to its outcome, as far as that still needs it. */
static void settle_account(noc_worker *w, noc_job *job)
{
    noc_outcome *o = job->outcome;
    size_t kept = o->failure.status == NOC_OK ? job->bytes_when_finished : 0;

    if (job->admitted_bytes == 0)
        return;
    noc_admission_finish(w->admission, job->admitted_bytes, kept);
    job->admitted_bytes = 0;
    if (kept > 0) {
        o->admission = w->admission;
        o->admitted_bytes = kept;
    }
}

static void set_failure(noc_outcome *outcome, noc_status status, const noc_error *failure)
{
    outcome->failure = *failure;
    outcome->failure.status = status <= NOC_EINTERNAL ? status : NOC_EINTERNAL;
}

/* The job's one outcome: it succeeded (failure unused) or failed, by a type that a study can have. */
static void post(noc_worker *w, noc_job *job, noc_status status, const noc_error *failure)
{
    if (status != NOC_OK) {
        noc_outcome_drop_results(job->outcome);
        set_failure(job->outcome, status, failure);
    }
    noc_job_drop_volumes(job);
    settle_account(w, job);
    pthread_mutex_lock(&w->mutex);
    list_add(&w->ready, job);
    w->studies += status == NOC_OK;
    pthread_mutex_unlock(&w->mutex);
}

/* A job whose outcome nobody wants. */
static void discard(noc_worker *w, noc_job *job)
{
    if (job->admitted_bytes > 0)
        noc_admission_finish(w->admission, job->admitted_bytes, 0);
    noc_job_free(job);
}

/* ---- readers ---- */

static noc_job *take_pending(noc_worker *w)
{
    noc_job *job = NULL;

    pthread_mutex_lock(&w->mutex);
    while (!atomic_load(&w->is_stopping) && !(job = list_take(&w->pending)))
        pthread_cond_wait(&w->has_pending, &w->mutex);
    w->at_admission = job;
    pthread_mutex_unlock(&w->mutex);
    return job;
}

/* From here on the job cannot be withdrawn; false when it was before. */
static bool begin_reading(noc_worker *w, noc_job *job)
{
    pthread_mutex_lock(&w->mutex);
    bool is_wanted = !atomic_load(&job->is_cancelled);
    w->at_admission = NULL;
    pthread_mutex_unlock(&w->mutex);
    return is_wanted;
}

static noc_status check_broken(const noc_worker *w, noc_error *err)
{
    if (!atomic_load(&w->is_broken))
        return NOC_OK;
    return noc_fail(err, NOC_EDEVICE, "the device of this worker failed before this study's turn");
}

/* Estimates the need and waits until it fits. */
static noc_status admit(noc_worker *w, task *t, noc_job *job, noc_error *err)
{
    size_t bytes;
    noc_status status = check_broken(w, err);

    if (status == NOC_OK) {
        begin_task(w, t, job);
        status = noc_job_estimate(job, &w->rules, &bytes, err);
        end_task(w, t);
    }
    if (status == NOC_OK && noc_admission_enter(w->admission, bytes, job->is_alone, &job->is_cancelled))
        job->admitted_bytes = bytes;
    return status;
}

/* The next job, admitted and its reading begun; *status and err say whether it failed on the way. NULL:
 * stop. */
static noc_job *next_admitted(noc_worker *w, task *t, noc_status *status, noc_error *err)
{
    noc_job *job;

    pthread_mutex_lock(&w->admission_turn);
    while ((job = take_pending(w))) {
        *status = admit(w, t, job, err);
        if (begin_reading(w, job))
            break;
        discard(w, job);
    }
    pthread_mutex_unlock(&w->admission_turn);
    return job;
}

static void *reader_main(void *argument)
{
    noc_worker *w = argument;
    task *t = task_of_thread(w);
    noc_job *job;
    noc_status status;
    noc_error err;

    while ((job = next_admitted(w, t, &status, &err))) {
        if (status == NOC_OK)
            status = check_broken(w, &err);
        if (status == NOC_OK) {
            begin_task(w, t, job);
            status = noc_job_read(job, &w->rules, &err);
            end_task(w, t);
        }
        if (atomic_load(&w->is_stopping))
            discard(w, job);
        else if (status != NOC_OK)
            post(w, job, status, &err);
        else if (!noc_queue_put(w->prepared, job))
            discard(w, job);
    }
    return NULL;
}

/* ---- the engine thread ---- */

static noc_job *take_prepared(noc_worker *w, bool may_wait)
{
    if (!may_wait)
        return noc_queue_try_take(w->prepared);
    noc_job *job = noc_queue_try_take(w->prepared);
    if (job)
        return job;
    double start = noc_clock_monotonic();
    pthread_mutex_lock(&w->mutex);
    w->starved_since = start;
    pthread_mutex_unlock(&w->mutex);
    job = noc_queue_take(w->prepared);
    pthread_mutex_lock(&w->mutex);
    w->starved_since = -1;
    w->seconds_starved += noc_clock_monotonic() - start;
    pthread_mutex_unlock(&w->mutex);
    return job;
}

static void count_work(noc_worker *w, double seconds, int windows)
{
    pthread_mutex_lock(&w->mutex);
    w->seconds_busy += seconds;
    w->windows += windows;
    pthread_mutex_unlock(&w->mutex);
}

/* Segmented jobs go on to the finishers, failed ones to their end. */
static void leave_engine(void *argument, noc_job *job, noc_status status, const noc_error *failure)
{
    noc_worker *w = argument;

    if (status == NOC_EDEVICE)
        atomic_store(&w->is_broken, true);
    if (status != NOC_OK) {
        post(w, job, status, failure);
        return;
    }
    if (job->bytes_when_segmented < job->admitted_bytes) {
        noc_admission_change(w->admission, job->admitted_bytes, job->bytes_when_segmented);
        job->admitted_bytes = job->bytes_when_segmented;
    }
    if (!noc_queue_put(w->segmented, job))
        discard(w, job);
}

static void activate(noc_worker *w, noc_active *active, noc_job *job)
{
    noc_error err;
    double start = noc_clock_monotonic();
    noc_status status = check_broken(w, &err);

    if (status != NOC_OK) {
        post(w, job, status, &err);
        return;
    }
    noc_active_add(active, job);
    count_work(w, noc_clock_monotonic() - start, 0);
}

static void *engine_main(void *argument)
{
    noc_worker *w = argument;
    task *t = task_of_thread(w);
    noc_active active;

    noc_active_init(&active, w->engine, &w->rules, leave_engine, w);
    while (!atomic_load(&w->is_stopping)) {
        noc_job *job;
        while (noc_active_has_room(&active) && (job = take_prepared(w, noc_active_is_empty(&active))))
            activate(w, &active, job);
        double start = noc_clock_monotonic();
        if (!noc_active_is_empty(&active))
            begin_task(w, t, active.jobs[0]);
        int windows = noc_active_step(&active);
        end_task(w, t);
        count_work(w, noc_clock_monotonic() - start, windows);
    }
    noc_job *left;
    while ((left = noc_active_take(&active)))
        discard(w, left);
    return NULL;
}

/* ---- finishers ---- */

static void *finisher_main(void *argument)
{
    noc_worker *w = argument;
    task *t = task_of_thread(w);
    noc_job *job;
    noc_error err;

    while ((job = noc_queue_take(w->segmented))) {
        if (atomic_load(&w->is_stopping)) {
            discard(w, job);
            continue;
        }
        begin_task(w, t, job);
        noc_status status = noc_job_finish(job, &w->rules, &err);
        end_task(w, t);
        post(w, job, status, &err);
    }
    return NULL;
}

/* ---- life of the worker ---- */

/* Threads take no signals: those belong to the program. */
static noc_status start_thread(noc_worker *w, pthread_t *thread, void *(*run)(void *), noc_error *err)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return noc_fail(err, NOC_ENOMEMORY, "a thread of the worker cannot be started: %s", strerror(failed));
    return NOC_OK;
}

static noc_status start_threads(noc_worker *w, const noc_worker_options *options, noc_error *err)
{
    int readers = options->readers > 0 ? options->readers : 1;
    int finishers = options->finishers > 0 ? options->finishers : 1;
    noc_status status = start_thread(w, &w->engine_thread, engine_main, err);

    w->has_engine_thread = status == NOC_OK;
    while (status == NOC_OK && w->reader_count < readers && w->reader_count < MAX_THREADS)
        if ((status = start_thread(w, &w->readers[w->reader_count], reader_main, err)) == NOC_OK)
            w->reader_count++;
    while (status == NOC_OK && w->finisher_count < finishers && w->finisher_count < MAX_THREADS)
        if ((status = start_thread(w, &w->finishers[w->finisher_count], finisher_main, err)) == NOC_OK)
            w->finisher_count++;
    return status;
}

/* What studies may use: the limit without what is resident now and what the engine will touch yet. */
static size_t budget_of(const noc_engine *engine, size_t memory)
{
    size_t base = noc_memory_resident() + noc_engine_bytes(engine);

    if (memory == 0)
        return SIZE_MAX;
    return memory > base ? memory - base : 0;
}

noc_status noc_worker_create(noc_engine *engine, const noc_worker_options *options, noc_worker **worker,
                             noc_error *err)
{
    noc_worker *w = noc_alloc_zeroed(1, sizeof *w, err);

    if (!w)
        return NOC_ENOMEMORY;
    mallopt(M_MMAP_THRESHOLD, MAPPED_BLOCK);
    w->engine = engine;
    w->rules = (noc_job_rules){.engine = engine,
                               .manifest = noc_engine_model(engine)->manifest,
                               .budget = budget_of(engine, options->memory),
                               .timeout_s = options->study_timeout_s,
                               .assume_ras = options->assume_ras,
                               .is_stopping = &w->is_stopping};
    w->created = noc_clock_monotonic();
    w->starved_since = -1;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_mutex_init(&w->admission_turn, NULL);
    pthread_cond_init(&w->has_pending, NULL);
    noc_status status = noc_admission_create(w->rules.budget, &w->admission, err);
    if (status == NOC_OK)
        status = noc_queue_create(PREPARED_AHEAD, &w->prepared, err);
    if (status == NOC_OK)
        status = noc_queue_create(SEGMENTED_AHEAD, &w->segmented, err);
    if (status == NOC_OK)
        status = start_threads(w, options, err);
    if (status != NOC_OK) {
        noc_worker_free(w);
        return status;
    }
    *worker = w;
    return NOC_OK;
}

static void stop_threads(noc_worker *w)
{
    pthread_mutex_lock(&w->mutex);
    atomic_store(&w->is_stopping, true);
    if (w->at_admission)
        atomic_store(&w->at_admission->is_cancelled, true);
    pthread_cond_broadcast(&w->has_pending);
    pthread_mutex_unlock(&w->mutex);
    if (w->admission)
        noc_admission_wake(w->admission);
    if (w->prepared)
        noc_queue_close(w->prepared);
    if (w->segmented)
        noc_queue_close(w->segmented);
    for (int i = 0; i < w->reader_count; i++)
        pthread_join(w->readers[i], NULL);
    if (w->has_engine_thread)
        pthread_join(w->engine_thread, NULL);
    for (int i = 0; i < w->finisher_count; i++)
        pthread_join(w->finishers[i], NULL);
}

static void discard_queue(noc_worker *w, noc_queue *queue)
{
    noc_job *job;

    while (queue && (job = noc_queue_try_take(queue)))
        discard(w, job);
    noc_queue_free(queue);
}

void noc_worker_free(noc_worker *worker)
{
    noc_worker *w = worker;
    noc_job *job;

    if (!w)
        return;
    stop_threads(w);
    discard_queue(w, w->prepared);
    discard_queue(w, w->segmented);
    while ((job = list_take(&w->pending)) || (job = list_take(&w->ready)))
        noc_job_free(job);
    noc_admission_drop(w->admission);
    pthread_cond_destroy(&w->has_pending);
    pthread_mutex_destroy(&w->admission_turn);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}

/* ---- from outside ---- */

noc_status noc_worker_submit(noc_worker *worker, const noc_study *study, uint64_t lease, noc_error *err)
{
    noc_job *job;
    noc_status status = noc_job_create(study, lease, &job, err);

    if (status != NOC_OK)
        return status;
    pthread_mutex_lock(&worker->mutex);
    list_add(&worker->pending, job);
    worker->in_hand++;
    pthread_cond_signal(&worker->has_pending);
    pthread_mutex_unlock(&worker->mutex);
    return NOC_OK;
}

noc_outcome *noc_worker_take(noc_worker *worker)
{
    pthread_mutex_lock(&worker->mutex);
    noc_job *job = list_take(&worker->ready);
    worker->in_hand -= job != NULL;
    pthread_mutex_unlock(&worker->mutex);
    if (!job)
        return NULL;
    noc_outcome *outcome = job->outcome;
    job->outcome = NULL;
    noc_job_free(job);
    return outcome;
}

int noc_worker_in_hand(const noc_worker *worker)
{
    noc_worker *w = (noc_worker *)worker; /* only its mutex changes */

    pthread_mutex_lock(&w->mutex);
    int in_hand = w->in_hand;
    pthread_mutex_unlock(&w->mutex);
    return in_hand;
}

/* The one at the admission is its reader's to free; only its names are kept. */
static bool withdraw_at_admission(noc_worker *w, int64_t *study, uint64_t *lease)
{
    noc_job *job = w->at_admission;

    if (!job || atomic_load(&job->is_cancelled))
        return false;
    atomic_store(&job->is_cancelled, true);
    *study = job->study.id;
    *lease = job->outcome->lease;
    w->in_hand--;
    return true;
}

void noc_worker_withdraw(noc_worker *worker, void (*returned)(void *argument, int64_t study, uint64_t lease),
                         void *argument)
{
    int64_t study = 0;
    uint64_t lease = 0;
    noc_job *job;

    pthread_mutex_lock(&worker->mutex);
    job_list withdrawn = worker->pending;
    worker->pending = (job_list){NULL, NULL};
    for (job = withdrawn.first; job; job = job->next)
        worker->in_hand--;
    bool has_one_more = withdraw_at_admission(worker, &study, &lease);
    pthread_mutex_unlock(&worker->mutex);
    noc_admission_wake(worker->admission);
    if (has_one_more)
        returned(argument, study, lease);
    while ((job = list_take(&withdrawn))) {
        returned(argument, job->study.id, job->outcome->lease);
        noc_job_free(job);
    }
}

bool noc_worker_is_broken(const noc_worker *worker)
{
    return atomic_load(&worker->is_broken);
}

void noc_worker_stats_of(noc_worker *worker, noc_worker_stats *stats)
{
    double now = noc_clock_monotonic();

    pthread_mutex_lock(&worker->mutex);
    stats->seconds = now - worker->created;
    stats->seconds_busy = worker->seconds_busy;
    stats->seconds_starved = worker->seconds_starved;
    if (worker->starved_since >= 0 && now > worker->starved_since)
        stats->seconds_starved += now - worker->starved_since;
    stats->windows = worker->windows;
    stats->studies = worker->studies;
    pthread_mutex_unlock(&worker->mutex);
    stats->peak_bytes = noc_memory_peak();
}
