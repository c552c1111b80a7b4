#!/usr/bin/env python3
"""planted_faults.py [--all] [--only TEXT] [--trust]: that the tests of the CUDA kernels find faults.

Plants one fault after the other in a copy of the kernels, compiles that kernel as the build in $BUILD does, and runs its test
in the mode (cuda_mode.sh) that has to find it; with --all in every mode, for the table. Fails for a fault that is not found,
and for one whose line is no longer in the kernel: then the kernel has changed, and the table below has to follow.
"""
import argparse
import concurrent.futures
import os
import shlex
import shutil
import subprocess
import sys
import tempfile

MODES = {"late": "", "early": "", "address": "address,undefined", "thread": "thread"}
SYNC = "__syncthreads();\n"
WAIT = "copy_wait<0>();\n"
FETCH = "        if (tile + !next <= tail_tiles)\n            fetch(tile + !next, next, buffer ^ 1);\n        copy_commit();\n"

# kernel, test, what is wrong, the mode that finds it, where (engine/cuda/...), the text that is there once, what replaces it
FAULTS = [
    ("fused_gemm", "gemm", "no barrier after the copies' wait", "thread", "fused_gemm.cu",
     WAIT + "        " + SYNC + "        if (tile", WAIT + "        if (tile"),
    ("fused_gemm", "gemm", "a buffer is refilled before the barrier", "early", "fused_gemm.cu",
     WAIT + "        " + SYNC + FETCH, FETCH + "        copy_wait<1>();\n        " + SYNC),
    ("fused_gemm", "gemm", "no wait for the copies", "late", "fused_gemm.cu",
     WAIT + "        " + SYNC + "        if (tile", SYNC + "        if (tile"),
    ("fused_gemm", "gemm", "no guard of rows in the epilogue", "address", "fused_gemm.cu", "if (row0 + row + r < g.rows)", "if (true)"),
    ("fused_gemm", "gemm", "no guard of rows in fetch", "address", "tile.cuh", "source, own + r < left",
     "source, left > 0"),
    ("fused_gemm", "gemm", "4096 bytes of shared memory too few", "late", "fused_gemm.cu", "shared_of<TILE>(g), stream",
     "shared_of<TILE>(g) - 4096, stream"),
    ("fused_gemm", "gemm", "64 bytes of shared memory too few", "address", "fused_gemm.cu", "shared_of<TILE>(g), stream",
     "shared_of<TILE>(g) - 64, stream"),
    ("fused_gemm", "gemm", "the second of a pair begins late", "late", "fused_gemm.cu", "blockIdx.x - blocks_of_a", "blockIdx.x + 1 - blocks_of_a"),
    ("fused_gemm", "gemm", "a barrier in a branch", "late", "fused_gemm.cu", SYNC + "        normalise",
     "if (warp < 2)\n            " + SYNC + "        normalise"),
    ("fused_gemm", "gemm", "two different barriers", "late", "fused_gemm.cu", SYNC + "        normalise",
     "if (warp < 2)\n            " + SYNC + "        else\n            " + SYNC + "        normalise"),
    ("fused_gemm", "gemm", "a shuffle in a branch", "late", "fused_gemm.cu", "sum_of_quad(sum)",
     "(threadIdx.x % 32 < 16 ? sum_of_quad(sum) : sum)"),
    ("fused_gemm", "gemm", "fragments of b swapped", "late", "tile.cuh", "mma(d[i][j], a[i], b[0], b[1])", "mma(d[i][j], a[i], b[1], b[0])"),
    ("fused_gemm", "gemm", "no barrier before squares of the tail are read", "thread", "fused_gemm.cu",
     "squares);\n        " + SYNC, "squares);\n"),
    ("fused_gemm", "gemm", "no barrier of the warp before results are read", "thread", "fused_gemm.cu",
     "__syncwarp();\n    const int c", "const int c"),
    ("fused_gemm", "gemm", "residuals of other columns", "late", "fused_gemm.cu", "result, row0 + wm, column0 + wn);\n    copy",
     "result, row0 + wm, column0);\n    copy"),
    ("fused_attention", "attention", "a return before a barrier", "late", "fused_attention.cu",
     "if (row >= p.rows)\n                continue;", "if (row >= p.rows)\n                return;"),
    ("fused_attention", "attention", "a query read past the end", "address", "fused_attention.cu",
     "(const T *)p.queries + at, rows,", "(const T *)p.queries + at, H::ROWS,"),
    ("fused_attention", "attention", "no opt-in to 64 KiB", "late", "tile.cuh", "if (shared > 32 << 10)", "if (shared < 0)"),
    ("fused_attention", "attention", "ldmatrix without trans", "late", "fused_attention.cu", "load_matrix4_trans(b", "load_matrix4(b"),
    ("fused_attention", "attention", "keys behind the last one count", "late", "fused_attention.cu", "i >= count ? -INFINITY",
     "i >= count ? 0.0f"),
    ("fused_attention", "attention", "sums are not scaled when the maximum is raised", "late", "fused_attention.cu",
     "q.sum[t][i] *= shrink", "q.sum[t][i] *= 1"),
    ("fused_attention", "attention", "the maximum is raised once only", "late", "fused_attention.cu",
     "top * scale + q.shift[t][h] > SLACK;", "q.shift[t][h] > SLACK;"),
    ("fused_attention", "attention", "no barrier after loading keys", "thread", "fused_attention.cu",
     "copy_wait<0>();\n                " + SYNC, "copy_wait<0>();\n"),
    ("fused_attention", "attention", "no barrier before keys are refilled", "thread", "fused_attention.cu",
     "H::RUN) {\n                " + SYNC, "H::RUN) {\n"),
    ("fused_attention", "attention", "no barrier of the warp after loading queries", "thread", "fused_attention.cu",
     "__syncwarp();\n                begin", "begin"),
    ("fused_conv", "conv", "a wait for one group too few", "late", "fused_conv.cu", "copy_wait<STAGES - 2>", "copy_wait<STAGES - 1>"),
    ("fused_conv", "conv", "a butterfly that starts too low", "late", "token_end.cuh", "bits = LANES / 2;", "bits = LANES / 4;"),
    ("fused_conv", "conv", "no guard of the last edge", "late", "fused_conv.cu", " &&\n                 (unsigned)h < (unsigned)p.grid[1] && (unsigned)w < (unsigned)p.grid[2]",
     " &&\n                 (unsigned)h < (unsigned)p.grid[1]"),
    ("fused_stem", "conv", "sums over the patch without a barrier", "early", "fused_stem.cu", SYNC + "    float *sums", "float *sums"),
    ("fused_mixffn", "mixffn", "no barrier before hidden values are read", "thread", "fused_mixffn.cu", SYNC + "        if (column0",
     "if (column0"),
    ("fused_mixffn", "mixffn", "the halo is not zeroed", "late", "fused_mixffn.cu", "d >= 0 && d < p.grid[0] && h >= 0 &&", "d < p.grid[0] && h >= 0 &&"),
    ("fused_mixffn", "mixffn", "parts of the hidden channels overlap", "late", "fused_mixffn.cu", "(part + 1) / split * DEPTH",
     "(part + 1) / split * DEPTH + DEPTH"),
    ("fused_mixffn", "mixffn", "all parts' sums in one place", "late", "fused_mixffn.cu", "((size_t)part * tokens_of(p) + token)",
     "(size_t)token"),
    ("fused_decoder", "decoder", "no barrier before first samples are read", "thread", "fused_decoder.cu",
     SYNC + "    place_runs", "place_runs"),
    ("fused_decoder", "decoder", "samples beyond the end of a line are read", "address", "fused_decoder.cu",
     "min(max(grid[2] - w, 0), (int)RUN)", "(int)RUN"),
    ("fused_decoder", "decoder", "no barrier before sums of classes are read", "thread", "fused_decoder.cu",
     "wn * 64);\n        " + SYNC + "        if (token", "wn * 64);\n        if (token"),
    ("kernels_product", "", "no barrier after fetch", "late", "kernels_product.cu", "first, t);\n        " + SYNC, "first, t);\n"),
    ("kernels_product", "", "no barrier before a buffer is refilled", "early", "kernels_product.cu",
     "        }\n        " + SYNC + "    }", "        }\n    }"),
    ("kernels_attention", "", "no barrier after loading keys", "late", "kernels_attention.cu", "first, s);\n        " + SYNC, "first, s);\n"),
    ("kernels_attention", "", "keys behind the last one count", "late", "kernels_attention.cu", "is_inside ? a.scale * scores[i] + own : -INFINITY",
     "a.scale * scores[i] + own"),
    ("kernels_depthwise", "", "no guard of the last edge", "address", "kernels_depthwise.cu", "w >= 0 && w < p.grid[2] ?", "w >= 0 ?"),
    ("kernels_tokens", "", "a butterfly that starts too low", "late", "kernels_tokens.cu", "int bits = lanes / 2;", "int bits = lanes / 4;"),
    ("kernels_mix", "", "no guard of the last thread", "address", "kernels_mix.cu", "if (left >= m.batch)", "if (false)"),
    ("kernels_gather", "", "no guard of the last thread", "address", "kernels_gather.cu", "if (at >= (int64_t)g.rows * g.width)", "if (false)"),
    ("kernels_cut", "volume", "no guard of the last thread", "address", "kernels_cut.cu", "if (i >= count)", "if (false)"),
    ("kernels_cut", "volume", "a window's edges are read, not padded", "address", "kernels_cut.cu", "is_inside ? ((const", "true ? ((const"),
    ("kernels_cut", "volume", "what is cropped away is kept", "late", "kernels_cut.cu", "if (x < 0 || x >= c.size[a])", "if (x < 0)"),
]

