/* The table of settings, and three ways to read it: flags, a YAML file, --help. A setting with a `key` stands
 * in configuration files too; its default is what configs/default.yaml shows. */
#include "pipeline/settings.h"

#include "engine/base/text.h"
#include "engine/base/yaml.h"
#include "pipeline/command.h"
#include "pipeline/deadline.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind { TEXT, INTEGER, NUMBER, SIZE, FLAG, TRIPLE, CHOICE, AXES, DEVICE, CLOCK } kind;

/* Commands, as bits of `verbs`. */
enum {
    SCAN = 1,
    RUN = 2,
    STATUS = 4,
    REPORT = 8,
    RETRY = 16,
    VERIFY = 32,
    EXPORT = 64,
    INFER = 128,
    FORWARD = 256,
    PREPARE = 512,
    PLAN = 1024,
    BENCH = 2048,
    DOCTOR = 4096,
    EVALUATE = 8192,
    EVERY = 16383,
    SETS = SCAN | RUN | STATUS | REPORT | RETRY | VERIFY | EXPORT | EVALUATE,
    ENGINE = RUN | INFER | FORWARD | PLAN | BENCH,
};

typedef struct setting {
    const char *flag; /* without the dashes */
    char letter;      /* 0: none */
    const char *key;  /* in configuration files; NULL: flag only */
    kind kind;
    size_t offset;       /* in noc_settings; of an int for CHOICE and FLAG's bool */
    double low, high;    /* INTEGER, NUMBER; INTEGER with high > INT_MAX is an int64_t */
    const char *choices; /* CHOICE: "constant|gaussian"; TEXT: likewise, if limited */
    const char *value;   /* default, as in a configuration file; "" = the model's or the machine's */
    const char *unit;
    unsigned verbs;
    const char *help;
} setting;

#define AT(member) offsetof(noc_settings, member)
#define BIG 9e15

