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

# program NAME MODE FOLDER. As they are run anyway, tests are in the mode `late`.
program()
{
    ok "$1, $2" timeout 1200 "$root/scripts/cuda_mode.sh" "$2" "$3/tests/$1"
}
for source in "$root"/tests/test_cuda*.c; do
    name=$(basename "$source" .c)
    [ "$name" = test_cuda_faults ] && continue # of the host's calls
    program "$name" early "$BUILD"
    program "$name" address "$BUILD/cuda-address"
    program "$name" thread "$BUILD/cuda-thread"
done

ok "faults planted in the kernels are found" timeout 1800 env BUILD="$BUILD" "$PYTHON" "$root/scripts/planted_faults.py"

ok "no bank conflicts, no more sectors than needed" env CK_FORK=no "$BUILD/cuda_counts"
if [ -e "$BUILD/obj/engine/cuda/fused_gemm.ptxas" ]; then
    ok "registers, stack, spills and blocks are as promised" "$BUILD/cuda_limits" "$BUILD"/obj/engine/cuda/*.ptxas
else
    skip "registers, stack, spills and blocks are as promised" "no nvcc here"
fi
tap_end
