#!/bin/sh
# A study that never comes back from a file: a run that is asked twice does not wait for it, and --study-timeout
# replaces its worker.
. "$(dirname "$0")/tap.sh"
tap_begin
copies=1
. "$root/tests/runs.sh"
need_faults
scan=imagesTr/hippocampus_008
hangs="open:$scan:hang:0:0" # at its header, while it can still be given back
reading="open:$scan:hang:1:0"

make_undisturbed

# asked_twice NAME RANKS: the study in hand would be waited for a minute.
asked_twice()
{
    fresh "twice-$1"
    session=
    with_fault "$reading" start_run --ranks "$2"
    until_true has_struck
    [ "$2" = 1 ] || session=$(processes mpirun "$supervisor")
    kill -TERM "$supervisor"
    until_true log_says "no new studies"
    sleep 1.2 # sooner it would be the first one's echo
    kill -TERM "$supervisor"
    end_run
    is "asked twice, $1: exit code" "$code" 75
    says "asked twice, $1: it says so" "what is in hand is given back now" "$place/log"
    is "asked twice, $1: nothing is left half done" "$(counts running)$(counts written)$(counts failed)" 000
    [ -z "$session" ] || ok "asked twice, $1: no process is left" processes gone "$session"
    noc_run --ranks "$2"
    is "asked twice, $1: the same command finishes" $? 0
    all_done "asked twice, $1" innocent
}

asked_twice alone 1
asked_twice ranks 3

# What the stuck study's worker held beside is nobody's fault.
stuck_study()
{
    "$NOC" report --csv --catalog "$place/catalog" --results "$place/results" |
        sed -n 's/^\(hippocampus_008[^,]*,failed,timeout\),.*/\1/p'
}

fresh workers
with_fault "$hangs" noc_run --ranks 4 --study-timeout 1 --attempts 1
is "stuck: the run ends with 1" $? 1
is "stuck: the study failed as timeout" "$(stuck_study)" hippocampus_008-1,failed,timeout
is "stuck: all others are done" "$(counts "done")" 15
says "stuck: the worker is replaced" "is stuck in a study whose time is over" "$place/log"
ok "stuck: no other study is charged" test \
    "$(sqlite3 "$place/catalog" 'SELECT sum(attempts) || sum(is_suspect) FROM result')" = 10

# The only worker: the ranks are started again.
fresh only
with_fault "$reading" noc_run --ranks 3 --study-timeout 1 --attempts 1
is "stuck, one worker: the run ends with 1" $? 1
is "stuck, one worker: the study failed as timeout" "$(stuck_study)" hippocampus_008-1,failed,timeout
is "stuck, one worker: all others are done" "$(counts "done")" 15

# In one process nobody can start it again; the study is charged.
fresh alone
with_fault "$hangs" noc_run --ranks 1 --study-timeout 1
is "stuck, alone: the run ends with 75" $? 75
is "stuck, alone: the study is charged" "$(sqlite3 "$place/catalog" \
    "SELECT failure || attempts FROM result JOIN study ON id = study_id WHERE key LIKE 'hippocampus_008%'")" timeout1
noc_run --ranks 1
is "stuck, alone: the same command finishes" $? 0
is "stuck, alone: all are done" "$(counts "done")" 16
tap_end
