#include "worker/admission.h"

#include "engine/base/clock.h"
#include "engine/base/memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

/* Outcomes that nobody frees must not stop the work for ever: with nothing in work, a study waits no longer
 * for them than this. */
static const double outcome_patience_s = 5;

struct noc_admission {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    size_t budget;
    size_t in_work;  /* bytes of studies in work */
    size_t kept;     /* bytes of outcomes */
    int study_count; /* in work */
    int users;
};

noc_status noc_admission_create(size_t budget, noc_admission **admission, noc_error *err)
{
    noc_admission *a = noc_alloc_zeroed(1, sizeof *a, err);

    if (!a)
        return NOC_ENOMEMORY;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&a->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&a->mutex, NULL);
    a->budget = budget;
    a->users = 1;
    *admission = a;
    return NOC_OK;
}

void noc_admission_drop(noc_admission *admission)
{
    if (!admission)
        return;
    pthread_mutex_lock(&admission->mutex);
    bool is_last = --admission->users == 0;
    pthread_mutex_unlock(&admission->mutex);
    if (!is_last)
        return;
    pthread_cond_destroy(&admission->changed);
    pthread_mutex_destroy(&admission->mutex);
    free(admission);
}

size_t noc_admission_budget(const noc_admission *admission)
{
    return admission->budget;
}

static bool fits(const noc_admission *a, size_t bytes, bool is_alone, bool counts_outcomes)
{
    if (is_alone && a->study_count > 0)
        return false;
    size_t used = a->in_work + (counts_outcomes ? a->kept : 0);
    return used <= a->budget && bytes <= a->budget - used;
}

static void wait_until(noc_admission *a, double monotonic_s)
{
    struct timespec until = {.tv_sec = (time_t)monotonic_s};

    until.tv_nsec = (long)((monotonic_s - (double)until.tv_sec) * 1e9);
    pthread_cond_timedwait(&a->changed, &a->mutex, &until);
}

bool noc_admission_enter(noc_admission *admission, size_t bytes, bool is_alone,
                         const atomic_bool *is_cancelled)
{
    noc_admission *a = admission;
    double idle_since = -1;

    pthread_mutex_lock(&a->mutex);
    while (!atomic_load(is_cancelled) && !fits(a, bytes, is_alone, true)) {
        if (a->study_count > 0) {
            idle_since = -1;
            pthread_cond_wait(&a->changed, &a->mutex);
            continue;
        }
        double now = noc_clock_monotonic();
        if (idle_since < 0)
            idle_since = now;
        if (now - idle_since >= outcome_patience_s)
            break;
        wait_until(a, idle_since + outcome_patience_s);
    }
    bool is_in = !atomic_load(is_cancelled);
    if (is_in) {
        a->in_work += bytes;
        a->study_count++;
    }
    pthread_mutex_unlock(&a->mutex);
    return is_in;
}

void noc_admission_wake(noc_admission *admission)
{
    pthread_mutex_lock(&admission->mutex);
    pthread_cond_broadcast(&admission->changed);
    pthread_mutex_unlock(&admission->mutex);
}

void noc_admission_change(noc_admission *admission, size_t from, size_t to)
{
    pthread_mutex_lock(&admission->mutex);
    admission->in_work = admission->in_work - from + to;
    pthread_cond_broadcast(&admission->changed);
    pthread_mutex_unlock(&admission->mutex);
}

void noc_admission_finish(noc_admission *admission, size_t from, size_t kept)
{
    pthread_mutex_lock(&admission->mutex);
    admission->in_work -= from;
    admission->study_count--;
    admission->kept += kept;
    admission->users += kept > 0;
    pthread_cond_broadcast(&admission->changed);
    pthread_mutex_unlock(&admission->mutex);
}

void noc_admission_leave(noc_admission *admission, size_t kept)
{
    pthread_mutex_lock(&admission->mutex);
    admission->kept -= kept;
    pthread_cond_broadcast(&admission->changed);
    pthread_mutex_unlock(&admission->mutex);
    noc_admission_drop(admission);
}
