#!/bin/sh
# Memory that ends: a study that finds none is no_memory and costs only itself; what a control group allows is known
# before anything is allocated.
. "$(dirname "$0")/tap.sh"
tap_begin
model=$root/tests/data/models/tiny
cd "$work" || exit 1
mkdir in
ok "the files are made" "$PYTHON" "$root/tests/memory.py" in
exits "scan them" 0 "$NOC" scan in/list.csv

# states RESULTS: "key=state:type" of each study, in one line
states()
{
    "$NOC" report --csv --results "$1" | awk -F, 'NR > 1 && !seen[$1]++ { printf "%s=%s:%s ", $1, $2, $3 }'
}

# Admitted, since --memory allows more than there is.
starved()
{
    kind=$1
    shift
    # shellcheck disable=SC3045
    exits "$kind: a run without the memory for two of five" 1 timeout 300 sh -c 'ulimit -v 4194304 && exec "$@"' sh \
        "$NOC" run -m "$model" --device cpu --threads 1 --memory 100GiB --attempts 2 --results "$kind" "$@"
    cp err "$kind.err"
    is "$kind: only those two fail" "$(states "$kind")" \
        "large_packed=failed:no_memory large_plain=failed:no_memory small_1=done: small_2=done: small_3=done: "
    is "$kind: nobody died of it" "$(grep -c 'died\|lost\|again' "$kind.err")" 0
    exits "$kind: report" 0 "$NOC" report --json --results "$kind"
    says "$kind: with a sentence" "no memory for 8590000480 bytes" out
    exits "$kind: verify" 0 "$NOC" verify --results "$kind"
}
case ,${SAN:-}, in
*,address,* | *,thread,*) skip "runs under ulimit -v" "a sanitizer maps terabytes" ;;
*)
    starved alone --ranks 1
    starved ranks --ranks 4
    ;;
esac

# With the memory known, the same studies are refused before they are read.
exits "a run that knows its memory" 1 timeout 300 "$NOC" run -m "$model" --device cpu --threads 1 --memory 512MiB \
    --results known
is "those two are too large" "$(states known)" \
    "large_packed=failed:too_large large_plain=failed:too_large small_1=done: small_2=done: small_3=done: "

# in_group BYTES COMMAND...: with files of control groups that say so, for this command alone
in_group()
{
    unshare -m sh -c 'mount -t tmpfs none /sys/fs/cgroup && echo "$0" >/sys/fs/cgroup/memory.max &&
        mkdir /sys/fs/cgroup/memory && echo "$0" >/sys/fs/cgroup/memory/memory.limit_in_bytes && exec "$@"' "$@"
}
if in_group 1 true 2>/dev/null; then
    in_group $((300 << 20)) "$NOC" doctor >out 2>&1
    says "doctor knows the group's limit" "300 MiB usable"
    exits "a run in a group" 1 in_group $((640 << 20)) "$NOC" run -m "$model" --device cpu --threads 1 --results group
    is "a worker has 80 % of it" "$(states group)" \
        "large_packed=failed:too_large large_plain=failed:too_large small_1=done: small_2=done: small_3=done: "
    exits "report" 0 "$NOC" report --json --results group
    says "and are told so" "voxels of int16 in 1 channels from byte 352 on are more than" out
else
    skip "limits of a control group" "no right to show files of another one here"
fi
tap_end
