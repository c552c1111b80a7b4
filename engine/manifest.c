/* Reading model.yaml. A reader carries the document and the first failure; after it every function does
 * nothing, so the sections below read like the schema. Every complaint names file, line and key. */
#include "engine/manifest.h"

#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/base/yaml.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SPACING_MAX = 1000000 };

typedef struct reader {
    const noc_yaml *doc;
    noc_manifest *manifest;
    const char *section; /* "window.", before keys in complaints */
    noc_status status;
    noc_error *err;
} reader;

#define KEYS(...) ((const char *const[]){__VA_ARGS__, NULL})
/* The first complaint stays: callers look at r->status before. */
#define COMPLAIN(r, node, ...) ((r)->status = noc_yaml_fail((r)->doc, (node), (r)->err, __VA_ARGS__))

/* NULL when the key is absent or something failed before. */
static const noc_yaml_node *find(const reader *r, const noc_yaml_node *map, const char *key)
{
    return r->status == NOC_OK ? noc_yaml_find(map, key) : NULL;
}

static const noc_yaml_node *require(reader *r, const noc_yaml_node *map, const char *key)
{
    const noc_yaml_node *node = find(r, map, key);
    if (r->status == NOC_OK && !node)
        COMPLAIN(r, map, "%s%s is missing", r->section, key);
    return node;
}

static void check_keys(reader *r, const noc_yaml_node *map, const char *name, const char *const keys[])
{
    if (r->status != NOC_OK)
        return;
    if (!map || noc_yaml_kind_of(map) != NOC_YAML_MAPPING)
        COMPLAIN(r, map, "%s must be a map of keys", name);
    else
        r->status = noc_yaml_only(r->doc, map, keys, r->err);
}

static void read_text_node(reader *r, const noc_yaml_node *node, const char *key, char **text)
{
    const char *value;
    if (r->status != NOC_OK || !node)
        return;
    if (noc_yaml_kind_of(node) != NOC_YAML_SCALAR || noc_yaml_text(r->doc, node, &value, NULL) != NOC_OK ||
        !*value) {
        COMPLAIN(r, node, "%s%s must be text", r->section, key);
        return;
    }
    free(*text);
    *text = noc_strdup(value, r->err);
    if (!*text)
        r->status = NOC_ENOMEMORY;
}

static void read_int_node(reader *r, const noc_yaml_node *node, const char *key, int64_t low, int64_t high,
                          int *value)
{
    int64_t wide;
    if (r->status != NOC_OK || !node)
        return;
    if (noc_yaml_kind_of(node) != NOC_YAML_SCALAR ||
        noc_yaml_integer(r->doc, node, low, high, &wide, NULL) != NOC_OK)
        COMPLAIN(r, node, "%s%s must be an integer from %" PRId64 " to %" PRId64, r->section, key, low, high);
    else
        *value = (int)wide;
}

static void read_int(reader *r, const noc_yaml_node *map, const char *key, int high, int *value)
{
    read_int_node(r, require(r, map, key), key, 1, high, value);
}

/* Absent: *value stays. */
static void read_number(reader *r, const noc_yaml_node *map, const char *key, double low, double high,
                        double *value)
{
    const noc_yaml_node *node = find(r, map, key);
    if (!node)
        return;
    if (noc_yaml_kind_of(node) == NOC_YAML_SCALAR &&
        noc_yaml_number(r->doc, node, low, high, value, NULL) == NOC_OK)
        return;
    if (high < DBL_MAX)
        COMPLAIN(r, node, "%s%s must be a number from %g to %g", r->section, key, low, high);
    else
        COMPLAIN(r, node, "%s%s must be a number", r->section, key);
}

static void require_number(reader *r, const noc_yaml_node *map, const char *key, double *value)
{
    if (require(r, map, key))
        read_number(r, map, key, -DBL_MAX, DBL_MAX, value);
}

/* The place of the text among the choices; absent: *value stays. */
static void read_choice(reader *r, const noc_yaml_node *map, const char *key, const char *const choices[],
                        int *value)
{
    const noc_yaml_node *node = find(r, map, key);
    const char *text = NULL;
    char list[128] = "";
    if (!node)
        return;
    if (noc_yaml_kind_of(node) == NOC_YAML_SCALAR && noc_yaml_text(r->doc, node, &text, NULL) != NOC_OK)
        text = NULL;
    for (int i = 0; choices[i]; i++) {
        if (text && strcmp(text, choices[i]) == 0) {
            *value = i;
            return;
        }
        size_t length = strlen(list);
        snprintf(list + length, sizeof(list) - length, "%s%s", i ? " or " : "", choices[i]);
    }
    COMPLAIN(r, node, "%s%s must be %s", r->section, key, list);
}

