"""What nocturne evaluate says, held against the reference metrics and against numpy.

evaluate.py folders METRICS FOLDER                 FOLDER/masks, FOLDER/truths: links to the reference pairs
evaluate.py golden METRICS.json JSON               every value of every pair, and the means
evaluate.py csv JSON CSV REPORT_HEADER             the same numbers, the report's columns first
evaluate.py means JSON                             means and intervals follow from the cases
evaluate.py summary JSON SUMMARY                   nnU-Net's summary.json
evaluate.py brats JSON JSON_BRATS PENALTY          what the convention changes
evaluate.py hostile FOLDER                         broken files, other grids, odd labels
evaluate.py stored JSON REPORT.json                scored again: the counts of the run
"""

import csv
import json
import math
import os
import sys

import numpy

import nifti_file

EXACT, RATIO, DEEPMIND, MONAI = 0, 1e-12, 1e-6, 1e-4
TOLERANCES = {"tp": EXACT, "fp": EXACT, "fn": EXACT, "tn": EXACT, "truth_ml": 1e-6, "prediction_ml": 1e-6}


def flat(values, prefix=""):
    out = {}
    for name, value in values.items():
        out.update(flat(value, prefix + name + "_") if isinstance(value, dict) else {prefix + name: value})
    return out


def number(value):
    return float(value)


def is_same(found, wanted, tolerance):
    found, wanted = number(found), number(wanted)
    if math.isnan(wanted) or math.isinf(wanted):
        return math.isnan(found) == math.isnan(wanted) and math.isinf(found) == math.isinf(wanted)
    return abs(found - wanted) <= tolerance * max(1, abs(wanted))


def tolerance_of(name):
    if name.startswith("monai"):
        return MONAI
    if name.startswith(("deepmind", "medpy", "brats")):
        return DEEPMIND
    return TOLERANCES.get(name, RATIO)


def compare(found, wanted, where):
    assert list(flat(found)) == list(flat(wanted)), f"{where}: {list(flat(found))}"
    for (name, value), expected in zip(flat(found).items(), flat(wanted).values()):
        assert is_same(value, expected, tolerance_of(name)), f"{where} {name}: {value}, wanted {expected}"


def load(path):
    with open(path) as file:
        return json.load(file)


def folders(metrics, folder):
    for side, name in (("truth", "truths"), ("prediction", "masks")):
        os.mkdir(f"{folder}/{name}")
        for file in os.listdir(metrics):
            if file.endswith(f"_{side}.nii.gz"):
                os.symlink(f"{metrics}/{file}", f"{folder}/{name}/{file[: -len(side) - 8]}.nii.gz")


def golden(expected, path):
    wanted, found = load(expected), load(path)
    assert sorted(found["cases"]) == sorted(pair["name"] for pair in wanted["pairs"])
    for pair in wanted["pairs"]:
        case = found["cases"][pair["name"]]
        assert list(case) == ["1", "2", "1+2"], list(case)
        for label, values in pair["classes"].items():
            compare(case[label], values, f"{pair['name']} {label}")
    for label, means in wanted["means"].items():
        for name, at in (
            ("dice_nan_dropped", "dice"),
            ("iou_nan_dropped", "iou"),
            ("dice_brats", "brats_dice"),
            ("hd95_brats", "brats_hd95"),
        ):
            assert is_same(flat(found["means"][label])[at], means[name], 1e-6), f"mean {label} {name}"


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def csv_(path, table, header):
    found, rows = load(path), rows_of(table)
    with open(table) as file:
        assert file.readline().startswith(header.strip() + ",")
    for row in rows:
        case = flat(found["cases"][row["key"]][row["label"]])
        assert (row["state"], row["failure"], row["name"]) == ("done", "", "")
        assert list(case) == list(row)[5:]
        for name, value in case.items():
            assert is_same(row[name], value, EXACT), f"{row['key']} {name}"
    assert len(rows) == sum(len(case) for case in found["cases"].values())


def resamples(count):
    """The rows of each of the 1,000 resamples, by splitmix64."""
    step = numpy.arange(1, count + 1, dtype="u8") * numpy.uint64(0x9E3779B97F4A7C15)
    z = (numpy.arange(1000, dtype="u8") << numpy.uint64(32))[:, None] + step
    z = (z ^ z >> numpy.uint64(30)) * numpy.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> numpy.uint64(27)) * numpy.uint64(0x94D049BB133111EB)
    z = z ^ z >> numpy.uint64(31)
    return ((z >> numpy.uint64(32)) * numpy.uint64(count) >> numpy.uint64(32)).astype(int)


def interval(values):
    """From rank 25 to rank 974 of the means of the resamples."""
    ordered = numpy.sort(values[resamples(len(values))].mean(1))
    return ordered[25], ordered[974]


def means(path):
    found = load(path)
    for label, values in found["means"].items():
        for name, mean in flat(values).items():
            all_values = numpy.array([number(flat(case[label])[name]) for case in found["cases"].values()])
            there = all_values[~numpy.isnan(all_values)]
            assert is_same(mean, there.mean() if len(there) else math.nan, RATIO), f"{label} {name}"
        spread = flat(found["intervals"][label])
        for name, (low, high) in spread.items():
            mean = number(flat(values)[name])
            if math.isfinite(mean):
                assert number(low) <= mean <= number(high), f"{label} {name}: {low} {mean} {high}"
            all_values = numpy.array([number(flat(case[label])[name]) for case in found["cases"].values()])
            if numpy.isfinite(all_values).all():
                ends = interval(all_values)
                assert is_same(low, ends[0], RATIO) and is_same(high, ends[1], RATIO), f"{label} {name}: {low} {high}"
        # The normal approximation of the same interval.
        dice = numpy.array([number(case[label]["dice"]) for case in found["cases"].values()])
        dice = dice[~numpy.isnan(dice)]
        error = 1.96 * dice.std() / math.sqrt(len(dice))
        for found_end, wanted in zip(spread["dice"], (dice.mean() - error, dice.mean() + error)):
            assert abs(found_end - wanted) < 0.2 * error, f"{label}: {spread['dice']}, about {wanted}"
    for name, value in flat(found["foreground_mean"]).items():
        labels = [number(flat(found["means"][label])[name]) for label in ("1", "2")]
        assert is_same(value, sum(labels) / 2, RATIO), f"foreground {name}"


