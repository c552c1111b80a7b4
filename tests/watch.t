#!/bin/sh
# The night watch: looking disturbs nothing, what is finished stays as it is, exactly what is new is computed.
. "$(dirname "$0")/tap.sh"
tap_begin
model=$root/models/hippocampus
helper=$root/tests/watch.py
site=$work/site
c=$site/c.sqlite
r=$site/results
many="--window 24,32,24 --overlap 0.8"
mkdir -p "$site/images"
cp "$root"/demo/archive/imagesTr/*.nii.gz "$site/images"

# list COUNT: a list file with the first so many of the 16 scans.
list()
{
    echo key,image,truth
    for image in "$site"/images/hippocampus_*.nii.gz; do
        name=$(basename "$image")
        echo "${name%.nii.gz},images/$name,$root/demo/archive/labelsTr/$name"
    done | head -n "$1"
}

# A run that hangs is red, not a test that never ends.
noc()
{
    verb=$1
    shift
    timeout 300 "$NOC" "$verb" --catalog "$c" --results "$r" "$@"
}

run()
{
    noc run -m "$model" --device cpu --progress none "$@"
}

# start LOG OPTIONS...: a run in the background; $pid is that of `timeout`, its child is the run.
start()
{
    log=$1
    shift
    timeout 300 "$NOC" run --catalog "$c" --results "$r" -m "$model" --device cpu --progress none "$@" \
        >"$log" 2>&1 </dev/null &
    pid=$!
}

masks()
{
    "$PYTHON" "$root/tests/masks.py" list "$1"
}

sql()
{
    sqlite3 -readonly "$c" "$1"
}

# Every file of a folder: name, size, time, inode, bytes; of the catalog what it says, since SQLite's index
# and empty log come and go with its readers.
snapshot()
{
    (cd "$1" && find . -type f ! -name 'c.sqlite*' -printf '%P %s %T@ %i\n' -exec sha256sum {} \; | sort)
    sql .dump
}

# unchanged NAME FOLDER: since `snapshot FOLDER >$work/before`.
unchanged()
{
    snapshot "$2" >"$work/after"
    ok "$1" cmp "$work/before" "$work/after"
}

# The studies that the latest run took, and how often.
taken()
{
    sql "SELECT count(DISTINCT study_id) || ' studies, ' || count(*) || ' attempts' FROM attempt
         WHERE run_id = (SELECT max(id) FROM run)"
}

# wait_for COMMAND...: until it succeeds; gives up after two minutes.
wait_for()
{
    for _ in $(seq 1200); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "# waited in vain: $*"
}

# ends NAME PID CODE: the background process ends with that code.
ends()
{
    wait "$2"
    is "$1" $? "$3"
}

# --- a forecast ---

list 12 >"$site/list.csv"
exits "scan" 0 noc scan "$site/list.csv"
says "... adds 12 studies" "12 studies: 12 added, 0 changed, 0 unchanged"
snapshot "$site" >"$work/before"
exits "a dry run before any other" 0 run --dry-run
for word in "studies pending   12" windows hours GB; do
    says "... says $word" "$word"
done
# shellcheck disable=SC2086
exits "a dry run with many windows" 0 run --dry-run --json $many
forecast=$(cat "$work/out")
exits "a dry run of some" 0 run --dry-run --json --only '*_01*'
says "... counts them" '"studies":2,'
exits "a dry run of few" 0 run --dry-run --json --limit 5
says "... counts them" '"studies":5,'
unchanged "dry runs change nothing" "$site"

# --- status as fast as it can while ranks work ---

# shellcheck disable=SC2086
start "$work/run.log" --ranks 3 --part-studies 3 $many
wait_for grep -q pid "$c.lock"
timeout 300 "$NOC" status --catalog "$c" --results "$r" --watch --json \
    >"$work/watched" 2>"$work/watched.err" &
watcher=$!
: >"$work/answers"
while kill -0 $pid 2>/dev/null; do
    noc status --json >>"$work/answers" 2>>"$work/answers.err" || echo "exit $?" >>"$work/answers.err"
    noc status >>"$work/tables" 2>>"$work/answers.err" || echo "exit $?" >>"$work/answers.err"
done
ends "a run that is looked at all the time" $pid 0
ends "status --watch ends with it" $watcher 0
noc status --json >>"$work/answers"
ok "each status is whole, and work goes forward" "$PYTHON" "$helper" counts "$work/answers" 12
is "... the last watched one too" "$(tail -n 1 "$work/watched" | grep -c '"done":12,')" 1
is "... and nothing failed" "$(cat "$work/answers.err" "$work/watched.err")" ""
is "nobody's work was taken away" "$(taken)" "12 studies, 12 attempts"
is "the forecast was right" "$(echo "$forecast" | sed 's/,"hours".*//')" \
    "$(sql "SELECT '{\"studies\":' || count(*) || ',\"windows\":' || sum(windows) FROM result")"
