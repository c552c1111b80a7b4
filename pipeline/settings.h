/* Settings of every command: defaults, then the configuration file (-c), then flags. One table (settings.c)
 * is the source of flags, YAML keys, --help and configs/default.yaml. */
#ifndef NOC_SETTINGS_H
#define NOC_SETTINGS_H

#include "engine/base/error.h"
#include "engine/base/log.h"
#include "engine/engine.h"

#include <stddef.h>
#include <stdint.h>

typedef struct noc_settings {
    /* every command */
    const char *catalog, *results, *model, *device, *configuration_file;
    const char *precision; /* "f32", "bf16", "f16", "auto" */
    int threads;           /* 0: default */
    size_t memory;         /* bytes; 0: default */
    noc_log_level log_level;
    noc_log_format log_format;
    bool assume_ras;
    const char *isa;   /* NULL: best */
    int batch;         /* 0: default */
    int64_t window[3]; /* 0: the model's */
    double overlap;    /* -1: the model's */
    int blend;         /* -1: the model's, else noc_blend */
    int mirror;        /* -1: the model's, else axes as noc_manifest's */
    /* run */
    int ranks, workers, writers, writers_per_part; /* 0: default */
    const char *hosts, *mpirun;                    /* NULL: this node, nothing */
    int attempts;                                  /* 3 */
    int64_t limit;                                 /* 0: all */
    const char *only, *until, *progress;           /* progress: "auto", "line", "none" */
    double study_timeout_s;                        /* 0: none */
    double heartbeat_s, lease_s;                   /* 1, 15 */
    int64_t part_studies;                          /* 64 */
    size_t part_bytes;                             /* 1 GiB */
    double part_seconds;                           /* 60 */
    size_t disk_reserve;                           /* stop early below this much free space; 256 MiB */
    bool is_dry_run;
    bool save_probabilities; /* infer too */
    /* other commands */
    bool force, probabilities; /* export */
    const char *layout;        /* scan: "auto", "msd", "nnunet", "brats", "bids", "list", "folder" */
    bool json, csv, watch, index, stages, sliding, profile;
    const char *input, *output, *format, *failure; /* failure: retry --type */
    int repeats;                                   /* bench; 0: default */
    /* evaluate */
    const char *labels, *regions, *tolerance, *summary; /* as given; NULL: all, none, -, none */
    const char *convention;                             /* "nnunet", "brats" */
    double penalty_mm;                                  /* 374 */
    const char *lesion_wise;                            /* "none", or a challenge of BraTS */
    bool stored;
    /* what is left after the flags */
    char **arguments;
    int argument_count;
    struct noc_yaml *document; /* the configuration file's, whose strings the members above point to */
} noc_settings;

/* Parses argv (argv[0] is the verb). --help prints to stdout and sets *is_help. NOC_EUSAGE (unknown flag, bad
 * value; a near name is suggested), NOC_ECONFIG (configuration file). Strings belong to argv or to the
 * settings. Free by noc_settings_free, after a failure too. */
noc_status noc_settings_parse(int argc, char **argv, noc_settings *settings, bool *is_help, noc_error *err);

void noc_settings_free(noc_settings *settings);

/* What the settings say about the engine (device, precision, threads, isa, batch, window, overlap, blend). */
void noc_settings_engine(const noc_settings *settings, noc_engine_options *options);

/* The text of configs/default.yaml. */
void noc_settings_print_yaml(void);

#endif
