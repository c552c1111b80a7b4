# The words of a program test (tests/*.t), which begins with: . "$(dirname "$0")/tap.sh"; tap_begin
# and ends with: tap_end. A test works in $work, a new folder that is removed at its end, and finds
#
#   $NOC         the program                    $PYTHON      with numpy, nibabel and h5py
#   $root        the source tree                $reference   the larger reference values, or empty
#   $work/out    what the last `exits` said     $work/err    ... and on stderr
#
# shellcheck shell=sh disable=SC2034
set -u

tap_begin()
{
    root=$(cd "$(dirname "$0")/.." && pwd)
    BUILD=${BUILD:-$root/build}
    NOC=${NOC:-$BUILD/nocturne}
    PYTHON=${PYTHON:-/usr/bin/python3}
    PYTHONPATH=$root/tests PYTHONDONTWRITEBYTECODE=1
    reference=${NOC_REFERENCE_DIR:-}
    work=$(mktemp -d "${TMPDIR:-/tmp}/$(basename "$0" .t).XXXXXX") || exit 1
    tap_count=0
    export NOC BUILD PYTHONPATH PYTHONDONTWRITEBYTECODE work root reference
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
}

# pass NAME; fail NAME [FILE that says why]
pass()
{
    tap_count=$((tap_count + 1))
    echo "ok $tap_count - $1"
}

fail()
{
    tap_count=$((tap_count + 1))
    echo "not ok $tap_count - $1"
    [ $# -lt 2 ] || tail -n 40 "$2" | sed 's/^/# /'
}

# ok NAME COMMAND...: the command succeeds.
ok()
{
    tap_name=$1
    shift
    if "$@" >"$work/ok.log" 2>&1; then pass "$tap_name"; else fail "$tap_name" "$work/ok.log"; fi
}

# is NAME GOT WANTED
is()
{
    if [ "$2" = "$3" ]; then pass "$1"; else
        printf 'got:    %s\nwanted: %s\n' "$2" "$3" >"$work/is.log"
        fail "$1" "$work/is.log"
    fi
}

# exits NAME CODE COMMAND...: stdout goes to $work/out, stderr to $work/err.
exits()
{
    tap_name=$1 tap_code=$2
    shift 2
    "$@" >"$work/out" 2>"$work/err" </dev/null
    tap_got=$?
    [ "$tap_got" = "$tap_code" ] && pass "$tap_name" && return
    { echo "exit code $tap_got, wanted $tap_code: $*"; tail -n 15 "$work/out"; tail -n 20 "$work/err"; } >"$work/is.log"
    fail "$tap_name" "$work/is.log"
}

# says NAME TEXT [FILE]: the file ($work/out) holds the text as it stands.
says()
{
    if grep -qF -- "$2" "${3:-$work/out}"; then pass "$1"; else
        { echo "no \"$2\" in:"; cat "${3:-$work/out}"; } >"$work/is.log"
        fail "$1" "$work/is.log"
    fi
}

# skip NAME WHY
skip()
{
    tap_count=$((tap_count + 1))
    echo "ok $tap_count - $1 # SKIP $2"
}

# torch_python: prints a Python with PyTorch, or nothing: the virtual environment that PEERS names or `make peers` made,
# else what is installed
torch_python()
{
    for tap_python in "${PEERS:-$BUILD/peers}/bin/python" "$PYTHON"; do
        "$tap_python" -c 'import torch' 2>/dev/null && echo "$tap_python" && return
    done
}

tap_end()
{
    echo "1..$tap_count"
}
