# Golden networks and the demo's Dice on a GPU; for tests that have begun and say which program $emulated is.

# golden NAME PRECISION LIMIT: of tests/data, or else of the reference folder; logits and stages, of the largest.
golden()
{
    folder=$root/tests/data/golden
    [ -e "$folder/$1.safetensors" ] || folder=$reference/golden
    rm -rf "$work/model"
    ok "$1, $2: made" "$PYTHON" "$root/tests/golden.py" network "$folder/$1.safetensors" \
        "$folder/${1%%_*}_weights.safetensors" "$work/model"
    exits "$1, $2: runs" 0 "$emulated" forward -m "$work/model" --input "$work/model/input.safetensors" \
        --output "$work/out.safetensors" --stages --device cuda --precision "$2"
    ok "$1, $2: within $3" "$PYTHON" "$root/tests/golden.py" check_network "$folder/$1.safetensors" \
        "$work/out.safetensors" "$3"
}

precisions()
{
    golden "$1" f32 2e-5
    golden "$1" f16 5e-3
    golden "$1" bf16 4e-2
}

tiny_goldens()
{
    for tiny in tiny_32x32x32 tiny_37x45x29 tiny_legacy_48x40x56_strided; do
        precisions $tiny
    done
}

# near_dice GPU CPU: runs over the demo's 16 scans, in catalog and folder $work/NAME; their mean Dice differs by at most 0.001.
near_dice()
{
    for run in "$1" "$2"; do
        "$NOC" report --csv --catalog "$work/$run.catalog" --results "$work/$run" >"$work/$run.csv" || return 1
    done
    "$PYTHON" - "$work/$1.csv" "$work/$2.csv" <<'EOF'
import csv, sys
gpu, cpu = ({(row["key"], row["label"]): float(row["dice"]) for row in csv.DictReader(open(name))} for name in sys.argv[1:])
assert len(cpu) == 32 and gpu.keys() == cpu.keys(), len(cpu)
mean_gpu, mean_cpu = (sum(dice.values()) / len(dice) for dice in (gpu, cpu))
assert mean_cpu > 0.8 and abs(mean_gpu - mean_cpu) <= 0.001, (mean_gpu, mean_cpu)
EOF
}
