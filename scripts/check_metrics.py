#!/usr/bin/env python3
"""nocturne evaluate beside surface-distance and MONAI: the same values, and how long each takes, reading included. The scores of lesions
are those of their definition.

check_metrics.py --nocturne PROGRAM [--tables FOLDER] [--pairs N] [--rounds N] TRUTHS

Pairs: the first N label maps of TRUTHS beside seeded changes of them (shifts, boundaries eaten and grown, specks), and five
phantoms of 240x240x155 with three nested labels. Times are on the clock and of CPU (user and system), each the best of its rounds,
all programs by turns in every round; ours with the start of the program, the peers on one thread and without their imports.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings

import nibabel
import numpy
import surface_distance
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy import ndimage

import markdown_table


def change(labels, random):
    """A plausible wrong answer: moved, its boundary eaten here and grown there, and a speck anywhere."""
    box = tuple(slice(max(0, there.min() - 4), there.max() + 5) for there in numpy.nonzero(labels))
    out, part = numpy.zeros_like(labels), labels[box]
    part = numpy.roll(part, random.integers(-1, 2, 3), (0, 1, 2))
    noise = ndimage.gaussian_filter(random.normal(size=part.shape), 2)
    edge = ndimage.binary_dilation(part > 0) & (noise > noise.std())
    part = numpy.where(edge, ndimage.grey_dilation(part, 3), part)
    out[box] = numpy.where(ndimage.binary_dilation(part == 0) & (noise < -noise.std()), 0, part)
    out[tuple(random.integers(0, n) for n in labels.shape)] = labels.max()
    return out


def phantom(random):
    """Three nested lumps in a brain-sized volume, as a glioma's labels."""
    shape = (240, 240, 155)
    axes = [(numpy.arange(n) - random.uniform(0.4, 0.6) * n) / random.uniform(22, 40) for n in shape]
    field = numpy.sqrt(sum(numpy.square(line).reshape(-1, *[1] * (2 - a)) for a, line in enumerate(axes)))
    field += 0.25 * ndimage.zoom(random.normal(size=(24, 24, 16)), (10, 10, 155 / 16), order=1)
    return numpy.select([field < 0.4, field < 0.65, field < 1], [3, 1, 2], 0).astype("u1")


def make(folder, truths, count):
    random = numpy.random.default_rng(2026)
    sets = {"hippocampus": [], "brain-sized": []}
    names = sorted(name for name in os.listdir(truths) if name.endswith(".nii.gz") and name[0] != ".")[:count]
    for name in names:
        image = nibabel.load(f"{truths}/{name}")
        sets["hippocampus"].append((name, numpy.asarray(image.dataobj).astype("u1"), image.affine))
    for number in range(5):
        sets["brain-sized"].append((f"brain_{number}.nii.gz", phantom(random), numpy.diag((-1.0, -1.0, 1.0, 1.0))))
    for kind, images in sets.items():
        for side in ("truths", "masks"):
            os.makedirs(f"{folder}/{kind}/{side}")
        for name, labels, affine in images:
            nibabel.save(nibabel.Nifti1Image(labels, affine), f"{folder}/{kind}/truths/{name}")
            nibabel.save(nibabel.Nifti1Image(change(labels, random), affine), f"{folder}/{kind}/masks/{name}")
    return list(sets)


def pairs(folder):
    for name in sorted(os.listdir(f"{folder}/truths")):
        images = [nibabel.load(f"{folder}/{side}/{name}") for side in ("truths", "masks")]
        truth, mask = (numpy.asarray(image.dataobj) for image in images)
        yield name.split(".")[0], truth, mask, [float(z) for z in images[0].header.get_zooms()[:3]]


def by_surface_distance(folder, labels):
    out = {}
    for name, truth, mask, spacing in pairs(folder):
        for label in labels:
            found = surface_distance.compute_surface_distances(truth == label, mask == label, spacing)
            there, back = surface_distance.compute_average_surface_distance(found)
            out[name, label] = {
                "hd95": surface_distance.compute_robust_hausdorff(found, 95),
                "hd100": surface_distance.compute_robust_hausdorff(found, 100),
                "surface_dice_1mm": surface_distance.compute_surface_dice_at_tolerance(found, 1),
                "surface_dice_2mm": surface_distance.compute_surface_dice_at_tolerance(found, 2),
                "asd_truth_to_prediction": there,
                "asd_prediction_to_truth": back,
            }
    return out


def by_monai(folder, labels):
    out = {}
    for name, truth, mask, spacing in pairs(folder):
        hot = [torch.from_numpy(numpy.stack([array == label for label in labels]))[None] for array in (mask, truth)]
        hd95 = compute_hausdorff_distance(*hot, include_background=True, percentile=95, spacing=spacing)
        hd100 = compute_hausdorff_distance(*hot, include_background=True, spacing=spacing)
        assd = compute_average_surface_distance(*hot, include_background=True, symmetric=True, spacing=spacing)
        for at, label in enumerate(labels):
            out[name, label] = {"hd95": hd95[0, at], "hd100": hd100[0, at], "assd": assd[0, at]}
    return out


