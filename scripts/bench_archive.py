"""A labelled archive end to end beside PyTorch doing the same job, and how far bf16 is from f32 in both.

    python3 scripts/bench_archive.py MODEL ARCHIVE [--nocturne PROGRAM] [--threads N] [--rounds N] [--tables FOLDER]

By turns on the same cores: scripts/segment_torch.py on a share of the scans in each round (all of them together), and
`nocturne scan` and `run` with one worker on all of them in each. A figure is the best round. PyTorch's imports and loading do
not count, Nocturne's start does. Exit 1: the masks of f32 differ by more than ties, or bf16 of Nocturne is worse than
PyTorch's autocast in agreement of voxels or logits or is too far from f32 in Dice.
"""
import argparse
import csv
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import numpy

import markdown_table
import safetensors_file
import segment_torch

HERE = os.path.dirname(os.path.abspath(__file__))
TIES = 1e-5            # share of voxels whose two largest logits are equal to rounding
MEAN_DICE, SCAN_DICE = 1e-3, 1e-2


class Best:
    """Seconds a study: the best round in wall time and in time of the cores."""

    def __init__(self):
        self.seconds = self.cpu_seconds = float("inf")

    def add(self, studies, seconds, cpu_seconds):
        self.seconds = min(self.seconds, seconds / studies)
        self.cpu_seconds = min(self.cpu_seconds, cpu_seconds / studies)


class Torch:
    """Masks lie in `masks`; `dice` has a row of labels by key."""

    def __init__(self, job, precision):
        self.job, self.precision, self.best, self.dice = job, precision, Best(), {}
        self.name = f"PyTorch {precision}"
        self.masks, self.tensors = (os.path.join(job.folder, "torch-" + precision, d) for d in ("masks", "tensors"))
        os.makedirs(self.tensors)

    def round(self, number):
        subprocess.run([sys.executable, os.path.join(HERE, "segment_torch.py"), self.job.model, self.job.archive, self.masks,
                        "--threads", str(self.job.threads), "--precision", self.precision, "--tensors", self.tensors,
                        "--part", f"{number}/{self.job.rounds}"], check=True, stdout=subprocess.DEVNULL)
        with open(os.path.join(self.masks, "result.json"), encoding="utf-8") as file:
            result = json.load(file)
        self.name = f"PyTorch {result['version']} {self.precision}" + (" (autocast)" if self.precision == "bf16" else "")
        self.dice.update(result["dice"])
        self.best.add(len(result["dice"]), result["seconds"], result["cpu_seconds"])

    def take_tensors(self, key):
        path = os.path.join(self.tensors, key + ".safetensors")
        tensors = safetensors_file.read(path)[0]
        os.remove(path)
        return tensors


class Nocturne:
    def __init__(self, job, precision):
        self.job, self.precision, self.best, self.dice = job, precision, Best(), {}
        self.name = f"Nocturne {precision}"
        self.masks = os.path.join(job.folder, "nocturne-" + precision, "masks")

    def call(self, *words):
        return subprocess.run([self.job.nocturne, *words, "--log-level", "error"], check=True, cwd=self.folder,
                              stdout=subprocess.PIPE, text=True).stdout

    def round(self, number):
        self.folder = os.path.join(self.job.folder, "nocturne-" + self.precision, str(number))
        os.makedirs(self.folder)
        cpu, begin = self.cpu_seconds(), time.perf_counter()
        self.call("scan", self.job.archive)
        self.call("run", *self.flags(), "--workers", "1", "--progress", "none")
        seconds, cpu = time.perf_counter() - begin, self.cpu_seconds() - cpu
        with open(os.path.join(self.folder, "results", "run.json"), encoding="utf-8") as file:
            run = json.load(file)
        self.name = f"Nocturne {self.precision} ({run['isa']})"
        self.best.add(run["done"], seconds, cpu)

    def flags(self):
        return "-m", self.job.model, "--device", "cpu", "--precision", self.precision, "--threads", str(self.job.threads)

    def collect(self):
        self.call("export", "-o", self.masks)
        for row in csv.DictReader(io.StringIO(self.call("report", "--csv"))):
            self.dice.setdefault(row["key"], []).append(float(row["dice"]))

    def logits(self, volume):
        given, got = (os.path.join(self.folder, name) for name in ("input.safetensors", "logits.safetensors"))
        safetensors_file.write(given, {"input": volume})
        self.call("forward", "--sliding", *self.flags(), "--input", given, "--output", got)
        return safetensors_file.read(got)[0]["logits"]

    @staticmethod
    def cpu_seconds():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime


