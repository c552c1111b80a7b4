/* nocturne COMMAND: finds the command and is the one place where the program ends. */
#include "pipeline/command.h"
#include "pipeline/supervisor.h"

#include "engine/base/log.h"

#include <stdio.h>
#include <string.h>

int noc_command_fail(const noc_error *err)
{
    noc_log(NOC_LOG_ERROR, "%s", err->text);
    return noc_status_exit(err->status);
}

static int print_usage(FILE *out)
{
    fprintf(
        out,
        "nocturne segments an archive of 3D scans.\n\n"
        "  nocturne scan DIR|LIST...  find studies and put them into the catalog\n"
        "  nocturne run               segment everything pending (--dry-run: studies, windows, hours, GB)\n"
        "  nocturne status            counts, speed, time left (--json, --watch)\n"
        "  nocturne report            Dice and failures of each study (--csv, --json)\n"
        "  nocturne retry             put failed or quarantined studies back\n"
        "  nocturne verify            catalog against files, every mask read (--index)\n"
        "  nocturne export            masks as NIfTI files (--format plain|nnunet|bids): -o DIR\n"
        "  nocturne infer             one scan: -m MODEL -o OUT IN...\n"
        "  nocturne evaluate          score folders of masks, or stored results: PRED TRUTH\n"
        "  nocturne forward           the network on a tensor: safetensors in, logits out\n"
        "  nocturne prepare           what the network sees: scan in, tensor out\n"
        "  nocturne plan              the network's operations with shapes, GMAC, bytes\n"
        "  nocturne bench             engine | pipeline | schedule\n"
        "  nocturne doctor            devices, MPI, HDF5, limits\n"
        "  nocturne --version         version, commit, what was built in\n"
        "  nocturne --default-config  every setting with its default, as a configuration file\n\n"
        "Exit codes: 0 all done; 1 finished, some study failed; 75 stopped early, run again; 64 usage,\n"
        "65 data, 66 missing, 69 unavailable, 70 internal, 73 cannot create, 74 I/O, 78 configuration.\n\n"
        "nocturne COMMAND --help says more. A first run:\n\n"
        "  nocturne scan DIR && nocturne run -m MODEL && nocturne report\n");
    return out == stdout ? 0 : noc_status_exit(NOC_EUSAGE);
}

static int dispatch(const noc_settings *settings, int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*command)(const noc_settings *settings);
    } commands[] = {
        {"scan", noc_command_scan},   {"status", noc_command_status},   {"report", noc_command_report},
        {"retry", noc_command_retry}, {"verify", noc_command_verify},   {"export", noc_command_export},
        {"infer", noc_command_infer}, {"forward", noc_command_forward}, {"prepare", noc_command_prepare},
        {"plan", noc_command_plan},   {"doctor", noc_command_doctor},   {"evaluate", noc_command_evaluate},
    };
    if (strcmp(argv[1], "run") == 0)
        return noc_command_run(settings, argc, argv);
    if (strcmp(argv[1], "bench") == 0)
        return noc_command_bench(settings, argv[0]);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].command(settings);
    return noc_status_exit(NOC_EINTERNAL);
}

static bool is_one_of(const char *word, const char *a, const char *b, const char *c)
{
    return strcmp(word, a) == 0 || strcmp(word, b) == 0 || strcmp(word, c) == 0;
}

/* The exit code, once stdout has taken everything. */
static int end(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    noc_log(NOC_LOG_ERROR, "standard output cannot be written");
    return noc_status_exit(NOC_EIO);
}

int main(int argc, char **argv)
{
    noc_settings settings = {0};
    noc_error err;
    bool is_help = false;
    if (argc < 2)
        return print_usage(stderr);
    if (is_one_of(argv[1], "help", "--help", "-h")) {
        if (argc == 2)
            return end(print_usage(stdout));
        argv[1] = argv[2]; /* help COMMAND */
        argv[2] = (char *)"--help";
    }
    if (is_one_of(argv[1], "version", "--version", "-V")) {
        noc_version_print();
        return end(0);
    }
    if (strcmp(argv[1], "--default-config") == 0) {
        noc_settings_print_yaml();
        return end(0);
    }
    int code = 0;
    if (noc_settings_parse(argc - 1, argv + 1, &settings, &is_help, &err) != NOC_OK) {
        code = noc_command_fail(&err);
    } else if (!is_help) {
        noc_log_open(settings.log_level, settings.log_format, -1);
        code = dispatch(&settings, argc, argv);
    }
    noc_settings_free(&settings);
    return end(code);
}
