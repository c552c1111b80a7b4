/* From what the engine left to an outcome: keep the largest components, paint, score, look whether it is
 * plausible, hash. */
#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/base/sha256.h"
#include "worker/job.h"
#include "worker/largest.h"
#include "worker/plausibility.h"
#include "worker/score.h"

static noc_status take_voxels(noc_job *job, const noc_job_rules *rules, size_t voxels, noc_error *err)
{
    noc_outcome *o = job->outcome;

    o->plane_count = noc_engine_probabilities(rules->engine);
    o->probabilities = job->result.probabilities;
    job->result.probabilities = NULL;
    if (job->result.kind != NOC_GATHER_REGIONS) {
        o->mask = job->result.voxels;
        o->mask_bytes = job->result.element_bytes;
        job->result.voxels = NULL;
        return noc_largest_keep(rules->manifest, o, err);
    }
    o->regions = job->result.voxels;
    o->region_bytes = job->result.element_bytes;
    job->result.voxels = NULL;
    noc_status status = noc_largest_keep(rules->manifest, o, err);
    if (status != NOC_OK)
        return status;
    o->mask = noc_alloc(voxels, 1, err);
    if (!o->mask)
        return NOC_ENOMEMORY;
    o->mask_bytes = 1;
    noc_regions_paint(rules->manifest, o->regions, o->region_bytes, voxels, o->mask);
    return NOC_OK;
}

noc_status noc_job_finish(noc_job *job, const noc_job_rules *rules, noc_error *err)
{
    noc_outcome *o = job->outcome;
    size_t voxels = noc_grid_voxels(&o->grid);
    double start = noc_clock_monotonic();
    noc_status status = take_voxels(job, rules, voxels, err);

    if (status == NOC_OK)
        status = noc_score(rules->manifest, &o->grid, o->mask, o->mask_bytes, o->regions, o->region_bytes,
                           job->truth.voxels ? &job->truth : NULL, &o->metrics, &o->metric_count, err);
    if (status == NOC_OK)
        status = noc_plausibility_check(rules->manifest, o, err);
    if (status == NOC_OK)
        status = noc_sha256_of(o->mask, voxels * (size_t)o->mask_bytes, o->mask_sha256, err);
    if (status == NOC_OK && o->probabilities)
        status =
            noc_sha256_of(o->probabilities, noc_outcome_probability_bytes(o), o->probabilities_sha256, err);
    o->seconds_score = noc_clock_monotonic() - start;
    return status;
}
