#!/bin/sh
# Golden logits and windows by every instruction set, forced one by one; on CPUs that have fewer, emulated; and on a
# system that refuses AMX its tiles.
. "$(dirname "$0")/tap.sh"
tap_begin

golden=$root/tests/data/golden
tiny=$root/tests/data/models/tiny
"$PYTHON" "$root/tests/golden.py" network "$golden/tiny_32x32x32.safetensors" "$golden/tiny_weights.safetensors" "$work/one" &&
    "$PYTHON" "$root/tests/golden.py" windows "$golden/windows/thin_gaussian.safetensors" \
        "$golden/tiny_weights.safetensors" "$work/many" || fail "the models were made"

# logits NAME COMMAND...: the program, started by COMMAND, gives the golden logits of one window and of many.
logits()
{
    name=$1
    shift
    exits "$name: a window" 0 timeout 300 "$@" forward -m "$work/one" --input "$work/one/input.safetensors" \
        --output "$work/x.safetensors" --stages --device cpu --threads 1
    ok "$name: a window within 2e-5" "$PYTHON" "$root/tests/golden.py" check_network \
        "$golden/tiny_32x32x32.safetensors" "$work/x.safetensors"
    exits "$name: windows" 0 timeout 300 "$@" forward --sliding -m "$work/many" --input "$work/many/input.safetensors" \
        --output "$work/x.safetensors" --device cpu --threads 2
    ok "$name: windows within 2e-5" "$PYTHON" "$root/tests/golden.py" check_windows \
        "$golden/windows/thin_gaussian.safetensors" "$work/x.safetensors"
}

# computes NAME ISA PRECISION COMMAND...: the program says what it computes with.
computes()
{
    name=$1 isa=$2 precision=$3
    shift 3
    exits "$name: measures" 0 timeout 300 "$@" bench engine --json -m "$tiny" --device cpu --threads 1
    is "$name: by $isa in $precision" "$(sed -n 's/.*"precision": *"\([a-z0-9]*\)".*/\1/p' "$work/out") $(
        sed -n 's/.*"isa": *"\([a-z0-9]*\)".*/\1/p' "$work/out")" "$precision $isa"
}

# refused NAME TEXT COMMAND...
refused()
{
    name=$1 text=$2
    shift 2
    exits "$name: exit 69" 69 "$@" forward -m "$work/one" --input "$work/one/input.safetensors" \
        --output "$work/none.safetensors" --device cpu --precision bf16
    says "$name: says why" "$text" "$work/err"
}

isa_here=$("$NOC" doctor | sed -n 's/^ok  *cpu .*, \([a-z0-9]*\), f32, .*/\1/p')
has_amx=$("$NOC" doctor | grep -c 'bf16 with amx')
for isa in portable avx2 avx512; do
    NOC_CPU_ISA=$isa
    export NOC_CPU_ISA
    if "$NOC" doctor 2>&1 | grep -q "^ok  *cpu .*, $isa, "; then
        logits "$isa" "$NOC"
        computes "$isa" "$isa" f32 "$NOC"
    else
        refused "$isa on a CPU without it" "this CPU has no" "$NOC"
    fi
done
NOC_CPU_ISA=amx
if [ "$has_amx" = 1 ]; then
    logits "amx, in f32" "$NOC"
    computes "amx, in f32" avx512 f32 "$NOC"
    exits "amx: bf16" 0 "$NOC" bench engine --json -m "$tiny" --device cpu --threads 1 --precision bf16
    says "amx: bf16 by amx" '"amx"'
else
    refused "amx without tiles" "AMX" "$NOC"
fi
unset NOC_CPU_ISA

# A refusal of tiles: the rest goes on, and who insists is told.
tiles=$BUILD/tests/prog_tiles
if [ "$has_amx" = 1 ]; then
    exits "many devices" 0 "$tiles" count
    says "the system is asked once a process" "asked 1 times, 0 threads had another device"
    for precision in bf16 auto; do
        exits "$precision without tiles: runs" 0 "$tiles" "$NOC" forward -m "$work/one" --device cpu --precision $precision \
            --input "$work/one/input.safetensors" --output "$work/x.safetensors" --stages
        [ $precision = auto ] || says "bf16 without tiles: says f32" "this device (cpu) computes f32" "$work/err"
        ok "$precision without tiles: within 2e-5" "$PYTHON" "$root/tests/golden.py" check_network \
            "$golden/tiny_32x32x32.safetensors" "$work/x.safetensors"
    done
    NOC_CPU_ISA=amx refused "amx without tiles" "the system does not let this process use AMX" "$tiles" "$NOC"
else
    skip "a refusal of tiles" "this CPU has no AMX"
fi

# emulated CPU ISA: what is not in that CPU ends the program by SIGILL.
emulated()
{
    logits "$1" qemu-x86_64 -cpu "$1" "$NOC"
    exits "$1: doctor" 0 qemu-x86_64 -cpu "$1" "$NOC" doctor
    ok "$1: by $2" grep -q "^ok  *cpu .*, $2, f32, " "$work/out"
    refused "$1: avx512" "this CPU has no AVX-512" env NOC_CPU_ISA=avx512 qemu-x86_64 -cpu "$1" "$NOC"
}

# whole_run CPU: every library that a run needs chooses by the CPU too.
whole_run()
{
    scan=$(find "$root/demo/archive/imagesTr" -name '*.nii.gz' | sort | head -n 1)
    printf 'key,image,truth\na,%s;%s,\n' "$scan" "$scan" >"$work/list.csv"
    exits "$1: scan" 0 timeout 300 qemu-x86_64 -cpu "$1" "$NOC" scan --catalog "$work/c.sqlite" "$work/list.csv"
    exits "$1: run" 0 timeout 300 qemu-x86_64 -cpu "$1" "$NOC" run -m "$tiny" --device cpu --ranks 1 --threads 1 \
        --catalog "$work/c.sqlite" --results "$work/r" --progress none
    exits "$1: verify" 0 timeout 300 qemu-x86_64 -cpu "$1" "$NOC" verify --catalog "$work/c.sqlite" --results "$work/r"
    exits "$1: report" 0 "$NOC" report --csv --catalog "$work/c.sqlite" --results "$work/r"
    says "$1: the study is done" "a,done,"
}

case ",${SAN-},$isa_here" in
*,address,* | *,thread,*) skip "emulated CPUs" "the sanitizer's memory does not fit into qemu's" ;;
*,)  fail "doctor names an instruction set" ;;
*)
    if [ "$(uname -m)" != x86_64 ]; then
        skip "emulated CPUs" "this is no x86-64"
    elif ! command -v qemu-x86_64 >/dev/null; then
        skip "emulated CPUs" "qemu-x86_64 is not installed (make deps)"
    else
        emulated Haswell avx2
        emulated Nehalem portable
        whole_run Nehalem
    fi
    ;;
esac
tap_end
