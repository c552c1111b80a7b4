#!/usr/bin/env python3
"""cuda_model.py LAUNCHES PTXAS...: what each launch of a network must cost on an H100, a model: nothing was timed.

LAUNCHES is what tests/cuda_model.c prints on the emulated device, PTXAS are nvcc's logs of the kernels beside their cubins.
Each launch's middle block is walked (sass.py) through the instructions that nvdisasm prints, and counted: what it issues, how
busy that keeps each unit, and the 32-byte sectors that it asks for. A launch takes the longest of
  bytes    its tensors once through device memory
  L2       all sectors through the cache
  issue    the instructions of the blocks of the busiest multiprocessor, at EFFICIENCY of its four a cycle
  a unit   the same for its tensor cores, shared memory, integer and conversion units, each at its full rate
  latency  a block alone, as often as blocks follow each other in a place: waits for copies, or instructions one after another
and the gap before the next launch. Not in it: bank conflicts (make cuda-count shows none where it matters), instruction cache,
register banks, the different lengths of blocks at the edges, clocks below CLOCK, overlap of launches.
"""

import collections
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import sass  # noqa: E402
import markdown_table  # noqa: E402

MULTIPROCESSORS, CLOCK = 132, 1.755e9
MEMORY, L2 = 3.35e12, 5.5e12  # bytes a second; of the cache: what microbenchmarks of this device read
GAP = 1.5e-6  # between two launches of a graph
EFFICIENCY = 0.75  # of the issue slots, with two blocks and more a multiprocessor: what well fed kernels reach
WAIT, ALONE = 600, 4  # cycles: for a copy from the cache or memory; for each instruction of a warp with no others beside it
SLOTS = 4  # instructions a cycle of a multiprocessor
# Lanes a cycle, of the programming guide's table for compute capability 9.0. The tensor cores by mma.sync: 620 of 990 TFLOP/s.
TENSOR = 620e12 / 2 / 2048 / MULTIPROCESSORS / CLOCK  # products of 16x8x16 a cycle
INTEGER = {"IADD3", "VIADD", "LOP3", "SHF", "LEA", "ISETP", "FSETP", "SEL", "FSEL", "FMNMX", "PRMT", "F2FP", "IABS", "MOV",
           "PLOP3", "VIMNMX", "VIADDMNMX", "I2FP", "P2R"}
BOUND = {"tensor": 990e12 / 2, "exp": MULTIPROCESSORS * 16 * CLOCK, "fma": MULTIPROCESSORS * 128 * CLOCK}


def unit_of(instruction):
    """(unit, cycles of the multiprocessor that a warp's instruction keeps it busy)."""
    op, parts = instruction.op, instruction.parts
    if op == "HMMA":
        return "tensor", 1 / TENSOR
    if op in ("LDS", "STS", "LDSM", "LDGSTS", "LDG", "STG"):
        return "shared", 4 if op == "LDSM" or "128" in parts else 2 if "64" in parts else 1
    if op == "SHFL":
        return "shared", 1
    if op in ("MUFU", "F2I", "I2F"):
        return "exp", 2
    if op in INTEGER:
        return "integer", 0.5
    if op == "IMAD":
        return "multiply", 0.5
    return "fma", 0.25


def read_limits(logs):
    """Registers and static shared memory of each kernel."""
    limits = {}
    for log in logs:
        name = None
        for line in open(log):
            found = re.search(r"Compiling entry function '(\w+)'", line)
            name = found[1] if found else name
            used = re.search(r"Used (\d+) registers", line)
            if used:
                fixed = re.search(r"(\d+) bytes smem", line)
                limits[name] = int(used[1]), int(fixed[1]) if fixed else 0
    return limits


