#!/bin/sh
# A run that is asked to stop, or has to, ends in order: the right code, a sentence, nothing half done, no
# process left.
. "$(dirname "$0")/tap.sh"
tap_begin
lease=15
. "$root/tests/runs.sh"

# ended_early NAME CODE: the run that was started ends so, with nothing in between and nobody left.
ended_early()
{
    end_run
    [ $code = "$2" ] || tail -n 20 "$place/log" | sed 's/^/# /'
    is "$1: exit code" "$code" "$2"
    is "$1: nothing is left half done" "$(counts running)$(counts written)$(counts failed)" 000
    ok "$1: no unfinished part is left" no_open_part
    [ -z "$session" ] || ok "$1: no process is left" processes gone "$session"
}

no_open_part()
{
    ! ls "$place/results/"*.open 2>/dev/null
}

not_said()
{
    ! log_says "$1"
}

# finishes NAME RANKS: the same command goes on to the end.
finishes()
{
    noc_run --ranks "$2"
    is "$1: the same command finishes" $? 0
    all_done "$1" innocent
}

# start_busy NAME RANKS WORDS...: a run in the middle of its work.
start_busy()
{
    fresh "$1"
    ranks=$2 session=
    shift 2
    start_run --ranks "$ranks" "$@"
    if [ "$ranks" != 1 ]; then
        processes wait "$supervisor" "$ranks"
        session=$(processes mpirun "$supervisor")
    fi
    until_true has "done" 3
}

make_undisturbed

for signal in TERM INT USR1; do
    start_busy "supervisor-$signal" 3
    kill -$signal "$supervisor"
    ended_early "supervisor, SIG$signal" 75
    says "supervisor, SIG$signal: it says that it was asked to" "no new studies" "$place/log"
    start_busy "alone-$signal" 1
    kill -$signal "$supervisor"
    ended_early "alone, SIG$signal" 75
done
finishes "alone after SIGUSR1" 1
place=$work/supervisor-USR1
finishes "supervisor after SIGUSR1" 3

# Nobody is left to say why.
start_busy dead 3
coordinator=$(processes rank "$supervisor" 0)
kill -STOP "$coordinator"
kill -INT "$supervisor"
kill -KILL "$coordinator"
end_run
is "a death instead of a stop: exit code" "$code" 75
says "a death instead of a stop: it says so" "died while they were to stop" "$place/log"
ok "a death instead of a stop: no process is left" processes gone "$session"

# In this zone a new minute begins in five seconds.
for ranks in 1 3; do
    fresh "until-$ranks"
    now=$(date +%s)
    TZ=NOC$(printf '%+d:%02d:%02d' 0 0 $(((now + 5) % 60)))
    export TZ
    session=
    start_run --ranks $ranks --overlap 0.95 --until "$(date -d @$((now + 5)) +%H:%M)"
    ended_early "until, $ranks ranks" 75
    unset TZ
    says "until, $ranks ranks: it says why" "the time given by --until has come" "$place/log"
done
exits "until: no time of day" 64 "$NOC" run -m "$model" --catalog "$place/catalog" --until 25:00

# A failed study beside: 75 wins over 1, and 1 comes with the end.
fresh both
head -c 100 "$images/hippocampus_008.nii.gz" >"$work/broken.nii.gz"
"$NOC" scan --catalog "$place/catalog" "$work/broken.nii.gz" >/dev/null 2>&1
noc_run --ranks 1 --only 'broken*'
is "1 when a study failed" $? 1
start_run --ranks 1
until_true has "done" 3
kill -TERM "$supervisor"
end_run
is "75 wins over 1" "$code" 75
noc_run --ranks 1
is "1 at the end" $? 1

# The low-water mark: what is open is closed, nothing more is written.
for ranks in 1 3; do
    fresh "reserve-$ranks" "$short"
    noc_run --ranks $ranks --limit 4
    noc_run --ranks $ranks --disk-reserve 1000000GiB
    is "reserve, $ranks ranks: exit code" $? 74
    says "reserve, $ranks ranks: it names the folder" "$place/results: only" "$place/log"
    is "reserve, $ranks ranks: nothing is left half done" \
        "$(counts "done") $(counts running)$(counts written)" "4 00"
done
finishes "reserve" 3

# A full disk: the part is dropped, its studies wait, and the same command goes on when there is room.
full_disk()
{
    fresh "full-$1" "$short"
    mkdir "$place/disk"
    if ! mount -t tmpfs -o size=1m noc-test "$place/disk" 2>/dev/null; then
        skip "a full disk, $1 ranks" "this user or place cannot mount a tmpfs"
        return
    fi
    disks="$disks $place/disk"
    ln -s disk "$place/results"
    session=
    head -c 900k /dev/zero >"$place/disk/ballast"
    start_run --ranks "$1" --disk-reserve 0
    ended_early "a full disk, $1 ranks" 74
    says "a full disk, $1 ranks: it says which file and why" "part-0" "$place/log"
    says "a full disk, $1 ranks: it says why" "No space left on device" "$place/log"
    rm "$place/disk/ballast"
    mount -o remount,size=64m "$place/disk"
    finishes "a full disk, $1 ranks" "$1"
}
disks=
trap 'stop_run; for disk in $disks; do umount "$disk"; done; rm -rf "$work"' EXIT
full_disk 1
full_disk 3

