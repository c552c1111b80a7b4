#!/usr/bin/python3
"""What must hold of a catalog and its results folder, looked at with sqlite3 and h5py only.

    check_results.py CATALOG RESULTS [UNDISTURBED] [--aside N]

Every study of the catalog is done, with its mask in the one part that the catalog names and in no other, or
failed with a type and a sentence; nothing is still running. The mask's bytes are those that its SHA-256 says,
and the part's metrics are the catalog's. Probabilities, where a study has some, are those that their SHA-256 says,
sum to 1 (of regions: lie between 0 and 1), and each label lies where they are largest. Each part of the catalog is there with its size, and no other is; no
unfinished part is left, and at most N that were set aside (*.unknown). index.h5 leads to each mask that is
done and to nothing else. With UNDISTURBED, the results folder of a run that nothing disturbed: the masks are
the same to the byte and the metrics to the digit, and what is done there is done here.

One sentence a finding; exit code 1 when there is one.
"""
import argparse
import collections
import hashlib
import math
import os
import re
import sqlite3
import sys

import h5py
import numpy

# kind: lost, doubled, differs (promises broken), or left (something that should not lie there)
Finding = collections.namedtuple("Finding", "kind sentence")

NUMBERS = ("tp", "fp", "fn", "tn")
RATIOS = ("dice", "iou", "precision", "recall", "truth_ml", "prediction_ml", "volume_similarity")


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def metric(label, name, has_truth, values):
    """NaN is None in the catalog, and not equal to itself."""
    return (label, name, bool(has_truth)) + tuple(
        None if value is None or math.isnan(value) else value for value in values)


def digest(mask):
    return hashlib.sha256(mask.tobytes()).hexdigest()


def odd(study, mask):
    """What is wrong with the probabilities of a study's group, or None."""
    says = study.attrs.get("probabilities_sha256")
    if says is None or "probabilities" not in study:
        return None if says is None and "probabilities" not in study else "probabilities and their hash are not both there"
    data = study["probabilities"]
    values = data[()]
    if values.dtype != numpy.float16 or values.shape[1:] != mask.shape or len(data.attrs["classes"]) != len(values):
        return f"probabilities are {values.dtype} {values.shape}, the mask is {mask.shape}"
    if digest(values) != text(says):
        return f"probabilities have the hash {digest(values):.12}, the part says {text(says):.12}"
    values = values.astype("f4")
    if text(data.attrs["activation"]) == "sigmoid":
        return None if ((values >= 0) & (values <= 1)).all() else "probabilities are not between 0 and 1"
    if abs(values.sum(0) - 1).max() > len(values) * 2.5e-4:  # half a step of f16 below 1 each
        return "probabilities do not sum to 1"
    chosen = numpy.take_along_axis(values, mask[None].astype("i8"), 0)[0]
    far = (values.max(0) - chosen)[mask > 0]  # what keep_largest took away is background
    return None if far.max(initial=0) < 1e-3 else "the mask is not where probabilities are largest"


class Part:
    """A closed part: {key: (shape, type, bytes)} and {key: rows of metrics}, {key: what is odd about probabilities} and
    their hashes. `damage` says why it cannot be read."""

    def __init__(self, path):
        self.masks, self.metrics, self.hashes, self.damage = {}, {}, {}, None
        self.oddities, self.probabilities = {}, {}
        try:
            with h5py.File(path, "r") as file:
                for key, study in file["studies"].items():
                    mask = study["mask"][()]
                    self.masks[key] = (mask.shape, str(mask.dtype), mask.tobytes())
                    self.hashes[key] = (digest(mask), text(study.attrs["mask_sha256"]))
                    self.oddities[key] = odd(study, mask)
                    self.probabilities[key] = study.attrs.get("probabilities_sha256")
                for row in file["metrics"][()]:
                    values = [row[name].item() for name in NUMBERS + RATIOS]
                    self.metrics.setdefault(text(row["key"]), []).append(
                        metric(text(row["label"]), text(row["name"]), row["has_truth"], values))
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            self.damage = str(error).splitlines()[0]


def read_parts(folder):
    """{number: Part} of all closed parts."""
    parts = {}
    for name in sorted(os.listdir(folder)):
        found = re.fullmatch(r"part-(\d+)\.h5", name)
        if found:
            parts[int(found[1])] = Part(os.path.join(folder, name))
    return parts


class Catalog:
    def __init__(self, path, results):
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
        self.set = database.execute("SELECT id FROM result_set WHERE results = ?",
                                    (os.path.abspath(results),)).fetchone()
        number = self.set[0] if self.set else -1
        self.studies = database.execute(
            "SELECT s.key, coalesce(r.state, 'pending'), r.failure, r.sentence, r.part, r.mask_sha256 FROM study s"
            " LEFT JOIN result r ON r.study_id = s.id AND r.set_id = ? ORDER BY s.key", (number,)).fetchall()
        self.parts = dict(database.execute("SELECT number, bytes FROM part WHERE set_id = ?", (number,)).fetchall())
        self.metrics = {}
        for row in database.execute(
                "SELECT s.key, m.label, m.name, m.has_truth, " + ", ".join("m." + n for n in NUMBERS + RATIOS) +
                " FROM metric m JOIN study s ON s.id = m.study_id WHERE m.set_id = ? ORDER BY s.key, m.position",
                (number,)):
            self.metrics.setdefault(row[0], []).append(metric(row[1], row[2], row[3], row[4:]))
        self.damage = database.execute("PRAGMA integrity_check").fetchone()[0]
        database.close()