/* The items of a sequence of `least` to `most`; 0 after a complaint. */
static size_t count_items(reader *r, const noc_yaml_node *node, const char *key, size_t least, size_t most)
{
    if (r->status != NOC_OK || !node)
        return 0;
    if (noc_yaml_kind_of(node) != NOC_YAML_SEQUENCE) {
        COMPLAIN(r, node, "%s%s must be a list", r->section, key);
        return 0;
    }
    size_t count = noc_yaml_count(node);
    if (count >= least && count <= most)
        return count;
    if (least == most)
        COMPLAIN(r, node, "%s%s must have %zu entries, not %zu", r->section, key, least, count);
    else
        COMPLAIN(r, node, "%s%s must have %zu to %zu entries, not %zu", r->section, key, least, most, count);
    return 0;
}

static void read_triple(reader *r, const noc_yaml_node *map, const char *key, int64_t low, int64_t high,
                        int64_t triple[3])
{
    const noc_yaml_node *node = require(r, map, key);
    size_t count = count_items(r, node, key, 3, 3);
    for (size_t i = 0; i < count; i++) {
        int value = 0;
        read_int_node(r, noc_yaml_item(node, i), key, low, high, &value);
        triple[i] = value;
    }
}

static void read_stages(reader *r, const noc_yaml_node *map, const char *key, int high,
                        int values[NOC_STAGES])
{
    const noc_yaml_node *node = require(r, map, key);
    size_t count = count_items(r, node, key, NOC_STAGES, NOC_STAGES);
    for (size_t i = 0; i < count; i++)
        read_int_node(r, noc_yaml_item(node, i), key, 1, high, &values[i]);
}

/* Four entries, each an integer for all three axes or a triple. */
static void read_patches(reader *r, const noc_yaml_node *map, const char *key, int low, int high,
                         int values[NOC_STAGES][3])
{
    const noc_yaml_node *node = require(r, map, key);
    size_t count = count_items(r, node, key, NOC_STAGES, NOC_STAGES);
    for (size_t s = 0; s < count; s++) {
        const noc_yaml_node *entry = noc_yaml_item(node, s);
        bool is_triple = noc_yaml_kind_of(entry) == NOC_YAML_SEQUENCE;
        if (is_triple && count_items(r, entry, key, 3, 3) == 0)
            return;
        for (size_t axis = 0; axis < 3; axis++)
            read_int_node(r, is_triple ? noc_yaml_item(entry, axis) : entry, key, low, high,
                          &values[s][axis]);
    }
}

static void check_patches(reader *r, const noc_yaml_node *map)
{
    const noc_network_config *network = &r->manifest->network;
    for (int s = 0; s < NOC_STAGES && r->status == NOC_OK; s++)
        for (int axis = 0; axis < 3 && r->status == NOC_OK; axis++)
            if (network->patch_padding[s][axis] >= network->patch_kernel[s][axis])
                COMPLAIN(r, noc_yaml_find(map, "patch_padding"),
                         "network.patch_padding: %d is not below the kernel's %d",
                         network->patch_padding[s][axis], network->patch_kernel[s][axis]);
}

static void read_network(reader *r, const noc_yaml_node *root)
{
    enum { WIDTH_MAX = 8192, CLASSES_MAX = 65535 };
    const noc_yaml_node *map = require(r, root, "network");
    noc_network_config *network = &r->manifest->network;
    check_keys(r, map, "network",
               KEYS("in_channels", "num_classes", "embed_dims", "num_heads", "depths", "sr_ratios",
                    "mlp_ratios", "decoder_dim", "patch_kernel", "patch_stride", "patch_padding",
                    "attention_scale"));
    r->section = "network.";
    read_int(r, map, "in_channels", NOC_MAX_CHANNELS, &network->in_channels);
    read_int(r, map, "num_classes", CLASSES_MAX, &network->num_classes);
    read_stages(r, map, "embed_dims", WIDTH_MAX, network->embed_dims);
    read_stages(r, map, "num_heads", WIDTH_MAX, network->num_heads);
    read_stages(r, map, "depths", 64, network->depths);
    read_stages(r, map, "sr_ratios", 64, network->sr_ratios);
    read_stages(r, map, "mlp_ratios", 64, network->mlp_ratios);
    read_int(r, map, "decoder_dim", WIDTH_MAX, &network->decoder_dim);
    read_patches(r, map, "patch_kernel", 1, 63, network->patch_kernel);
    read_patches(r, map, "patch_stride", 1, 63, network->patch_stride);
    read_patches(r, map, "patch_padding", 0, 62, network->patch_padding);
    check_patches(r, map);
    int scale = 0;
    require(r, map, "attention_scale");
    read_choice(r, map, "attention_scale", KEYS("head_dim", "num_heads"), &scale);
    network->attention_scale = scale == 0 ? NOC_SCALE_HEAD_DIM : NOC_SCALE_NUM_HEADS;
    for (int s = 0; s < NOC_STAGES && r->status == NOC_OK; s++)
        if (network->embed_dims[s] % network->num_heads[s] != 0)
            COMPLAIN(r, noc_yaml_find(map, "embed_dims"),
                     "network.embed_dims: %d cannot be shared by %d heads", network->embed_dims[s],
                     network->num_heads[s]);
}

