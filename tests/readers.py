"""Helpers of readers.t: what other programs see in a results folder.

    readers.py layout RESULTS IMAGES STUDIES    every group, attribute, type and filter; the index
    readers.py agree RESULTS CATALOG REPORT.csv REPORT.json STATUS.json
                                                each number is the same everywhere
    readers.py flip FILE KEY                    one bit of a mask
    readers.py unlink RESULTS KEY               takes a study out of the index
    readers.py flips RESULTS COUNT COMMAND...   so many single bits anywhere in the files, one at a time:
                                                COMMAND exits 69, or 0 when the file still says the same
"""
import glob
import hashlib
import json
import math
import os
import random
import re
import sqlite3
import subprocess
import sys

import h5py
import nibabel
import numpy as np

import masks

TEXTS = ["key", "source", "source_sha256", "mask_sha256", "model", "model_sha256", "configuration", "blend",
         "precision", "attention_scale", "device", "isa", "nocturne_version", "created", "fingerprint",
         "space"]
SECONDS = ["seconds_read", "seconds_prepare", "seconds_compute", "seconds_score"]
INTEGERS = ["tp", "fp", "fn", "tn"]
RATIOS = ["dice", "iou", "precision", "recall", "truth_ml", "prediction_ml", "volume_similarity"]
COLUMNS = ["key", "state", "failure", "label", "name"] + INTEGERS + RATIOS


def check(condition, *what):
    if not condition:
        sys.exit(" ".join(map(str, what)))


def parts_of(results):
    return sorted(glob.glob(os.path.join(results, "part-*.h5")))


# ---- layout ----

def check_fixed(where, kind):
    """No text of variable length, and every text UTF-8."""
    if isinstance(kind, h5py.h5t.TypeStringID):
        check(not kind.is_variable_str(), where, "is a text of variable length")
        check(kind.get_cset() == h5py.h5t.CSET_UTF8, where, "is not UTF-8")
    elif isinstance(kind, h5py.h5t.TypeCompoundID):
        for i in range(kind.get_nmembers()):
            check_fixed(f"{where}.{kind.get_member_name(i)}", kind.get_member_type(i))


def check_texts(name, thing):
    for attribute in thing.attrs:
        check_fixed(f"{name}@{attribute}", thing.attrs.get_id(attribute).get_type())
    if isinstance(thing, h5py.Dataset):
        check_fixed(name, thing.id.get_type())


def check_numbers(study, names, kind, shape):
    for name in names:
        value = study.attrs.get_id(name)
        check(value.dtype == np.dtype(kind) and value.shape == shape, study.name, name, value.dtype)


