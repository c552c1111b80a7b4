#!/bin/sh
# What make cuda-model counts: the instructions of a small kernel, as nvdisasm prints it, walked for several arguments.
. "$(dirname "$0")/tap.sh"
tap_begin
ok "stores, their places and the busiest multiprocessor" "$PYTHON" "$root/tests/sass.py"
exits "without a disassembler" 1 env PATH="$work" "$(command -v "$PYTHON")" "$root/scripts/cuda_model.py" /dev/null
says "it is named" "no nvdisasm here" "$work/err"
tap_end
