#include "worker/largest.h"

#include "worker/components.h"

static bool has_label(const noc_region *region, int label)
{
    for (int i = 0; i < region->truth_label_count; i++)
        if (region->truth_labels[i] == label)
            return true;
    return false;
}

static bool is_within(const noc_region *inner, const noc_region *outer)
{
    for (int i = 0; i < inner->truth_label_count; i++)
        if (!has_label(outer, inner->truth_labels[i]))
            return false;
    return true;
}

/* The bits of a region and of those within it. */
static uint32_t bits_within(const noc_manifest *manifest, int region)
{
    uint32_t bits = 0;

    for (int r = 0; r < manifest->region_count; r++)
        if (is_within(&manifest->regions[r], &manifest->regions[region]))
            bits |= UINT32_C(1) << r;
    return bits;
}

static noc_status keep_one(const noc_manifest *manifest, int class, noc_outcome *o, noc_error *err)
{
    if (manifest->output == NOC_OUTPUT_REGIONS) {
        const uint32_t bit = UINT32_C(1) << class;
        return noc_components_keep_largest(o->regions, o->region_bytes, o->grid.size, bit, bit,
                                           bits_within(manifest, class), err);
    }
    return noc_components_keep_largest(o->mask, o->mask_bytes, o->grid.size, UINT32_MAX,
                                       (uint32_t)manifest->labels[class].index, UINT32_MAX, err);
}

noc_status noc_largest_keep(const noc_manifest *manifest, noc_outcome *outcome, noc_error *err)
{
    noc_status status = NOC_OK;

    for (int i = 0; status == NOC_OK && i < manifest->keep_count; i++)
        status = keep_one(manifest, manifest->keep_largest[i], outcome, err);
    return status;
}

size_t noc_largest_bytes(const noc_manifest *manifest, const int64_t size[3])
{
    return manifest->keep_count > 0 ? noc_components_keep_bytes(size) : 0;
}
