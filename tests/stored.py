"""What a run left: masks of a results folder, rows of a report, masks that were exported."""

import csv
import sys

import h5py
import nibabel
import numpy


class Complaints:
    """All that is wrong, not the first only."""

    def __init__(self):
        self.texts = []

    def check(self, is_right, text):
        if not is_right:
            self.texts.append(text)

    def end(self):
        for text in self.texts[:40]:
            print(text)
        sys.exit(f"{len(self.texts)} complaints" if self.texts else 0)


def studies(results):
    """The open file and its group of all studies, by the index."""
    file = h5py.File(results + "/index.h5", "r")
    return file, file["studies"]


def labels(path):
    """A label image as integers in file order (i, j, k)."""
    return numpy.rint(nibabel.load(path).get_fdata()).astype(numpy.int64).squeeze()


def counts(prediction, truth):
    """tp, fp, fn, tn of two arrays of bools."""
    return [
        int((a & b).sum())
        for a, b in ((prediction, truth), (prediction, ~truth), (~prediction, truth), (~prediction, ~truth))
    ]


def dice(prediction, truth):
    tp, fp, fn, _ = counts(prediction, truth)
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else float("nan")


def report(path):
    """Rows of `report --csv` by key, each a list of dicts."""
    rows = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["key"], []).append(row)
    return rows
