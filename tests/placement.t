#!/bin/sh
# Worker ranks of a node share out the CPUs that the run may use and stay on their shares; masks have the same bits wherever
# they run.
. "$(dirname "$0")/tap.sh"
. "$(dirname "$0")/determinism.sh"
tap_begin
set_up_runs
scans=$work/scans.sqlite
exits "scan" 0 "$NOC" scan --catalog "$scans" "$root/demo/archive"

# places NAME: the places of the workers of the last run, and the CPUs of this process, satisfy PYTHON.
places()
{
    ok "$1" "$PYTHON" -c 'import os, re, sys
def cpus(text):
    return {n for part in text.split(",") for n in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)}
found = re.findall(r"worker on .* (\d+) threads on CPUs ([0-9,-]+)", open(sys.argv[1]).read())
workers = sorted((int(threads), sorted(cpus(text))) for threads, text in found)
allowed = os.sched_getaffinity(0)
sys.exit(0 if eval("(" + sys.argv[2] + ")") else f"{workers} of {sorted(allowed)}")' "$work/run.log" "$2"
}

same_answer placed "$scans" --workers 1 --log-level debug
places "one worker has every CPU" 'len(workers) == 1 and set(workers[0][1]) == allowed and
    workers[0][0] <= len(allowed)'
same_answer placed "$scans" --workers 2 --log-level debug
places "two share them" 'len(workers) == 2 and set(workers[0][1]) | set(workers[1][1]) == allowed and
    (len(allowed) == 1 or not set(workers[0][1]) & set(workers[1][1])) and
    all(1 <= threads <= len(share) for threads, share in workers)'
same_answer placed "$scans" --workers 2 --threads 1 --log-level debug
places "... with fewer threads too" 'len(workers) == 2 and all(threads == 1 for threads, _ in workers) and
    (len(allowed) == 1 or not set(workers[0][1]) & set(workers[1][1]))'
many=$("$PYTHON" -c 'import os; print(len(os.sched_getaffinity(0)) + 1)')
same_answer placed "$scans" --workers 2 --threads "$many" --log-level debug
places "who asks for more threads than CPUs is not pinned" 'len(workers) == 2 and
    all(threads == len(allowed) + 1 and set(share) == allowed for threads, share in workers)'

# A launcher, a batch system or a user that has narrowed the CPUs is obeyed.
one=$("$PYTHON" -c 'import os; print(max(os.sched_getaffinity(0)))')
program=$NOC
printf '#!/bin/sh\nexec taskset -c %s "%s" "$@"\n' "$one" "$program" >"$work/narrow"
chmod +x "$work/narrow"
NOC=$work/narrow
same_answer placed "$scans" --workers 2 --log-level debug
places "under taskset of one CPU" "[(1, [$one])] * 2 == workers"
exits "doctor" 0 "$NOC" doctor
says "... knows the CPU" "CPUs $one, domains 1,"
NOC=$program
tap_end