static void read_minmax_slices(reader *r, const noc_yaml_node *map, noc_step *step)
{
    check_keys(r, map, "input.prepare", KEYS("step"));
    if (r->status == NOC_OK && r->manifest->step_count > 0)
        COMPLAIN(r, map, "input.prepare: step minmax_slices must come first");
    step->kind = NOC_STEP_MINMAX_SLICES;
}

static void read_zscore(reader *r, const noc_yaml_node *map, noc_step *step)
{
    int mask = NOC_ZSCORE_ALL;
    check_keys(r, map, "input.prepare", KEYS("step", "mask"));
    read_choice(r, map, "mask", KEYS("all", "nonzero", "filled"), &mask);
    step->kind = NOC_STEP_ZSCORE;
    step->mask = (noc_zscore_mask)mask;
}

static void read_zscore_nonzero(reader *r, const noc_yaml_node *map, noc_step *step)
{
    check_keys(r, map, "input.prepare", KEYS("step"));
    step->kind = NOC_STEP_ZSCORE;
    step->mask = NOC_ZSCORE_NONZERO;
}

static void read_clip_zscore(reader *r, const noc_yaml_node *map, noc_step *step)
{
    check_keys(r, map, "input.prepare", KEYS("step", "low", "high", "mean", "std"));
    require_number(r, map, "low", &step->low);
    require_number(r, map, "high", &step->high);
    require_number(r, map, "mean", &step->mean);
    require_number(r, map, "std", &step->std);
    if (r->status == NOC_OK && step->low >= step->high)
        COMPLAIN(r, noc_yaml_find(map, "high"), "input.prepare.high must be above low");
    if (r->status == NOC_OK && step->std <= 0)
        COMPLAIN(r, noc_yaml_find(map, "std"), "input.prepare.std must be above 0");
    step->kind = NOC_STEP_CLIP_ZSCORE;
}

static void read_crop(reader *r, const noc_yaml_node *map, noc_step *step)
{
    check_keys(r, map, "input.prepare", KEYS("step", "start", "size"));
    read_triple(r, map, "start", 0, INT32_MAX, step->start);
    read_triple(r, map, "size", 1, INT32_MAX, step->size);
    step->kind = NOC_STEP_CROP;
}

static void read_percentile_zscore(reader *r, const noc_yaml_node *map, noc_step *step)
{
    check_keys(r, map, "input.prepare", KEYS("step", "low", "high"));
    require(r, map, "low");
    read_number(r, map, "low", 0, 100, &step->low);
    require(r, map, "high");
    read_number(r, map, "high", 0, 100, &step->high);
    if (r->status == NOC_OK && step->low >= step->high)
        COMPLAIN(r, noc_yaml_find(map, "high"), "input.prepare.high must be above low");
    step->kind = NOC_STEP_PERCENTILE_ZSCORE;
}

static void read_foreground_crop(reader *r, const noc_yaml_node *map, noc_step *step)
{
    check_keys(r, map, "input.prepare", KEYS("step"));
    step->kind = NOC_STEP_FOREGROUND_CROP;
}

static void read_spacing(reader *r, const noc_yaml_node *map, double spacing_mm[3])
{
    const noc_yaml_node *node = require(r, map, "spacing_mm");
    size_t count = count_items(r, node, "spacing_mm", 3, 3);
    for (size_t i = 0; i < count && r->status == NOC_OK; i++) {
        const noc_yaml_node *item = noc_yaml_item(node, i);
        if (noc_yaml_kind_of(item) != NOC_YAML_SCALAR ||
            noc_yaml_number(r->doc, item, 0, SPACING_MAX, &spacing_mm[i], NULL) != NOC_OK ||
            spacing_mm[i] <= 0)
            COMPLAIN(r, item, "%sspacing_mm must be numbers above 0, at most %d", r->section, SPACING_MAX);
    }
}

static void read_resample(reader *r, const noc_yaml_node *map, noc_step *step)
{
    int order = 0, separate = 0, back = 0;
    check_keys(r, map, "input.prepare", KEYS("step", "spacing_mm", "order", "separate_axis", "back"));
    for (int i = 0; i < r->manifest->step_count && r->status == NOC_OK; i++)
        if (r->manifest->steps[i].kind == NOC_STEP_RESAMPLE)
            COMPLAIN(r, map, "input.prepare: step resample may come only once");
    read_spacing(r, map, step->spacing_mm);
    require(r, map, "order");
    read_choice(r, map, "order", KEYS("1", "3"), &order);
    read_choice(r, map, "separate_axis", KEYS("auto", "never"), &separate);
    read_choice(r, map, "back", KEYS("logits", "nearest"), &back);
    step->kind = NOC_STEP_RESAMPLE;
    step->order = order == 0 ? 1 : 3;
    step->may_separate_axis = separate == 0;
    step->is_back_nearest = back == 1;
}

