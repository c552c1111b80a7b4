/* The supervisor. One attempt: start mpirun, listen to rank 0 until it gives its verdict or falls silent,
 * then clear the session. */
#include "pipeline/supervisor.h"

#include "engine/base/clock.h"
#include "pipeline/control.h"
#include "pipeline/process.h"
#include "pipeline/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { IDLE_RESTARTS = 3, FIXED_ARGUMENTS = 32 };
#define START_WAIT_S 60.0    /* for rank 0 to report after mpirun was started */
#define LOOK_S 0.5           /* between looks at the ranks meanwhile */
#define MISSED_S 5.0         /* until a rank that is missing then, where others are, is dead */
#define SILENCE_EXTRA_S 10.0 /* beyond a lease, until a silent coordinator is given up */
#define LEAVE_S 3.0          /* for mpirun to end by itself after the verdict */
#define LINE_S 10.0
#define AGAIN_S 1.0 /* between two signals that mean more than one */

typedef struct supervisor {
    const noc_supervisor_options *options;
    noc_control *control;
    noc_scratch scratch;              /* none: Open MPI's own choice */
    int64_t since_ns;                 /* when it began */
    pid_t session;                    /* of mpirun; 0: none */
    bool has_exited;                  /* mpirun was reaped */
    double started, heard, absence_s; /* that rank 0 announced */
    double looked, missed; /* at the ranks until rank 0 reports; since when one is missing, 0: none */
    bool has_ranks;        /* some were seen then */
    bool has_verdict, wants_restart;
    double asked; /* to drain; 0: not yet */
    int pressed;  /* signals by then, or within AGAIN_S of it */
    int exit_code;
    char progress[256]; /* latest, "": shown for the last time */
    long long ended;    /* studies, by this start, as far as was heard */
    bool is_terminal;
    double line_said;
} supervisor;

static volatile sig_atomic_t drain_signals, urgent_signals; /* the latter without SIGUSR1 */

static void on_signal(int number)
{
    drain_signals++;
    if (number != SIGUSR1)
        urgent_signals++;
}

bool noc_is_rank(void)
{
    return getenv("PMIX_RANK") || getenv("OMPI_COMM_WORLD_RANK");
}

/* ---- the session ---- */

static void reap(supervisor *s)
{
    int status;
    if (s->session > 0 && !s->has_exited && waitpid(s->session, &status, WNOHANG) == s->session)
        s->has_exited = true;
}

static void clear_session(supervisor *s)
{
    while (s->session > 0 && (noc_session_kill(s->session) > 0 || !s->has_exited)) {
        noc_clock_sleep(0.01);
        reap(s);
        if (!s->has_exited)
            kill(s->session, SIGKILL);
    }
    s->session = 0;
}

/* ---- starting ---- */

/* What every start of Open MPI needs here: any user, more ranks than cores, no binding (we pin ourselves),
 * and survival of a rank's death. */
