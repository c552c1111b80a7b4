#!/bin/sh
# The CUDA kernels on an emulated GPU in four modes, that those modes find faults, and what the compiler and the counters say.
. "$(dirname "$0")/tap.sh"
tap_begin
if [ -n "${SAN-}" ] || [ ! -d "$BUILD/cuda-thread" ]; then
    skip "CUDA kernels in four modes" "for builds without sanitizers, with the headers of a CUDA toolkit and a C++ compiler"
    tap_end
    exit 0
fi
export CK_VERBOSITY=minimal

# Those of the kernels: test_cuda_faults is of the host's calls.
names=$(cd "$root/tests" && ls test_cuda*.c | sed 's/\.c$//; /_faults$/d')

# run_mode MODE FOLDER: every test's output to $work/NAME.MODE, its exit code to $work/NAME.MODE.code
run_mode()
{
    for name in $names; do
        timeout 1200 "$root/scripts/cuda_mode.sh" "$1" "$2/tests/$name" >"$work/$name.$1" 2>&1
        echo $? >"$work/$name.$1.code"
    done
}

# The detector of races takes longer than all others; the mode `late` is that of a test that is run by itself.
run_mode thread "$BUILD/cuda-thread" &
run_mode early "$BUILD"
run_mode address "$BUILD/cuda-address"
wait
for name in $names; do
    for mode in early address thread; do
        if [ "$(cat "$work/$name.$mode.code")" = 0 ]; then pass "$name, $mode"; else fail "$name, $mode" "$work/$name.$mode"; fi
    done
done

# The sound ones have run: above, and by themselves as make check does.
ok "faults planted in the kernels are found" timeout 1800 env BUILD="$BUILD" "$PYTHON" "$root/scripts/planted_faults.py" --trust

if CK_FORK=no "$BUILD/cuda_counts" >"$work/counts" 2>&1; then
    pass "no bank conflicts, no more sectors than needed"
else
    grep -e '<--' "$work/counts" >"$work/why" # make cuda-count has their lines
    fail "no bank conflicts, no more sectors than needed" "$work/why"
fi
if [ -e "$BUILD/obj/engine/cuda/fused_gemm.ptxas" ]; then
    ok "registers, stack, spills and blocks are as promised" "$BUILD/cuda_limits" "$BUILD"/obj/engine/cuda/*.ptxas
else
    skip "registers, stack, spills and blocks are as promised" "no nvcc here"
fi
tap_end