static const setting settings_table[] = {
    {"catalog", 0, "catalog", TEXT, AT(catalog), 0, 0, NULL, "nocturne.sqlite", "file", EVERY,
     "the study catalog"},
    {"results", 0, "results", TEXT, AT(results), 0, 0, NULL, "results", "folder", EVERY,
     "where results parts lie"},
    {"model", 'm', "model", TEXT, AT(model), 0, 0, NULL, "", "folder", EVERY,
     "the model folder (with model.yaml)"},
    {"device", 0, "device", DEVICE, AT(device), 0, 0, NULL, "auto", "cpu|cuda[:N]|auto", EVERY,
     "what computes; cuda: the GPUs of a node by turns, a worker each; auto: GPUs where there are some"},
    {"precision", 0, "precision", TEXT, AT(precision), 0, 0, "f32|bf16|f16|auto", "f32", "", EVERY,
     "arithmetic of products; bf16 on a CPU needs AMX; auto: the device's best choice"},
    {"threads", 0, "threads", INTEGER, AT(threads), 0, 4096, NULL, "0", "threads", EVERY,
     "of one worker; 0: its share of this node's CPUs, where it is pinned"},
    {"memory", 0, "memory", SIZE, AT(memory), 0, 0, NULL, "0", "bytes, or 1536MiB, 2GiB", EVERY,
     "bound of one worker's resident memory; 0: 80 % of the machine's, shared among the node's workers"},
    {"config", 'c', NULL, TEXT, AT(configuration_file), 0, 0, NULL, "", "file", EVERY,
     "a YAML file of settings; flags override it"},
    {"log-level", 0, "log_level", CHOICE, AT(log_level), 0, 0, "error|warn|info|debug", "info", "", EVERY,
     "what goes to stderr"},
    {"log-format", 0, "log_format", CHOICE, AT(log_format), 0, 0, "text|json", "text", "", EVERY,
     "one line a message, either way"},
    {"isa", 0, "isa", TEXT, AT(isa), 0, 0, "amx|avx512|avx2|portable", "", "", ENGINE,
     "CPU instruction set; default: the best there is"},
    {"batch", 0, "batch", INTEGER, AT(batch), 0, 4096, NULL, "0", "windows", ENGINE,
     "windows computed together; 0: 1 on a CPU, up to 8 on a GPU as its memory allows"},
    {"window", 0, "window", TRIPLE, AT(window), 1, 4096, NULL, "", "D,H,W voxels", ENGINE,
     "instead of the model's"},
    {"overlap", 0, "overlap", NUMBER, AT(overlap), 0, 0.999, NULL, "", "0 <= F < 1", ENGINE,
     "of neighbouring windows, instead of the model's"},
    {"blend", 0, "blend", CHOICE, AT(blend), 0, 0, "constant|gaussian", "", "", ENGINE,
     "of overlapping windows, instead of the model's"},
    {"mirror", 0, "mirror", AXES, AT(mirror), 0, 0, NULL, "", "z,y,x|none", ENGINE,
     "average over flips along these axes, instead of the model's: another model, by its hash"},
    {"assume-ras", 0, "assume_ras", FLAG, AT(assume_ras), 0, 0, NULL, "false", "",
     RUN | INFER | PREPARE | SCAN | EVALUATE, "accept files whose header says nothing about orientation"},
    {"layout", 0, NULL, TEXT, AT(layout), 0, 0, "auto|msd|nnunet|brats|bids|list|folder", "auto", "", SCAN,
     "how files are named and which belong together; auto: told by dataset.json, or by most of the names"},
    {"ranks", 0, "ranks", INTEGER, AT(ranks), 0, 100000, NULL, "0", "processes", RUN | BENCH,
     "in all; 1: no MPI; 0: 2 and one worker a NUMA domain, on GPUs one a GPU"},
    {"workers", 0, "workers", INTEGER, AT(workers), 0, 100000, NULL, "0", "processes", RUN | BENCH,
     "ranks that segment; 0: one a NUMA domain, on GPUs one a GPU"},
    {"writers", 0, "writers", INTEGER, AT(writers), 0, 10000, NULL, "0", "processes", RUN,
     "ranks that write results; 0: one"},
    {"writers-per-part", 0, "writers_per_part", INTEGER, AT(writers_per_part), 0, 10000, NULL, "0",
     "processes", RUN, "writers that share a part; 0: all, up to 4"},
    {"hosts", 0, "hosts", TEXT, AT(hosts), 0, 0, NULL, "", "NAME[:RANKS],...", RUN,
     "nodes to run on, this one first; all must see the same files under the same names"},
    {"mpirun", 0, "mpirun", TEXT, AT(mpirun), 0, 0, NULL, "", "words", RUN,
     "more options of mpirun, as they are (--hostfile FILE, --mca btl_tcp_if_include eth1)"},
    {"until", 0, "until", CLOCK, AT(until), 0, 0, NULL, "", "HH:MM", RUN,
     "stop at this local time; the next run goes on"},
    {"attempts", 0, "attempts", INTEGER, AT(attempts), 1, 100, NULL, "3", "", RUN,
     "for studies that fail by faults of the machine"},
    {"limit", 0, NULL, INTEGER, AT(limit), 0, BIG, NULL, "0", "studies", RUN | BENCH,
     "at most so many; 0: all"},
    {"only", 0, NULL, TEXT, AT(only), 0, 0, NULL, "", "GLOB", RUN | REPORT | RETRY | EXPORT | EVALUATE,
     "studies whose key matches"},
    {"study-timeout", 0, "study_timeout_s", NUMBER, AT(study_timeout_s), 0, 1e9, NULL, "0", "s", RUN,
     "give a study up after that long; 0: never"},
    {"progress", 0, "progress", TEXT, AT(progress), 0, 0, "auto|line|none", "auto", "", RUN | BENCH,
     "a live line on a terminal, else a line every 10 s"},
    {"heartbeat", 0, "heartbeat_s", NUMBER, AT(heartbeat_s), 0.05, 3600, NULL, "1", "s", RUN,
     "between signs of life of a rank"},
    {"lease", 0, "lease_s", NUMBER, AT(lease_s), 0.2, 86400, NULL, "15", "s", RUN,
     "a rank silent for longer is lost, its studies are granted again"},
    {"part-studies", 0, "part_studies", INTEGER, AT(part_studies), 1, BIG, NULL, "64", "studies", RUN,
     "a results part is closed at this many"},
    {"part-bytes", 0, "part_bytes", SIZE, AT(part_bytes), 0, 0, NULL, "1GiB", "bytes", RUN,
     "... or at this size"},
    {"part-seconds", 0, "part_seconds", NUMBER, AT(part_seconds), 0.1, 1e9, NULL, "60", "s", RUN,
     "... or at this age"},
    {"disk-reserve", 0, "disk_reserve", SIZE, AT(disk_reserve), 0, 0, NULL, "32MiB", "bytes", RUN,
     "stop before less than this is free on the results' disk"},
    {"save-probabilities", 0, "save_probabilities", FLAG, AT(save_probabilities), 0, 0, NULL, "false", "",
     RUN | INFER,
     "softmax of the logits (regions: sigmoid) beside each mask, which stays as it is: a folder may hold "
     "studies with and without; infer: OUT_probabilities.nii.gz"},
    {"dry-run", 0, NULL, FLAG, AT(is_dry_run), 0, 0, NULL, "false", "", RUN,
     "say how many studies, windows, hours and GB, and do nothing"},
    {"json", 0, NULL, FLAG, AT(json), 0, 0, NULL, "false", "", SETS | PLAN | BENCH | DOCTOR | INFER,
     "machine-readable output"},
    {"csv", 0, NULL, FLAG, AT(csv), 0, 0, NULL, "false", "", REPORT | EVALUATE, "one row a study and label"},
    {"watch", 0, NULL, FLAG, AT(watch), 0, 0, NULL, "false", "", STATUS,
     "again and again until nothing is left"},
    {"index", 0, NULL, FLAG, AT(index), 0, 0, NULL, "false", "", VERIFY, "write index.h5 anew"},
    {"type", 0, NULL, TEXT, AT(failure), 0, 0, NULL, "", "NAME", RETRY,
     "only failures of this type (unreadable, timeout, ...)"},
    {"format", 0, NULL, TEXT, AT(format), 0, 0, "plain|nnunet|bids", "plain", "", EXPORT,
     "KEY.nii.gz; with nnU-Net's dataset.json and summary.json; as derivatives of a BIDS data set"},
    {"force", 0, NULL, FLAG, AT(force), 0, 0, NULL, "false", "", EXPORT,
     "replace files that are there and differ"},
    {"probabilities", 0, NULL, FLAG, AT(probabilities), 0, 0, NULL, "false", "", EXPORT,
     "of studies run with --save-probabilities: probabilities/KEY.nii.gz, by BIDS ..._probseg.nii.gz, "
     "float32, the fourth axis the classes"},
    {"output", 'o', NULL, TEXT, AT(output), 0, 0, NULL, "", "path", EXPORT | INFER | FORWARD | PREPARE,
     "where the output goes"},
    {"input", 'i', NULL, TEXT, AT(input), 0, 0, NULL, "", "X.safetensors", FORWARD,
     "tensor `input` (C,D,H,W) f32"},
    {"stages", 0, NULL, FLAG, AT(stages), 0, 0, NULL, "false", "", FORWARD, "write c1..c4 too"},
    {"sliding", 0, NULL, FLAG, AT(sliding), 0, 0, NULL, "false", "", FORWARD,
     "by windows, blended, cropped to the input's size"},
    {"profile", 0, NULL, FLAG, AT(profile), 0, 0, NULL, "false", "", BENCH,
     "engine: time, GFLOP/s, GB/s and share of the limit of each step"},
    {"labels", 0, NULL, TEXT, AT(labels), 0, 0, NULL, "", "1,2,...", EVALUATE,
     "labels to score; default: each that is found in any file"},
    {"regions", 0, NULL, TEXT, AT(regions), 0, 0, NULL, "", "1+2,2+3,...", EVALUATE,
     "unions of labels to score as well"},
    {"tolerance", 0, "tolerance_mm", TEXT, AT(tolerance), 0, 0, NULL, "1,2", "mm,...", EVALUATE,
     "of the surface Dice"},
    {"convention", 0, "empty_masks", TEXT, AT(convention), 0, 0, "nnunet|brats", "nnunet", "", EVALUATE,
     "ratios of two empty masks: nan, left out of the means, or 1; HD95 where a mask is empty: inf, or the "
     "penalty"},
    {"penalty", 0, "penalty_mm", NUMBER, AT(penalty_mm), 0, 1e9, NULL, "374", "mm", EVALUATE,
     "HD95 by BraTS where just one mask is empty (373.12866 before 2023)"},
    {"lesion-wise", 0, "lesion_wise", TEXT, AT(lesion_wise), 0, 0, "none|gli|ssa|ped|men|met", "none", "",
     EVALUATE, "also Dice and HD95 a lesion, by the rules of this challenge of BraTS 2023"},
    {"summary", 0, NULL, TEXT, AT(summary), 0, 0, NULL, "", "FILE", EVALUATE,
     "write nnU-Net's summary.json there"},
    {"stored", 0, NULL, FLAG, AT(stored), 0, 0, NULL, "false", "", EVALUATE,
     "score the masks of a results folder again, against the truths of the catalog"},
    {"repeats", 0, NULL, INTEGER, AT(repeats), 0, 100000, NULL, "0", "", BENCH, "of the measurement"},
};

