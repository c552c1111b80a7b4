/* From files to a prepared volume: how much memory a study needs, by its headers alone, and the reading
 * itself.
 *
 * A study's memory has four phases, and it is admitted for the largest: reading (stored voxels, truth, the
 * raw file while it is decoded), preparing (stored voxels, truth, what the steps make of them), segmenting
 * (prepared volume, truth, pending logits and output) and finishing (output, truth, painted mask,
 * components). */
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/volume/nifti.h"
#include "engine/volume/orientation.h"
#include "worker/job.h"
#include "worker/largest.h"
#include "worker/plausibility.h"
#include "worker/score.h"

#include <string.h>

typedef struct need {
    noc_grid grid; /* of the first channel */
    int channels;  /* of all files */
    size_t voxels; /* of one channel */
    size_t stored; /* bytes of all channels */
    size_t truth;  /* bytes */
    size_t raw;    /* of the largest file, while it is read */
    noc_prepare_needs prepare;
} need;

/* No file may inflate to more than all studies may use. */
static noc_nifti_options file_options(const noc_job_rules *rules, bool with_sha256)
{
    size_t most = rules->budget == SIZE_MAX ? 0 : rules->budget > 0 ? rules->budget : 1;

    return (noc_nifti_options){
        .max_bytes = most, .assume_ras = rules->assume_ras, .with_sha256 = with_sha256};
}

static noc_status add_header(const char *path, const noc_job_rules *rules, noc_nifti_header *header,
                             size_t *stored, size_t *raw, noc_error *err)
{
    noc_nifti_options options = file_options(rules, false);
    noc_status status = noc_nifti_read_header(path, &options, header, err);

    if (status != NOC_OK)
        return status;
    *raw = header->file_bytes > *raw ? header->file_bytes : *raw;
    if (!noc_size_add(*stored, header->voxel_bytes, stored))
        return noc_fail(err, NOC_ETOOLARGE, "its files declare more bytes than a size can hold");
    return NOC_OK;
}

static noc_status check_channels(const noc_study *study, int channels, const noc_manifest *manifest,
                                 noc_error *err)
{
    if (channels == manifest->network.in_channels)
        return NOC_OK;
    return noc_fail(err, NOC_ECHANNELS, "%d channel%s in %d file%s, the model takes %d", channels,
                    channels == 1 ? "" : "s", study->channel_count, study->channel_count == 1 ? "" : "s",
                    manifest->network.in_channels);
}

static noc_status find_preparation(const noc_manifest *manifest, need *n, noc_error *err)
{
    noc_orientation orientation;
    int64_t size[3];
    double spacing_mm[3];
    noc_status status = noc_orientation_find(n->grid.affine, manifest->orientation, &orientation, err);

    if (status != NOC_OK)
        return status;
    noc_orientation_size(&orientation, n->grid.size, size);
    noc_orientation_spacing(&orientation, n->grid.spacing_mm, spacing_mm);
    noc_prepare_estimate(manifest, size, spacing_mm, n->stored, &n->prepare);
    return NOC_OK;
}

static noc_status read_headers(const noc_study *study, const noc_job_rules *rules, need *n, noc_error *err)
{
    noc_nifti_header header;
    noc_status status;

    if (study->channel_count < 1)
        return noc_fail(err, NOC_ECHANNELS, "no image file");
    for (int i = 0; i < study->channel_count; i++) {
        status = add_header(study->channels[i], rules, &header, &n->stored, &n->raw, err);
        if (status != NOC_OK)
            return status;
        n->channels += header.channels;
        if (i == 0)
            n->grid = header.grid;
    }
    status = check_channels(study, n->channels, rules->manifest, err);
    if (status == NOC_OK && study->truth)
        status = add_header(study->truth, rules, &header, &n->truth, &n->raw, err);
    if (status != NOC_OK)
        return status;
    n->voxels = noc_grid_voxels(&n->grid);
    return find_preparation(rules->manifest, n, err);
}

/* Bytes of a voxel of all that a segmentation's result becomes. */
static size_t result_bytes(const noc_job_rules *rules)
{
    const noc_manifest *m = rules->manifest;
    size_t probabilities = (size_t)noc_engine_probabilities(rules->engine) * sizeof(uint16_t);

    if (m->output == NOC_OUTPUT_REGIONS)
        return probabilities + 1 + (m->region_count > 16 ? 4 : m->region_count > 8 ? 2 : 1);
    return probabilities + (m->network.num_classes > 256 ? 2 : 1);
}

/* Beside the result, while it becomes an outcome. */
static size_t finishing_bytes(const noc_manifest *manifest, const int64_t size[3])
{
    size_t largest = noc_largest_bytes(manifest, size), plausibility = noc_plausibility_bytes(manifest, size);

    return largest > plausibility ? largest : plausibility;
}

static size_t mib(size_t bytes)
{
    return bytes / 1048576 + (bytes % 1048576 > 0);
}

