/* Two ways through the states of a simulated job: at random with seeds, and every one up to a bound. */
#ifndef NOC_EXPLORATION_H
#define NOC_EXPLORATION_H

int exploration_main(int argc, char **argv);

#endif
