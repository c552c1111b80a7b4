/* The commands of the program. Each returns the exit code; data goes to stdout, complaints to stderr through
 * the log. */
#ifndef NOC_COMMAND_H
#define NOC_COMMAND_H

#include "pipeline/settings.h"

int noc_command_scan(const noc_settings *settings);
int noc_command_run(const noc_settings *settings, int argc,
                    char **argv); /* argv: as given, for the ranks it starts */
int noc_command_status(const noc_settings *settings);
int noc_command_report(const noc_settings *settings);
int noc_command_retry(const noc_settings *settings);
int noc_command_verify(const noc_settings *settings);
int noc_command_export(const noc_settings *settings);
int noc_command_infer(const noc_settings *settings);
int noc_command_evaluate(const noc_settings *settings);
int noc_command_forward(const noc_settings *settings);
int noc_command_prepare(const noc_settings *settings);
int noc_command_plan(const noc_settings *settings);
int noc_command_bench(const noc_settings *settings, const char *program);
int noc_command_doctor(const noc_settings *settings);

/* Logs the sentence and returns the exit code of the status. */
int noc_command_fail(const noc_error *err);

/* "0.1.0 (abc123def456)" */
const char *noc_version(void);
/* --version: that, and what was built in. */
void noc_version_print(void);

#endif