static void read_step(reader *r, const noc_yaml_node *map, noc_step *step)
{
    static const struct {
        const char *name;
        void (*read)(reader *r, const noc_yaml_node *map, noc_step *step);
    } kinds[] = {
        {"minmax_slices", read_minmax_slices},
        {"zscore", read_zscore},
        {"zscore_nonzero", read_zscore_nonzero},
        {"clip_zscore", read_clip_zscore},
        {"crop", read_crop},
        {"percentile_zscore", read_percentile_zscore},
        {"foreground_crop", read_foreground_crop},
        {"resample", read_resample},
    };
    char *name = NULL;
    if (noc_yaml_kind_of(map) != NOC_YAML_MAPPING) {
        COMPLAIN(r, map, "input.prepare: each entry must be a map with the key step");
        return;
    }
    read_text_node(r, require(r, map, "step"), "step", &name);
    for (size_t i = 0; name && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(kinds[i].name, name) != 0)
            continue;
        kinds[i].read(r, map, step);
        free(name);
        return;
    }
    if (name)
        COMPLAIN(r, noc_yaml_find(map, "step"), "input.prepare: there is no step %s", name);
    free(name);
}

static void read_channels(reader *r, const noc_yaml_node *map)
{
    noc_manifest *m = r->manifest;
    const noc_yaml_node *node = require(r, map, "channels");
    size_t count = count_items(r, node, "channels", 1, NOC_MAX_CHANNELS);
    if (r->status == NOC_OK && count != (size_t)m->network.in_channels)
        COMPLAIN(r, node, "input.channels names %zu channels, network.in_channels is %d", count,
                 m->network.in_channels);
    for (size_t i = 0; i < count && r->status == NOC_OK; i++) {
        read_text_node(r, noc_yaml_item(node, i), "channels", &m->channels[i]);
        for (size_t k = 0; k < i && r->status == NOC_OK; k++)
            if (strcmp(m->channels[k], m->channels[i]) == 0)
                COMPLAIN(r, noc_yaml_item(node, i), "input.channels names %s twice", m->channels[i]);
    }
}

/* Three letters, one of each pair. */
static bool is_orientation(const char *code)
{
    static const char *const pairs[] = {"RL", "AP", "SI"};
    int seen = 0;
    if (strlen(code) != 3)
        return false;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++)
            if (strchr(pairs[k], code[i]))
                seen |= 1 << k;
    return seen == 7;
}

static void read_orientation(reader *r, const noc_yaml_node *map)
{
    const noc_yaml_node *node = find(r, map, "orientation");
    char *code = NULL;
    read_text_node(r, node, "orientation", &code);
    if (code && is_orientation(code))
        memcpy(r->manifest->orientation, code, sizeof(r->manifest->orientation));
    else if (code)
        COMPLAIN(r, node, "input.orientation: %s is no orientation such as RAS", code);
    free(code);
}

static void read_input(reader *r, const noc_yaml_node *root)
{
    noc_manifest *m = r->manifest;
    r->section = "";
    const noc_yaml_node *map = require(r, root, "input");
    check_keys(r, map, "input", KEYS("channels", "orientation", "prepare"));
    r->section = "input.";
    read_channels(r, map);
    read_orientation(r, map);
    const noc_yaml_node *steps = require(r, map, "prepare");
    size_t count = count_items(r, steps, "prepare", 0, NOC_MAX_STEPS);
    r->section = "input.prepare.";
    for (size_t i = 0; i < count && r->status == NOC_OK; i++) {
        read_step(r, noc_yaml_item(steps, i), &m->steps[m->step_count]);
        m->step_count++;
    }
}

unsigned noc_manifest_axis(const char *name)
{
    static const char axes[] = "zyx";
    const char *at = name[0] && !name[1] ? strchr(axes, name[0]) : NULL;
    return at ? 1U << (at - axes) : 0;
}

noc_status noc_manifest_axes(const noc_yaml *doc, const noc_yaml_node *list, const char *key, unsigned *axes,
                             noc_error *err)
{
    unsigned found = 0;
    if (noc_yaml_kind_of(list) != NOC_YAML_SEQUENCE)
        return noc_yaml_fail(doc, list, err, "%s must be a list of axes, such as [z, y, x]", key);
    for (size_t i = 0; i < noc_yaml_count(list); i++) {
        const noc_yaml_node *item = noc_yaml_item(list, i);
        const char *name = "";
        if (noc_yaml_kind_of(item) == NOC_YAML_SCALAR)
            noc_yaml_text(doc, item, &name, NULL);
        unsigned axis = noc_manifest_axis(name);
        if (axis == 0)
            return noc_yaml_fail(doc, item, err, "%s: an axis is z, y or x", key);
        if (found & axis)
            return noc_yaml_fail(doc, item, err, "%s names %s twice", key, name);
        found |= axis;
    }
    *axes = found;
    return NOC_OK;
}

