#include "worker/job.h"

#include "engine/base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static noc_status copy_study(noc_study *to, const noc_study *from, noc_error *err)
{
    *to = *from;
    memset(to->channels, 0, sizeof to->channels);
    to->truth = NULL;
    to->fingerprint = NULL;
    for (int i = 0; i < from->channel_count; i++)
        if (!(to->channels[i] = noc_strdup(from->channels[i], err)))
            return NOC_ENOMEMORY;
    if (from->truth && !(to->truth = noc_strdup(from->truth, err)))
        return NOC_ENOMEMORY;
    if (from->fingerprint && !(to->fingerprint = noc_strdup(from->fingerprint, err)))
        return NOC_ENOMEMORY;
    return NOC_OK;
}

noc_status noc_job_create(const noc_study *study, uint64_t lease, noc_job **job, noc_error *err)
{
    noc_job *j = noc_alloc_zeroed(1, sizeof *j, err);

    if (!j)
        return NOC_ENOMEMORY;
    j->outcome = noc_alloc_zeroed(1, sizeof *j->outcome, err);
    if (!j->outcome || copy_study(&j->study, study, err) != NOC_OK) {
        noc_job_free(j);
        return NOC_ENOMEMORY;
    }
    noc_outcome *o = j->outcome;
    o->study = study->id;
    o->lease = lease;
    memcpy(o->key, study->key, sizeof o->key);
    if (study->fingerprint && strlen(study->fingerprint) < sizeof o->fingerprint)
        memcpy(o->fingerprint, study->fingerprint, strlen(study->fingerprint) + 1);
    atomic_init(&j->is_cancelled, false);
    *job = j;
    return NOC_OK;
}

void noc_job_drop_volumes(noc_job *job)
{
    noc_segmentation_free(job->segmentation);
    job->segmentation = NULL;
    noc_prepared_free(job->prepared);
    job->prepared = NULL;
    noc_image_clear(&job->truth);
    free(job->result.voxels);
    free(job->result.probabilities);
    memset(&job->result, 0, sizeof job->result);
}

void noc_job_free(noc_job *job)
{
    if (!job)
        return;
    noc_job_drop_volumes(job);
    noc_outcome_free(job->outcome);
    noc_study_clear(&job->study);
    free(job);
}
