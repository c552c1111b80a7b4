#!/bin/sh
# Installs what the build, the tests and the demo need from the distribution's packages (Debian 12 and 13). Uses no network
# when nothing is missing; without the right to install it prints the line to run and exits 1.
#
#   scripts/deps.sh [demo]      demo: without the emulator of other CPUs, which only tests need and which is large
set -u

build='gcc libc6-dev make pkg-config libopenmpi-dev libhdf5-openmpi-dev libsqlite3-dev libnifti2-dev zlib1g-dev
    libdeflate-dev libyaml-dev libjansson-dev libssl-dev'
run='openmpi-bin util-linux procps'
check='check perl hdf5-tools sqlite3 python3 python3-numpy python3-h5py python3-nibabel'
[ "${1:-}" = demo ] || check="$check qemu-user"

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo 'deps: no Debian here; the build will name what it does not find' >&2
    exit 0
fi

# shellcheck disable=SC2086
there=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $build $run $check 2>/dev/null |
    sed -n 's/^installed //p')
missing=''
for package in $build $run $check; do
    printf '%s\n' "$there" | grep -qx -- "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=''
elif sudo -n true 2>/dev/null; then
    as_root='sudo -n'
else
    echo "deps: packages are missing; please run:" >&2
    echo "    sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

echo "deps: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
$as_root apt-get update -q >&2 &&
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >&2 && exit 0
echo "deps: the packages could not be installed; please run:" >&2
echo "    apt-get update && apt-get install --no-install-recommends$missing" >&2
exit 1