SIGNS = [("ThreadSanitizer", "race"), ("use-after-poison", "poison"), ("AddressSanitizer", "overflow"), ("runtime error", "undefined"),
         ("emulated kernel:", "report"), ("== cudaSuccess", "refused"), ("signal", "abort")]

root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
build = os.path.abspath(os.environ.get("BUILD", os.path.join(root, "build")))
environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "SAN", "BUILD")}


def test_of(name):
    return "test_cuda" + (name and "_" + name)


def folder_of(mode):
    return build if mode in ("late", "early") else os.path.join(build, "cuda-" + mode)


def commands_of(mode):
    """How make compiles and links in a mode's folder: the words of each command, by the name of what it makes."""
    folder = folder_of(mode)
    tests = [os.path.join(folder, "tests", test_of(t)) for t in {f[1] for f in FAULTS}]
    said = subprocess.run(["make", "-n", "--no-print-directory", "SAN=" + MODES[mode], "BUILD=" + folder, f"LIBCPU={build}/libcpu.a", *tests],
                          cwd=root, env=environment, check=True, capture_output=True, text=True).stdout
    commands = {}
    for line in said.replace("\\\n", " ").splitlines():
        if " -o " in line and not line.lstrip().startswith("echo"):
            words = shlex.split(line)
            commands[os.path.basename(words[words.index("-o") + 1])] = words
    return commands


