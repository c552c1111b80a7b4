# What tests of disturbed runs share, after tap_begin: . "$root/tests/runs.sh". They work on $list, the
# demo's scans under keys KEY-1 to KEY-$copies, or $short, the first two copies, with small parts and short
# leases, and compare with $work/undisturbed.
#
# shellcheck shell=sh disable=SC2034,SC2154
copies=${copies:-4}
list=$work/list.csv short=$work/short.csv
lease=${lease:-2}
[ -z "${SAN:-}" ] || lease=$((lease * 4)) # sanitizers make everything slower
model=$root/models/hippocampus
images=$root/demo/archive/imagesTr labels=$root/demo/archive/labelsTr
supervisor=
trap 'stop_run; rm -rf "$work"' EXIT

make_list()
{
    echo key,image,truth
    for image in "$images"/*.nii.gz; do
        name=$(basename "$image" .nii.gz) copy=1
        while [ $copy -le "$copies" ]; do
            echo "$name-$copy,$image,$labels/$name.nii.gz"
            copy=$((copy + 1))
        done
    done
}

# fresh NAME [LIST]: a catalog of its own with the list, and a results folder, in $work/NAME.
fresh()
{
    place=$work/$1
    mkdir -p "$place"
    "$NOC" scan --catalog "$place/catalog" "${2:-$list}" >/dev/null 2>"$place/scan.log" || exit 1
}

# start_run WORDS...: a run of $place beside the test; $supervisor is its pid, its log is $place/log.
start_run()
{
    # exec: the pid is the program's
    (
        exec "$NOC" run -m "$model" --catalog "$place/catalog" --results "$place/results" --threads 1 \
            --window 24,32,24 --overlap 0.5 --part-studies 3 --heartbeat 0.2 --lease "$lease" \
            --log-level debug "$@" >>"$place/log" 2>&1 </dev/null
    ) &
    supervisor=$!
}

# Waits for the end; its exit code is in $code.
end_run()
{
    wait "$supervisor"
    code=$?
    supervisor=
}

# noc_run WORDS...: the same, to its end.
noc_run()
{
    start_run "$@"
    end_run
    return $code
}

# Kills whatever is left of the run.
stop_run()
{
    [ -z "$supervisor" ] || processes kill "$supervisor"
    supervisor=
}

processes()
{
    "$PYTHON" "$root/tests/processes.py" "$@"
}

# until_true COMMAND...: polls for it, a minute at most.
until_true()
{
    turns=600
    until "$@" >/dev/null 2>&1; do
        turns=$((turns - 1))
        [ $turns -gt 0 ] || return 1
        sleep 0.1
    done
}

# log_says TEXT
log_says()
{
    grep -qF -- "$1" "$place/log"
}

# counts STATE: studies in that state.
counts()
{
    "$NOC" status --json --catalog "$place/catalog" --results "$place/results" 2>/dev/null |
        sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"
}

# has STATE N: at least so many studies are in that state.
has()
{
    studies_now=$(counts "$1")
    [ "${studies_now:-0}" -ge "$2" ]
}

# all_done NAME [innocent]: everything came out once, as in an undisturbed run, and verify finds nothing.
all_done()
{
    all_name=$1
    shift
    ok "$all_name: every study once, with its mask, none charged" \
        "$PYTHON" "$root/tests/run_check.py" "$place/catalog" "$place/results" \
        "$work/undisturbed/results" "$@"
    ok "$all_name: verify is clean" "$NOC" verify --catalog "$place/catalog" --results "$place/results"
}

make_lists()
{
    make_list >"$list"
    sed -n '1p; /-[12],/p' "$list" >"$short"
}
make_lists

# The masks to compare with: one copy of each scan, under its own key; $undisturbed_ms is the time that they took.
make_undisturbed()
{
    sed -n 's/-1,/,/p; 1p' "$list" >"$work/once.csv"
    fresh undisturbed "$work/once.csv"
    undisturbed_ms=$(date +%s%3N)
    noc_run --ranks 1
    is "an undisturbed run ends with 0" $? 0
    undisturbed_ms=$(($(date +%s%3N) - undisturbed_ms))
}

# with_fault FAULT COMMAND...: with the calls on files that FAULT names failing (tests/shim_faults.c); what
# happened is in $place/faults.
with_fault()
{
    fault=$1
    shift
    export NOC_FAULT="$fault" NOC_FAULT_LOG="$place/faults" LD_PRELOAD="$BUILD/tests/shim_faults.so"
    "$@"
    with_fault_code=$?
    unset NOC_FAULT NOC_FAULT_LOG LD_PRELOAD
    return $with_fault_code
}

has_struck()
{
    [ -s "$place/faults" ]
}

# Preloaded libraries and sanitizers do not go together: ends the test.
need_faults()
{
    [ -z "${SAN:-}" ] && return
    echo "1..0 # SKIP a preloaded library cannot come before a sanitizer"
    exit 0
}
