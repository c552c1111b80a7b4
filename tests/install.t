#!/bin/sh
# The build and what it installs: a copy of the tree in a folder with a space in its name, without git, is built,
# changed, installed, and what was installed is used by another user while the tree cannot be written.
. "$(dirname "$0")/tap.sh"
tap_begin
san=${SAN-}
built=$BUILD
# Nothing of the make that may have started this test.
unset MAKEFLAGS MAKELEVEL MFLAGS BUILD SAN NOC
copy="$work/a copy" stage=$work/stage
chmod 755 "$work"

# in_copy GOAL...: make there
in_copy()
{
    make -C "$copy" --no-print-directory BUILD=build SAN="$san" "$@"
}

mkdir "$copy"
(cd "$root" && cp -a Makefile VERSION LICENSE ./*.md catalog configs demo engine models pipeline scripts tests worker "$copy")
mkdir "$copy/build"
(cd "$built" && cp -a config.mk flags version obj lib* nocturne "$copy/build")

# ---- the build ----

exits "make, in a copy" 0 in_copy
is "what was built stays built" "$(grep 'cc  ' "$work/out" | grep -v pipeline/version.c)" ""
exits "the copy's program" 0 "$copy/build/nocturne" --version
says "... knows its version, and no commit" "nocturne $(cat "$root/VERSION") (unknown)"
exits "make again" 0 in_copy
is "... builds nothing" "$(cat "$work/out")" ""
exits "make info" 0 in_copy info
for part in compiler flags kernels 'Open MPI' HDF5 SQLite NIfTI libdeflate libyaml jansson Check CUDA; do
    says "make info: $part" "$part"
done
mkdir "$copy/other" && cp -p "$copy/build/config.mk" "$copy/other"
# clock NAME COUNT CFLAGS: so many compilations
clock()
{
    exits "$1" 0 in_copy BUILD=other CFLAGS="$3" other/obj/engine/base/clock.o
    is "$1: compilations" "$(grep -c 'cc *engine/base/clock.c' "$work/out")" "$2"
}
clock "a first build" 1 '-O0'
clock "the same flags" 0 '-O0'
clock "other flags" 1 '-O1'
clock "the first flags again" 1 '-O0'

# ---- the floors ----

# planted FILE LINE WHAT: make layers names that include
planted()
{
    cp -p "$copy/$1" "$work/kept" || { fail "$1 is there"; return; }
    printf '%s\n' "$2" >>"$copy/$1"
    exits "$1 with $2" 2 in_copy layers
    says "... is named" "$1:$(wc -l <"$copy/$1" | tr -d ' '): $3"
    cp -p "$work/kept" "$copy/$1"
}
exits "make layers" 0 in_copy layers
planted engine/base/clock.c '#include "engine/plan.h"' "engine/base may not include engine/plan.h"
planted catalog/study.h '#include "worker/job.h"' "catalog may not include worker/job.h"
planted engine/cpu/network.c '#include "engine/volume/image.h"' "engine/cpu may not include engine/volume/image.h"
planted worker/job.c '#include <mpi.h>' "worker may not use <mpi.h>"
planted worker/job.c '#include "catalog/catalog.h"' "worker may not include catalog/catalog.h"
exits "make layers again" 0 in_copy layers

# ---- installed ----

exits "make install" 0 in_copy install PREFIX=/opt/n DESTDIR="$stage"
exits "make install twice" 0 in_copy install PREFIX=/opt/n DESTDIR="$stage"
place=$stage/opt/n
is "what is installed" "$(cd "$place" && find . -type f ! -name '*.md' | sort | tr '\n' ' ')" \
    "./bin/nocturne ./share/doc/nocturne/LICENSE ./share/nocturne/configs/default.yaml ./share/nocturne/configs/nocturne.sbatch\
 ./share/nocturne/configs/train_hippocampus.yaml\
 ./share/nocturne/models/hippocampus/model.yaml ./share/nocturne/models/hippocampus/weights.safetensors "
ok "README.md too" test -s "$place/share/doc/nocturne/README.md"

cp -R "$copy/demo/archive" "$work/archive"
mkdir "$work/elsewhere"
cd "$work/elsewhere" || exit 1
user=''
if [ "$(id -u)" = 0 ]; then
    chown nobody "$work/elsewhere"
    runuser -u nobody -- test -r "$place/bin/nocturne" && user='runuser -u nobody --'
fi
chmod -R a-w "$copy"
sum_of() { (cd "$copy" && find . -type f -exec sha256sum {} + | sort | sha256sum); }
before=$(sum_of)
[ -z "$user" ] || export ASAN_OPTIONS=detect_leaks=0 # its list of known leaks may lie where nobody can read

# shellcheck disable=SC2086
by_user() { env HOME="$work/elsewhere" $user "$place/bin/nocturne" "$@"; }
exits "installed: --version" 0 by_user --version
exits "installed: scan" 0 by_user scan "$work/archive"
exits "installed: run, with its settings and model" 0 by_user run -c "$place/share/nocturne/configs/default.yaml" \
    -m "$place/share/nocturne/models/hippocampus"
exits "installed: verify" 0 by_user verify
says "... finds all masks" "verified 16 masks"
exits "installed: report" 0 by_user report --csv
is "... tells them" "$(wc -l <"$work/out" | tr -d ' ')" 33
is "the source tree is what it was" "$(sum_of)" "$before"
exits "make, where nothing can be written" 0 in_copy
chmod -R u+w "$copy"
exits "make uninstall" 0 in_copy uninstall PREFIX=/opt/n DESTDIR="$stage"
is "... leaves nothing" "$(find "$stage" -type f)" ""

# ---- packages ----

# A machine with these commands alone; each that would change it says so in `calls`.
fake=$work/fake
mkdir "$fake"
for command in sed grep env; do ln -s "$(command -v $command)" "$fake/$command"; done
stub()
{
    printf '#!/bin/sh\n%s\n' "$2" >"$fake/$1"
    chmod +x "$fake/$1"
}
# deps NAME CODE: deps.sh there
deps()
{
    : >"$work/calls"
    exits "$1" "$2" env -i PATH="$fake" CALLS="$work/calls" /bin/sh "$root/scripts/deps.sh"
}
# shellcheck disable=SC2016
{
    none='echo "dpkg-query: no packages found" >&2; exit 1'
    most='for p; do case $p in -*|*Status*|libyaml-dev|check) ;; *) echo "installed $p" ;; esac; done; exit 1'
    all='for p; do case $p in -*|*Status*) ;; *) echo "installed $p" ;; esac; done'
    stub apt-get 'echo "apt-get $*" >>"$CALLS"'
    refuse='[ "$1" = -n ] && exit 1'
    allow='shift; echo "sudo $*" >>"$CALLS"; exec "$@"'
}
stub true 'exit 0'
stub id 'echo 1000'
stub sudo "$refuse"

stub dpkg-query "$all"
deps "nothing is missing" 0
is "... nothing is done" "$(cat "$work/calls" "$work/out" "$work/err")" ""
stub dpkg-query "$most"
deps "packages are missing, no right to install" 1
is "... the line to type" "$(grep apt-get "$work/err")" "    sudo apt-get install --no-install-recommends libyaml-dev check"
is "... nothing is done" "$(cat "$work/calls")" ""
rm "$fake/sudo"
deps "no sudo either" 1
says "... the line" "apt-get install --no-install-recommends libyaml-dev check" "$work/err"
stub dpkg-query "$none"
deps "a bare machine, no right to install" 1
for package in gcc make libopenmpi-dev libhdf5-openmpi-dev libsqlite3-dev libnifti2-dev openmpi-bin check python3-h5py; do
    says "... $package" " $package" "$work/err"
done
stub dpkg-query "$most"
stub sudo "$allow"
deps "with sudo" 0
is "... installs" "$(grep '^apt-get' "$work/calls" | tr '\n' ';')" \
    "apt-get update -q;apt-get install -q -y --no-install-recommends libyaml-dev check;"
is "... by sudo" "$(grep -c '^sudo .*apt-get' "$work/calls")" 2
stub id 'echo 0'
rm "$fake/sudo"
deps "as root" 0
is "... installs without sudo" "$(tail -n 1 "$work/calls")" "apt-get install -q -y --no-install-recommends libyaml-dev check"
stub apt-get 'exit 100'
deps "no packages to be had" 1
says "... the lines to type" "apt-get update && apt-get install --no-install-recommends libyaml-dev check" "$work/err"
rm "$fake/dpkg-query"
deps "no Debian" 0
says "... is said" "no Debian" "$work/err"
tap_end
