#!/bin/sh
# The figures of BENCHMARKS.md that need nothing but this project: seconds a window of the published network, studies an
# hour with one worker and two, how busy the engine was; PyTorch beside it where $PYTHON has it.
# Environment: NOC (the program), BUILD, NOC_REFERENCE_DIR (its scans and model instead of the demo's and random weights).
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
NOC=${NOC:-$here/build/nocturne}
BUILD=${BUILD:-$here/build}
PYTHON=${PYTHON:-python3}
reference=${NOC_REFERENCE_DIR:-}

if [ -n "$reference" ]; then
    model=$reference/models/brats-untrained scans=$reference/data/msd_hippocampus
else
    model=$BUILD/untrained scans=$here/demo/archive
    [ -f "$model/model.yaml" ] || "$PYTHON" "$here/scripts/untrained_model.py" "$model"
fi

echo "One window of 4x128x128x128"
"$NOC" bench engine -m "$model" --device cpu
"$NOC" bench engine -m "$model" --device cpu --threads 1
if "$PYTHON" -c 'import numpy, torch, yaml' 2>/dev/null; then
    "$PYTHON" "$here/scripts/bench_peers.py" "$model" --nocturne "$NOC" --peers nocturne,eager
else
    echo "PyTorch or PyYAML is not installed for $PYTHON: no comparison (make bench-peers installs it in a folder of its own)"
fi

echo
echo "An archive of $(find "$scans" -name '*.nii.gz' -path '*images*' | wc -l) scans"
"$NOC" bench pipeline -m "$here/models/hippocampus" --device cpu "$scans" --log-level error
