#!/bin/sh
# Nothing is lost and nothing doubled in simulated jobs: every order of the steps of small ones up to a bound, and random
# faults in larger ones. NOC_SIMULATION_RUNS=20000 makes it longer, NOC_SIMULATION_SEED begins elsewhere.
. "$(dirname "$0")/tap.sh"
tap_begin

if [ -d /dev/shm ] && [ -w /dev/shm ]; then NOC_SIMULATION_DIR=/dev/shm; else NOC_SIMULATION_DIR=$work; fi
export NOC_SIMULATION_DIR
simulate=$BUILD/tests/prog_simulate
runs=${NOC_SIMULATION_RUNS:-2000}
seed=${NOC_SIMULATION_SEED:-1}

ok "every order of the steps of 1 worker, 1 study, 1 fault, at every instant of the coordinator" \
    timeout 600 "$simulate" --explore --inside --workers 1 --studies 1 --faults 1
ok "every order of the steps of 1 worker, 2 studies, 2 faults" \
    timeout 600 "$simulate" --explore --workers 1 --studies 2 --faults 2
ok "of 3 workers, 4 studies, 2 faults, as far as 500 executions go" \
    timeout 600 "$simulate" --explore --workers 3 --studies 4 --faults 2 --limit 500
ok "$runs random runs from seed $seed" timeout 3000 "$simulate" --seed "$seed" --runs "$runs"
ok "20 of them with parts in HDF5" timeout 600 "${simulate}_hdf5" --seed "$seed" --runs 20
tap_end