enum { SETTING_COUNT = sizeof settings_table / sizeof settings_table[0] };

typedef struct verb {
    const char *name;
    unsigned bit;
    const char *refusal; /* why it takes nothing but flags; NULL: it takes arguments */
    const char *usage, *help;
} verb;

static const verb verbs[] = {
    {"scan", SCAN, NULL, "DIR|LIST...",
     "Find studies and put them into the catalog: folders in the layout of the Decathlon, nnU-Net, BraTS or\n"
     "BIDS, folders of scans, list files (CSV with key,image,truth; several channels in image separated by "
     ";),\n"
     "single NIfTI files. Channels known by name are stored as FLAIR, T1w, T1gd, T2w, or with -m MODEL "
     "those\n"
     "that the model takes, in its order. What is missing or there twice is a warning a study. Again and "
     "again\n"
     "is fine: only what is new or changed is taken."},
    {"run", RUN, "nocturne scan takes folders and lists", "-m MODEL",
     "Segment everything pending. The same command again goes on where it stopped."},
    {"status", STATUS, "only flags", "", "Counts, speed and time left."},
    {"report", REPORT, "--only chooses studies", "",
     "What became of each study, with its Dice where a truth exists."},
    {"retry", RETRY, "--only chooses studies", "", "Put failed or quarantined studies back to pending."},
    {"verify", VERIFY, "only flags", "", "Compare the catalog with the results files; every mask is read."},
    {"export", EXPORT, "--only chooses studies", "-o DIR",
     "Write the masks as NIfTI files on the grids of their scans: KEY.nii.gz, or by BIDS\n"
     "derivatives/nocturne/sub-X/[ses-Y/]anat/..._dseg.nii.gz. Files that are there already stay: the same "
     "again\n"
     "is fine, another one is refused without --force."},
    {"infer", INFER, NULL, "-m MODEL -o OUT IN...", "Segment one scan; several IN are its channels."},
    {"evaluate", EVALUATE, NULL, "PRED TRUTH",
     "Score masks against truths: two folders of NIfTI files, paired by name, or two files; --stored needs\n"
     "neither. One row a case and label as CSV, or --json; means with 95 % intervals (1,000 resamples of "
     "the\n"
     "cases) go to the log and into the JSON. A file that is broken or has no partner costs one line, and\n"
     "the exit code is 1."},
    {"forward", FORWARD, "the tensor is given with --input",
     "-m MODEL --input X.safetensors --output Y.safetensors",
     "Run the network on a tensor: `input` (C,D,H,W) in, `logits` (K,D',H',W') out."},
    {"prepare", PREPARE, NULL, "-m MODEL --output X.safetensors FILE...",
     "What the network sees of a scan: tensor `input` (C,D,H,W)."},
    {"plan", PLAN, "the model is given with -m", "-m MODEL",
     "The network's operations with shapes, GMAC and bytes."},
    {"bench", BENCH, NULL, "engine -m MODEL | pipeline -m MODEL DIR|LIST... | schedule",
     "Measure: seconds a window, from host memory to full-size logits there, and of the network alone; "
     "studies\n"
     "an hour of those scans (in a catalog and a folder of their own); how well the schedule fills 1 to "
     "1000\n"
     "workers (--workers, --limit studies): simulated archives at 0.1 s a window, of brains or a "
     "hospital's\n"
     "mixture, without and with faults, against max(longest, work / workers).\n"
     "--profile shows the steps of a window beside what this machine can do, as measured at that moment "
     "with\n"
     "the same threads: arithmetic in registers (products, all other), and a copy beyond the caches of a\n"
     "core. A step's limit is the larger of FLOP / peak and bytes / bandwidth; exponentials, norms and\n"
     "activations count as no FLOP, and what lies in a cache may exceed 100 %."},
    {"doctor", DOCTOR, "only flags", "", "Devices, MPI, HDF5 and limits of this machine."},
};

