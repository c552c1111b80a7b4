#!/bin/sh
# Nothing lost, nothing doubled: whatever process of a run dies or sleeps, the same command goes on to the
# same masks.
. "$(dirname "$0")/tap.sh"
tap_begin
. "$root/tests/runs.sh"

seed=${NOC_SEED:-$(od -An -N2 -tu2 /dev/urandom | tr -d ' ')}
echo "# seed $seed (NOC_SEED)"
random=$seed

# The next random number in [0, $1), in $random_value; seconds come as milliseconds.
next_random()
{
    random=$(((random * 1103515245 + 12345) % 2147483648))
    random_value=$((random / 65536 % $1))
}

# kill_ten_times NAME RANKS: at random instants, some while ranks start, some after one or two more studies
# are done.
kill_ten_times()
{
    fresh "$1"
    turn=0 killed=0
    while [ $turn -lt 10 ]; do
        turn=$((turn + 1))
        next_random 3
        goal=$(($(counts "done") + random_value))
        start_run --ranks "$2"
        [ "$2" = 1 ] || processes wait "$supervisor" "$2"
        [ $random_value = 0 ] || until_true has "done" $goal
        next_random 300
        processes kill "$supervisor" "$(printf '0.%03d' $random_value)"
        end_run
        [ $code -ne 137 ] || killed=$((killed + 1))
    done 2>/dev/null
    is "$1: ten times everything was killed" "$killed" 10
    echo "# $1: after ten kills $(counts "done") of $((16 * copies)) studies are done"
    is "$1: in the middle of the work" $(($(counts "done") > 0 && $(counts "done") < 16 * copies)) 1
    noc_run --ranks "$2"
    is "$1: then the run ends with 0" $? 0
    all_done "$1" innocent
}

# start_four NAME [LIST]: a run of four ranks (coordinator, writer, two workers) that has "done" something.
start_four()
{
    fresh "$1" "${2:-$short}"
    start_run --ranks 4
    until_true has "done" 3 || echo "# $1: nothing was done in a minute"
}

# ended NAME: the run that is left to itself ends with 0.
ended()
{
    end_run
    [ $code = 0 ] || tail -n 20 "$place/log" | sed 's/^/# /'
    is "$1: the run ends with 0" "$code" 0
}

# signal_rank SIGNAL RANK
signal_rank()
{
    rank_pid=$(processes rank "$supervisor" "$2")
    kill -"$1" "$rank_pid"
}

restarts()
{
    grep -c 'starting them again' "$place/log"
}

has_restarted()
{
    [ "$(restarts)" -ge "$1" ]
}

make_undisturbed
# Two workers must not come to the end before the tenth kill, however fast the machine is, or slow to start ranks.
copies=$((12 + 10 * 2 * 300 / undisturbed_ms))
make_lists

kill_ten_times everything 4
kill_ten_times alone 1

start_four worker
signal_rank KILL 3
ended worker
says "worker: its death is told" "worker 3 died" "$place/log"
is "worker: the others go on, the job is not started again" "$(restarts)" 0
begun_again=$(sqlite3 "$place/catalog" "SELECT count(*) FROM attempt WHERE outcome <> 'done'")
foreign=$(sqlite3 "$place/catalog" "SELECT count(*) FROM attempt WHERE outcome <> 'done' AND rank <> 3")
echo "# worker: $begun_again studies were begun again"
is "worker: nothing is begun again but what it held" "$((begun_again > 4)) $foreign" "0 0"
all_done worker

start_four writer
signal_rank KILL 1
ended writer
is "writer: the job is started again" "$(restarts)" 1
all_done writer innocent

# Before MPI is up the others wait for it for ever; stopped ones, so that they do not get there first.
fresh starting "$short"
start_run --ranks 4
processes wait "$supervisor" 4
for pid in $(processes ranks "$supervisor" | sed 's/.* //'); do kill -STOP "$pid"; done
signal_rank KILL 3
for pid in $(processes ranks "$supervisor" | sed 's/.* //'); do kill -CONT "$pid"; done
ended starting
says "starting: the death is seen" "1 of 4 ranks died before all were up" "$place/log"
all_done starting

# One of two that share a part: the other waits inside the library for it, and must not be waited for.
fresh pair "$short"
start_run --ranks 5 --writers 2
until_true has "done" 3
signal_rank KILL 2
ended pair
is "pair: the job is started again" "$(restarts)" 1
all_done pair innocent

start_four coordinator
signal_rank KILL 0
ended coordinator
is "coordinator: the job is started again" "$(restarts)" 1
all_done coordinator innocent

start_four mpirun
kill -KILL "$(processes mpirun "$supervisor")"
ended mpirun
is "mpirun: the job is started again" "$(restarts)" 1
all_done mpirun innocent

# The end of the line to the supervisor drains the job.
start_four supervisor
session=$(processes mpirun "$supervisor")
kill -KILL "$supervisor"
end_run 2>/dev/null
ok "supervisor: without it the job ends by itself" processes gone "$session"
says "supervisor: and says why" "the supervisor is gone" "$place/log"
is "supervisor: nothing is left running" "$(counts running)$(counts written)" 00
noc_run --ranks 4
is "supervisor: the same command finishes the rest" $? 0
all_done supervisor innocent

# The others leave a silent coordinator; when it wakes it blames nobody.
start_four sleeper
signal_rank STOP 0
others_left()
{
    [ "$(processes ranks "$supervisor" | wc -l)" = 1 ] || has_restarted 1
}
ok "sleeper: the others leave a coordinator that is silent" until_true others_left
kill -CONT "$rank_pid" 2>/dev/null
ended sleeper
is "sleeper: the job is started again" "$(restarts)" 1
all_done sleeper innocent

# What a worker says after its leases ended is refused.
start_four late "$list"
signal_rank STOP 3
ok "late: a worker that sleeps is lost" until_true log_says "worker 3 "
kill -CONT "$rank_pid"
ended late
says "late: and works again when it wakes" "worker 3 is heard again" "$place/log"
is "late: the job is not started again" "$(restarts)" 0
all_done late

# A study that kills its worker is tried alone, twice, and then never again.
fresh poison "$short"
start_run --ranks 3 --limit 1 --overlap 0.95
for death in 1 2 3; do
    processes wait "$supervisor" 3
    until_true has running 1
    signal_rank KILL 2
    until_true has_restarted $death
done
end_run
is "poison: the run ends with 1" "$code" 1
is "poison: the study is quarantined" "$(counts quarantined)" 1
tap_end
