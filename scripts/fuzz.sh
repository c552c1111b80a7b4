#!/bin/sh
# Fuzzes the readers of what comes from outside (tests/fuzz/*.c), one after another, with bounded memory.
# Usage: BUILD=build/fuzz scripts/fuzz.sh SECONDS [NAME...]        Ends with 1 when an entry found something.
set -u
cd "$(dirname "$0")/.." || exit 1
seconds=$1
shift
clang=${CLANG:-clang}
MAKE=${MAKE:-make}
place=${TMPDIR:-/tmp}
[ ! -w /dev/shm ] || place=/dev/shm # an input is a file: in memory it costs least
work=$(mktemp -d "$place/fuzz.XXXXXX") || exit 1
pid=''
trap 'rm -rf "$work"' EXIT
trap '[ -z "$pid" ] || kill "$pid"; exit 1' HUP INT TERM

echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n); int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && !n; }' >"$work/try.c"
if ! "$clang" -fsanitize=fuzzer,address,undefined "$work/try.c" -o "$work/try" 2>"$work/log"; then
    echo "make: fuzzing needs clang with libFuzzer: apt-get install clang libclang-rt-14-dev (Debian 12) or libclang-rt-19-dev (Debian 13)" >&2
    exit 1
fi

# clang cannot read the kernels, which no entry needs: the floor stays out.
$MAKE --no-print-directory CC="$clang" SAN=fuzzer,address,undefined BUILD="$BUILD" CFLAGS='-O1 -g' CPPFLAGS=-DNOC_LIBFUZZER NO_FLOOR=cpu fuzzers || exit 1
[ $# -gt 0 ] || set -- $(cd tests/fuzz && ls -- *.c | sed 's/\.c$//; /^fuzz$/d')

mkdir -p "$BUILD/finds"
failed=0
for name in "$@"; do
    mkdir -p "$BUILD/corpus/$name" "$work/$name"
    TMPDIR=$work/$name "$BUILD/tests/fuzz/$name" -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=256 \
        -timeout=20 -max_len=8192 -print_final_stats=1 -verbosity=1 -artifact_prefix="$BUILD/finds/$name-" \
        "$BUILD/corpus/$name" "tests/fuzz/corpus/$name" >"$BUILD/$name.log" 2>&1 &
    pid=$!
    wait "$pid"
    code=$?
    pid=''
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$BUILD/$name.log")
    covered=$(sed -n 's/.*cov: \([0-9]*\) ft: \([0-9]*\) corp: \([0-9]*\).*/\1 edges, \2 features, \3 inputs/p' "$BUILD/$name.log" | tail -1)
    if [ $code = 0 ]; then
        echo "$name: $runs runs, $covered, nothing found"
    else
        failed=1
        echo "$name: FOUND something after ${runs:-?} runs ($covered):"
        grep -m 3 -e '^==.*ERROR' -e 'runtime error' -e 'does not hold' -e 'SUMMARY' "$BUILD/$name.log"
        grep -m 1 -o 'Test unit written to.*' "$BUILD/$name.log"
    fi
done
exit $failed