static void read_window(reader *r, const noc_yaml_node *root)
{
    noc_manifest *m = r->manifest;
    int blend = NOC_BLEND_GAUSSIAN;
    r->section = "";
    const noc_yaml_node *map = require(r, root, "window");
    check_keys(r, map, "window", KEYS("size", "overlap", "blend", "pad_value", "mirror"));
    r->section = "window.";
    read_triple(r, map, "size", 1, 65536, m->window);
    read_number(r, map, "overlap", 0, 1, &m->overlap);
    if (r->status == NOC_OK && m->overlap >= 1)
        COMPLAIN(r, noc_yaml_find(map, "overlap"), "window.overlap must be below 1");
    read_choice(r, map, "blend", KEYS("constant", "gaussian"), &blend);
    m->blend = blend == 0 ? NOC_BLEND_CONSTANT : NOC_BLEND_GAUSSIAN;
    read_number(r, map, "pad_value", -DBL_MAX, DBL_MAX, &m->pad_value);
    const noc_yaml_node *mirror = find(r, map, "mirror");
    if (mirror)
        r->status = noc_manifest_axes(r->doc, mirror, "window.mirror", &m->mirror, r->err);
}

static void read_label(reader *r, const noc_yaml_node *map)
{
    noc_manifest *m = r->manifest;
    noc_label *label = &m->labels[m->label_count];
    check_keys(r, map, "output.labels", KEYS("index", "name"));
    read_int_node(r, require(r, map, "index"), "index", 1, m->network.num_classes - 1, &label->index);
    read_text_node(r, require(r, map, "name"), "name", &label->name);
    if (r->status != NOC_OK)
        return;
    for (int i = 0; i < m->label_count && r->status == NOC_OK; i++) {
        if (m->labels[i].index == label->index)
            COMPLAIN(r, map, "output.labels: index %d is listed twice", label->index);
        else if (strcmp(m->labels[i].name, label->name) == 0)
            COMPLAIN(r, map, "output.labels: name %s is listed twice", label->name);
    }
    m->label_count++;
}

/* A softmax model: every class but the background has one entry. */
static void read_labels(reader *r, const noc_yaml_node *map)
{
    noc_manifest *m = r->manifest;
    check_keys(r, map, "output (of kind labels)", KEYS("kind", "labels", "keep_largest"));
    const noc_yaml_node *node = require(r, map, "labels");
    if (r->status == NOC_OK && m->network.num_classes < 2) {
        COMPLAIN(r, noc_yaml_find(map, "kind"), "output.kind: labels needs network.num_classes of 2 or more");
        return;
    }
    size_t classes = (size_t)m->network.num_classes;
    size_t count = count_items(r, node, "labels", classes - 1, classes - 1);
    if (count == 0)
        return;
    m->labels = noc_alloc_zeroed(count, sizeof(*m->labels), r->err);
    if (!m->labels) {
        r->status = NOC_ENOMEMORY;
        return;
    }
    r->section = "output.labels.";
    for (size_t i = 0; i < count && r->status == NOC_OK; i++)
        read_label(r, noc_yaml_item(node, i));
}

static int find_region(const noc_manifest *m, const char *name)
{
    for (int i = 0; i < m->region_count; i++)
        if (strcmp(m->regions[i].name, name) == 0) /* NOLINT: a name was read, or reading has ended */
            return i;
    return -1;
}

static void read_truth_labels(reader *r, const noc_yaml_node *map, noc_region *region)
{
    const noc_yaml_node *node = require(r, map, "truth_labels");
    size_t count = count_items(r, node, "truth_labels", 1, NOC_MAX_TRUTH_LABELS);
    for (size_t i = 0; i < count && r->status == NOC_OK; i++) {
        int label = 0;
        read_int_node(r, noc_yaml_item(node, i), "truth_labels", 1, 65535, &label);
        for (int k = 0; k < region->truth_label_count && r->status == NOC_OK; k++)
            if (region->truth_labels[k] == label)
                COMPLAIN(r, node, "output.regions.truth_labels lists %d twice", label);
        region->truth_labels[region->truth_label_count++] = label;
    }
}

static void read_region(reader *r, const noc_yaml_node *map)
{
    noc_manifest *m = r->manifest;
    noc_region *region = &m->regions[m->region_count];
    check_keys(r, map, "output.regions", KEYS("name", "truth_labels"));
    read_text_node(r, require(r, map, "name"), "name", &region->name);
    if (r->status == NOC_OK && find_region(m, region->name) >= 0)
        COMPLAIN(r, map, "output.regions: name %s is listed twice", region->name);
    read_truth_labels(r, map, region);
    m->region_count++;
}

