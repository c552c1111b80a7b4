#!/bin/sh
# cuda_instructions.sh CUBIN...: how often the instructions that matter are in each kernel, where nvdisasm is installed.
if ! command -v nvdisasm >/dev/null; then
    echo 'no nvdisasm here (PyPI: nvidia-cuda-nvdisasm): instructions were not counted'
    exit 0
fi
for cubin in "$@"; do
    nvdisasm "$cubin" | awk -v file="$(basename "$cubin" .cubin)" '
        /^\.text\./ { name = $1; sub(/^\.text\./, "", name); sub(/:$/, "", name) }
        match($0, /(HMMA|LDSM|LDGSTS|MUFU|FFMA|LDL|STL)[.A-Z0-9]* /) {
            op = substr($0, RSTART, RLENGTH); sub(/[. ].*/, "", op); count[name, op]++; seen[name]
        }
        END {
            for (n in seen)
                printf "%-16s %-72s HMMA %d LDSM %d LDGSTS %d MUFU %d FFMA %d local %d\n", file, n, count[n, "HMMA"],
                    count[n, "LDSM"], count[n, "LDGSTS"], count[n, "MUFU"], count[n, "FFMA"], count[n, "LDL"] + count[n, "STL"]
        }' | sort
done
