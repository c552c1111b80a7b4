/* Manifests: what a good one says, its defaults, and every complaint with its file, line and key. Each bad
 * case is a good manifest with one line replaced. */
#include "engine/manifest.h"

#include <check.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const good_labels[] = {
    "format: nocturne-model/1",                             /* 1 */
    "name: a-model_1.0",                                    /* 2 */
    "family: segformer3d",                                  /* 3 */
    "weights: ../w/w.safetensors",                          /* 4 */
    "network:",                                             /* 5 */
    "  in_channels: 2",                                     /* 6 */
    "  num_classes: 3",                                     /* 7 */
    "  embed_dims: [8, 16, 40, 64]",                        /* 8 */
    "  num_heads: [1, 2, 5, 8]",                            /* 9 */
    "  depths: [2, 1, 3, 2]",                               /* 10 */
    "  sr_ratios: [4, 2, 1, 1]",                            /* 11 */
    "  mlp_ratios: [4, 4, 2, 4]",                           /* 12 */
    "  patch_kernel: [[3, 7, 7], 3, [1, 3, 3], 3]",         /* 13 */
    "  patch_stride: [[2, 4, 4], 2, [1, 2, 2], 2]",         /* 14 */
    "  patch_padding: [[1, 3, 3], 1, [0, 1, 1], 1]",        /* 15 */
    "  decoder_dim: 32",                                    /* 16 */
    "  attention_scale: num_heads",                         /* 17 */
    "input:",                                               /* 18 */
    "  channels: [T1, T2]",                                 /* 19 */
    "  prepare: []",                                        /* 20 */
    "window:",                                              /* 21 */
    "  size: [32, 48, 64]",                                 /* 22 */
    "output:",                                              /* 23 */
    "  kind: labels",                                       /* 24 */
    "  labels: [{index: 2, name: b}, {index: 1, name: a}]", /* 25 */
    NULL,
};

/* The same up to line 22. */
static const char *const good_regions[] = {
    "output:",                                   /* 23 */
    "  kind: regions",                           /* 24 */
    "  threshold: 0.25",                         /* 25 */
    "  regions:",                                /* 26 */
    "    - {name: TC, truth_labels: [2, 3]}",    /* 27 */
    "    - {name: WT, truth_labels: [1, 2, 3]}", /* 28 */
    "    - {name: ET, truth_labels: [3]}",       /* 29 */
    "  paint:",                                  /* 30 */
    "    - {region: WT, label: 1}",              /* 31 */
    "    - {region: ET, label: 3}",              /* 32 */
    NULL,
};

static char folder[256], path[300];

static void make_folder(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof(folder), "%s/test_manifest.XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/model.yaml", folder);
}

static void remove_folder(void)
{
    unlink(path);
    ck_assert_int_eq(rmdir(folder), 0);
}

static void write_lines(FILE *file, const char *const *lines, int first, int count, int replaced,
                        const char *by)
{
    for (int i = 0; lines[i] && i < count; i++) {
        const char *line = first + i == replaced ? by : lines[i];
        ck_assert_int_ge(fprintf(file, "%s\n", line), 0);
    }
}

/* Line `replaced` (0: none) of the good manifest becomes `by`. */
static void write_manifest(bool is_regions, int replaced, const char *by)
{
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    write_lines(file, good_labels, 1, is_regions ? 22 : 25, replaced, by);
    if (is_regions)
        write_lines(file, good_regions, 23, 10, replaced, by);
    ck_assert_int_eq(fclose(file), 0);
}

static noc_manifest *load(const char *from)
{
    noc_manifest *manifest = NULL;
    noc_error err = {0};
    ck_assert_msg(noc_manifest_load(from, &manifest, &err) == NOC_OK, "%s", err.text);
    return manifest;
}