def summary(path, file):
    found, told = load(path), load(file)
    assert sorted(told) == ["foreground_mean", "mean", "metric_per_case"]
    names = {"Dice": "dice", "IoU": "iou", "TP": "tp", "FP": "fp", "FN": "fn", "TN": "tn"}
    keys = {"1": "1", "2": "2", "(1, 2)": "1+2"}
    assert len(told["metric_per_case"]) == len(found["cases"])

    def check(values, wanted, where):
        assert sorted(values) == sorted([*names, "n_pred", "n_ref"]), where
        for theirs, ours in names.items():
            assert is_same(values[theirs], wanted[ours], RATIO), f"{where} {theirs}"
        assert is_same(values["n_ref"], values["TP"] + values["FN"], RATIO), where
        assert is_same(values["n_pred"], values["TP"] + values["FP"], RATIO), where

    for case in told["metric_per_case"]:
        name = os.path.basename(case["prediction_file"]).split(".")[0]
        assert os.path.basename(case["reference_file"]).split(".")[0] == name
        assert sorted(case["metrics"]) == sorted(keys)
        for key, label in keys.items():
            check(case["metrics"][key], found["cases"][name][label], f"{name} {label}")
            if name == "same":
                assert isinstance(case["metrics"][key]["TP"], int)
    for key, label in keys.items():
        check(told["mean"][key], found["means"][label], f"mean {label}")
    check(told["foreground_mean"], found["foreground_mean"], "foreground")
    with open(file) as text:
        assert '"Dice": NaN' in text.read()


def brats(path, path_brats, penalty):
    plain, other = load(path), load(path_brats)
    assert (plain["convention"], other["convention"]) == ("nnunet", "brats")
    for name, case in plain["cases"].items():
        for label, values in case.items():
            changed, brats_values = other["cases"][name][label], other["cases"][name][label]["brats"]
            assert is_same(changed["dice"], brats_values["dice"], EXACT), f"{name} {label}"
            assert is_same(changed["deepmind"]["hd95"], brats_values["hd95"], EXACT), f"{name} {label}"
            empty = (values["truth_ml"] == 0) + (values["prediction_ml"] == 0)
            if empty == 0:
                assert values == changed, f"{name} {label}"
            else:
                wanted = (1, 0) if empty == 2 else (0, float(penalty))
                assert (changed["dice"], changed["deepmind"]["hd95"]) == wanted, f"{name} {label}"


def hostile(folder):
    """masks and truths of four good cases and of everything that is not one."""
    random = numpy.random.default_rng(3)
    affine = numpy.diag((1.0, 1.5, 2.0, 1.0))
    labels = random.integers(0, 3, (9, 8, 7)).astype("u1")
    for side in ("masks", "truths"):
        os.makedirs(f"{folder}/{side}/subfolder")
        for name in ("good", "float", "ending", "wide", "cut", "fraction", "negative", "grid", "moved", "channels"):
            end = ".nii" if (name, side) == ("ending", "truths") else ".nii.gz"
            path, data, place = f"{folder}/{side}/{name}{end}", labels, affine
            if side == "truths":
                data = {
                    "float": labels.astype("f4"),
                    "wide": numpy.where(labels == 1, 60000, 0).astype("u2"),
                    "fraction": labels.astype("f4") + 0.5,
                    "negative": labels.astype("i2") - 1,
                    "grid": labels[:-1],
                    "channels": numpy.stack([labels, labels], -1),
                }.get(name, labels)
                place = affine + (name == "moved") * numpy.eye(4, k=3)
            nifti_file.write(path, data, place)
    nifti_file.write(f"{folder}/masks/alone.nii.gz", numpy.full((3, 3, 3), 9, "u1"), affine)
    nifti_file.write(f"{folder}/truths/lonely.nii.gz", numpy.full((3, 3, 3), 8, "u1"), affine)
    for name in ("twice.nii", "twice.nii.gz"):
        nifti_file.write(f"{folder}/masks/{name}", labels, affine)
    nifti_file.write(f"{folder}/truths/twice.nii", labels, affine)
    os.truncate(f"{folder}/masks/cut.nii.gz", 200)
    for name in ("empty.nii.gz", ".hidden.nii.gz", "notes.txt"):
        open(f"{folder}/masks/{name}", "w").close()
    nifti_file.write(f"{folder}/truths/empty.nii.gz", labels, affine)


def stored(path, report):
    found, told = load(path), load(report)["results"]
    told = [row for row in told if "tp" in row]
    assert told and sum(map(len, found["cases"].values())) == len(told)
    for row in told:
        case = found["cases"][row["key"]][row["label"]]
        for name in ("tp", "fp", "fn", "tn"):
            assert case[name] == row[name], f"{row['key']} {row['label']} {name}"
        assert is_same(case["dice"], row["dice"], 1e-8)
        assert number(case["deepmind"]["hd95"]) >= 0


if __name__ == "__main__":
    {"csv": csv_}.get(sys.argv[1], globals().get(sys.argv[1]))(*sys.argv[2:])