static const verb *find_verb(const char *name)
{
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    return NULL;
}

/* ---- one value ---- */

/* Position of value among "a|b|c"; -1: not there. */
static int choice_of(const char *choices, const char *value)
{
    size_t length = strlen(value);
    int i = 0;
    for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL, i++)
        if (strncmp(at, value, length) == 0 && (at[length] == '|' || at[length] == '\0') && length > 0)
            return i;
    return -1;
}

static noc_status set_triple(const setting *s, int64_t *out, const char *value, noc_error *err)
{
    long long a, b, c;
    int used = 0;
    if (sscanf(value, "%lld,%lld,%lld%n", &a, &b, &c, &used) != 3 || value[used] != '\0')
        return noc_fail(err, NOC_EUSAGE, "\"%s\" is not D,H,W", value);
    if (a < 1 || b < 1 || c < 1 || a > s->high || b > s->high || c > s->high)
        return noc_fail(err, NOC_EUSAGE, "\"%s\": each number must lie between 1 and %.0f", value, s->high);
    out[0] = a;
    out[1] = b;
    out[2] = c;
    return NOC_OK;
}

static noc_status set_axes(int *out, const char *value, noc_error *err)
{
    unsigned axes = 0;
    for (const char *at = strcmp(value, "none") == 0 ? NULL : value; at; at = at[1] ? at + 2 : NULL) {
        unsigned axis = noc_manifest_axis((const char[]){at[0], '\0'});
        if (axis == 0 || (axes & axis) || (at[1] && at[1] != ','))
            return noc_fail(err, NOC_EUSAGE, "\"%s\" is neither none nor some of z,y,x", value);
        axes |= axis;
    }
    *out = (int)axes;
    return NOC_OK;
}