masks "$r" >"$work/watched.masks"
is "every mask is there" "$(wc -l <"$work/watched.masks")" 12
ok "verify is clean" noc verify

# --- a finished archive ---

for ranks in 1 3; do
    snapshot "$site" >"$work/before"
    # shellcheck disable=SC2086
    exits "a finished archive, again with $ranks ranks" 0 run --ranks $ranks $many
    says "... has nothing to do" "nothing was pending" "$work/err"
    unchanged "... and not a byte, time or row of it changes" "$site"
done

# --- a results folder that moves ---

cp "$c" "$work/kept.sqlite"
mv "$r" "$site/moved"
masks "$site/moved" >"$work/moved.masks"
ok "a moved folder still opens" cmp "$work/watched.masks" "$work/moved.masks"
exits "verify, told where it is" 0 noc verify --results "$site/moved"
says "... is clean" "verified 12 masks"
# shellcheck disable=SC2086
exits "a run, told where it is" 0 run --results "$site/moved" --ranks 3 $many
is "... computes nothing" "$(sql "SELECT count(*) FROM attempt")" 12
exits "verify after it" 0 noc verify --results "$site/moved"
says "... is clean" "verified 12 masks"
masks "$site/moved" >"$work/moved.masks"
ok "... and no mask has changed" cmp "$work/watched.masks" "$work/moved.masks"
mv "$site/moved" "$r"
rm -f "$c"*
cp "$work/kept.sqlite" "$c"

# --- one configuration a folder ---

"$PYTHON" "$helper" model "$model" "$work/other"
sed -i 's/^name: .*/name: other/' "$work/other/model.yaml"
snapshot "$site" >"$work/before"
refused()
{
    name=$1 mine=$2
    shift 2
    for ranks in 1 3; do
        exits "$name, $ranks ranks" 78 run --ranks $ranks "$@"
        says "... names what is there" "window 24x32x24, overlap 0.8, gaussian" "$work/err"
        says "... and what was asked for" "$mine" "$work/err"
    done
    exits "$name, a dry run" 78 run --dry-run "$@"
}
refused "another window" "window 24x32x32, overlap 0.8, gaussian" --window 24,32,32 --overlap 0.8
refused "another overlap" "window 24x32x24, overlap 0.5, gaussian" --window 24,32,24 --overlap 0.5
# shellcheck disable=SC2086
refused "another blending" "window 24x32x24, overlap 0.8, constant" $many --blend constant
# shellcheck disable=SC2086
refused "another model" "this run has model other (" $many -m "$work/other"
unchanged "... and nothing was touched" "$site"

# --- two models, two folders, one catalog ---

# shellcheck disable=SC2086
exits "the same again in another folder, not looked at" 0 run --results "$site/quiet" --ranks 1 $many
masks "$site/quiet" >"$work/quiet.masks"
ok "... gives the same masks" cmp "$work/watched.masks" "$work/quiet.masks"
# shellcheck disable=SC2086
exits "another model in another folder" 0 run --results "$site/other" -m "$work/other" --ranks 3 $many
for folder in results other; do
    exits "verify $folder" 0 noc verify --results "$site/$folder"
    says "... 12 masks" "verified 12 masks"
    noc report --csv --results "$site/$folder" >"$work/$folder.csv"
    is "report of $folder" "$(grep -c ',done,' "$work/$folder.csv")" 24
done
is "the models do not agree" "$(cmp -s "$work/results.csv" "$work/other.csv"; echo $?)" 1
masks "$r" >"$work/again.masks"
ok "the first model's masks are what they were" cmp "$work/watched.masks" "$work/again.masks"

# --- three scans more, and one that is another ---

key=hippocampus_037
part=$("$PYTHON" "$helper" link "$r" $key)
"$PYTHON" "$helper" mirror "$site/images/$key.nii.gz" "$work/new.nii.gz"
cp "$work/new.nii.gz" "$site/images/$key.nii.gz"
list 15 >"$site/list.csv"
exits "scan again" 0 noc scan "$site/list.csv"
says "... sees 3 new and 1 changed" "15 studies: 3 added, 1 changed, 11 unchanged"
exits "verify before they are computed" 0 noc verify
says "... counts on 11 masks" "verified 11 masks"
snapshot "$r" >"$work/before"
exits "status before they are computed" 0 noc status --json
says "... has 4 to do" '"studies":{"pending":4,"running":0,"written":0,"done":11,'
# shellcheck disable=SC2086
exits "run" 0 run --ranks 3 $many
is "exactly those are computed" "$(taken)" "4 studies, 4 attempts"
is "... and these" "$(sql "SELECT group_concat(key, ' ') FROM (SELECT key FROM attempt JOIN study s
    ON s.id = study_id WHERE run_id = (SELECT max(id) FROM run) ORDER BY key)")" \
    "$key hippocampus_135 hippocampus_136 hippocampus_160"