def lesion_scores(truth, mask, spacing, steps=3, volume=50, penalty=374.0):
    """BraTS-GLI 2023, step by step as its organisers describe it."""
    near, touching = ndimage.generate_binary_structure(3, 2), numpy.ones((3, 3, 3))
    lesions = ndimage.label(ndimage.binary_dilation(truth, near, steps), touching)[0] * truth
    parts, part_count = ndimage.label(mask, touching)
    matched, scores = set(), []
    for lesion in (lesions == n for n in numpy.unique(lesions) if n):
        own = set(numpy.unique(parts[ndimage.binary_dilation(lesion, near, steps)])) - {0}
        matched |= own
        if numpy.count_nonzero(lesion) * math.prod(spacing) <= volume:
            continue
        if not own:
            scores.append((0, penalty, False))
            continue
        found = numpy.isin(parts, list(own))
        distances = surface_distance.compute_surface_distances(lesion, found, spacing)
        dice = 2 * numpy.count_nonzero(lesion & found) / (numpy.count_nonzero(lesion) + numpy.count_nonzero(found))
        scores.append((dice, surface_distance.compute_robust_hausdorff(distances, 95), True))
    false = part_count - len(matched)
    count = len(scores) + false
    return {
        "dice": sum(s[0] for s in scores) / count if count else 1,
        "hd95": (sum(s[1] for s in scores) + penalty * false) / count if count else 0,
        "tp": sum(s[2] for s in scores),
        "fp": false,
        "fn": sum(not s[2] for s in scores),
    }


def by_lesions(folder, labels):
    return {
        (name, label): lesion_scores(truth == label, mask == label, spacing)
        for name, truth, mask, spacing in pairs(folder)
        for label in labels
    }


def by_nocturne(program, folder, labels, *flags):
    command = [program, "evaluate", f"{folder}/masks", f"{folder}/truths", "--json", *flags]
    cases = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["cases"]
    return {(name, label): case[str(label)] for name, case in cases.items() for label in labels}


def cpu_seconds():
    """Of this process and of those that it waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def timed(run, *arguments):
    """(seconds, seconds of CPU) and what it gave."""
    start = time.perf_counter(), cpu_seconds()
    out = run(*arguments)
    return (time.perf_counter() - start[0], cpu_seconds() - start[1]), out


def by_turns(rounds, runs):
    """For each (run, arguments): the best (seconds, seconds of CPU), and what it gave."""
    best, outs = [(math.inf, math.inf)] * len(runs), []
    for _ in range(rounds):
        turns = [timed(run, *arguments) for run, *arguments in runs]
        best = [tuple(map(min, old, new)) for old, (new, _) in zip(best, turns)]
        outs = [out for _, out in turns]
    return best, outs


def differences(ours, theirs, group, tolerance):
    """Values that differ by more than the tolerance, and the largest relative difference."""
    wrong, most, count = 0, 0.0, 0
    for key, values in theirs.items():
        for name, value in values.items():
            mine, value = float(ours[key][group][name]), float(value)
            if math.isfinite(value):
                most = max(most, abs(mine - value) / max(1, abs(value)))
                is_wrong = not abs(mine - value) <= tolerance * max(1, abs(value))
            else:
                is_wrong = math.isnan(mine) != math.isnan(value) or math.isinf(mine) != math.isinf(value)
            wrong += is_wrong
            count += 1
    return wrong, most, count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nocturne", required=True)
    parser.add_argument("--tables", default=None)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("truths")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows, failed, before = [], 0, markdown_table.machine("1 and all")
    with tempfile.TemporaryDirectory() as folder:
        for kind in make(folder, options.truths, options.pairs):
            at = f"{folder}/{kind}"
            labels = (1, 2) if kind == "hippocampus" else (1, 2, 3)
            runs = [
                (by_nocturne, options.nocturne, at, labels, "--threads", "1"),
                (by_nocturne, options.nocturne, at, labels),
                (by_surface_distance, at, labels),
                (by_monai, at, labels),
            ]
            times, (_, _, deepmind, monai) = by_turns(options.rounds, runs)
            lesions = by_nocturne(options.nocturne, at, labels, "--lesion-wise", "gli"), by_lesions(at, labels)
            for group, theirs, tolerance in (("deepmind", deepmind, 1e-6), ("monai", monai, 1e-4), ("lesion_wise", lesions[1], 1e-6)):
                wrong, most, count = differences(lesions[0], theirs, group, tolerance)
                failed += wrong
                print(f"{kind}: {count} values of {group}: {wrong} differ, by at most {most:.1e}", flush=True)
            pair_count = len(os.listdir(f"{at}/truths"))
            each = [[1000 * value / pair_count for value in pair] for pair in times]
            rows.append(
                [f"{kind}, {pair_count} pairs, {len(labels)} labels"]
                + [f"{clock:.2f} / {cpu:.2f}" for clock, cpu in each]
                + [f"{clock / each[0][0]:.0f}x / {cpu / each[0][1]:.0f}x" for clock, cpu in each[2:]]
            )
    head = ["ms a pair, clock / CPU", "1 thread", "all threads", "surface-distance", "MONAI"]
    head += ["surface-distance takes (of 1 thread)", "MONAI takes"]
    parts = [before + "\n", markdown_table.text(head, rows)]
    markdown_table.publish(parts, options.tables, "metrics")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
