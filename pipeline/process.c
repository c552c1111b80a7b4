#include "pipeline/process.h"

#include <ctype.h>
#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Fields 3 (state), 6 (session) and 22 (start time) of /proc/PID/stat; the name before them may hold
 * anything. */
noc_process noc_process_look(pid_t pid)
{
    noc_process process = {.state = NOC_PROCESS_GONE};
    char path[64], line[1024], state;
    unsigned long long ticks;
    int session;
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return process;
    size_t size = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[size] = '\0';
    const char *after = strrchr(line, ')');
    if (!after ||
        sscanf(after + 1, " %c %*d %*d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &state, &session, &ticks) != 3)
        return process;
    process.session = session;
    process.start_ticks = ticks;
    if (state == 'T' || state == 't')
        process.state = NOC_PROCESS_STOPPED;
    else if (state != 'Z' && state != 'X')
        process.state = NOC_PROCESS_RUNS;
    return process;
}

/* Calls visit() for each living process of the session; the number of those for which it returns true. */
static int visit_session(pid_t session, bool (*visit)(pid_t pid))
{
    int found = 0;
    DIR *folder = opendir("/proc");
    if (!folder)
        return 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        pid_t pid = (pid_t)atol(entry->d_name);
        noc_process process = noc_process_look(pid);
        if (process.state != NOC_PROCESS_GONE && process.session == session)
            found += visit(pid);
    }
    closedir(folder);
    return found;
}

static bool end_process(pid_t pid)
{
    kill(pid, SIGKILL);
    return true;
}

int noc_session_kill(pid_t session)
{
    return visit_session(session, end_process);
}

/* The program file of a process; "" when it cannot be told. */
static void program_of(const char *process, char *program, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/%s/exe", process);
    ssize_t length = readlink(link, program, size - 1);
    program[length > 0 ? length : 0] = '\0';
}

static bool is_this_program(pid_t pid)
{
    char number[32], own[4096], its[4096];
    snprintf(number, sizeof number, "%ld", (long)pid);
    program_of("self", own, sizeof own);
    program_of(number, its, sizeof its);
    return own[0] != '\0' && strcmp(own, its) == 0;
}

int noc_session_ranks(pid_t session)
{
    return visit_session(session, is_this_program);
}
