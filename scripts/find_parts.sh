#!/bin/sh
# Finds the libraries by compiling and linking two lines against each, and writes what it found as make variables.
# Usage: CC=gcc scripts/find_parts.sh OUTPUT.mk        Missing parts: one line each with the packages, exit 1.
set -u

output=$1
CC=${CC:-gcc}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
missing=''

# try 'SOURCE' FLAGS...: true when the program links
try()
{
    printf '%s\n' "$1" >"$work/try.c"
    shift
    $CC "$work/try.c" -o "$work/try" "$@" >"$work/log" 2>&1
}

# said NAME PACKAGES: notes a part that is not there
said()
{
    echo "make: $1 not found: apt-get install $2  (or: make deps)" >&2
    missing=1
}

# header 'SOURCE' NAME PACKAGES FLAGS...
need()
{
    source=$1 name=$2 packages=$3
    shift 3
    try "$source" "$@" || said "$name" "$packages"
}

version_of()
{
    pkg-config --modversion "$1" 2>/dev/null || echo unknown
}

if ! try 'int main(void) { return 0; }'; then
    echo "make: the C compiler '$CC' does not work: apt-get install gcc libc6-dev  (or: make deps)" >&2
    exit 1
fi

# Open MPI: its wrapper says the flags, the compiler stays ours.
mpi_cflags='' mpi_libs='' mpi_version='' mpi_ok=''
for wrapper in ${MPICC:-mpicc.openmpi mpicc}; do
    mpi_version=$($wrapper --showme:version 2>/dev/null | sed -n 's/.*Open MPI \([0-9.a-z]*\).*/\1/p')
    [ -n "$mpi_version" ] || continue
    mpi_cflags=$($wrapper --showme:compile | sed 's/-I *\//-isystem \//g')
    mpi_libs=$($wrapper --showme:link)
    # shellcheck disable=SC2086
    if try '#include <mpi.h>
int main(int n, char **v) { return MPI_Init(&n, &v); }' $mpi_cflags $mpi_libs; then
        mpi_ok=1
        break
    fi
done
[ -n "$mpi_ok" ] || said 'Open MPI' 'libopenmpi-dev openmpi-bin'

# Parallel HDF5 of the same MPI: pkg-config knows it, else the places where distributions put it.
hdf5_cflags='' hdf5_libs='' hdf5_ok='' hdf5_version=''
multiarch=$($CC -print-multiarch 2>/dev/null)
try_hdf5()
{
    # shellcheck disable=SC2086
    try '#include <hdf5.h>
#ifndef H5_HAVE_PARALLEL
#error serial
#endif
int main(void) { return (int)H5Pset_fapl_mpio(H5Pcreate(H5P_FILE_ACCESS), MPI_COMM_WORLD, MPI_INFO_NULL); }' \
        $1 $mpi_cflags $2 $mpi_libs || return 1
    hdf5_cflags=$1 hdf5_libs=$2 hdf5_ok=1
    hdf5_version=$(printf '#include <hdf5.h>\nversion H5_VERS_MAJOR H5_VERS_MINOR H5_VERS_RELEASE\n' |
        $CC -E -P $1 $mpi_cflags - 2>/dev/null | sed -n 's/^version \([0-9]*\) \([0-9]*\) \([0-9]*\)$/\1.\2.\3/p')
}
if [ -n "$mpi_ok" ]; then
    for package in hdf5-openmpi hdf5-mpi; do
        [ -z "$hdf5_ok" ] || break
        flags=$(pkg-config --cflags-only-I $package 2>/dev/null) || continue
        try_hdf5 "$(echo "$flags" | sed 's/-I *\//-isystem \//g')" \
            "$(pkg-config --libs-only-L --libs-only-l $package | sed 's/-lmpi[a-z0-9_]*//g')"
    done
    for place in "/usr/include/hdf5/openmpi:/usr/lib/$multiarch/hdf5/openmpi" "/usr/include/openmpi-${multiarch%%-*}:/usr/lib64/openmpi/lib"; do
        [ -z "$hdf5_ok" ] || break
        try_hdf5 "-isystem ${place%%:*}" "-L${place#*:} -lhdf5"
    done
    [ -n "$hdf5_ok" ] || try_hdf5 '' '-lhdf5'
    [ -n "$hdf5_ok" ] || said 'parallel HDF5 for Open MPI' 'libhdf5-openmpi-dev'
fi