static noc_status set_choice(const setting *s, int *out, const char *value, noc_error *err)
{
    int choice = choice_of(s->choices, value);
    if (choice < 0)
        return noc_fail(err, NOC_EUSAGE, "\"%s\" is none of %s", value, s->choices);
    *out = choice;
    return NOC_OK;
}

/* Whether there is such a device here is for the engine to say. */
static noc_status set_device(const char **out, const char *value, noc_error *err)
{
    const noc_device_ops *ops;
    int index;
    if (strcmp(value, "auto") != 0 && noc_device_find(value, &ops, &index, err) != NOC_OK)
        return NOC_EUSAGE;
    *out = value;
    return NOC_OK;
}

static noc_status set_clock(const char **out, const char *value, noc_error *err)
{
    if (!noc_deadline_is_time(value))
        return noc_fail(err, NOC_EUSAGE, "\"%s\" is no time of day (HH:MM, as 06:00)", value);
    *out = value;
    return NOC_OK;
}

static noc_status set_number(const setting *s, void *member, const char *value, noc_error *err)
{
    int64_t integer;
    noc_status status;
    if (s->kind == NUMBER)
        return noc_parse_number(value, s->low, s->high, member, err);
    status = noc_parse_integer(value, (int64_t)s->low, (int64_t)s->high, &integer, err);
    if (status != NOC_OK)
        return status;
    if (s->high > INT_MAX)
        *(int64_t *)member = integer;
    else
        *(int *)member = (int)integer;
    return NOC_OK;
}

/* value: as on the command line. A text is kept, not copied. */
static noc_status set_value(const setting *s, noc_settings *settings, const char *value, noc_error *err)
{
    void *member = (char *)settings + s->offset;
    switch (s->kind) {
    case TEXT:
        if (s->choices && choice_of(s->choices, value) < 0)
            return noc_fail(err, NOC_EUSAGE, "\"%s\" is none of %s", value, s->choices);
        *(const char **)member = value;
        return NOC_OK;
    case INTEGER:
    case NUMBER:
        return set_number(s, member, value, err);
    case SIZE:
        return noc_parse_size(value, member, err);
    case FLAG:
        *(bool *)member = strcmp(value, "true") == 0;
        return NOC_OK;
    case TRIPLE:
        return set_triple(s, member, value, err);
    case CHOICE:
        return set_choice(s, member, value, err);
    case AXES:
        return set_axes(member, value, err);
    case DEVICE:
        return set_device(member, value, err);
    case CLOCK:
        return set_clock(member, value, err);
    }
    return NOC_EINTERNAL;
}