# Two writers share a part and one cannot write: neither waits for the other in a call that only one makes.
shared_fault()
{
    fresh "shared-$1" "$short"
    with_fault "$2" noc_run --ranks 4 --writers 2
    is "shared part, $1: exit code" $? 74
    is "shared part, $1: nothing is left half done" "$(counts running)$(counts written)$(counts failed)" 000
    says "shared part, $1: it says which file" "part-0" "$place/log"
    says "shared part, $1: it says why" "$3" "$place/log"
    finishes "shared part, $1" 4
}
if [ -z "${SAN:-}" ]; then # a preloaded library cannot come before a sanitizer
    shared_fault mask write:results/part-:EIO:0:1 "Input/output error"
    shared_fault flush write:results/part-:EIO:5:1 "Input/output error"
    shared_fault full write:results/part-:ENOSPC:16:0 "No space left on device"
    shared_fault sync sync:results/part-:EIO:0:1 "Input/output error"
    fresh shared-short "$short"
    with_fault write:results/part-:short:1:0 noc_run --ranks 4 --writers 2
    is "shared part, short writes: exit code" $? 0
    all_done "shared part, short writes"
    # A file that all jobs of the machine share would be held for ever by a process that was killed.
    fresh shared-name "$short"
    with_fault "create:open_cid:crash:0:0" noc_run --ranks 4 --writers 2
    is "shared part, nothing is shared with other jobs: exit code" $? 0
    ok "shared part, nothing is shared with other jobs" test ! -s "$place/faults"
fi

# A round that waits for a dead writer, and nobody is left to end it: its other writer leaves by itself.
start_busy orphan 4 --writers 2 --lease 15 # the worker leaves after one, also where others are made longer
coordinator=$(processes rank "$supervisor" 0) second=$(processes rank "$supervisor" 2)
kill -STOP "$second"
sleep 2
kill -KILL "$supervisor" "$coordinator" "$second"
end_run
ok "a round without an end and without a coordinator: no process is left" processes gone "$session"
finishes "a round without an end and without a coordinator" 4
# Ranks end as they like: what a sanitizer says of one is in the log alone.
ok "a round without an end and without a coordinator: no race" not_said "SUMMARY: "

# Folders that cannot be written.
nobody()
{
    if [ "$(id -u)" = 0 ]; then runuser -u nobody -- "$@"; else "$@"; fi
}
if [ "$(id -u)" = 0 ] && ! nobody true 2>/dev/null; then
    skip "folders that cannot be written" "root cannot become nobody here"
else
    fresh closed "$short"
    chmod 755 "$work" "$place"
    cp "$NOC" "$work/nocturne" # the others may lie where nobody may look
    cp -R "$model" "$work/model"
    mkdir "$place/results" "$place/open"
    cp "$place/catalog" "$place/open/catalog"
    chmod 777 "$place/open"
    chmod 666 "$place/open/catalog"
    chmod 555 "$place" "$place/results"
    mkdir -m 700 "$work/own"
    cd "$work/own" || exit 1
    if [ "$(id -u)" = 0 ]; then
        exits "a folder that its user may not enter" 69 nobody "$work/nocturne" run -m "$work/model" --ranks 3 \
            --catalog "$place/open/catalog" --results "$place/open/results"
        says "... is named as the reason" "may not enter" "$work/err"
    fi
    cd "$work" || exit 1
    for ranks in 1 3; do
        exits "a catalog that cannot be written, $ranks ranks" 73 \
            nobody "$work/nocturne" run -m "$work/model" --ranks $ranks --catalog "$place/catalog" \
            --results "$place/open/results"
        says "... named, $ranks ranks" "$place/catalog" "$work/err"
        exits "a results folder that cannot be made, $ranks ranks" 73 \
            nobody "$work/nocturne" run -m "$work/model" --ranks $ranks --catalog "$place/open/catalog" \
            --results "$place/new"
        says "... named too, $ranks ranks" "$place/new" "$work/err"
        exits "a results folder that cannot be written, $ranks ranks" 73 \
            nobody "$work/nocturne" run -m "$work/model" --ranks $ranks --catalog "$place/open/catalog" \
            --results "$place/results"
        says "... named too, $ranks ranks" "$place/results" "$work/err"
    done
    chmod 755 "$place" "$place/results"
fi

# A second run waits for the first, and then names it.
start_busy second 3 --overlap 0.95
exits "a second run" 75 "$NOC" run -m "$model" --catalog "$place/catalog" --results "$place/results" --ranks 1
says "a second run names the host" "host $(hostname)" "$work/err"
says "a second run names the process" "pid $(processes rank "$supervisor" 0)" "$work/err"
stop_run

# Without mpirun.
fresh no-mpirun
mkdir "$work/bin"
exits "without mpirun" 69 env PATH="$work/bin" "$NOC" run -m "$model" --catalog "$place/catalog" \
    --results "$place/results" --ranks 3
says "without mpirun: it says what helps" "--ranks 1" "$work/err"
tap_end