need '#include <sqlite3.h>
int main(void) { return sqlite3_libversion_number(); }' SQLite libsqlite3-dev -lsqlite3
need '#include <libdeflate.h>
int main(void) { return !libdeflate_alloc_decompressor(); }' libdeflate libdeflate-dev -ldeflate
need '#include <yaml.h>
int main(void) { yaml_parser_t p; return yaml_parser_initialize(&p); }' libyaml libyaml-dev -lyaml
need '#include <jansson.h>
int main(void) { return !json_object(); }' jansson libjansson-dev -ljansson
need '#include <openssl/evp.h>
int main(void) { return !EVP_MD_CTX_new(); }' libcrypto libssl-dev -lcrypto

nifti_cflags=''
for folder in /usr/include/nifti /usr/local/include/nifti; do
    [ -f "$folder/nifti2_io.h" ] && nifti_cflags="-isystem $folder" && break
done
# shellcheck disable=SC2086
need '#include <nifti2_io.h>
int main(void) { return nifti_is_inttype(4); }' 'NIfTI-2 library' 'libnifti2-dev zlib1g-dev' $nifti_cflags -lnifti2 -lznz -lz -lm

# Only the tests need Check, so its absence stops them alone.
check_cflags=$(pkg-config --cflags-only-I check 2>/dev/null)
check_libs=$(pkg-config --libs check 2>/dev/null || echo '-lcheck -lsubunit -lm -lrt -lpthread')
# shellcheck disable=SC2086
if try '#include <check.h>
int main(void) { return !suite_create("s"); }' $check_cflags $check_libs -pthread; then
    check_version=$(version_of check)
else
    check_version='' check_libs=''
fi

[ -z "$missing" ] || exit 1

nvcc=$(command -v nvcc 2>/dev/null || true)
[ -n "$nvcc" ] || { [ -x /usr/local/cuda/bin/nvcc ] && nvcc=/usr/local/cuda/bin/nvcc; }
nvcc_version=''
[ -z "$nvcc" ] || nvcc_version=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p')

# CUDA is built where nvcc, its host compiler and the static runtime work together. The tests' emulation of a GPU needs the
# toolkit's headers and a C++ compiler alone.
CXX=${CXX:-g++}
cuda_folder=${nvcc:+$(dirname "$(dirname "$(readlink -f "$nvcc")")")} cuda_libs='' cuda_include=''
for folder in ${cuda_folder:+"$cuda_folder"} /usr/local/cuda /usr; do
    printf '%s\n' '#include <cuda_runtime_api.h>' '#include <cuda_fp16.h>' '#include <cuda_bf16.h>' >"$work/try.cc"
    [ -f "$folder/include/cuda_runtime_api.h" ] && $CXX -std=c++17 -I"$folder/include" -c "$work/try.cc" -o "$work/try.o" \
        >"$work/log" 2>&1 && cuda_include=$folder/include && break
done
if [ -n "$nvcc" ] && [ -n "$cuda_include" ]; then
    printf '__global__ void f() {}\nextern "C" int g() { int n; return cudaGetDeviceCount(&n); }\n' >"$work/try.cu"
    for folder in "$cuda_folder/lib64" "$cuda_folder/lib" "/usr/lib/$multiarch"; do
        "$nvcc" -ccbin "$CXX" -std=c++17 -c "$work/try.cu" -o "$work/try.o" >"$work/log" 2>&1 &&
            try 'int g(void); int main(void) { return g(); }' "$work/try.o" -L"$folder" -lcudart_static -lstdc++ -ldl -lrt -pthread &&
            cuda_libs="-L$folder -lcudart_static -lstdc++ -ldl -lrt" && break
    done
fi
[ -n "$cuda_libs" ] || nvcc=''

cat >"$output.new" <<END
TARGET := $($CC -dumpmachine)
CC_VERSION := $($CC -dumpfullversion -dumpversion)
MPI_VERSION := $mpi_version
MPI_CFLAGS := $mpi_cflags
MPI_LIBS := $mpi_libs
HDF5_VERSION := $hdf5_version
HDF5_CFLAGS := $hdf5_cflags
HDF5_LIBS := $hdf5_libs
NIFTI_CFLAGS := $nifti_cflags
SQLITE_VERSION := $(version_of sqlite3)
DEFLATE_VERSION := $(version_of libdeflate)
YAML_VERSION := $(version_of yaml-0.1)
JANSSON_VERSION := $(version_of jansson)
CRYPTO_VERSION := $(version_of libcrypto)
CHECK_VERSION := $check_version
CHECK_CFLAGS := $check_cflags
CHECK_LIBS := $check_libs
CXX := $CXX
NVCC := $nvcc
CUDA_LIBS := $cuda_libs
CUDA_INCLUDE := $cuda_include
NVCC_VERSION := $nvcc_version
END
mv "$output.new" "$output"