static void set_defaults(noc_settings *settings)
{
    memset(settings, 0, sizeof *settings);
    settings->overlap = -1;
    settings->blend = -1;
    settings->mirror = -1;
    for (int i = 0; i < SETTING_COUNT; i++)
        if (settings_table[i].value[0] != '\0')
            set_value(&settings_table[i], settings, settings_table[i].value, NULL);
}

/* ---- configuration file ---- */

static noc_status read_triple(const noc_yaml *doc, const noc_yaml_node *node, const setting *s,
                              noc_settings *settings, noc_error *err)
{
    return noc_yaml_integers(doc, node, 1, (int64_t)s->high,
                             (int64_t *)(void *)((char *)settings + s->offset), 3, err);
}

/* A list as a manifest has it, or a text as on the command line. */
static noc_status read_axes(const noc_yaml *doc, const noc_yaml_node *node, const setting *s,
                            noc_settings *settings, noc_error *err)
{
    unsigned axes = 0;
    noc_status status = noc_manifest_axes(doc, node, s->key, &axes, err);
    if (status == NOC_OK)
        *(int *)(void *)((char *)settings + s->offset) = (int)axes;
    return status;
}

static noc_status read_node(const noc_yaml *doc, const noc_yaml_node *node, const setting *s,
                            noc_settings *settings, noc_error *err)
{
    const char *text;
    noc_error why;
    if (s->kind == TRIPLE)
        return read_triple(doc, node, s, settings, err);
    if (s->kind == AXES && noc_yaml_kind_of(node) == NOC_YAML_SEQUENCE)
        return read_axes(doc, node, s, settings, err);
    if (s->kind == FLAG)
        return noc_yaml_boolean(doc, node, (bool *)((char *)settings + s->offset), err);
    noc_status status = noc_yaml_text(doc, node, &text, err);
    if (status != NOC_OK)
        return status;
    if (set_value(s, settings, text, &why) == NOC_OK)
        return NOC_OK;
    return noc_yaml_fail(doc, node, err, "%s: %s", s->key, why.text);
}

static noc_status read_file(const char *path, noc_settings *settings, noc_error *err)
{
    const char *keys[SETTING_COUNT + 1];
    int count = 0;
    noc_status status = noc_yaml_load(path, &settings->document, err);
    if (status != NOC_OK)
        return status;
    const noc_yaml *doc = settings->document;
    for (int i = 0; i < SETTING_COUNT; i++)
        if (settings_table[i].key)
            keys[count++] = settings_table[i].key;
    keys[count] = NULL;
    const noc_yaml_node *root = noc_yaml_root(doc);
    if (root)
        status = noc_yaml_only(doc, root, keys, err);
    for (int i = 0; root && status == NOC_OK && i < SETTING_COUNT; i++) {
        const noc_yaml_node *node = settings_table[i].key ? noc_yaml_find(root, settings_table[i].key) : NULL;
        if (node)
            status = read_node(doc, node, &settings_table[i], settings, err);
    }
    return status;
}

void noc_settings_print_yaml(void)
{
    printf("# Every setting with its default. Flags override a configuration file (-c FILE); unknown keys "
           "are errors.\n");
    printf("# A line that is commented out has no fixed default: the model or the machine decides.\n");
    for (int i = 0; i < SETTING_COUNT; i++) {
        const setting *s = &settings_table[i];
        if (!s->key)
            continue;
        printf("\n# %s%s%s%s\n", s->help, s->unit[0] || s->choices ? " [" : "",
               s->choices ? s->choices : s->unit, s->unit[0] || s->choices ? "]" : "");
        printf(s->value[0] ? "%s: %s\n" : "# %s:%s\n", s->key, s->value);
    }
}

/* ---- flags ---- */

static const setting *find_flag(const char *name, size_t length, unsigned bit)
{
    for (int i = 0; i < SETTING_COUNT; i++) {
        const setting *s = &settings_table[i];
        if ((s->verbs & bit) && ((strncmp(s->flag, name, length) == 0 && s->flag[length] == '\0') ||
                                 (length == 1 && s->letter == name[0])))
            return s;
    }
    return NULL;
}

