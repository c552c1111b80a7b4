/* The world of a simulated job, in the place of MPI, the clock and the process table: the program that links
 * this file has its own engine/base/clock.h, pipeline/link.h and pipeline/process.h, and none of the real
 * ones. One thread; time moves only when it is moved; a message arrives only when it is delivered. */
#ifndef NOC_SIMULATED_WORLD_H
#define NOC_SIMULATED_WORLD_H

#include "pipeline/link.h"
#include "pipeline/process.h"

#include <stdbool.h>
#include <stdint.h>

enum { WORLD_RANKS = 80 };

/* ---- time ---- */

double world_now(void);
void world_pass(double seconds);
void world_reset(void); /* time, processes */

/* ---- processes ---- */

/* A pid that nobody else has. */
int64_t world_start_process(void);
void world_set_process(int64_t pid, noc_process_state state);

/* ---- instants ----
 * Wherever a process does what another can see (sends, looks at the clock inside of a transaction, writes) is
 * an instant. A process that is to die in its k-th one does nothing any more that another can see; on_death
 * is called then, so that what it had done before can be kept. */
void world_arm(int k, void (*on_death)(void *argument), void *argument); /* 0: disarm */
int world_instants_left(void);
bool world_is_dying(void);
/* A new instant. True when the process lives on. */
bool world_instant(void);

/* ---- links ---- */

typedef struct world_net world_net; /* of the ranks of one job */

world_net *world_net_create(int size);
void world_net_free(world_net *net);
/* The link of one rank; noc_link_close frees it. */
noc_link *world_link(world_net *net, int rank);

/* The oldest message on its way from one rank to another: its type, 0 when there is none. */
uint32_t world_head(const world_net *net, int from, int to);
/* Of its content. */
uint64_t world_head_hash(const world_net *net, int from, int to);
/* It arrives: the receiver's next noc_link_receive has it. */
void world_deliver(world_net *net, int from, int to);
/* What a dead rank sent and what was sent to it never arrives. */
bool world_has_from(const world_net *net, int from);
void world_lose_from(world_net *net, int from);
void world_lose_to(world_net *net, int to);
/* PRESENT, HELLO, PING, HEARTBEAT: they say who lives. */
bool world_is_small_talk(uint32_t type);
/* Of everything on its way but for small talk, in order. */
uint64_t world_net_hash(const world_net *net);

uint64_t world_mix(uint64_t hash, uint64_t value);
uint64_t world_mix_bytes(uint64_t hash, const void *data, size_t size);

#endif