static void read_paint(reader *r, const noc_yaml_node *map)
{
    noc_manifest *m = r->manifest;
    noc_paint *paint = &m->paints[m->paint_count];
    char *name = NULL;
    check_keys(r, map, "output.paint", KEYS("region", "label"));
    read_text_node(r, require(r, map, "region"), "region", &name);
    read_int_node(r, require(r, map, "label"), "label", 1, 255, &paint->label);
    if (r->status == NOC_OK) {
        paint->region = find_region(m, name);
        if (paint->region < 0)
            COMPLAIN(r, noc_yaml_find(map, "region"), "output.paint: there is no region %s", name);
        m->paint_count++;
    }
    free(name);
}

/* A sigmoid model: one region a class. */
static void read_regions(reader *r, const noc_yaml_node *map)
{
    noc_manifest *m = r->manifest;
    check_keys(r, map, "output (of kind regions)",
               KEYS("kind", "threshold", "regions", "paint", "keep_largest"));
    read_number(r, map, "threshold", 0, 1, &m->threshold);
    if (r->status == NOC_OK && (m->threshold <= 0 || m->threshold >= 1))
        COMPLAIN(r, noc_yaml_find(map, "threshold"), "output.threshold must be between 0 and 1");
    const noc_yaml_node *regions = require(r, map, "regions");
    size_t count = count_items(r, regions, "regions", 1, NOC_MAX_REGIONS);
    if (r->status == NOC_OK && count != (size_t)m->network.num_classes)
        COMPLAIN(r, regions, "output.regions lists %zu regions, network.num_classes is %d", count,
                 m->network.num_classes);
    const noc_yaml_node *paint = find(r, map, "paint");
    size_t paints = count_items(r, paint, "paint", 0, NOC_MAX_REGIONS);
    r->section = "output.regions.";
    for (size_t i = 0; i < count && r->status == NOC_OK; i++)
        read_region(r, noc_yaml_item(regions, i));
    r->section = "output.paint.";
    for (size_t i = 0; i < paints && r->status == NOC_OK; i++)
        read_paint(r, noc_yaml_item(paint, i));
}

/* Its place among the classes; -1: there is none of that name. */
static int find_class(const noc_manifest *m, const char *name)
{
    for (int i = 0; i < m->label_count; i++)
        if (strcmp(m->labels[i].name, name) == 0) /* NOLINT: both were read, or reading has ended */
            return i;
    return find_region(m, name);
}

static int read_class(reader *r, const noc_yaml_node *node, const char *key)
{
    char *name = NULL;
    int class = -1;
    read_text_node(r, node, key, &name);
    if (r->status == NOC_OK) {
        class = find_class(r->manifest, name);
        if (class < 0)
            COMPLAIN(r, node, "%s%s: there is no label or region %s", r->section, key, name);
    }
    free(name);
    return class;
}

/* Is a a region around b, as far as numbers of labels can tell, or else listed before it? */
static bool is_outer(const noc_manifest *m, int a, int b)
{
    int around = m->regions[a].truth_label_count - m->regions[b].truth_label_count;
    return m->output == NOC_OUTPUT_REGIONS && around != 0 ? around > 0 : a < b;
}

/* Kept in an order that says nothing of the list's. */
static void add_keep_largest(reader *r, const noc_yaml_node *item)
{
    noc_manifest *m = r->manifest;
    int class = read_class(r, item, "keep_largest"), at = m->keep_count;
    for (int i = 0; i < m->keep_count && r->status == NOC_OK; i++)
        if (m->keep_largest[i] == class)
            COMPLAIN(r, item, "output.keep_largest names one label or region twice");
    for (; at > 0 && r->status == NOC_OK && is_outer(m, class, m->keep_largest[at - 1]); at--)
        m->keep_largest[at] = m->keep_largest[at - 1];
    m->keep_largest[at] = class;
    m->keep_count++;
}

static void read_keep_largest(reader *r, const noc_yaml_node *map)
{
    noc_manifest *m = r->manifest;
    const noc_yaml_node *node = find(r, map, "keep_largest");
    size_t count = count_items(r, node, "keep_largest", 1, (size_t)m->network.num_classes);
    if (count == 0)
        return;
    m->keep_largest = noc_alloc(count, sizeof *m->keep_largest, r->err);
    if (!m->keep_largest)
        r->status = NOC_ENOMEMORY;
    for (size_t i = 0; i < count && r->status == NOC_OK; i++)
        add_keep_largest(r, noc_yaml_item(node, i));
}

static void read_output(reader *r, const noc_yaml_node *root)
{
    int kind = 0;
    r->section = "";
    const noc_yaml_node *map = require(r, root, "output");
    check_keys(r, map, "output", KEYS("kind", "labels", "threshold", "regions", "paint", "keep_largest"));
    r->section = "output.";
    require(r, map, "kind");
    read_choice(r, map, "kind", KEYS("labels", "regions"), &kind);
    r->manifest->output = kind == 0 ? NOC_OUTPUT_LABELS : NOC_OUTPUT_REGIONS;
    if (kind == 0)
        read_labels(r, map);
    else
        read_regions(r, map);
    r->section = "output.";
    read_keep_largest(r, map);
}