def plant(fault, scratch):
    """The sources with the fault in a new folder."""
    _, _, _, _, file, text, instead = fault
    folder = tempfile.mkdtemp(dir=scratch)
    shutil.copytree(os.path.join(root, "engine/cuda"), os.path.join(folder, "engine/cuda"))
    os.symlink(os.path.join(root, "tests"), os.path.join(folder, "tests"))
    path = os.path.join(folder, "engine/cuda", file)
    with open(path, encoding="utf-8") as f:
        source = f.read()
    if source.count(text) != 1:
        sys.exit(f"planted_faults: {file}: \"{fault[2]}\" no longer applies: its line is there {source.count(text)} times")
    with open(path, "w", encoding="utf-8") as f:
        f.write(source.replace(text, instead))
    return folder


def build_with(fault, folder, mode, commands):
    """The test, linked with the kernel of that folder."""
    kernel, test = fault[0], test_of(fault[1])
    program, made = os.path.join(folder, mode), os.path.join(folder, mode + ".o")
    compiling, linking = commands[kernel + ".o"], commands[test]
    subprocess.run([*compiling[:compiling.index("-o")], "-g0", "-O1", "-w", "-MF", os.devnull, "-o", made], cwd=folder, env=environment, check=True)
    at = linking.index("-Wl,--start-group")
    linking = [*linking[:at], made, *linking[at:]]
    linking[linking.index("-o") + 1] = program
    subprocess.run(linking, cwd=root, env=environment, check=True)
    return program


def outcome(program, mode):
    """What a program's test finds, or "-"."""
    ran = subprocess.run([os.path.join(root, "scripts/cuda_mode.sh"), mode, program], cwd=root, check=False, timeout=900,
                         env={**environment, "CK_VERBOSITY": "normal"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if ran.returncode == 0:
        return "-"
    said = ran.stdout.decode(errors="replace")
    return next((name for sign, name in SIGNS if sign in said), "wrong")


def find(fault, modes, scratch, commands):
    folder = plant(fault, scratch)
    found, program = {}, None
    for mode in modes:
        if mode != "early" or "late" not in modes:
            program = build_with(fault, folder, mode, commands[folder_of(mode)])
        found[mode] = outcome(program, mode)
    shutil.rmtree(folder)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every fault in every mode")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose line of the table has this in it")
    parser.add_argument("--trust", action="store_true", help="the tests were just found sound: they are not run without a fault")
    options = parser.parse_args()
    faults = [f for f in FAULTS if options.only in f"{f[0]}: {f[2]}"]
    needed = set(MODES if options.all else [f[3] for f in faults])
    commands = {folder_of(mode): commands_of(mode) for mode in sorted(needed)}
    survivors = 0
    print(f"{'fault':<64}" + "".join(f"{m:<10}" for m in MODES))
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
        tested = [] if options.trust else sorted({(f[1], m) for f in faults for m in (MODES if options.all else [f[3]])})
        sound = workers.map(lambda key: (key, outcome(os.path.join(folder_of(key[1]), "tests", test_of(key[0])), key[1])), tested)
        for (test, mode), found in sound:
            if found != "-":
                sys.exit(f"planted_faults: {test_of(test)} fails without any fault, {mode}: {found}")
        results = workers.map(lambda f: find(f, list(MODES) if options.all else [f[3]], scratch, commands), faults)
        for fault, found in zip(faults, results):
            survives = found[fault[3]] == "-"
            survivors += survives
            print(f"{fault[0] + ': ' + fault[2]:<64}" + "".join(f"{found.get(m, ''):<10}" for m in MODES)
                  + (f"<-- not found, {fault[3]}" if survives else ""), flush=True)
    print(f"{len(faults) - survivors} of {len(faults)} faults found")
    return survivors > 0


if __name__ == "__main__":
    sys.exit(main())
