#!/bin/sh
# nocturne plan: the op list as a table and as JSON.
. "$(dirname "$0")/tap.sh"
tap_begin

tiny=$root/tests/data/models/tiny

# Every op reads what was made before it, the sums are the sums, the last op makes the logits.
cat >"$work/check.py" <<'EOF'
import json, math, sys
plan, window, parameters, macs = json.load(open(sys.argv[1])), *map(json.loads, sys.argv[2:5])
made = {"input": window + [plan["channels"]]}
for op in plan["ops"]:
    for name in op["inputs"] + ([op["residual"]] if op["residual"] else []):
        assert name in made, name
    assert op["output"] not in made and min(op["shape"]) >= 1
    assert op["output_bytes"] == 4 * math.prod(op["shape"])
    if op["residual"]:
        assert made[op["residual"]] == op["shape"]
    made[op["output"]] = op["shape"]
assert plan["window"] == window
assert plan["ops"][-1]["output"] == "logits" and plan["ops"][-1]["shape"] == plan["logits"]
assert plan["logits"][:3] == [-(-n // u) for n, u in zip(window, plan["upsample"])]
assert plan["parameters"] == parameters, plan["parameters"]
assert plan["macs"] == sum(op["macs"] for op in plan["ops"]) and plan["macs"] == (macs or plan["macs"])
assert plan["weight_bytes"] == sum(op["weight_bytes"] for op in plan["ops"])
assert abs(plan["gmac"] * 1e9 - plan["macs"]) <= 1e3 and len(plan["model_sha256"]) == 64
assert plan["arena_bytes"] < sum(op["output_bytes"] for op in plan["ops"])
EOF

# plan NAME WINDOW PARAMETERS MACS ARGUMENTS...
plan()
{
    name=$1 window=$2 parameters=$3 macs=$4
    shift 4
    exits "$name: JSON" 0 "$NOC" plan --json "$@"
    mv "$work/out" "$work/plan.json"
    ok "$name: JSON adds up" "$PYTHON" "$work/check.py" "$work/plan.json" "$window" "$parameters" "$macs"
    is "$name: nothing on stderr" "$(cat "$work/err")" ""
    exits "$name: table" 0 "$NOC" plan "$@"
    ops=$(grep -c '^{"op"' "$work/plan.json")
    is "$name: a line an op" "$(grep -c '^ *[0-9]\{1,\}  [a-z]' "$work/out")" "$ops"
    says "$name: total" "total: $ops ops"
}

# Parameters: the tensors of the state dict without BatchNorm's running statistics.
parameters=$("$PYTHON" -c "
import tensors
arrays = tensors.read('$root/tests/data/golden/tiny_weights.safetensors')[1]
statistics = 'running_mean', 'running_var', 'batches_tracked'
print(sum(a.size for n, a in arrays.items() if not n.endswith(statistics)))")
plan "the tiny model" "[32, 32, 32]" "$parameters" 0 -m "$tiny"
plan "another window" "[37, 45, 29]" "$parameters" 0 -m "$tiny" --window 37,45,29
if [ -n "$reference" ]; then
    # The published network: 4,525,251 parameters, 6.8905 GMAC with its rewrites.
    plan "the published network" "[128, 128, 128]" 4525251 6890487808 -m "$reference/models/brats-untrained"
else
    skip "the published network" "NOC_REFERENCE_DIR names no folder"
fi
exits "no model: exit 64" 64 "$NOC" plan
exits "a missing model: exit 66" 66 "$NOC" plan -m "$work/none"
exits "a window too small: exit 78" 78 "$NOC" plan -m "$tiny" --window 12,12,12
says "a window too small: says why" "the smallest it can is 13 x 13 x 13" "$work/err"
exits "a window that is none: exit 64" 64 "$NOC" plan -m "$tiny" --window 32,32
exits "stdout that is full: exit 74" 74 sh -c '"$NOC" plan -m "$1" >/dev/full' sh "$tiny"
tap_end