/* Sets tile_memory and is_alone when the segmentation does not fit beside the volumes in one piece. */
static noc_status choose_tiles(noc_job *job, const noc_job_rules *rules, const need *n, size_t *segmenting,
                               noc_error *err)
{
    size_t volumes = noc_size_sum(n->prepare.kept, n->truth);
    noc_error why;
    noc_status status = noc_segmentation_bytes(rules->engine, n->prepare.size, n->voxels, 0, segmenting, err);

    job->tile_memory = 0;
    job->is_alone = false;
    if (status != NOC_OK || noc_size_sum(volumes, *segmenting) <= rules->budget)
        return status;
    size_t left = rules->budget > volumes ? rules->budget - volumes : 1;
    if (noc_segmentation_bytes(rules->engine, n->prepare.size, n->voxels, left, segmenting, &why) != NOC_OK)
        return noc_fail(
            err, NOC_ETOOLARGE,
            "needs %zu MiB beside its %zu MiB of voxels, the memory limit leaves %zu MiB to studies, and "
            "in tiles: %s",
            mib(*segmenting), mib(volumes), rules->budget >> 20, why.text);
    job->tile_memory = left;
    job->is_alone = true;
    return NOC_OK;
}

noc_status noc_job_estimate(noc_job *job, const noc_job_rules *rules, size_t *bytes, noc_error *err)
{
    need n = {.channels = 0};
    size_t all, segmenting;
    noc_status status = read_headers(&job->study, rules, &n, err);

    if (status != NOC_OK)
        return status;
    all = result_bytes(rules);
    job->bytes_when_segmented =
        noc_size_sum(noc_size_sum(n.voxels * all, n.truth), finishing_bytes(rules->manifest, n.grid.size));
    job->bytes_when_finished = n.voxels * all * 2; /* and a copy on its way to a writer */
    size_t most = noc_size_sum(noc_size_sum(n.stored, n.truth), n.raw);
    size_t preparing = noc_size_sum(n.prepare.most, n.truth);
    most = most > job->bytes_when_segmented ? most : job->bytes_when_segmented;
    most = most > job->bytes_when_finished ? most : job->bytes_when_finished;
    most = most > preparing ? most : preparing;
    if (most > rules->budget)
        return noc_fail(
            err, NOC_ETOOLARGE,
            "needs %zu MiB to be read, prepared and passed on, the memory limit leaves %zu MiB to studies",
            mib(most), rules->budget >> 20);
    status = choose_tiles(job, rules, &n, &segmenting, err);
    if (status != NOC_OK)
        return status;
    size_t total = noc_size_sum(noc_size_sum(n.prepare.kept, n.truth), segmenting);
    *bytes = total > most ? total : most;
    return NOC_OK;
}

noc_status noc_job_check_time(const noc_job_rules *rules, double seconds, noc_error *err)
{
    if (rules->timeout_s <= 0 || seconds <= rules->timeout_s)
        return NOC_OK;
    return noc_fail(err, NOC_ETIMEOUT, "took more than the %g s that a study may take", rules->timeout_s);
}

/* Asked between files. */
static noc_status check_going(const noc_job_rules *rules, double start, noc_error *err)
{
    if (atomic_load(rules->is_stopping))
        return noc_fail(err, NOC_ETEMPFAIL, "given up");
    return noc_job_check_time(rules, noc_clock_monotonic() - start, err);
}

static noc_status read_image(const char *path, const noc_job_rules *rules, bool with_sha256, noc_image *image,
                             noc_error *err)
{
    noc_nifti_options options = file_options(rules, with_sha256);

    return noc_nifti_read(path, &options, image, err);
}

static noc_status read_channels(noc_job *job, const noc_job_rules *rules, double start, noc_image *images,
                                noc_error *err)
{
    noc_outcome *o = job->outcome;
    size_t at = 0;

    for (int i = 0; i < job->study.channel_count; i++) {
        noc_status status = read_image(job->study.channels[i], rules, true, &images[i], err);
        if (status == NOC_OK)
            status = check_going(rules, start, err);
        if (status != NOC_OK)
            return status;
        size_t n = strlen(images[i].sha256);
        if (i > 0)
            o->source_sha256[at++] = ';';
        memcpy(o->source_sha256 + at, images[i].sha256, n + 1);
        at += n;
    }
    o->grid = images[0].grid;
    return NOC_OK;
}

static noc_status read_truth(noc_job *job, const noc_job_rules *rules, double start, noc_error *err)
{
    if (!job->study.truth)
        return NOC_OK;
    noc_status status = read_image(job->study.truth, rules, false, &job->truth, err);
    if (status == NOC_OK)
        status = noc_truth_check(rules->manifest, &job->outcome->grid, &job->truth, err);
    return status == NOC_OK ? check_going(rules, start, err) : status;
}

noc_status noc_job_read(noc_job *job, const noc_job_rules *rules, noc_error *err)
{
    noc_image images[NOC_STUDY_CHANNELS] = {0};
    noc_error why;
    double start = noc_clock_monotonic();
    noc_status status = read_channels(job, rules, start, images, err);

    if (status == NOC_OK)
        status = read_truth(job, rules, start, err);
    double read = noc_clock_monotonic();
    job->outcome->seconds_read = read - start;
    if (status == NOC_OK)
        status = noc_prepare(rules->manifest, images, job->study.channel_count, &job->prepared, err);
    if (status == NOC_OK && noc_engine_upload(rules->engine, job->prepared, &why) != NOC_OK)
        noc_log(NOC_LOG_DEBUG, "%s: its windows are cut by the host: %s", job->study.key, why.text);
    job->seconds_used = noc_clock_monotonic() - start;
    job->outcome->seconds_prepare = noc_clock_monotonic() - read;
    if (status == NOC_OK)
        status = noc_job_check_time(rules, job->seconds_used, err);
    for (int i = 0; i < NOC_STUDY_CHANNELS; i++)
        noc_image_clear(&images[i]);
    return status;
}
