#!/bin/sh
# A small fault campaign: scripts/faults.py with a few seeds, and what it prints; `make faults` does more of the same.
. "$(dirname "$0")/tap.sh"
tap_begin
[ -z "${SAN:-}" ] || { echo "1..0 # SKIP a preloaded library cannot come before a sanitizer"; exit 0; }

ok "eight disturbed runs: nothing lost, nothing doubled" \
    timeout 600 "$PYTHON" "$root/scripts/faults.py" --runs 8 --seed "${NOC_SEED:-1}" --progress --work "$work"
cp "$work/ok.log" "$work/out"
says "it counts its findings" "0 lost, 0 doubled, 0 differing, 0 left over"
says "and its runs" "8 runs, "
ok "it leaves nothing behind" test -z "$(find "$work" -name 'noc-faults.*')"

# Someone who is impatient ends it, and with it all that it started.
timeout 600 "$PYTHON" "$root/scripts/faults.py" --runs 50 --work "$work" >"$work/out" 2>&1 &
campaign=$!
turns=600
until ls "$work"/noc-faults.*/seed-* >/dev/null 2>&1 || [ $turns = 0 ]; do
    turns=$((turns - 1))
    sleep 0.1
done
kill -TERM $campaign
wait $campaign
ok "ended early it leaves nothing behind either" test -z "$(find "$work" -name 'noc-faults.*')"
is "... no process with its folder in its command line" \
    "$(grep -la "$work/noc-faults[.]" /proc/[0-9]*/cmdline 2>/dev/null | wc -l)" 0
tap_end
