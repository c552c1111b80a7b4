#!/bin/sh
# Ranks that have nothing to do sleep: under 2 % of a core for coordinator, writer and a worker without
# work, while another worker computes one long study. CPU time is counted, not the clock's.
. "$(dirname "$0")/tap.sh"
tap_begin
copies=1 lease=15
. "$root/tests/runs.sh"

fresh one
start_run --ranks 4 --limit 1 --overlap 0.98 --heartbeat 1
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
most=0.2
[ -z "${SAN:-}" ] || most=0.8 # a sanitizer's own work counts too
is "coordinator and writer use under 2 % of a core" \
    "$(sed -n '1,2p' "$work/shares" | awk -v most=$most '$1 > most')" ""
is "so does the worker without work" \
    "$(sed -n '3,4p' "$work/shares" | sort -n | awk -v most=$most 'NR == 1 && $1 > most')" ""
ok "while the other computes" is_computing
stop_run
tap_end
