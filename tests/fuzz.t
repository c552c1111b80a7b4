#!/bin/sh
# The fuzz entries go through their seeds and through what was found (tests/fuzz/corpus), so that neither rots.
. "$(dirname "$0")/tap.sh"
tap_begin
TMPDIR=$work
export TMPDIR
for entry in "$root"/tests/fuzz/*.c; do
    name=$(basename "$entry" .c)
    [ "$name" != fuzz ] || continue
    ok "$name" "$BUILD/tests/fuzz/$name" "$root/tests/fuzz/corpus/$name"
done
is "no entry leaves a file behind" "$(ls "$work" | grep -v -e '^ok.log$')" ""
tap_end
