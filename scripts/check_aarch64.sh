#!/bin/sh
# Builds base and engine for aarch64 with their unit tests, and runs those that emulation does not make slow: golden
# logits by the portable kernels among them. The libraries of that architecture come from the distribution's packages
# into the build folder; the system stays as it is.
# Usage: scripts/check_aarch64.sh BUILD
set -eu

mkdir -p "$1"
build=$(cd "$1" && pwd) compiler=aarch64-linux-gnu-gcc root=$build/root
run='error text safetensors manifest window plan prepare model network'
compile='device segmentation memory pool'

for tool in $compiler qemu-aarch64; do
    command -v $tool >/dev/null || { echo "check-aarch64: apt-get install gcc-aarch64-linux-gnu qemu-user" >&2; exit 1; }
done

# apt with its own lists, an empty system of that architecture and no locks: needs no root.
arm_apt()
{
    apt-get -q -y --no-install-recommends -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Debug::NoLocking=1 \
        -o Dir::State::Lists="$build/apt/lists" -o Dir::State::status="$build/apt/status" \
        -o Dir::Cache="$build/apt/cache" "$@" >"$build/apt.log" 2>&1 || { tail -n 5 "$build/apt.log" >&2; exit 1; }
}

if [ ! -e "$root/complete" ]; then
    rm -rf "$root" "$build/apt"
    mkdir -p "$root" "$build/apt/lists/partial" "$build/apt/cache/archives/partial"
    : >"$build/apt/status"
    arm_apt update
    arm_apt install --download-only libc6-dev check libjansson-dev libyaml-dev libssl-dev libdeflate-dev libnifti2-dev zlib1g-dev
    # Bare folders first: a package's /lib must not replace the link that usr-merged systems have.
    for folder in lib bin sbin; do mkdir -p "$root/usr/$folder" && ln -s usr/$folder "$root/$folder"; done
    for package in "$build"/apt/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -C "$root" --keep-directory-symlink -xf -
    done
    rm -rf "$build/apt"
    : >"$root/complete"
fi

cat >"$build/config.mk" <<END
TARGET := $($compiler -dumpmachine)
CC_VERSION := $($compiler -dumpfullversion)
NIFTI_CFLAGS := -isystem $root/usr/include/nifti
CHECK_LIBS := -lcheck -lsubunit -lm -lrt -lpthread
END
# shellcheck disable=SC2046
make -s -j"$(nproc)" --no-print-directory BUILD="$build" CC="$compiler --sysroot=$root" AR=aarch64-linux-gnu-ar \
    $(printf "$build/tests/test_%s " $compile $run)
for test in $run; do
    echo "# $test"
    CK_DEFAULT_TIMEOUT=300 timeout 600 qemu-aarch64 -L "$root" "$build/tests/test_$test"
done