exits "verify" 0 noc verify
says "... is clean" "verified 15 masks"
masks "$r" >"$work/now.masks"
is "11 masks stay, one is another" "$(cut -d' ' -f4 "$work/now.masks" | sort >"$work/x"
    cut -d' ' -f4 "$work/watched.masks" | sort | comm -12 - "$work/x" | wc -l)" 11
new_part=$("$PYTHON" "$helper" link "$r" $key)
is "the index leads to the new mask" "$(test "$part" != "$new_part"; echo $?)" 0
is "... and the old part is as it was" \
    "$(grep -F "${part%% *}" "$work/before")" "$(snapshot "$r" | grep -F "${part%% *}")"
exits "the other folder waits for its own run" 0 noc status --json --results "$site/other"
says "... with the same 4" '"pending":4,"running":0,"written":0,"done":11,'

# --- two runs at once ---

"$PYTHON" "$helper" hold "$c" "$work/let_go" >"$work/held" &
holder=$!
wait_for grep -q held "$work/held"
# shellcheck disable=SC2086
start "$work/waiting.log" --ranks 3 $many
wait_for sh -c "readlink /proc/\$(pgrep -P $pid)/fd/* | grep -q c.sqlite.lock"
touch "$work/let_go"
wait $holder
ends "a run waits for one that is just ending" $pid 0

mkdir "$work/second"
r=$work/second/results
# shellcheck disable=SC2086
start "$work/first.log" --ranks 1 --threads 1 $many
first=$pid
holder=$(pgrep -P $first)
running()
{
    noc status --json | grep -q '"running":[1-9]'
}
wait_for running
kill -STOP "$holder"
start "$work/late.log" --ranks 3
late=$pid
owner="the catalog is held by host $(uname -n), pid $holder"
exits "a second run gives up" 75 run --ranks 1
says "... names the first's host and process" "$owner" "$work/err"
ends "one with several ranks too" $late 75
says "... names it too" "$owner" "$work/late.log"
kill -CONT "$holder"
ends "the first goes on" $first 0
is "... and all work was its own" "$(taken)" "15 studies, 15 attempts"
exits "verify" 0 noc verify
says "... is clean" "verified 15 masks"

# --- some, few, and once more ---

rm -f "$c"*
r=$site/some
head -c 3000 "$root/demo/archive/imagesTr/hippocampus_008.nii.gz" >"$site/images/cut_001.nii.gz"
echo "cut_001,images/cut_001.nii.gz," >>"$site/list.csv"
exits "scan anew" 0 noc scan "$site/list.csv"
exits "a few" 0 run --ranks 1 --limit 2 --only 'hippocampus_*'
is "... are two" "$(taken)" "2 studies, 2 attempts"
exits "some" 0 run --ranks 3 --only '*_01*'
is "... are those that match" "$(sql "SELECT group_concat(key, ' ') FROM (SELECT key FROM result JOIN study
    ON id = study_id WHERE state = 'done' ORDER BY key)")" "hippocampus_008 hippocampus_015 hippocampus_019"
exits "the rest, with one that cannot be read" 1 run --ranks 3
is "... takes what was left" "$(taken)" "13 studies, 13 attempts"
exits "once more" 1 run --ranks 3
says "... there is nothing to do" "nothing was pending" "$work/err"
exits "status" 0 noc status --json
says "... knows the type" '"done":15,"failed":1,"quarantined":0},"failures":{"unreadable":1}'
exits "retry of another type" 0 noc retry --type timeout --json
says "... puts none back" '{"retried":0}'
exits "retry of other studies" 0 noc retry --only 'hippocampus_*' --json
says "... puts none back" '{"retried":0}'
exits "retry of no type" 64 noc retry --type nonsense
exits "retry" 0 noc retry --json
says "... puts it back" '{"retried":1}'
exits "status" 0 noc status --json
says "... has one to do" '"studies":{"pending":1,"running":0,"written":0,"done":15,"failed":0,'
exits "and it fails again" 1 run --ranks 3
is "... alone" "$(taken)" "1 studies, 1 attempts"
cp "$root/demo/archive/imagesTr/hippocampus_008.nii.gz" "$site/images/cut_001.nii.gz"
exits "mended and scanned" 0 noc scan "$site/list.csv"
says "... it is seen" "16 studies: 0 added, 1 changed, 15 unchanged"
exits "a run" 0 run --ranks 3
is "... takes it alone" "$(taken)" "1 studies, 1 attempts"
exits "verify" 0 noc verify
says "... is clean" "verified 16 masks"
tap_end
