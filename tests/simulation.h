/* A job in one process: the real coordinator with its catalog, schedule, commits and recovery, real writers,
 * real agents of workers, over simulated links, with simulated computing, processes and time; and a model of
 * the supervisor that starts it again. Whoever drives it chooses each step. */
#ifndef NOC_SIMULATION_H
#define NOC_SIMULATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIMULATED_STUDIES = 12, SIMULATED_RANKS = 8 };

typedef enum study_fate {
    FATE_DONE,   /* a mask */
    FATE_BAD,    /* fails as unreadable */
    FATE_FLAKY,  /* no memory at the first attempt */
    FATE_POISON, /* kills its worker */
} study_fate;

typedef struct simulation_plan {
    int studies, ranks, writers; /* as given to noc_layout_make; each writer has its own parts */
    int part_studies;
    double lease_s, heartbeat_s;
    study_fate fates[SIMULATED_STUDIES];
    bool is_far[SIMULATED_RANKS]; /* on another node: its process is not seen, and outlives its job */
} simulation_plan;

typedef enum step_kind {
    STEP_ARRIVE, /* the oldest message from -> rank; the receiver's loop has not come round yet */
    STEP_TAKE,   /* the same, and it makes a turn */
    STEP_FINISH, /* a worker ends with the study that it computes */
    STEP_PASS,   /* half a second, and a turn of every rank */
    STEP_WAIT,   /* the same again and again, small talk taken at once, until somebody says something else or
                    nobody can still be waiting for one whom a fault hit */
    /* faults */
    STEP_KILL,    /* at once; from: 1 when what it had sent is lost with it */
    STEP_KILL_IN, /* in its instant number `from` from now on */
    STEP_STOP,
    STEP_WAKE,
    STEP_KILL_ALL,
    STEP_BREAK, /* the device of a worker */
    STEP_FILL,  /* a writer's disk: its next write fails */
    STEP_DRAIN,
    STEP_HOLD, /* what a rank sends stays on its way until LET */
    STEP_LET,
    STEP_KINDS
} step_kind;

typedef struct sim_step {
    step_kind kind;
    int job, rank, from; /* job: 0 is the running one, higher ones are what is left of earlier ones */
} sim_step;

typedef struct simulation simulation;

/* NULL with a sentence on stderr when it cannot be made. folder: a new one, for all simulations. */
simulation *simulation_create(const char *folder, const simulation_plan *plan);
void simulation_free(simulation *s);

/* Steps that are possible now but for faults; at most `capacity`. */
int simulation_steps(const simulation *s, sim_step *steps, int capacity);
/* That fault is possible now. */
bool simulation_can(const simulation *s, const sim_step *step);
/* Makes the step, looks after the job as its supervisor does, and checks what must always hold. */
void simulation_do(simulation *s, const sim_step *step);

/* Small talk (PRESENT, HELLO, PING, HEARTBEAT) that is on its way is taken, in the order of the ranks. */
void simulation_chat(simulation *s);

/* What was found broken, NULL: nothing. */
const char *simulation_broken(const simulation *s);
/* The archive is finished, or one has to be given up (broken). */
bool simulation_is_over(const simulation *s);
/* True when no rank runs any more, not one of an earlier job. */
bool simulation_is_quiet(const simulation *s);
/* Two simulations of one plan with equal hashes go on alike, as far as no timer but a lease is concerned:
 * what recovery left to the job, what every rank has taken in since but for small talk, and what is on its
 * way. */
uint64_t simulation_hash(const simulation *s);

/* So that equals in a symmetry can be told: of what a rank has taken in. */
uint64_t simulation_rank_hash(const simulation *s, int rank);
bool simulation_is_worker(const simulation *s, int rank);
/* Type of the message that a TAKE takes, 0 for another step. */
uint32_t simulation_message(const simulation *s, const sim_step *step);
/* A fault was made so short ago that somebody may still wait for the one whom it hit. */
bool simulation_is_hurt(const simulation *s);
/* It is stopped, and time has passed since. */
bool simulation_has_slept(const simulation *s, int job, int rank);
/* A coordinator of an earlier job holds the lock. */
bool simulation_is_blocked(const simulation *s);

int simulation_starts(const simulation *s);
/* Seconds between the last death that ended a job and the end of the archive; 0 when there was none. */
double simulation_recovery_s(const simulation *s);
int simulation_exit_code(const simulation *s);
int64_t simulation_count(const simulation *s, const char *state); /* of studies */
void simulation_describe(const simulation *s, const sim_step *step, char *text, size_t size);

#endif