static void read_volumes(reader *r, const noc_yaml_node *node, double volume_ml[2])
{
    size_t count = count_items(r, node, "volume_ml", 2, 2);
    for (size_t i = 0; i < count && r->status == NOC_OK; i++) {
        const noc_yaml_node *item = noc_yaml_item(node, i);
        if (noc_yaml_kind_of(item) != NOC_YAML_SCALAR ||
            noc_yaml_number(r->doc, item, 0, DBL_MAX, &volume_ml[i], NULL) != NOC_OK)
            COMPLAIN(r, item, "plausible.volume_ml must be numbers of 0 or more");
    }
    if (r->status == NOC_OK && volume_ml[0] > volume_ml[1])
        COMPLAIN(r, node, "plausible.volume_ml: from %g to %g is nothing", volume_ml[0], volume_ml[1]);
}

static void read_components(reader *r, const noc_yaml_node *node, noc_rule *rule)
{
    size_t count = count_items(r, node, "components", 2, 2);
    for (size_t i = 0; i < count; i++)
        read_int_node(r, noc_yaml_item(node, i), "components", 0, INT_MAX, &rule->components[i]);
    if (r->status == NOC_OK && rule->components[0] > rule->components[1])
        COMPLAIN(r, node, "plausible.components: from %d to %d is nothing", rule->components[0],
                 rule->components[1]);
    rule->has_components = count > 0;
}

static void read_rule(reader *r, const noc_yaml_node *map)
{
    noc_rule *rule = &r->manifest->rules[r->manifest->rule_count++];
    int presence = -1;
    *rule = (noc_rule){.volume_ml = {0, DBL_MAX}};
    check_keys(r, map, "plausible", KEYS("label", "volume_ml", "components", "present"));
    rule->class = read_class(r, require(r, map, "label"), "label");
    read_volumes(r, find(r, map, "volume_ml"), rule->volume_ml);
    read_components(r, find(r, map, "components"), rule);
    read_choice(r, map, "present", KEYS("true", "false"), &presence);
    rule->presence = presence == 0 ? NOC_PRESENCE_YES : presence == 1 ? NOC_PRESENCE_NO : NOC_PRESENCE_ANY;
    if (r->status == NOC_OK && noc_yaml_count(map) == 1)
        COMPLAIN(r, map, "plausible: a rule needs volume_ml, components or present");
}

/* Rules that never change a mask: a study that breaks one is suspect. */
static void read_plausible(reader *r, const noc_yaml_node *root)
{
    enum { RULES_MAX = 65536 };
    noc_manifest *m = r->manifest;
    r->section = "";
    const noc_yaml_node *node = find(r, root, "plausible");
    size_t count = count_items(r, node, "plausible", 1, RULES_MAX);
    if (count == 0)
        return;
    m->rules = noc_alloc_zeroed(count, sizeof *m->rules, r->err);
    if (!m->rules) {
        r->status = NOC_ENOMEMORY;
        return;
    }
    r->section = "plausible.";
    for (size_t i = 0; i < count && r->status == NOC_OK; i++)
        read_rule(r, noc_yaml_item(node, i));
}

static bool is_list(const noc_yaml_node *node)
{
    return node && noc_yaml_kind_of(node) == NOC_YAML_SEQUENCE;
}

static void read_sha256(reader *r, const noc_yaml_node *node, char out[65])
{
    char *text = NULL;
    read_text_node(r, node, "weights_sha256", &text);
    if (text && strlen(text) == 64 && strspn(text, "0123456789abcdefABCDEF") == 64)
        for (size_t i = 0; i < 64; i++)
            out[i] = (char)(text[i] >= 'A' && text[i] <= 'F' ? text[i] - 'A' + 'a' : text[i]);
    else if (text)
        COMPLAIN(r, node, "weights_sha256 must be 64 hexadecimal digits");
    free(text);
}

/* One for each file of weights. */
static void read_hashes(reader *r, const noc_yaml_node *root)
{
    noc_manifest *m = r->manifest;
    const noc_yaml_node *node = find(r, root, "weights_sha256");
    if (m->fold_count == 1 && !is_list(node)) {
        read_sha256(r, node, m->weights_sha256[0]);
        return;
    }
    size_t count = count_items(r, node, "weights_sha256", (size_t)m->fold_count, (size_t)m->fold_count);
    for (size_t i = 0; i < count; i++)
        read_sha256(r, noc_yaml_item(node, i), m->weights_sha256[i]);
}

/* A fold twice would count twice. */
static void read_file(reader *r, const noc_yaml_node *node, const char *folder)
{
    noc_manifest *m = r->manifest;
    char *name = NULL, **path = &m->weights[m->fold_count];
    read_text_node(r, node, "weights", &name);
    if (r->status == NOC_OK) {
        *path = noc_path_join(folder, name, r->err);
        if (!*path)
            r->status = NOC_ENOMEMORY;
    }
    for (int i = 0; i < m->fold_count && r->status == NOC_OK; i++)
        if (strcmp(m->weights[i], *path) == 0)
            COMPLAIN(r, node, "weights names %s twice", name);
    m->fold_count++;
    free(name);
}