/* Edits that turn a into b (Levenshtein), for suggestions. */
static int distance(const char *a, const char *b)
{
    int row[64], size = (int)strlen(b);
    if (size >= 64)
        return 64;
    for (int j = 0; j <= size; j++)
        row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= size; j++) {
            int change = diagonal + (a[i - 1] != b[j - 1]),
                least = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            diagonal = row[j];
            row[j] = change < least ? change : least;
        }
    }
    return row[size];
}

/* How far `word` is from a name it may have meant: 0 for its beginning; big when it is another word. */
static int farness(const char *word, const char *name)
{
    size_t length = strlen(word);
    if (length >= 2 && strncmp(word, name, length) == 0)
        return 0;
    int edits = distance(word, name);
    return 2 * edits < (int)length + 2 ? edits : INT_MAX;
}

/* What other programs call it; NULL when it has no such name here. */
static const char *habit(const char *word, unsigned bit)
{
    static const struct {
        const char *word, *instead;
        unsigned verbs;
    } habits[] = {
        {"quiet", "--log-level error", EVERY},
        {"q", "--log-level error", EVERY},
        {"verbose", "--log-level debug", EVERY},
        {"v", "--log-level debug", EVERY},
        {"gpu", "--device cuda", EVERY},
        {"version", "nocturne --version", EVERY},
        {"tta", "--mirror z,y,x", ENGINE},
        {"disable_tta", "--mirror none", ENGINE},
        {"output", "--results", RUN},
        {"o", "--results", RUN},
        {"jobs", "--workers", RUN | BENCH},
        {"j", "--workers", RUN | BENCH},
    };
    for (size_t i = 0; i < sizeof habits / sizeof habits[0]; i++)
        if ((habits[i].verbs & bit) && strcmp(word, habits[i].word) == 0)
            return habits[i].instead;
    return NULL;
}

static noc_status unknown_flag(const char *argument, const verb *v, noc_error *err)
{
    char word[64];
    const char *best = NULL, *at = argument + strspn(argument, "-");
    int least = INT_MAX;
    snprintf(word, sizeof word, "%.*s", (int)strcspn(at, "="), at);
    for (int i = 0; i < SETTING_COUNT; i++) {
        const setting *s = &settings_table[i];
        int far = (s->verbs & v->bit) ? farness(word, s->flag) : INT_MAX;
        if (far < least) {
            least = far;
            best = s->flag;
        }
    }
    const char *usual = habit(word, v->bit), *dashes = usual ? "" : "--";
    if (usual)
        best = usual;
    if (best)
        return noc_fail(err, NOC_EUSAGE, "%s: nocturne %s has no such flag; did you mean %s%s?", argument,
                        v->name, dashes, best);
    return noc_fail(err, NOC_EUSAGE, "%s: nocturne %s has no such flag; see nocturne %s --help", argument,
                    v->name, v->name);
}

static noc_status unknown_verb(const char *word, noc_error *err)
{
    const char *best = NULL;
    int least = INT_MAX;
    if (word[0] == '-')
        return noc_fail(err, NOC_EUSAGE,
                        "%s: the command comes first: nocturne COMMAND [FLAGS]; "
                        "see nocturne --help",
                        word);
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (farness(word, verbs[i].name) < least) {
            least = farness(word, verbs[i].name);
            best = verbs[i].name;
        }
    if (best)
        return noc_fail(err, NOC_EUSAGE, "nocturne has no command \"%s\"; did you mean %s?", word, best);
    return noc_fail(err, NOC_EUSAGE, "nocturne has no command \"%s\"; see nocturne --help", word);
}

