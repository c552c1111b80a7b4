#!/bin/sh
# Ranks that have nothing to do sleep: under 2 % of a core for coordinator, writer and a worker without
# work, while another worker computes one long study. CPU time is counted, not the clock's.
. "$(dirname "$0")/tap.sh"
tap_begin
copies=1 lease=15
. "$root/tests/runs.sh"

# some 300,000 windows: no machine is done with them while this looks
( cd "$root/tests" && exec "$PYTHON" -c '
import sys, numpy, nifti_file
noise = numpy.random.default_rng(1).normal(100, 10, (96, 96, 96))
nifti_file.write(sys.argv[1], noise.astype("<i2"), affine=numpy.eye(4))
' "$work/long.nii" ) || exit 1
printf 'key,image\nlong,%s\n' "$work/long.nii" >"$work/long.csv"

fresh one "$work/long.csv"
start_run --ranks 4 --overlap 0.98 --heartbeat 1
ok "four ranks" processes wait "$supervisor" 4
ok "one study" until_true has running 1
pids=$(processes ranks "$supervisor" | cut -d' ' -f2)

# $work/shares: the CPU seconds of each rank in so many seconds.
measure()
{
    # shellcheck disable=SC2086
    processes cpu "$1" $pids >"$work/shares"
}

is_computing()
{
    measure 0.5
    awk 'NR > 2 && $1 > 0 { found = 1 } END { exit !found }' "$work/shares"
}

ok "a worker computes" until_true is_computing
measure 10
echo "# seconds of CPU in 10: $(tr '\n' ' ' <"$work/shares")"
is "all four were there to the end" "$(wc -l <"$work/shares")" 4
most=0.2
[ -z "${SAN:-}" ] || most=0.8 # a sanitizer's own work counts too
is "coordinator and writer use under 2 % of a core" \
    "$(sed -n '1,2p' "$work/shares" | awk -v most=$most '$1 > most')" ""
is "so does the worker without work" \
    "$(sed -n '3,4p' "$work/shares" | sort -n | awk -v most=$most 'NR == 1 && $1 > most')" ""
ok "while the other computes" is_computing
stop_run
tap_end
