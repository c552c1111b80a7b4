#!/bin/sh
# nocturne forward --sliding: MONAI's windows and blending, from the manifest and from flags.
. "$(dirname "$0")/tap.sh"
tap_begin

golden=${reference:-$root/tests/data}/golden
cases="thin_constant thin_gaussian"
[ -z "$reference" ] || cases="$cases box_constant box_gaussian cuboid_gaussian_25 cuboid_constant_625 \
    equal_axis_gaussian cropped_roi_constant"

# slide NAME MODEL OUTPUT [FLAGS...]
slide()
{
    name=$1 model=$2 output=$3
    shift 3
    exits "$name" 0 "$NOC" forward --sliding -m "$model" --input "$work/model/input.safetensors" \
        --output "$output" --device cpu "$@"
}

for case in $cases; do
    rm -rf "$work/model"
    ok "$case: made" "$PYTHON" "$root/tests/golden.py" windows "$golden/windows/$case.safetensors" \
        "$golden/tiny_weights.safetensors" "$work/model"
    slide "$case: by the manifest" "$work/model" "$work/a"
    ok "$case: within 2e-5" "$PYTHON" "$root/tests/golden.py" check_windows \
        "$golden/windows/$case.safetensors" "$work/a"
    # shellcheck disable=SC2046
    slide "$case: by flags" "$work/model/other" "$work/b" $(cat "$work/model/flags") --batch 7 --threads 1
    ok "$case: flags go before the manifest" cmp "$work/a" "$work/b"
    slide "$case: the other manifest alone" "$work/model/other" "$work/b"
    ok "$case: is another thing" test "$(sha256sum <"$work/a")" != "$(sha256sum <"$work/b")"
done
[ -n "$reference" ] || skip "all golden windows" "NOC_REFERENCE_DIR names no folder"

# By a configuration file; a flag goes before it.
# shellcheck disable=SC2046
set -- $(cat "$work/model/flags")
slide "flags" "$work/model/other" "$work/a" "$@"
printf 'window: [%s]\noverlap: %s\nblend: %s\n' "$2" "$4" "$6" >"$work/c.yaml"
slide "configuration file" "$work/model/other" "$work/b" -c "$work/c.yaml"
ok "a configuration file says the same" cmp "$work/a" "$work/b"
printf 'window: [64, 64, 64]\noverlap: %s\nblend: %s\n' "$4" "$6" >"$work/c.yaml"
slide "configuration file and flag" "$work/model/other" "$work/b" -c "$work/c.yaml" --window "$2"
ok "a flag goes before the configuration file" cmp "$work/a" "$work/b"
tap_end