START_TEST(what_a_good_one_says)
{
    write_manifest(false, 0, NULL);
    noc_manifest *m = load(path);
    const noc_network_config *network = &m->network;
    ck_assert_str_eq(m->name, "a-model_1.0");
    ck_assert_ptr_nonnull(strstr(m->weights[0], "/../w/w.safetensors"));
    ck_assert_int_eq(strncmp(m->weights[0], folder, strlen(folder)), 0);
    ck_assert_str_eq(m->weights_sha256[0], "");
    ck_assert_int_eq(m->fold_count, 1);
    ck_assert_uint_eq(m->mirror, 0);
    ck_assert_int_eq(network->depths[2], 3);
    ck_assert_int_eq(network->mlp_ratios[2], 2);
    ck_assert_int_eq(network->patch_kernel[0][0], 3);
    ck_assert_int_eq(network->patch_kernel[0][2], 7);
    ck_assert_int_eq(network->patch_kernel[1][1], 3);
    ck_assert_int_eq(network->patch_padding[2][0], 0);
    ck_assert_int_eq(network->attention_scale, NOC_SCALE_NUM_HEADS);
    ck_assert_str_eq(m->channels[1], "T2");
    ck_assert_int_eq(m->window[2], 64);
    ck_assert_int_eq(m->labels[0].index, 2);
    ck_assert_str_eq(m->labels[1].name, "a");
    ck_assert_int_eq(m->label_count, 2);
    noc_manifest_free(m);
}
END_TEST

START_TEST(defaults)
{
    write_manifest(false, 0, NULL);
    noc_manifest *m = load(folder);
    ck_assert_ptr_null(m->description);
    ck_assert_str_eq(m->orientation, "RAS");
    ck_assert_int_eq(m->step_count, 0);
    ck_assert_double_eq(m->overlap, 0.5);
    ck_assert_int_eq(m->blend, NOC_BLEND_GAUSSIAN);
    ck_assert_double_eq(m->pad_value, 0);
    noc_manifest_free(m);
    write_manifest(true, 25, "");
    m = load(folder);
    ck_assert_double_eq(m->threshold, 0.5);
    noc_manifest_free(m);
}
END_TEST

START_TEST(all_steps)
{
    write_manifest(false, 20,
                   "  orientation: LPS\n"
                   "  prepare:\n"
                   "    - step: minmax_slices\n"
                   "    - step: zscore\n"
                   "    - {step: zscore, mask: nonzero}\n"
                   "    - step: zscore_nonzero\n"
                   "    - {step: clip_zscore, low: -958, high: 326.5, mean: 82.92, std: 136.97}\n"
                   "    - {step: crop, start: [13, 56, 0], size: [128, 1, 3]}");
    noc_manifest *m = load(path);
    ck_assert_str_eq(m->orientation, "LPS");
    ck_assert_int_eq(m->step_count, 6);
    ck_assert_int_eq(m->steps[0].kind, NOC_STEP_MINMAX_SLICES);
    ck_assert_int_eq(m->steps[1].kind, NOC_STEP_ZSCORE);
    ck_assert_int_eq(m->steps[1].mask, NOC_ZSCORE_ALL);
    ck_assert_int_eq(m->steps[2].mask, NOC_ZSCORE_NONZERO);
    ck_assert_int_eq(m->steps[3].kind, NOC_STEP_ZSCORE);
    ck_assert_int_eq(m->steps[3].mask, NOC_ZSCORE_NONZERO);
    ck_assert_int_eq(m->steps[4].kind, NOC_STEP_CLIP_ZSCORE);
    ck_assert_double_eq(m->steps[4].high, 326.5);
    ck_assert_double_eq(m->steps[4].std, 136.97);
    ck_assert_int_eq(m->steps[5].kind, NOC_STEP_CROP);
    ck_assert_int_eq(m->steps[5].start[1], 56);
    ck_assert_int_eq(m->steps[5].size[2], 3);
    noc_manifest_free(m);
}
END_TEST

START_TEST(regions)
{
    write_manifest(true, 0, NULL);
    noc_manifest *m = load(path);
    ck_assert_int_eq(m->output, NOC_OUTPUT_REGIONS);
    ck_assert_double_eq(m->threshold, 0.25);
    ck_assert_int_eq(m->region_count, 3);
    ck_assert_str_eq(m->regions[1].name, "WT");
    ck_assert_int_eq(m->regions[1].truth_label_count, 3);
    ck_assert_int_eq(m->regions[0].truth_labels[1], 3);
    ck_assert_int_eq(m->paint_count, 2);
    ck_assert_int_eq(m->paints[1].region, 2);
    ck_assert_int_eq(m->paints[1].label, 3);
    noc_manifest_free(m);
}
END_TEST