def of_study(study, catalog, parts):
    key, state, failure, sentence, number, sha256 = study
    holders = [n for n, part in parts.items() if key in part.masks]
    if state in ("failed", "quarantined"):
        if not failure or not sentence:
            yield Finding("lost", f"{key} is {state} without a reason")
        return
    if state != "done":
        yield Finding("lost", f"{key} is {state}, neither done nor failed")
        return
    if number not in holders:
        yield Finding("lost", f"{key} is done in the catalog, but part {number} does not hold it")
        return
    if len(holders) > 1:
        yield Finding("doubled", f"{key} stands in parts {', '.join(map(str, holders))}")
    is_like, says = parts[number].hashes[key]
    if not is_like == says == sha256:
        yield Finding("differs", f"{key}: its mask has the hash {is_like:.12}, the part says {says:.12}, the catalog {sha256:.12}")
    if parts[number].oddities[key]:
        yield Finding("differs", f"{key}: its {parts[number].oddities[key]}")
    if sorted(parts[number].metrics.get(key, []), key=repr) != sorted(catalog.metrics.get(key, []), key=repr):
        yield Finding("differs", f"{key}: the metrics of part {number} are not those of the catalog")


def of_parts(folder, catalog, parts, aside):
    for number, part in parts.items():
        if part.damage:
            yield Finding("lost", f"part {number} cannot be read: {part.damage}")
        if number not in catalog.parts:
            yield Finding("left", f"part {number} is an orphan: the catalog does not know it")
    for number, size in catalog.parts.items():
        if number not in parts:
            yield Finding("lost", f"part {number} of the catalog is not there")
        elif os.path.getsize(os.path.join(folder, f"part-{number:06}.h5")) != size:
            yield Finding("lost", f"part {number} has another size than the catalog says")
    names = os.listdir(folder)
    for name in names:
        if name.endswith(".open"):
            yield Finding("left", f"{name} is left: a part that was never closed")
        elif name.endswith(".tmp") or name.startswith(".index-"):
            yield Finding("left", f"{name} is left by a process that was killed")
    unknown = [name for name in names if name.endswith(".unknown")]
    if len(unknown) > aside:
        yield Finding("left", f"{len(unknown)} parts were set aside, {aside} expected: {', '.join(sorted(unknown))}")


def of_index(folder, catalog, parts):
    done = {study[0]: study[4] for study in catalog.studies if study[1] == "done"}
    try:
        with h5py.File(os.path.join(folder, "index.h5"), "r") as index:
            links = index["studies"]
            for key in links:
                link = links.get(key, getlink=True)
                if key not in done:
                    yield Finding("left", f"the index leads to {key}, which is not done")
                elif os.path.basename(getattr(link, "filename", "")) != f"part-{done[key]:06}.h5":
                    yield Finding("differs", f"the index leads {key} to another part than {done[key]}")
                else:
                    mask = links[key]["mask"]
                    if key in parts[done[key]].masks and mask.shape != parts[done[key]].masks[key][0]:
                        yield Finding("differs", f"the index leads {key} to another mask")
            for key in sorted(set(done) - set(links)):
                yield Finding("lost", f"the index does not lead to {key}")
    except (OSError, KeyError) as error:
        yield Finding("lost", f"the index cannot be read: {str(error).splitlines()[0]}")


def of_comparison(catalog, parts, undisturbed):
    wanted, metrics, probabilities = {}, {}, {}
    for part in undisturbed.values():
        wanted.update(part.masks)
        probabilities.update(part.probabilities)
        metrics.update(part.metrics)
    for key, state, _, _, number, _ in catalog.studies:
        if state != "done":
            if key in wanted:
                yield Finding("lost", f"{key} is {state}, and done in the undisturbed run")
        elif key not in wanted:
            yield Finding("differs", f"{key} is done, and not in the undisturbed run")
        elif number in parts and key in parts[number].masks:
            if parts[number].masks[key] != wanted[key]:
                yield Finding("differs", f"{key}: its mask is not that of the undisturbed run")
            here, there = parts[number].probabilities[key], probabilities[key]
            if here is not None and there is not None and here != there:  # a run may have gone without
                yield Finding("differs", f"{key}: its probabilities are not those of the undisturbed run")
            if parts[number].metrics.get(key) != metrics.get(key):
                yield Finding("differs", f"{key}: its metrics are not those of the undisturbed run")
    for key in sorted(set(wanted) - {study[0] for study in catalog.studies}):
        yield Finding("lost", f"{key} is not in the catalog")


def check(catalog_path, results, undisturbed=None, aside=0):
    """All findings, as a list. undisturbed: what read_parts found there, or None."""
    catalog = Catalog(catalog_path, results)
    if not catalog.set or not catalog.studies:
        return [Finding("lost", "the catalog has no study of these results")]
    parts = read_parts(results)
    found = [] if catalog.damage == "ok" else [Finding("lost", f"the catalog is damaged: {catalog.damage}")]
    for study in catalog.studies:
        found += of_study(study, catalog, parts)
    found += of_parts(results, catalog, parts, aside)
    found += of_index(results, catalog, parts)
    if undisturbed is not None:
        found += of_comparison(catalog, parts, undisturbed)
    return found


def main():
    words = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].strip())
    words.add_argument("catalog")
    words.add_argument("results")
    words.add_argument("undisturbed", nargs="?")
    words.add_argument("--aside", type=int, default=0)
    given = words.parse_args()
    undisturbed = read_parts(given.undisturbed) if given.undisturbed else None
    found = check(given.catalog, given.results, undisturbed, given.aside)
    for finding in found:
        print(f"{finding.kind}: {finding.sentence}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
