# Words of the determinism tests (determinism.t, determinism.lt): one answer for every way to compute it.
#
# same_answer NAME CATALOG RUN_OPTIONS...: runs what the catalog holds with the options, from nothing, and
# compares masks and metrics with those of the first run of that NAME. The last results stay in $work/r, their
# catalog is $work/c.sqlite.
#
# shellcheck shell=sh disable=SC2154
set_up_runs()
{
    model=$root/models/hippocampus
    runs=0
    mkdir -p "$work/answers"
}

# Masks of $work/r to $1.masks, the report to $1.csv.
take_answer()
{
    "$PYTHON" "$root/tests/masks.py" list "$work/r" >"$1.masks" 2>"$work/masks.err" &&
        "$NOC" report --csv --catalog "$work/c.sqlite" --results "$work/r" >"$1.csv" 2>"$work/masks.err"
}

same_answer()
{
    answer=$work/answers/$1 catalog=$2
    shift 2
    runs=$((runs + 1))
    rm -rf "$work/r" "$work"/c.sqlite*
    cp "$catalog" "$work/c.sqlite"
    timeout 900 "$NOC" run -m "$model" --device cpu --catalog "$work/c.sqlite" --results "$work/r" "$@" \
        --progress none >"$work/run.log" 2>&1 </dev/null ||
        { fail "$(basename "$answer"): $*" "$work/run.log"; return; }
    if [ ! -f "$answer.masks" ]; then
        ok "$(basename "$answer"): the reference, $*" take_answer "$answer"
    else
        ok "$(basename "$answer"): $*" same_as_reference "$answer"
    fi
}

same_as_reference()
{
    take_answer "$work/now" || return 1
    cmp "$1.masks" "$work/now.masks" && cmp "$1.csv" "$work/now.csv"
}

# Studies of an answer, all done, and the instruction set that computed them.
answer_is_whole()
{
    is "$1: $2 masks by $3" "$(grep -c " $3\$" "$work/answers/$1.masks")" "$2"
    is "$1: every row is done" "$(grep -c ',done,' "$work/answers/$1.csv")" "$(($2 * 2))"
}

# The instruction set that is used here, and whether one can be.
isa_here()
{
    "$NOC" doctor | sed -n 's/^ok  *cpu .*, \([a-z0-9]*\), f32, .*/\1/p'
}

has_isa()
{
    [ "$(NOC_CPU_ISA=$1 isa_here)" = "$1" ]
}

# infer_agrees NAME IMAGES MASKS RUN_OPTIONS...: infer gives for each mask that was exported the same voxels.
infer_agrees()
{
    name=$1 images=$2 masks=$3
    shift 3
    pairs=''
    mkdir -p "$work/inferred"
    for mask in "$masks"/*.nii.gz; do
        key=$(basename "$mask" .nii.gz)
        "$NOC" infer -m "$model" --device cpu "$@" -o "$work/inferred/$key.nii.gz" "$images/$key.nii.gz" \
            >"$work/run.log" 2>&1 || { fail "$name" "$work/run.log"; return; }
        pairs="$pairs $work/inferred/$key.nii.gz $mask"
    done
    # shellcheck disable=SC2086
    ok "$name" "$PYTHON" "$root/tests/masks.py" same $pairs
}