START_TEST(other_good_ones)
{
    static const struct {
        int line;
        const char *by;
    } cases[] = {
        {4, "weights: [w.safetensors]\nweights_sha256: "
            "[ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef0123456789]"},
        {4, "weights: /w.safetensors"},
        {22, "  size: [1, 1, 1]\n  overlap: 0\n  blend: constant\n  pad_value: -1.5e3\n  mirror: []"},
        {2, "name: x\ndescription: \"a: b\"\nlicense: CC0\nreference: '1'"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        write_manifest(false, cases[i].line, cases[i].by);
        noc_manifest_free(load(path));
    }
}
END_TEST

#define HEX(digit) digit "123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

START_TEST(folds_and_flips)
{
    write_manifest(false, 4, "weights: [a, ../b]\nweights_sha256:\n  - " HEX("a") "\n  - " HEX("b"));
    noc_manifest *m = load(path);
    ck_assert_int_eq(m->fold_count, 2);
    ck_assert_ptr_nonnull(strstr(m->weights[0], "/a"));
    ck_assert_ptr_nonnull(strstr(m->weights[1], "/../b"));
    ck_assert_str_eq(m->weights_sha256[0], HEX("a"));
    ck_assert_str_eq(m->weights_sha256[1], HEX("b"));
    noc_manifest_free(m);
    write_manifest(false, 22, "  size: [32, 48, 64]\n  mirror: [x, z]");
    m = load(path);
    ck_assert_uint_eq(m->mirror, 5);
    noc_manifest_free(m);
    write_manifest(false, 22, "  size: [32, 48, 64]\n  mirror: [z, y, x]");
    m = load(path);
    ck_assert_uint_eq(m->mirror, 7);
    noc_manifest_free(m);
}
END_TEST

static noc_manifest *load_plausible(bool is_regions, const char *rules)
{
    char first[400];
    snprintf(first, sizeof(first), "format: nocturne-model/1\nplausible: %s", rules);
    write_manifest(is_regions, 1, first);
    return load(path);
}

START_TEST(rules_of_plausibility)
{
    noc_manifest *m = load_plausible(
        false, "[{label: a, volume_ml: [0.5, 3]}, {label: b, components: [1, 2], present: true},"
               " {label: a, present: false}]");
    const noc_rule *rules = m->rules;
    ck_assert_int_eq(m->rule_count, 3);
    ck_assert_str_eq(m->labels[rules[0].class].name, "a");
    ck_assert(rules[0].volume_ml[0] == 0.5 && rules[0].volume_ml[1] == 3);
    ck_assert(!rules[0].has_components && rules[0].presence == NOC_PRESENCE_ANY);
    ck_assert_str_eq(m->labels[rules[1].class].name, "b");
    ck_assert(rules[1].volume_ml[0] == 0 && rules[1].volume_ml[1] == DBL_MAX);
    ck_assert(rules[1].has_components && rules[1].components[0] == 1 && rules[1].components[1] == 2);
    ck_assert(rules[1].presence == NOC_PRESENCE_YES && rules[2].presence == NOC_PRESENCE_NO);
    noc_manifest_free(m);
    m = load_plausible(true, "[{label: ET, components: [0, 0]}]");
    ck_assert(m->rule_count == 1 && m->rules[0].class == 2 && m->rules[0].has_components);
    noc_manifest_free(m);
}
END_TEST

/* By its names and those that are kept, in their order. */
static void check_kept(bool is_regions, const char *list, int count, const int *classes)
{
    char kind[200];
    snprintf(kind, sizeof(kind), "  kind: %s\n  keep_largest: %s", is_regions ? "regions" : "labels", list);
    write_manifest(is_regions, 24, kind);
    noc_manifest *m = load(path);
    ck_assert_int_eq(m->keep_count, count);
    ck_assert_mem_eq(m->keep_largest, classes, (size_t)count * sizeof *classes);
    noc_manifest_free(m);
}

START_TEST(the_largest_are_kept_from_outer_to_inner)
{
    check_kept(false, "[a]", 1, (const int[]){1});
    check_kept(false, "[a, b]", 2, (const int[]){0, 1});
    check_kept(true, "[ET, TC]", 2, (const int[]){0, 2});
    check_kept(true, "[ET, TC, WT]", 3, (const int[]){1, 0, 2});
    check_kept(true, "[WT, ET, TC]", 3, (const int[]){1, 0, 2});
}
END_TEST

START_TEST(the_hash_is_kept_in_lower_case)
{
    write_manifest(
        false, 4,
        "weights: w\nweights_sha256: ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef0123456789");
    noc_manifest *m = load(path);
    ck_assert_str_eq(m->weights_sha256[0],
                     "abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789");
    noc_manifest_free(m);
}
END_TEST

/* Kind of output, line that is replaced, by what, line of the complaint, part of its sentence. */
static const struct {
    bool is_regions;
    int line;
    const char *by;
    int complaint;
    const char *part;
} bad[] = {
    {false, 1, "format: nocturne-model/2", 1, "format"},
    {false, 1, "", 2, "format is missing"},
    {false, 1, "format: [nocturne-model/1]", 1, "format"},
    {false, 2, "name: a model", 2, "name"},
    {false, 2, "name: a/b", 2, "name"},
    {false, 2, "name: \"\"", 2, "name"},
    {false, 2, "name: {a: b}", 2, "name"},
    {false, 2, "nam: x", 2, "nam"},
    {false, 2, "name: x\nname: y", 3, "name"},
    {false, 2, "name: x\ndescription: [a]", 3, "description"},
    {false, 2, "name: x\ncolour: blue", 3, "colour"},
    {false, 2, "", 1, "name is missing"},
    {false, 3, "family: unet", 3, "family must be segformer3d"},
    {false, 3, "", 1, "family is missing"},
    {false, 4, "", 1, "weights is missing"},
    {false, 4, "weights: {a: b}", 4, "weights"},
    {false, 4, "weights: []", 4, "weights must have 1 to 32 entries, not 0"},
    {false, 4, "weights: [a, {b: c}]", 4, "weights must be text"},
    {false, 4, "weights: [a, b, a]", 4, "weights names a twice"},
    {false, 4, "weights: [a, b]\nweights_sha256: " HEX("0"), 5, "weights_sha256 must be a list"},
    {false, 4, "weights: [a, b]\nweights_sha256: [" HEX("0") "]", 5,
     "weights_sha256 must have 2 entries, not 1"},
    {false, 4, "weights: a\nweights_sha256: [" HEX("0") ", " HEX("1") "]", 5,
     "weights_sha256 must have 1 entries, not 2"},
    {false, 4, "weights: [a, b]\nweights_sha256: [" HEX("0") ", " HEX("g") "]", 5,
     "weights_sha256 must be 64 hexadecimal digits"},
    {false, 4, "weights: w\nweights_sha256: 12ab", 5, "weights_sha256"},
    {false, 4, "weights: w\nweights_sha256: " HEX("g"), 5, "weights_sha256"},
    {false, 22, "  - size", 22, "window must be a map"},
    {false, 22, "", 21, "window must be a map"},
    {false, 6, "  in_channels: 0", 6, "network.in_channels"},
    {false, 6, "  in_channels: two", 6, "network.in_channels"},
    {false, 6, "  in_channels: 2.5", 6, "network.in_channels"},
    {false, 6, "  in_channels: \"2\"", 6, "network.in_channels"},
    {false, 6, "  in_channels: [2]", 6, "network.in_channels"},
    {false, 6, "  in_channels: 17", 6, "network.in_channels"},
    {false, 6, "", 7, "network.in_channels is missing"},
    {false, 6, "  in_channels: 2\n  dropout: 0", 7, "dropout"},
    {false, 7, "  num_classes: 1", 24, "output.kind"},
    {false, 7, "  num_classes: 4", 25, "output.labels must have 3 entries, not 2"},
    {false, 8, "  embed_dims: [8, 16, 40]", 8, "network.embed_dims must have 4 entries, not 3"},
    {false, 8, "  embed_dims: 8", 8, "network.embed_dims must be a list"},
    {false, 8, "  embed_dims: [8, 16, 41, 64]", 8, "network.embed_dims: 41 cannot be shared by 5 heads"},
    {false, 8, "  embed_dims: [8, 16, 0, 64]", 8, "network.embed_dims"},
    {false, 9, "", 6, "network.num_heads is missing"},
    {false, 10, "  depths: [2, 2, 2, 0]", 10, "network.depths"},
    {false, 11, "  sr_ratios: [4, 2, 1, -1]", 11, "network.sr_ratios"},
    {false, 13, "  patch_kernel: [7, 3, 3]", 13, "network.patch_kernel must have 4 entries"},
    {false, 13, "  patch_kernel: [[7, 7], 3, 3, 3]", 13, "network.patch_kernel must have 3 entries, not 2"},
    {false, 13, "  patch_kernel: [7, 3, 3, x]", 13, "network.patch_kernel"},
    {false, 14, "  patch_stride: [0, 2, 2, 2]", 14, "network.patch_stride"},
    {false, 15, "  patch_padding: [[1, 3, 3], 3, 1, 1]", 15,
     "network.patch_padding: 3 is not below the kernel's 3"},
    {false, 16, "", 6, "network.decoder_dim is missing"},
    {false, 17, "", 6, "network.attention_scale is missing"},
    {false, 17, "  attention_scale: both", 17, "network.attention_scale must be head_dim or num_heads"},
    {false, 18, "inputs:", 18, "inputs"},
    {false, 19, "  channels: [T1]", 19, "input.channels names 1 channels, network.in_channels is 2"},
    {false, 19, "  channels: [T1, T1]", 19, "input.channels names T1 twice"},
    {false, 19, "  channels: T1", 19, "input.channels must be a list"},
    {false, 19, "  channels: [T1, [T2]]", 19, "input.channels must be text"},
    {false, 19, "", 20, "input.channels is missing"},
    {false, 20, "", 19, "input.prepare is missing"},
    {false, 20, "  prepare: zscore", 20, "input.prepare must be a list"},
    {false, 20, "  prepare: [zscore]", 20, "input.prepare: each entry must be a map"},
    {false, 20, "  prepare: [{mask: all}]", 20, "input.prepare.step is missing"},
    {false, 20, "  prepare: [{step: blur}]", 20, "there is no step blur"},
    {false, 20, "  prepare:\n    - step: zscore\n    - step: minmax_slices", 22,
     "minmax_slices must come first"},
    {false, 20, "  prepare: [{step: minmax_slices, mask: all}]", 20, "mask"},
    {false, 20, "  prepare: [{step: zscore, mask: some}]", 20, "input.prepare.mask"},
    {false, 20, "  prepare: [{step: zscore_nonzero, mask: all}]", 20, "mask"},
    {false, 20, "  prepare: [{step: clip_zscore, low: 0, high: 1, mean: 0}]", 20,
     "input.prepare.std is missing"},
    {false, 20, "  prepare: [{step: clip_zscore, low: 1, high: 1, mean: 0, std: 1}]", 20,
     "input.prepare.high"},
    {false, 20, "  prepare: [{step: clip_zscore, low: 0, high: 1, mean: 0, std: 0}]", 20,
     "input.prepare.std"},
    {false, 20, "  prepare: [{step: clip_zscore, low: x, high: 1, mean: 0, std: 0}]", 20,
     "input.prepare.low"},
    {false, 20, "  prepare: [{step: clip_zscore, low: .nan, high: 1, mean: 0, std: 1}]", 20,
     "input.prepare.low"},
    {false, 20, "  prepare: [{step: crop, start: [0, 0, -1], size: [1, 1, 1]}]", 20, "input.prepare.start"},
    {false, 20, "  prepare: [{step: crop, start: [0, 0, 0], size: [1, 0, 1]}]", 20, "input.prepare.size"},
    {false, 20, "  prepare: [{step: crop, start: [0, 0, 0]}]", 20, "input.prepare.size is missing"},
    {false, 20, "  prepare: [{step: crop, start: [0, 0, 0], size: [1, 1]}]", 20,
     "must have 3 entries, not 2"},
    {false, 20, "  prepare: [{step: percentile_zscore, low: 0.5}]", 20, "input.prepare.high is missing"},
    {false, 20, "  prepare: [{step: percentile_zscore, low: 0.5, high: 101}]", 20,
     "input.prepare.high must be a number from 0 to 100"},
    {false, 20, "  prepare: [{step: percentile_zscore, low: 50, high: 50}]", 20,
     "input.prepare.high must be above low"},
    {false, 20, "  prepare: [{step: foreground_crop, margin: 1}]", 20, "margin"},
    {false, 20, "  prepare: [{step: resample, order: 1}]", 20, "input.prepare.spacing_mm is missing"},
    {false, 20, "  prepare: [{step: resample, spacing_mm: [1, 1, 1]}]", 20, "input.prepare.order is missing"},
    {false, 20, "  prepare: [{step: resample, spacing_mm: [1, 1], order: 1}]", 20,
     "must have 3 entries, not 2"},
    {false, 20, "  prepare: [{step: resample, spacing_mm: [1, 0, 1], order: 1}]", 20,
     "input.prepare.spacing_mm must be numbers above 0"},
    {false, 20, "  prepare: [{step: resample, spacing_mm: [1, .nan, 1], order: 1}]", 20,
     "input.prepare.spacing_mm must be numbers above 0"},
    {false, 20, "  prepare: [{step: resample, spacing_mm: [1, 1, 1], order: 2}]", 20,
     "input.prepare.order must be 1 or 3"},
    {false, 20, "  prepare: [{step: resample, spacing_mm: [1, 1, 1], order: 1, separate_axis: z}]", 20,
     "input.prepare.separate_axis must be auto or never"},
    {false, 20, "  prepare: [{step: resample, spacing_mm: [1, 1, 1], order: 1, back: linear}]", 20,
     "input.prepare.back must be logits or nearest"},
    {false, 20,
     "  prepare:\n    - {step: resample, spacing_mm: [1, 1, 1], order: 1}\n"
     "    - {step: resample, spacing_mm: [2, 2, 2], order: 1}",
     22, "step resample may come only once"},
    {false, 20, "  prepare: []\n  orientation: RAX", 21, "input.orientation"},
    {false, 20, "  prepare: []\n  orientation: RLS", 21, "input.orientation"},
    {false, 20, "  prepare: []\n  orientation: RASS", 21, "input.orientation"},
    {false, 20, "  prepare: []\n  orientation: L", 21, "input.orientation"},
    {false, 22, "  size: [32, 48]", 22, "window.size must have 3 entries"},
    {false, 22, "  size: [32, 48, 0]", 22, "window.size"},
    {false, 22, "  size: [32, 48, 1.5]", 22, "window.size"},
    {false, 22, "  overlap: 0.5", 22, "window.size is missing"},
    {false, 22, "  size: [32, 48, 64]\n  overlap: 1", 23, "window.overlap"},
    {false, 22, "  size: [32, 48, 64]\n  overlap: -0.1", 23, "window.overlap"},
    {false, 22, "  size: [32, 48, 64]\n  blend: mean", 23, "window.blend must be constant or gaussian"},
    {false, 22, "  size: [32, 48, 64]\n  pad_value: none", 23, "window.pad_value must be a number"},
    {false, 22, "  size: [32, 48, 64]\n  pad_value: .inf", 23, "window.pad_value"},
    {false, 22, "  size: [32, 48, 64]\n  mirror: z", 23, "window.mirror must be a list of axes"},
    {false, 22, "  size: [32, 48, 64]\n  mirror: [z, w]", 23, "window.mirror: an axis is z, y or x"},
    {false, 22, "  size: [32, 48, 64]\n  mirror: [0]", 23, "window.mirror: an axis is z, y or x"},
    {false, 22, "  size: [32, 48, 64]\n  mirror: [zy]", 23, "window.mirror: an axis is z, y or x"},
    {false, 22, "  size: [32, 48, 64]\n  mirror: [[z]]", 23, "window.mirror: an axis is z, y or x"},
    {false, 22, "  size: [32, 48, 64]\n  mirror: [z, y, z]", 23, "window.mirror names z twice"},
    {false, 22, "  size: [32, 48, 64]\n  step: 1", 23, "step"},
    {false, 24, "", 25, "output.kind is missing"},
    {false, 24, "  kind: classes", 24, "output.kind must be labels or regions"},
    {false, 24, "  kind: labels\n  threshold: 0.5", 25, "threshold"},
    {false, 24, "  kind: regions", 25, "labels"},
    {false, 25, "  labels: []", 25, "output.labels must have 2 entries"},
    {false, 25, "", 24, "output.labels is missing"},
    {false, 25, "  labels: [a, b]", 25, "output.labels must be a map"},
    {false, 25, "  labels:\n  - {index: 1, name: a}\n  - {index: 1, name: b}", 27, "index 1 is listed twice"},
    {false, 25, "  labels:\n  - {index: 1, name: a}\n  - {index: 2, name: a}", 27, "name a is listed twice"},
    {false, 25, "  labels:\n  - {index: 1, name: a}\n  - {index: 3, name: b}", 27, "output.labels.index"},
    {false, 25, "  labels:\n  - {index: 0, name: a}\n  - {index: 2, name: b}", 26, "output.labels.index"},
    {false, 25, "  labels:\n  - {index: 1, name: a}\n  - {index: 2}", 27, "output.labels.name is missing"},
    {false, 25, "  labels:\n  - {index: 1, name: a}\n  - {index: 2, name: b, color: red}", 27, "color"},
    {true, 25, "  threshold: 1", 25, "output.threshold"},
    {true, 25, "  threshold: 0", 25, "output.threshold"},
    {true, 27, "", 28, "output.regions lists 2 regions, network.num_classes is 3"},
    {true, 28, "    - {name: TC, truth_labels: [1]}", 28, "name TC is listed twice"},
    {true, 28, "    - {name: WT}", 28, "output.regions.truth_labels is missing"},
    {true, 28, "    - {name: WT, truth_labels: []}", 28, "output.regions.truth_labels"},
    {true, 28, "    - {name: WT, truth_labels: [1, 1]}", 28, "output.regions.truth_labels lists 1 twice"},
    {true, 28, "    - {name: WT, truth_labels: [0]}", 28, "output.regions.truth_labels"},
    {true, 28, "    - {truth_labels: [1]}", 28, "output.regions.name is missing"},
    {true, 31, "    - {region: XX, label: 1}", 31, "there is no region XX"},
    {true, 31, "    - {region: WT, label: 256}", 31, "output.paint.label"},
    {true, 31, "    - {region: WT}", 31, "output.paint.label is missing"},
    {true, 31, "    - {label: 1}", 31, "output.paint.region is missing"},
    {false, 2, "name: x\nplausible: {label: a}", 3, "plausible must be a list"},
    {false, 2, "name: x\nplausible: []", 3, "plausible must have 1 to"},
    {false, 2, "name: x\nplausible: [a]", 3, "plausible must be a map"},
    {false, 2, "name: x\nplausible: [{label: c, present: true}]", 3,
     "plausible.label: there is no label or region c"},
    {true, 2, "name: x\nplausible: [{label: a, present: true}]", 3, "no label or region a"},
    {false, 2, "name: x\nplausible: [{present: true}]", 3, "plausible.label is missing"},
    {false, 2, "name: x\nplausible: [{label: a}]", 3,
     "plausible: a rule needs volume_ml, components or present"},
    {false, 2, "name: x\nplausible:\n  - {label: a, present: true}\n  - {label: a, volume: [0, 1]}", 5,
     "volume"},
    {false, 2, "name: x\nplausible: [{label: a, present: maybe}]", 3,
     "plausible.present must be true or false"},
    {false, 2, "name: x\nplausible: [{label: a, volume_ml: 1}]", 3, "plausible.volume_ml must be a list"},
    {false, 2, "name: x\nplausible: [{label: a, volume_ml: [1]}]", 3,
     "plausible.volume_ml must have 2 entries, not 1"},
    {false, 2, "name: x\nplausible: [{label: a, volume_ml: [-1, 1]}]", 3,
     "plausible.volume_ml must be numbers of 0 or more"},
    {false, 2, "name: x\nplausible: [{label: a, volume_ml: [0, .nan]}]", 3,
     "plausible.volume_ml must be numbers of 0 or more"},
    {false, 2, "name: x\nplausible: [{label: a, volume_ml: [3, 0.5]}]", 3,
     "plausible.volume_ml: from 3 to 0.5 is nothing"},
    {false, 2, "name: x\nplausible: [{label: a, components: [2, 1]}]", 3,
     "plausible.components: from 2 to 1 is nothing"},
    {false, 2, "name: x\nplausible: [{label: a, components: [0, 1.5]}]", 3,
     "plausible.components must be an integer from 0"},
    {false, 2, "name: x\nplausible: [{label: a, components: [-1, 1]}]", 3,
     "plausible.components must be an integer from 0"},
    {false, 24, "  kind: labels\n  keep_largest: a", 25, "output.keep_largest must be a list"},
    {false, 24, "  kind: labels\n  keep_largest: []", 25, "output.keep_largest must have 1 to 3"},
    {false, 24, "  kind: labels\n  keep_largest: [a, WT]", 25,
     "output.keep_largest: there is no label or region WT"},
    {true, 24, "  kind: regions\n  keep_largest: [a]", 25, "no label or region a"},
    {true, 24, "  kind: regions\n  keep_largest: [[WT]]", 25, "output.keep_largest must be text"},
    {true, 24, "  kind: regions\n  keep_largest: [WT, ET, WT]", 25,
     "output.keep_largest names one label or region twice"},
};

START_TEST(complaints)
{
    char where[340];
    noc_manifest *manifest = NULL;
    noc_error err = {0};
    write_manifest(bad[_i].is_regions, bad[_i].line, bad[_i].by);
    noc_status status = noc_manifest_load(path, &manifest, &err);
    ck_assert_msg(status == NOC_ECONFIG, "\"%s\": status %s", bad[_i].by, noc_status_name(status));
    ck_assert_ptr_null(manifest);
    snprintf(where, sizeof(where), "%s:%d: ", path, bad[_i].complaint);
    ck_assert_msg(strncmp(err.text, where, strlen(where)) == 0, "\"%s\": \"%s\" is not at %s", bad[_i].by,
                  err.text, where);
    ck_assert_msg(strstr(err.text, bad[_i].part) != NULL, "\"%s\" does not say \"%s\"", err.text,
                  bad[_i].part);
}
END_TEST

START_TEST(no_manifest)
{
    noc_manifest *manifest = NULL;
    noc_error err;
    ck_assert_int_eq(noc_manifest_load(path, &manifest, &err), NOC_ENOINPUT);
    ck_assert_int_eq(noc_manifest_load(folder, &manifest, &err), NOC_ENOINPUT);
    ck_assert_ptr_nonnull(strstr(err.text, "model.yaml"));
    write_manifest(false, 0, NULL);
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_int_eq(noc_manifest_load(path, &manifest, &err), NOC_ECONFIG);
    ck_assert_ptr_null(manifest);
}
END_TEST

static void load_reference(const char *reference, const char *name)
{
    char where[512];
    snprintf(where, sizeof(where), "%s/models/%s", reference, name);
    noc_manifest *m = load(where);
    ck_assert_str_eq(m->name, name);
    noc_manifest_free(m);
}

START_TEST(reference_models)
{
    static const char *const names[] = {"tiny-untrained", "tiny-untrained-legacy", "brats-untrained",
                                        "synapse-untrained", "hippocampus"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        load_reference(getenv("NOC_REFERENCE_DIR"), names[i]);
}
END_TEST

static Suite *manifest_suite(void)
{
    Suite *suite = suite_create("manifest");
    TCase *manifests = tcase_create("manifests");
    tcase_add_checked_fixture(manifests, make_folder, remove_folder);
    tcase_add_test(manifests, what_a_good_one_says);
    tcase_add_test(manifests, defaults);
    tcase_add_test(manifests, all_steps);
    tcase_add_test(manifests, regions);
    tcase_add_test(manifests, other_good_ones);
    tcase_add_test(manifests, folds_and_flips);
    tcase_add_test(manifests, rules_of_plausibility);
    tcase_add_test(manifests, the_largest_are_kept_from_outer_to_inner);
    tcase_add_test(manifests, the_hash_is_kept_in_lower_case);
    tcase_add_loop_test(manifests, complaints, 0, (int)(sizeof(bad) / sizeof(bad[0])));
    tcase_add_test(manifests, no_manifest);
    if (getenv("NOC_REFERENCE_DIR"))
        tcase_add_test(manifests, reference_models);
    suite_add_tcase(suite, manifests);
    return suite;
}

int main(void)
{
    SRunner *runner = srunner_create(manifest_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