def check_study(key, study, images):
    attrs = study.attrs
    for name in TEXTS:
        check(attrs.get_id(name).shape == () and masks.text(attrs[name]) != "", study.name, name)
    check_numbers(study, ["affine"], "<f8", (4, 4))
    check_numbers(study, ["spacing_mm"], "<f8", (3,))
    check_numbers(study, SECONDS + ["overlap"], "<f8", ())
    check_numbers(study, ["window"], "<i8", (3,))
    check_numbers(study, ["label_values"], "<i4", (2,))
    check([masks.text(name) for name in attrs["labels"]] == ["Anterior", "Posterior"], key, attrs["labels"])
    path = os.path.join(images, key + ".nii.gz")
    scan = nibabel.load(path)
    check(np.array_equal(attrs["affine"], scan.affine), key, attrs["affine"], scan.affine)
    check(np.allclose(attrs["spacing_mm"], scan.header.get_zooms()[:3], atol=0, rtol=1e-7), key, "spacing")
    check(os.path.samefile(masks.text(attrs["source"]), path), key, attrs["source"])
    with open(path, "rb") as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    check(masks.text(attrs["source_sha256"]) == sha256, key, "source_sha256")
    check(masks.text(attrs["key"]) == key and masks.text(attrs["space"]) == "RAS+", key)
    created = masks.text(attrs["created"])
    check(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", created), key, created)
    check(all(attrs[name] >= 0 for name in SECONDS) and attrs["seconds_compute"] > 0, key, "seconds")
    mask = study["mask"]
    check(mask.shape == scan.shape[::-1] and mask.dtype == np.uint8, key, mask.shape, mask.dtype)
    check(mask.chunks and mask.shuffle, key, "is not chunked and shuffled")
    check((mask.compression, mask.compression_opts) == ("gzip", 1), key, "is not deflated")
    check(sorted(np.unique(mask[()])) == [0, 1, 2], key, "labels")


def check_part(path, images):
    with open(path, "rb") as file:
        superblock = file.read(12)
    check(superblock[8] == 3 and superblock[11] == 0, path, "was not closed in order")
    with h5py.File(path, "r") as part:
        check(sorted(part) == ["metrics", "studies"], path, list(part))
        check_texts("/", part)
        part.visititems(check_texts)
        check(list(part["metrics"].dtype.names) == COLUMNS + ["has_truth"], path, part["metrics"].dtype)
        for key, study in part["studies"].items():
            check(sorted(study) == ["mask"], key, list(study))
            check_study(key, study, images)
        check(set(map(masks.text, part["metrics"]["key"])) == set(part["studies"]), path, "/metrics")
        return list(part["studies"])


def check_layout(results, images, studies):
    found = {os.path.basename(path): check_part(path, images) for path in parts_of(results)}
    check(not glob.glob(os.path.join(results, "*.open")), "an open part is left")
    with h5py.File(os.path.join(results, "index.h5"), "r") as index:
        check(sorted(index) == ["studies"], list(index))
        check_texts("/", index)
        links = {key: index["studies"].get(key, getlink=True) for key in index["studies"]}
    for key, link in links.items():
        check(isinstance(link, h5py.ExternalLink) and key in found[link.filename], key, link)
        check(link.path == "/studies/" + key, key, link.path)
    check(len(links) == int(studies) == sum(map(len, found.values())), len(links), found)
    print("parts of", *[len(keys) for keys in found.values()])


# ---- agreement ----

def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def read_metrics(results):
    rows = {}
    for path in parts_of(results):
        with h5py.File(path, "r") as part:
            for row in part["metrics"][()]:
                key = masks.text(row["key"]), masks.text(row["label"])
                check(key not in rows, key, "stands twice")
                rows[key] = row
    return rows


def check_against_catalog(rows, catalog):
    names = ["has_truth", "name"] + INTEGERS + RATIOS
    found = 0
    columns = ", ".join("m." + name for name in names)
    for key, label, *values in catalog.execute(
            f"SELECT key, label, {columns} FROM metric m JOIN study s ON s.id = study_id"):
        row = rows[key, label]
        for name, value in zip(names, values):
            if name == "name":
                check(masks.text(row["name"]) == value, key, label, name)
            else:
                wanted = math.nan if value is None else float(value)
                check(same(float(row[name]), wanted), key, label, name, row, value)
        found += 1
    check(found == len(rows), found, "rows in the catalog,", len(rows), "in the parts")


def is_told(row, name):
    return bool(row["has_truth"]) or name == "prediction_ml"


def csv_text(row, name):
    if not is_told(row, name):
        return ""
    if name in INTEGERS:
        return str(int(row[name]))
    return "nan" if math.isnan(row[name]) else f"{row[name]:#.9g}"


def check_report(rows, table, told):
    check(list(table[0]) == COLUMNS, list(table[0]))
    check(len(table) == len(told), len(table), len(told))
    scored = 0
    for line, entry in zip(table, told):
        for name in ("key", "state", "failure", "label", "name"):
            check(line[name] == entry.get(name, ""), line, entry)
        if line["state"] != "done":
            check(not any(line[name] for name in COLUMNS[3:]) and entry["sentence"], line, entry)
            continue
        row = rows[line["key"], line["label"]]
        check(masks.text(row["state"]) == "done" and masks.text(row["failure"]) == "", row)
        for name in INTEGERS + RATIOS:
            check(line[name] == csv_text(row, name), line, name, row)
            check((name in entry) == is_told(row, name), entry, name)
            check(name not in entry or same(float(entry[name]), float(line[name])), entry, name)
        scored += 1
    check(scored == len(rows), scored, len(rows))


def check_means(rows, means):
    for label, mean in means.items():
        mine = [row for (_, other), row in rows.items() if other == label and row["has_truth"]]
        check(mean["studies"] == len(mine), label, mean["studies"], len(mine))
        for name in RATIOS:
            wanted = float(np.nanmean([row[name] for row in mine]))
            check(abs(float(mean[name]) - wanted) <= 1e-8 * abs(wanted), label, name, mean[name], wanted)
    check(set(means) == {label for _, label in rows}, means)


def check_status(status, table, catalog):
    states = {line["key"]: (line["state"], line["failure"]) for line in table}
    for state, count in status["studies"].items():
        check(count == sum(s == state for s, _ in states.values()), state, status)
        noted = catalog.execute("SELECT count(*) FROM result WHERE state = ?", [state]).fetchone()
        check(noted == (count,), state, noted, count)
    check(sum(status["studies"].values()) == len(states), status)
    failures = {}
    for _, failure in states.values():
        if failure:
            failures[failure] = failures.get(failure, 0) + 1
    check(status["failures"] == failures, status, failures)
    noted = dict(catalog.execute("SELECT failure, count(*) FROM result WHERE state = 'failed' GROUP BY 1"))
    check(noted == failures, noted, failures)
    check(status["studies_per_hour"] > 0 and status["seconds_left"] == 0, status)


def check_agreement(results, catalog, report_csv, report_json, status):
    rows, table = read_metrics(results), masks.rows(report_csv)
    with open(report_json) as file:
        report = json.load(file)
    with open(status) as file:
        counts = json.load(file)
    database = sqlite3.connect(f"file:{catalog}?mode=ro", uri=True)
    check_against_catalog(rows, database)
    check_report(rows, table, report["results"])
    check_means(rows, report["means"])
    check_status(counts, table, database)
    print(len(rows), "rows")


# ---- damage ----

def flip_bit(path, offset, bit=0):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def flip_mask(path, key):
    with h5py.File(path, "r") as part:
        chunk = part["studies"][key]["mask"].id.get_chunk_info(0)
    flip_bit(path, chunk.byte_offset + chunk.size // 2)


def unlink(results, key):
    with h5py.File(os.path.join(results, "index.h5"), "r+") as index:
        del index["studies"][key]


def content(results):
    """All that the files say, as text."""
    lines = []

    def add(name, thing):
        lines.append(name)
        for key, value in sorted(thing.attrs.items()):
            lines.append(f"{name}@{key}={np.asarray(value).tolist()}")
        if isinstance(thing, h5py.Dataset):
            lines.append(str(thing.dtype) + masks.digest(thing[()]))

    for path in parts_of(results):
        with h5py.File(path, "r") as part:
            add("/", part)
            part.visititems(add)
    lines.extend(f"{key} {masks.digest(mask)}" for key, _, mask in masks.masks(results))
    return lines


def flip_anywhere(results, count, command):
    chance, found = random.Random(11), 0
    paths = parts_of(results) + [os.path.join(results, "index.h5")]
    before = content(results)
    for _ in range(int(count)):
        path = chance.choice(paths)
        offset, bit = chance.randrange(os.path.getsize(path)), chance.randrange(8)
        flip_bit(path, offset, bit)
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, check=False).returncode
        where = f"bit {bit} of byte {offset} of {os.path.basename(path)}"
        check(code in (0, 69), where, "ends with", code)
        check(code == 69 or content(results) == before, where, "is not noticed")
        found += code == 69
        flip_bit(path, offset, bit)
    check(content(results) == before, "the files are not what they were")
    check(found > 0, "no flip was noticed")
    print(f"{found} of {count} flips are damage, the others lie where nothing is told")


def main(command, *arguments):
    if command == "flips":
        flip_anywhere(arguments[0], arguments[1], arguments[2:])
    else:
        commands = {"layout": check_layout, "agree": check_agreement, "flip": flip_mask, "unlink": unlink}
        commands[command](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
