#!/bin/sh
# The scripts that measure beside PyTorch do the job that the program does: windows, preparation, grid and Dice.
. "$(dirname "$0")/tap.sh"
tap_begin
archive=$root/demo/archive scan=$root/demo/archive/imagesTr/hippocampus_008.nii.gz
peers=$root/tests/peers.py

ok "every script is Python" "$PYTHON" "$peers" compiled "$root"/scripts/*.py
ok "windows and their weights" "$PYTHON" "$peers" windows "$root/tests/data/golden/windows"
exits "prepare" 0 "$NOC" prepare -m "$root/models/hippocampus" --output "$work/seen" "$scan"
ok "what the network sees" "$PYTHON" "$peers" prepared "$scan" "$work/seen"
ok "a mask on its scan's grid" "$PYTHON" "$peers" grid "$work"
cd "$work" || exit 1
exits "scan" 0 "$NOC" scan "$archive"
exits "run" 0 "$NOC" run -m "$root/models/hippocampus" --device cpu
exits "export" 0 "$NOC" export -o masks
exits "report" 0 "$NOC" report --csv
cp out report.csv
ok "the same studies with the same Dice" "$PYTHON" "$peers" studies "$archive" masks report.csv
ok "what is complained about" "$PYTHON" "$peers" judged
tap_end
