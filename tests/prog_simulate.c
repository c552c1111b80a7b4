/* Searches the states of a simulated job for one in which something is lost or doubled.
 *
 *   prog_simulate [--seed N] [--runs N]      random jobs with random faults; run i has seed N + i
 *   prog_simulate --trace --seed N           one of them, with every step on stdout and the log on stderr
 *   prog_simulate --explore [--workers N] [--studies N] [--faults N] [--limit N]
 *                                            every order of every step, at most that many executions
 *
 * Exit 1 when something was found; the seed, or the steps that lead there, are printed. */
#include "engine/base/log.h"
#include "tests/exploration.h"
#include "tests/simulated_parts.h"
#include "tests/simulated_worker.h"
#include "tests/simulated_world.h"
#include "tests/simulation.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    return exploration_main(argc, argv);
}