static void set_environment(const supervisor *s)
{
    char number[32];
    static const char *const fixed[][2] = {
        {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
        {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
        {"PRTE_ALLOW_RUN_AS_ROOT", "1"},
        {"PRTE_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
        {"OMPI_MCA_btl_vader_single_copy_mechanism", "none"},
        {"OMPI_MCA_btl_sm_single_copy_mechanism", "none"},
        {"OMPI_MCA_mpi_yield_when_idle", "1"},
        {"HDF5_USE_FILE_LOCKING", "FALSE"},
    };
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        setenv(fixed[i][0], fixed[i][1], 1);
    if (s->scratch.path[0] != '\0') {
        setenv("TMPDIR", s->scratch.path, 1);
        setenv("OMPI_MCA_btl_vader_backing_directory", s->scratch.path, 1);
        setenv("OMPI_MCA_btl_sm_backing_directory", s->scratch.path, 1);
    }
    setenv("NOC_CONTROL", noc_control_name(s->control), 1);
    snprintf(number, sizeof number, "%lld", (long long)s->options->until_unix_s);
    setenv("NOC_UNTIL", number, 1);
    snprintf(number, sizeof number, "%lld", (long long)s->since_ns);
    setenv("NOC_SINCE", number, 1);
}

/* Or may: what the words for mpirun say is between them. */
static bool spans_nodes(const noc_settings *settings)
{
    const char *nodes = getenv("SLURM_JOB_NUM_NODES");
    return (nodes && atoi(nodes) > 1) || settings->hosts || settings->mpirun;
}

static int add_words(char **arguments, int count, char *words)
{
    for (char *word = words ? strtok(words, " ") : NULL; word; word = strtok(NULL, " "))
        arguments[count++] = word;
    return count;
}

static void exec_mpirun(const supervisor *s)
{
    const noc_supervisor_options *o = s->options;
    char ranks[16], program[4096];
    char *words = o->settings->mpirun ? strdup(o->settings->mpirun) : NULL;
    size_t most = FIXED_ARGUMENTS + (words ? strlen(words) : 0) + (size_t)o->argc;
    char **arguments = calloc(most, sizeof *arguments);
    int count = 0;
    if (!arguments)
        _exit(70);
    ssize_t size = readlink("/proc/self/exe", program, sizeof program - 1);
    program[size > 0 ? size : 0] = '\0';
    snprintf(ranks, sizeof ranks, "%d", o->ranks);
    const char *fixed[] = {
        "mpirun", "-n",  ranks, "--oversubscribe", "--bind-to", "none", "--enable-recovery",
        "--mca",  "pml", "ob1"};
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        arguments[count++] = (char *)fixed[i];
    if (spans_nodes(o->settings)) {
        arguments[count++] = (char *)"-x";
        arguments[count++] = (char *)"HDF5_USE_FILE_LOCKING";
    } else { /* a node with nothing but a loopback interface has no other way */
        arguments[count++] = (char *)"--mca";
        arguments[count++] = (char *)"btl";
        arguments[count++] = (char *)(OMPI_MAJOR_VERSION >= 5 ? "self,sm" : "self,vader");
    }
    if (o->settings->hosts) {
        arguments[count++] = (char *)"--host";
        arguments[count++] = (char *)o->settings->hosts;
    }
    count = add_words(arguments, count, words);
    arguments[count++] = program;
    memcpy(arguments + count, o->argv + 1, (size_t)(o->argc - 1) * sizeof *arguments);
    execvp("mpirun", arguments);
    _exit(127);
}

static noc_status start(supervisor *s, noc_error *err)
{
    pid_t pid = fork();
    if (pid < 0)
        return noc_fail(err, NOC_EUNAVAILABLE, "cannot start a process: %s", strerror(errno));
    if (pid == 0) {
        int null = open("/dev/null", O_RDONLY);
        setsid();
        dup2(null, STDIN_FILENO);
        dup2(STDERR_FILENO, STDOUT_FILENO); /* stdout carries data, and ranks have none */
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        signal(SIGUSR1, SIG_DFL);
        set_environment(s);
        exec_mpirun(s);
    }
    s->session = pid;
    s->has_exited = s->has_verdict = s->wants_restart = false;
    s->ended = 0;
    s->absence_s = s->asked = s->looked = s->missed = 0;
    s->has_ranks = false;
    s->started = s->heard = noc_clock_monotonic();
    noc_control_reset(s->control);
    return NOC_OK;
}

/* ---- listening ---- */

static void show_progress(supervisor *s, bool is_last)
{
    const char *mode = s->options->settings->progress;
    double now = noc_clock_monotonic();
    if (strcmp(mode, "none") == 0 || s->progress[0] == '\0')
        return;
    if (s->is_terminal && strcmp(mode, "auto") == 0) {
        fprintf(stderr, "\r\033[K%s%s", s->progress, is_last ? "\n" : "");
        fflush(stderr);
    } else if (!is_last && now - s->line_said >= LINE_S) {
        noc_log(NOC_LOG_INFO, "%s", s->progress);
        s->line_said = now;
    }
    if (is_last)
        s->progress[0] = '\0';
}

static void take_line(supervisor *s, const char *line)
{
    int restart = 0;
    long long done = 0, failed = 0;
    if (strncmp(line, "progress ", 9) == 0) {
        snprintf(s->progress, sizeof s->progress, "%s", line + 9);
        if (sscanf(s->progress, "%lld of %*d done, %lld failed", &done, &failed) == 2)
            s->ended = done + failed;
        show_progress(s, false);
    } else if (strncmp(line, "summary ", 8) == 0) {
        show_progress(s, true);
        noc_log(NOC_LOG_INFO, "%s", line + 8);
    } else if (strncmp(line, "failure ", 8) == 0) {
        show_progress(s, true);
        noc_log(NOC_LOG_ERROR, "%s", line + 8);
    } else if (sscanf(line, "busy %lf", &s->absence_s) == 1) {
        return;
    } else if (sscanf(line, "verdict %d %d %lld", &s->exit_code, &restart, &s->ended) == 3) {
        s->has_verdict = true;
        s->wants_restart = restart != 0;
    }
}

/* A rank that dies while all start leaves the others waiting in MPI_Init for ever. Those on other nodes are
 * out of sight. */
static bool has_lost_rank(supervisor *s, double now)
{
    if (spans_nodes(s->options->settings) || now - s->looked < LOOK_S)
        return false;
    s->looked = now;
    const int ranks = noc_session_ranks(s->session);
    s->has_ranks |= ranks > 0;
    if (!s->has_ranks || ranks == s->options->ranks)
        s->missed = 0;
    else if (s->missed == 0)
        s->missed = now;
    if (s->missed == 0 || now - s->missed <= MISSED_S)
        return false;
    noc_log(NOC_LOG_WARN, "%d of %d ranks died before all were up", s->options->ranks - ranks,
            s->options->ranks);
    return true;
}

static bool is_silent(supervisor *s, double now)
{
    if (!noc_control_is_connected(s->control))
        return now - s->started > START_WAIT_S || has_lost_rank(s, now);
    bool is_stopped = noc_process_look(noc_control_peer(s->control)).state == NOC_PROCESS_STOPPED;
    return now - s->heard > s->options->settings->lease_s + SILENCE_EXTRA_S + (is_stopped ? 0 : s->absence_s);
}

/* The first signal drains; a second one by hand or by a batch system, which is not the first one's echo, is
 * in a hurry. */
static void relay_signals(supervisor *s, double now)
{
    if (drain_signals == 0 || !noc_control_is_connected(s->control))
        return;
    if (s->asked == 0) {
        noc_control_say(s->control, "drain");
        s->asked = now;
    }
    if (now - s->asked < AGAIN_S) {
        s->pressed = urgent_signals;
    } else if (urgent_signals > s->pressed) {
        noc_control_say(s->control, "hurry");
        s->pressed = urgent_signals;
    }
}

/* Until rank 0 has spoken its verdict, or cannot any more. */
static void listen_to_ranks(supervisor *s)
{
    const char *line;
    while (!s->has_verdict) {
        double now = noc_clock_monotonic();
        while ((line = noc_control_hear(s->control))) {
            take_line(s, line);
            s->heard = now;
        }
        relay_signals(s, now);
        reap(s);
        if (s->has_verdict || noc_control_is_cut(s->control) || s->has_exited || is_silent(s, now))
            break;
        noc_clock_sleep(0.02);
    }
    while ((line = noc_control_hear(s->control))) /* what came with the end */
        take_line(s, line);
}

static void wait_for_exit(supervisor *s)
{
    double end = noc_clock_monotonic() + LEAVE_S;
    while (!s->has_exited && noc_clock_monotonic() < end) {
        noc_clock_sleep(0.01);
        reap(s);
    }
}

/* ---- attempts ---- */

static noc_status run_once(supervisor *s, noc_error *err)
{
    noc_status status = start(s, err);
    if (status != NOC_OK)
        return status;
    listen_to_ranks(s);
    if (s->has_verdict)
        wait_for_exit(s);
    show_progress(s, true);
    clear_session(s);
    return NOC_OK;
}

static noc_status find_mpirun(noc_error *err)
{
    const char *path = getenv("PATH");
    char *folders = strdup(path ? path : "/usr/bin:/bin"), file[4096];
    bool is_found = false;
    for (char *folder = folders ? strtok(folders, ":") : NULL; folder && !is_found;
         folder = strtok(NULL, ":")) {
        snprintf(file, sizeof file, "%s/mpirun", folder);
        is_found = access(file, X_OK) == 0;
    }
    free(folders);
    if (access(".", X_OK) != 0)
        return noc_fail(
            err, NOC_EUNAVAILABLE,
            "mpirun starts nothing in a folder that this user may not enter: change to another one");
    return is_found ? NOC_OK
                    : noc_fail(err, NOC_EUNAVAILABLE,
                               "there is no mpirun in PATH: install Open MPI (make deps), or use --ranks 1");
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

noc_status noc_supervise(const noc_supervisor_options *options, int *exit_code, noc_error *err)
{
    supervisor s = {
        .options = options, .is_terminal = isatty(STDERR_FILENO), .since_ns = noc_clock_unix_ns()};
    noc_status status = find_mpirun(err);
    int idle = 0;
    if (status == NOC_OK)
        status = noc_control_listen(&s.control, err);
    if (status == NOC_OK && !spans_nodes(options->settings)) /* other nodes have no such folder */
        status = noc_scratch_create(&s.scratch, err);
    catch_signals();
    while (status == NOC_OK) {
        status = run_once(&s, err);
        if (status != NOC_OK || (s.has_verdict && !s.wants_restart))
            break;
        idle = s.ended > 0 ? 0 : idle + 1;
        if (drain_signals > 0) {
            noc_log(NOC_LOG_WARN, "the ranks died while they were to stop: the same command goes on");
            s.exit_code = noc_status_exit(NOC_ETEMPFAIL);
            break;
        }
        if (idle > IDLE_RESTARTS) {
            status = noc_fail(
                err, NOC_EUNAVAILABLE,
                "the ranks died %d times without coming to the end of a study; see their messages above",
                idle);
            break;
        }
        noc_log(NOC_LOG_WARN, "the ranks ended before the work was done: starting them again");
    }
    noc_control_close(s.control);
    noc_scratch_remove(&s.scratch);
    *exit_code = s.exit_code;
    return status;
}