/* "--name=value", "--name value", "-m value", "-mvalue". Advances *at over a separate value. */
static noc_status take_flag(int argc, char **argv, int *at, const verb *v, noc_settings *settings,
                            noc_error *err)
{
    const char *argument = argv[*at];
    bool is_long = argument[1] == '-';
    const char *name = argument + (is_long ? 2 : 1);
    size_t length = is_long ? strcspn(name, "=") : 1;
    const char *value = name[length] == '\0' ? NULL : name + length + is_long;
    noc_error why;
    const setting *s = find_flag(name, length, v->bit);
    if (!s || (is_long && length == 1))
        return unknown_flag(argument, v, err);
    if (s->kind == FLAG) {
        if (value)
            return noc_fail(err, NOC_EUSAGE, "--%s takes no value", s->flag);
        value = "true";
    } else if (!value) {
        if (*at + 1 >= argc)
            return noc_fail(err, NOC_EUSAGE, "--%s needs a value (%s)", s->flag,
                            s->choices ? s->choices : s->unit);
        value = argv[++*at];
    }
    if (set_value(s, settings, value, &why) != NOC_OK)
        return noc_fail(err, NOC_EUSAGE, "--%s: %s", s->flag, why.text);
    return NOC_OK;
}

static bool is_flag(const char *argument)
{
    return argument[0] == '-' && argument[1] != '\0';
}

/* One pass over the flags; what is no flag becomes an argument. */
static noc_status take_flags(int argc, char **argv, const verb *v, noc_settings *settings, noc_error *err)
{
    settings->argument_count = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            while (++i < argc)
                settings->arguments[settings->argument_count++] = argv[i];
            break;
        }
        if (!is_flag(argv[i])) {
            settings->arguments[settings->argument_count++] = argv[i];
            continue;
        }
        noc_status status = take_flag(argc, argv, &i, v, settings, err);
        if (status != NOC_OK)
            return status;
    }
    return NOC_OK;
}

static void print_help(const verb *v)
{
    printf("usage: nocturne %s [FLAGS] %s\n\n%s\n\n", v->name, v->usage, v->help);
    for (int i = 0; i < SETTING_COUNT; i++) {
        const setting *s = &settings_table[i];
        char left[80];
        if (!(s->verbs & v->bit))
            continue;
        snprintf(left, sizeof left, "%c%c%c --%s %s", s->letter ? '-' : ' ', s->letter ? s->letter : ' ',
                 s->letter ? ',' : ' ', s->flag,
                 s->kind == FLAG ? ""
                 : s->choices    ? s->choices
                                 : s->unit);
        printf("  %-44s %s", left, s->help);
        printf(s->value[0] && s->kind != FLAG ? " (%s)\n" : "\n", s->value);
    }
    printf("      --help                                   this text\n");
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

noc_status noc_settings_parse(int argc, char **argv, noc_settings *settings, bool *is_help, noc_error *err)
{
    const verb *v = find_verb(argv[0]);
    set_defaults(settings);
    if (!v)
        return unknown_verb(argv[0], err);
    *is_help = wants_help(argc, argv);
    if (*is_help) {
        print_help(v);
        return NOC_OK;
    }
    settings->arguments = calloc((size_t)argc + 1, sizeof *settings->arguments);
    if (!settings->arguments)
        return noc_fail(err, NOC_ENOMEMORY, "no memory for the arguments");
    noc_status status = take_flags(argc, argv, v, settings, err);
    if (status == NOC_OK && settings->configuration_file) {
        status = read_file(settings->configuration_file, settings, err);
        if (status == NOC_OK) /* once more: flags override the file */
            status = take_flags(argc, argv, v, settings, err);
    }
    if (status == NOC_OK && v->refusal && settings->argument_count > 0)
        return noc_fail(err, NOC_EUSAGE, "\"%s\": nocturne %s takes no arguments (%s)",
                        settings->arguments[0], v->name, v->refusal);
    return status;
}

void noc_settings_free(noc_settings *settings)
{
    free(settings->arguments);
    noc_yaml_free(settings->document);
    settings->arguments = NULL;
    settings->document = NULL;
}

/* ---- what the engine wants to know ---- */

void noc_settings_engine(const noc_settings *settings, noc_engine_options *options)
{
    options->device = settings->device;
    options->host.threads = settings->threads;
    options->host.isa = settings->isa;
    options->host.precision = NOC_PRECISION_AUTO;
    for (noc_precision p = NOC_PRECISION_F32; p < NOC_PRECISION_AUTO; p++)
        if (strcmp(settings->precision, noc_precision_name(p)) == 0)
            options->host.precision = p;
    options->batch = settings->batch;
    memcpy(options->window, settings->window, sizeof options->window);
    options->overlap = settings->overlap;
    options->blend = settings->blend;
    options->with_probabilities = settings->save_probabilities;
}