def resident_blocks(threads, registers, shared):
    """Of compute capability 9.0, a multiprocessor."""
    warps = threads // 32
    return min(65536 // (warps * -(-registers // 8) * 256), 228 * 1024 // (shared + 1024), 2048 // threads, 32)


class Launch:
    def __init__(self, kernel, limits, grid, threads, shared, arguments):
        middle = [g // 2 for g in grid]
        block = sass.Block(kernel, grid, middle, threads, arguments).walk()
        self.blocks = grid[0] * grid[1] * grid[2]
        self.resident = resident_blocks(threads, limits[0], limits[1] + shared)
        self.warps = threads // 32
        self.issued = int(block.counts.sum())
        self.sectors = block.sectors * self.blocks
        self.units, self.ops = collections.Counter(), collections.Counter()
        for instruction, count in zip(kernel.code, block.counts):
            unit, cycles = ("none", 0) if instruction.guard == "!PT" else unit_of(instruction)
            self.units[unit] += cycles * int(count)
            self.ops[instruction.op] += int(count)
        self.waits = self.ops["DEPBAR"] / self.warps

    def seconds(self, bytes_once):
        """By what, in seconds of the batch."""
        in_place, whole = self.resident * MULTIPROCESSORS, self.blocks // (self.resident * MULTIPROCESSORS)
        rest = self.blocks - whole * in_place
        busiest = whole * self.resident + -(-rest // MULTIPROCESSORS)
        waves = whole + (rest > 0)
        one = max(self.waits * WAIT, self.issued / self.warps * ALONE)
        cycles = {"issue": busiest * self.issued / SLOTS / EFFICIENCY, "latency": waves * one}
        cycles.update((unit, busiest * value) for unit, value in self.units.items() if unit not in ("fma", "none"))
        times = {name: value / CLOCK for name, value in cycles.items()}
        times["bytes"], times["L2"] = bytes_once / MEMORY, self.sectors * 32 / L2
        return times


def read_launches(path):
    """The batch, and ops as [name, times, macs, bytes, exponentials, others, launches]."""
    batch, ops = 1, []
    for line in open(path):
        kind, *fields = line.rstrip("\n").split("\t")
        if kind == "batch":
            batch = int(fields[0])
        elif kind == "op":
            ops.append([fields[0], int(fields[1]), *map(float, fields[2:]), []])
        elif kind == "launch":
            ops[-1][-1].append(fields)
    return batch, ops


def disassemble(logs):
    kernels = {}
    for log in logs:
        text = subprocess.run(["nvdisasm", log.replace(".ptxas", ".cubin")], capture_output=True, text=True, check=True).stdout
        kernels.update(sass.read_kernels(text.splitlines()))
    return kernels


def main(path, logs):
    if not shutil.which("nvdisasm"):
        sys.exit("cuda_model: no nvdisasm here (PyPI: nvidia-cuda-nvdisasm); put it into PATH")
    kernels, limits = disassemble(logs), read_limits(logs)
    batch, ops = read_launches(path)
    rows, total, bound_total, launches = [], 0, 0, 0
    for name, times, macs, size, exponentials, others, recorded in ops:
        bound = max(size / MEMORY, macs / BOUND["tensor"], exponentials / BOUND["exp"], others / BOUND["fma"]) * times
        spent = collections.Counter()
        for symbol, x, y, z, threads, shared, arguments in recorded:
            launch = Launch(kernels[symbol], limits[symbol], (int(x), int(y), int(z)), int(threads), int(shared),
                            bytes.fromhex(arguments))
            spent.update(launch.seconds(size * batch))
            if os.environ.get("MODEL_DETAIL"):
                print("%-36s %5d blocks %d a SM, %6d issued a warp, %4d waits, %s" % (
                    name, launch.blocks, launch.resident, launch.issued // launch.warps, launch.waits, launch.ops.most_common(12)))
        spent = {key: value * times / batch * 1e6 for key, value in spent.items()}
        units = {key: spent[key] for key in spent if key not in ("bytes", "L2", "issue", "latency")}
        limit = max(spent, key=spent.get)
        count = len(recorded) * times
        modelled = spent[limit] + count * GAP / batch * 1e6
        unit = max(units, key=units.get)
        rows.append([name, str(count)] + ["%.2f" % spent[k] for k in ("bytes", "L2", "issue")] + [
            "%.2f %s" % (units[unit], unit), "%.2f" % spent["latency"], "%.2f" % modelled, "%.2f" % (bound * 1e6), limit])
        total, bound_total, launches = total + modelled, bound_total + bound * 1e6, launches + count
    rows.append(["**sum**", str(launches), "", "", "", "", "", "**%.1f**" % total, "%.1f" % bound_total, ""])
    print(markdown_table.text(["op, us of a window at batch %d" % batch, "launches", "bytes", "L2", "issue", "busiest unit", "latency",
                          "modelled, with gap", "roofline", "limit"], rows), end="")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