static void read_weights(reader *r, const noc_yaml_node *root)
{
    const noc_yaml_node *node = require(r, root, "weights");
    size_t count = is_list(node) ? count_items(r, node, "weights", 1, NOC_MAX_FOLDS) : 1;
    char *folder = r->status == NOC_OK ? noc_path_folder(r->manifest->path, r->err) : NULL;
    if (r->status == NOC_OK && !folder)
        r->status = NOC_ENOMEMORY;
    for (size_t i = 0; i < count && r->status == NOC_OK; i++)
        read_file(r, is_list(node) ? noc_yaml_item(node, i) : node, folder);
    free(folder);
    read_hashes(r, root);
}

static void read_name(reader *r, const noc_yaml_node *root)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    const noc_yaml_node *node = require(r, root, "name");
    read_text_node(r, node, "name", &r->manifest->name);
    if (r->status == NOC_OK && r->manifest->name[strspn(r->manifest->name, allowed)])
        COMPLAIN(r, node, "name may hold letters, digits, '.', '_' and '-' only");
}

static void read_root(reader *r, const noc_yaml_node *root)
{
    noc_manifest *m = r->manifest;
    int only = 0;
    require(r, root, "format");
    read_choice(r, root, "format", KEYS("nocturne-model/1"), &only);
    check_keys(r, root, "a manifest",
               KEYS("format", "name", "description", "license", "reference", "family", "weights",
                    "weights_sha256", "network", "input", "window", "output", "plausible"));
    read_name(r, root);
    read_text_node(r, find(r, root, "description"), "description", &m->description);
    read_text_node(r, find(r, root, "license"), "license", &m->license);
    read_text_node(r, find(r, root, "reference"), "reference", &m->reference);
    require(r, root, "family");
    read_choice(r, root, "family", KEYS("segformer3d"), &only);
    read_weights(r, root);
    read_network(r, root);
    read_input(r, root);
    read_window(r, root);
    read_output(r, root);
    read_plausible(r, root);
}

/* path or path/model.yaml, whichever is the file. */
static noc_status locate(const char *path, char **file, noc_error *err)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return noc_fail(err, NOC_ENOINPUT, "%s: there is no such model: %s", path, strerror(errno));
    *file = S_ISDIR(info.st_mode) ? noc_path_join(path, "model.yaml", err) : noc_strdup(path, err);
    if (!*file)
        return NOC_ENOMEMORY;
    if (stat(*file, &info) != 0)
        return noc_fail(err, NOC_ENOINPUT, "%s: there is no model in this folder: %s", *file,
                        strerror(errno));
    return NOC_OK;
}

noc_status noc_manifest_load(const char *path, noc_manifest **manifest, noc_error *err)
{
    noc_yaml *doc = NULL;
    noc_manifest *m = noc_alloc_zeroed(1, sizeof(*m), err);
    if (!m)
        return NOC_ENOMEMORY;
    m->overlap = 0.5;
    m->blend = NOC_BLEND_GAUSSIAN;
    m->threshold = 0.5;
    memcpy(m->orientation, "RAS", sizeof(m->orientation));
    noc_status status = locate(path, &m->path, err);
    if (status == NOC_OK)
        status = noc_yaml_load(m->path, &doc, err);
    if (status == NOC_OK) {
        reader r = {.doc = doc, .manifest = m, .section = "", .err = err};
        if (noc_yaml_root(doc) && noc_yaml_kind_of(noc_yaml_root(doc)) == NOC_YAML_MAPPING)
            read_root(&r, noc_yaml_root(doc));
        else
            COMPLAIN(&r, noc_yaml_root(doc), "a manifest must be a map of keys");
        status = r.status;
    }
    noc_yaml_free(doc);
    if (status == NOC_OK)
        *manifest = m;
    else
        noc_manifest_free(m);
    return status;
}

void noc_manifest_free(noc_manifest *manifest)
{
    if (!manifest)
        return;
    for (int i = 0; i < NOC_MAX_CHANNELS; i++)
        free(manifest->channels[i]);
    for (int i = 0; i < NOC_MAX_REGIONS; i++)
        free(manifest->regions[i].name);
    /* The entry behind the last counted may have a name when its index was refused. */
    for (int i = 0; manifest->labels && i < manifest->network.num_classes - 1; i++)
        free(manifest->labels[i].name);
    free(manifest->labels);
    free(manifest->keep_largest);
    free(manifest->rules);
    free(manifest->path);
    free(manifest->name);
    free(manifest->description);
    free(manifest->license);
    free(manifest->reference);
    for (int i = 0; i < NOC_MAX_FOLDS; i++)
        free(manifest->weights[i]);
    free(manifest);
}
