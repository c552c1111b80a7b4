# Golden networks on the emulated GPU; for tests that have begun and say where $emulated is.

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
