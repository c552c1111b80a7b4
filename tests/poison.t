#!/bin/sh
# One study that kills its worker costs that study; a plague costs neither the archive nor the night.
. "$(dirname "$0")/tap.sh"
tap_begin
copies=4
. "$root/tests/runs.sh"
need_faults

make_undisturbed
sed -n '1p; /-1,/p' "$list" >"$work/few.csv"

# poisoned NAME RANKS STUDY...: opening one of these kills the worker.
poisoned()
{
    name=$1 ranks=$2 faults=
    shift 2
    for study; do
        faults="$faults${faults:+;}open:imagesTr/$study:crash:0:0"
    done
    fresh "$name" "$work/few.csv"
    with_fault "$faults" noc_run --ranks "$ranks"
    is "$name: the run ends with 1" $? 1
    is "$name: each killer is quarantined" "$(counts quarantined)" $#
    is "$name: all others are done" "$(counts "done")" $((16 - $#))
    is "$name: ... none of them charged" "$(sqlite3 "$place/catalog" \
        "SELECT sum(attempts + deaths_alone) FROM result WHERE state = 'done'")" 0
    is "$name: a killer killed alone, twice, and the catalog says so" "$(sqlite3 "$place/catalog" \
        "SELECT DISTINCT failure || deaths_alone FROM result WHERE state = 'quarantined'")" crash2
    ok "$name: verify is clean" "$NOC" verify --catalog "$place/catalog" --results "$place/results"
    noc_run --ranks 1
    is "$name: a quarantined study is left alone" "$? $(counts quarantined)" "1 $#"
    "$NOC" retry --catalog "$place/catalog" --results "$place/results" >/dev/null 2>&1
    noc_run --ranks 3
    is "$name: and is tried again when asked for" $? 0
    all_done "$name"
}

poisoned poison 4 hippocampus_008
poisoned "poison, one worker" 3 hippocampus_008 hippocampus_087

# Every scan fails by the machine's fault: the brake stops the run after fifty.
for ranks in 1 3; do
    fresh "plague-$ranks"
    with_fault "open:imagesTr/:EIO:0:0" noc_run --ranks $ranks
    is "plague, $ranks ranks: the run ends with 69" $? 69
    says "plague, $ranks ranks: and says why" "failed by faults of the machine" "$place/log"
    ok "plague, $ranks ranks: the rest is not burnt" test "$(counts pending)" -gt 0
done

# ... also when ranks died in between, and took with them what they knew: one of the 37th to 40th scan kills.
fresh interrupted
with_fault "open:imagesTr/hippocampus_037:crash:0:0;open:imagesTr/:EIO:0:0" noc_run --ranks 3
is "plague with a death: the run ends with 69" $? 69
says "plague with a death: the ranks were started again" "starting them again" "$place/log"
says "plague with a death: what failed before it counts" "failed by faults of the machine" "$place/log"

# Every scan kills its worker: the supervisor stops after a few starts, and none has come to an end.
fresh deaths
with_fault "open:imagesTr/:crash:0:0" noc_run --ranks 3
is "deaths: the run ends with 69" $? 69
says "deaths: and says why" "the ranks died 4 times without" "$place/log"
is "deaths: nothing is lost" "$(counts pending)" 64
noc_run --ranks 4
is "deaths: the same command finishes once the cause is gone" $? 0
all_done deaths
tap_end
