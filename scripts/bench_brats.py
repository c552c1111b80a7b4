"""Seconds a whole case of BraTS, from file to mask and Dice, with the published network and random weights.

    python3 scripts/bench_brats.py [--nocturne PROGRAM] [--cases N] [--rounds N]

Phantoms of both namings (scripts/brats_phantoms.py), prepared as SegFormer3D does (scaled slice by slice, one window of
128^3 in the middle) and whole (z-score, windows that overlap by half). One process with all cores, by turns; a figure is the
best round of `scan` and `run` with their start, on the clock and of CPU.
"""
import argparse
import json
import os
import resource
import subprocess
import tempfile
import time

import brats_phantoms
import markdown_table
import untrained_model

PREPARATIONS = {"the middle, 1 window": [{"step": "minmax_slices"},
                                         {"step": "crop", "start": [13, 56, 56], "size": [128, 128, 128]}],
                "whole, 18 windows": [{"step": "zscore_nonzero"}]}


def make_model(folder, naming, prepare):
    plain, enhancing = untrained_model.MANIFEST, brats_phantoms.NAMINGS[naming][3]
    labels = {"TC": [1, enhancing], "WT": [1, 2, enhancing], "ET": [enhancing]}
    untrained_model.write(folder, plain | {
        "input": plain["input"] | {"prepare": prepare},
        "output": {"kind": "regions", "regions": [{"name": name, "truth_labels": labels[name]} for name in labels]}})


def measure(nocturne, archive, model, precision):
    """Seconds a case, seconds of CPU a case, instruction set."""
    with tempfile.TemporaryDirectory() as folder:
        begin, cpu = time.perf_counter(), cpu_seconds()
        for words in (["scan", archive], ["run", "-m", model, "--device", "cpu", "--precision", precision, "--ranks", "1",
                                          "--progress", "none"]):
            subprocess.run([nocturne, *words, "--log-level", "error"], check=True, cwd=folder, stdout=subprocess.DEVNULL)
        seconds, cpu = time.perf_counter() - begin, cpu_seconds() - cpu
        with open(os.path.join(folder, "results", "run.json"), encoding="utf-8") as file:
            run = json.load(file)
        return seconds / run["done"], cpu / run["done"], run["isa"]


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def rounds(nocturne, folder, count):
    """A row of the table for each preparation and precision."""
    best, namings = {}, list(brats_phantoms.NAMINGS)
    for _ in range(count):
        for name in PREPARATIONS:
            for precision in ("f32", "bf16"):
                for naming in namings:
                    archive, model = os.path.join(folder, naming), os.path.join(folder, naming + name)
                    *times, isa = measure(nocturne, archive, model, precision)
                    place = name, f"{precision} ({isa})"
                    figures = best.setdefault(place, {}).get(naming, times)
                    best[place][naming] = [min(pair) for pair in zip(figures, times)]
    return [[*place, *(f"{seconds:.2f} / {cpu:.2f}" for seconds, cpu in map(found.get, namings))]
            for place, found in best.items()]


def main():
    parser = argparse.ArgumentParser(description="seconds a whole case of BraTS")
    parser.add_argument("--nocturne", default="build/nocturne")
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    caption = markdown_table.machine(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        for naming in brats_phantoms.NAMINGS:
            brats_phantoms.write(os.path.join(folder, naming), options.cases, naming)
            for name, prepare in PREPARATIONS.items():
                make_model(os.path.join(folder, naming + name), naming, prepare)
        rows = rounds(os.path.abspath(options.nocturne), folder, options.rounds)
    head = ["s a case, clock / CPU", "precision", *(f"names of {naming}" for naming in brats_phantoms.NAMINGS)]
    markdown_table.publish([f"{options.cases} cases each; {caption}\n", markdown_table.text(head, rows)], None, "brats")


if __name__ == "__main__":
    main()