class Job:
    def __init__(self, options, folder):
        self.model, self.archive, self.nocturne = map(os.path.abspath, (options.model, options.archive, options.nocturne))
        self.threads, self.folder = options.threads, folder
        self.keys = [key for key, _, _ in segment_torch.studies(self.archive)]
        self.rounds = min(options.rounds, len(self.keys))
        self.torch = {p: Torch(self, p) for p in ("f32", "bf16")}
        self.nocturne_runs = {p: Nocturne(self, p) for p in ("f32", "bf16")}
        self.engines = [e for p in ("f32", "bf16") for e in (self.torch[p], self.nocturne_runs[p])]
        self.errors = {engine: 0.0 for engine in self.engines}

    def measure(self):
        for number in range(self.rounds):
            for engine in self.engines:
                print(f"round {number + 1} of {self.rounds}: {engine.name}", file=sys.stderr)
                engine.round(number)
            for key in self.keys[number::self.rounds]:
                self.compare_logits(key)
        for engine in self.nocturne_runs.values():
            engine.collect()

    def compare_logits(self, key):
        """Largest difference of a logit from PyTorch in f32, as a share of the scan's largest."""
        wanted, bf16 = (self.torch[p].take_tensors(key) for p in ("f32", "bf16"))
        got = {self.torch["bf16"]: bf16["logits"]}
        got |= {engine: engine.logits(wanted["input"]) for engine in self.nocturne_runs.values()}
        largest = numpy.abs(wanted["logits"]).max()
        for engine, logits in got.items():
            self.errors[engine] = max(self.errors[engine], float(numpy.abs(logits - wanted["logits"]).max() / largest))


def masks(engine, key):
    import nibabel
    return numpy.asarray(nibabel.load(os.path.join(engine.masks, key + ".nii.gz")).dataobj)


def voxels(job, one, other, is_foreground):
    """Voxels that `one` and `other` label alike, and all that count: of `one`'s foreground, or every voxel."""
    same = total = 0
    for key in job.keys:
        a, b = masks(one, key), masks(other, key)
        counted = a > 0 if is_foreground else numpy.ones_like(a, bool)
        same, total = same + int((a == b)[counted].sum()), total + int(counted.sum())
    return same, total


def mean_dice(engine, key=None):
    return float(numpy.nanmean([engine.dice[key]] if key else list(engine.dice.values())))


def speed(job):
    rows = []
    for engine in job.engines:
        own = job.nocturne_runs[engine.precision].best
        ratio = "" if isinstance(engine, Nocturne) else f"{engine.best.seconds / own.seconds:.1f}x"
        work = "" if isinstance(engine, Nocturne) else f"{engine.best.cpu_seconds / own.cpu_seconds:.1f}x"
        rows.append([engine.name, f"{engine.best.seconds * 1e3:.1f}", f"{3600 / engine.best.seconds:,.0f}", ratio,
                     f"{engine.best.cpu_seconds * 1e3:.1f}", work, f"{mean_dice(engine):.4f}"])
    return markdown_table.text(["engine", "ms a study", "studies an hour", "Nocturne is faster by", "ms of CPU a study",
                                "by CPU", "mean Dice"], rows)


class Agreement:
    """bf16 of an engine against its own f32; its logits against PyTorch in f32."""

    def __init__(self, job, f32, bf16):
        same, total = voxels(job, f32, bf16, True)
        self.name, self.share, self.error = bf16.name, same / total, job.errors[bf16]
        self.mean = mean_dice(bf16) - mean_dice(f32)
        self.worst = min((mean_dice(bf16, key) - mean_dice(f32, key) for key in job.keys), key=lambda d: -abs(d))

    def row(self):
        return [self.name, f"{self.share:.3%}", f"{self.error:.1e}", f"{self.mean:+.5f}", f"{self.worst:+.5f}"]


def complaints(share_of_equal, ours, theirs):
    if share_of_equal < 1 - TIES:
        yield f"f32: only {share_of_equal:.5%} of the voxels are equal: not the same job"
    if ours.share < theirs.share or ours.error > theirs.error:
        yield "bf16: further from f32 than PyTorch's autocast"
    if abs(ours.mean) > MEAN_DICE or abs(ours.worst) > SCAN_DICE:
        yield "bf16: its Dice is too far from that of f32"


def main():
    parser = argparse.ArgumentParser(description="an archive end to end beside PyTorch")
    parser.add_argument("model")
    parser.add_argument("archive", help="a labelled archive in the Decathlon layout")
    parser.add_argument("--nocturne", default="build/nocturne")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tables", metavar="FOLDER", help="write the tables to FOLDER/archive-N-threads.md too")
    options = parser.parse_args()
    caption = markdown_table.machine(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(options, folder)
        job.measure()
        same, total = voxels(job, job.torch["f32"], job.nocturne_runs["f32"], False)
        theirs, ours = (Agreement(job, e["f32"], e["bf16"]) for e in (job.torch, job.nocturne_runs))
        head = ["bf16", "foreground voxels as in f32", "largest difference of a logit", "mean Dice", "a scan's Dice at worst"]
        off = job.errors[job.nocturne_runs["f32"]]
        markdown_table.publish([
            f"{len(job.keys)} scans; {caption}\n", speed(job),
            f"Masks of f32: {total - same} of {total:,} voxels differ; logits of f32 by at most {off:.1e} of the largest.\n",
            markdown_table.text(head, [ours.row(), theirs.row()])], options.tables, f"archive-{options.threads}-threads")
        wrong = list(complaints(same / total, ours, theirs))
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
