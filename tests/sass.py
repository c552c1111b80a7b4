"""The walk through a kernel's instructions (scripts/sass.py) against what the kernel's source must do."""
import os
import struct
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "scripts"))
import cuda_model
import sass

THREADS = 96


def expected(count, by):
    """Stores that warps issue, and the places that they differ in: every i / by has a sector of its own."""
    stores = sectors = 0
    for warp in range(0, THREADS, 32):
        for first in range(warp, count, THREADS):
            stores += 1
            sectors += len({i // by for i in range(first, min(first + 32, count))})
    return stores, sectors


def main():
    with open(os.path.join(ROOT, "tests", "data", "strided.sass")) as lines:
        kernel = sass.read_kernels(lines)["_Z7stridedPiii"]
    assert len(kernel.code) == 56, len(kernel.code)
    for count, by in ((0, 3), (1, 1), (95, 7), (96, 3), (97, 2), (1000, 13), (5000, 999), (64, 1 << 30)):
        block = sass.Block(kernel, (1, 1, 1), (0, 0, 0), THREADS, struct.pack("<Qii", 1 << 20, count, by)).walk()
        stores = sum(int(n) for i, n in zip(kernel.code, block.counts) if i.op == "STG")
        assert (stores, block.sectors) == expected(count, by), (count, by, stores, block.sectors)
    block = sass.Block(kernel, (5, 6, 7), (0, 0, 0), THREADS, b"")
    assert list(block.bank[:24].view("<u4")) == [THREADS, 1, 1, 5, 6, 7]  # blockDim, gridDim
    launch = cuda_model.Launch(kernel, (16, 0), (265, 1, 1), THREADS, 0, struct.pack("<Qii", 1 << 20, 96, 1))
    assert launch.resident == 21 and launch.sectors == 265 * 96, (launch.resident, launch.sectors)
    # two blocks follow on one multiprocessor's four slots, and a third on one of the 132
    assert abs(launch.seconds(0)["issue"] * cuda_model.CLOCK * 4 * cuda_model.EFFICIENCY - 3 * launch.issued) < 1e-6


if __name__ == "__main__":
    main()
