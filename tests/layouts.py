"""Archives in every layout, and what became of them.

    layouts.py trees FOLDER              makes the archives
    layouts.py listing CATALOG FOLDER    key, layout, channels and truth of each study, a line each
    layouts.py demo ARCHIVE DATASET      two cases of the demo archive as a data set of nnU-Net, and
    layouts.py demo_bids ARCHIVE FOLDER  of BIDS: links
    layouts.py exported TRUTHS MASKS REPORT  masks lie on their truths' grids; summary.json has the report's Dice
    layouts.py same SUMMARY SUMMARY      two summary.json say the same
"""
import json
import os
import sqlite3
import sys

import nibabel
import nifti_file
import numpy
import stored

AFFINE = numpy.diag([1.0, 1.0, 2.0, 1.0])


def image(*names):
    """A scan or truth of 8 x 9 x 7 voxels at each place."""
    for name in names:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        nifti_file.write(name, numpy.arange(504, dtype=numpy.int16).reshape(8, 9, 7) % 3, AFFINE)


def text(name, value):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w", encoding="utf-8") as file:
        file.write(value if isinstance(value, str) else json.dumps(value))


def brats():
    for case in ("HGG/BraTS20_Training_001", "HGG/BraTS20_Training_002", "LGG/BraTS2021_00003"):
        name = f"brats/{case}/{os.path.basename(case)}"
        image(*(f"{name}_{word}.nii" for word in ("flair", "t1", "t1ce", "t2", "seg")))
    for case in ("BraTS-GLI-00004-000", "BraTS-GLI-00005-001"):
        image(*(f"brats/new/{case}/{case}-{word}.nii.gz" for word in ("t1c", "t1n", "t2f", "t2w", "seg")))
    os.remove("brats/HGG/BraTS20_Training_002/BraTS20_Training_002_t1ce.nii")
    os.remove("brats/HGG/BraTS20_Training_002/BraTS20_Training_002_seg.nii")
    image("brats/HGG/BraTS20_Training_001/BraTS20_Training_001_t2.nii.gz", "brats/survival_map.nii")
    os.symlink("..", "brats/HGG/again")
    os.symlink("/nowhere/t2f.nii.gz", "brats/new/BraTS-GLI-00005-001/._x.nii.gz")
    text("brats/notes.txt", "no image")


def nnunet():
    names = {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"}
    text("nnunet/dataset.json", {"channel_names": names, "labels": {"background": 0, "tumour": 1}, "numTraining": 9,
                                 "file_ending": ".nii.gz"})
    for case in ("A_1", "B_2", "Bär"):
        image(*(f"nnunet/imagesTr/{case}_{c:04}.nii.gz" for c in range(4)), f"nnunet/labelsTr/{case}.nii.gz")
    image(*(f"nnunet/imagesTs/C_{c:04}.nii.gz" for c in range(5)), "nnunet/labelsTr/lonely.nii.gz",
          "nnunet/imagesTr/A_1_seg1.nii.gz")
    os.remove("nnunet/imagesTr/B_2_0003.nii.gz")
    text("named/dataset.json", {"channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz", "dataset": {
        "case 1": {"images": ["../nnunet/imagesTs/C_0000.nii.gz"], "label": "t.nii.gz"}}})
    os.symlink("..", "named/again")
    text("png/dataset.json", {"channel_names": {"0": "R"}, "numTraining": 0, "file_ending": ".png"})
    text("gap/dataset.json", {"channel_names": {"1": "R"}, "numTraining": 0, "file_ending": ".nii.gz"})
    image("numbered/x_0000.nii.gz", "numbered/x_0001.nii.gz", "numbered/y_0000.nii.gz", "numbered/y_0001.nii.gz")


def bids():
    text("bids/dataset_description.json", {"Name": "x", "BIDSVersion": "1.9.0"})
    one, two = "bids/sub-01/ses-a/anat/sub-01_ses-a_", "bids/sub-01/ses-b/anat/sub-01_ses-b_"
    image(one + "T1w.nii.gz", one + "acq-3d_FLAIR.nii.gz", one + "ce-gadolinium_T1w.nii.gz", one + "PDw.nii.gz",
          one + "dseg.nii.gz", two + "run-1_T1w.nii.gz", two + "run-2_T1w.nii.gz", two + "FLAIR.nii.gz",
          two + "ce-gadolinium_T1w.nii.gz", "bids/sub-02/anat/sub-02_T1w.nii.gz", "bids/sub-02/anat/sub-02_FLAIR.nii.gz",
          "bids/sub-02/func/sub-02_task-rest_bold.nii.gz", "bids/derivatives/x/sub-02/anat/sub-02_T1w.nii.gz",
          "bids/sub-02/anat/sub-02_mask.nii.gz")


def others():
    image("msd/imagesTr/a.nii.gz", "msd/labelsTr/a.nii.gz", "folder/x/scan.nii", "folder/y/scan.nii.gz",
          "folder/pair.hdr", "folder/.hidden.nii")
    text("msd/dataset.json", {"numTraining": 7, "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]})
    text("folder/broken.nii.gz", "no NIfTI")
    os.symlink("/nowhere/scan.nii", "folder/dangling.nii")
    text("list.csv", "key,image,truth\nL1,msd/imagesTr/a.nii.gz,\n")
    os.makedirs("empty/below")
    image("truths/sub-1/anat/sub-1_dseg.nii")


def trees(folder):
    os.chdir(folder)
    for make in (brats, nnunet, bids, others):
        make()


def listing(catalog, folder):
    rows = sqlite3.connect(catalog).execute("SELECT key, layout, channels, truth FROM study ORDER BY key")
    for key, layout, channels, truth in rows:
        paths = [os.path.relpath(p, folder) if p else "-" for p in channels.split("\n") + [truth or ""] if p or truth is None]
        print(key, layout, *paths)


def demo(archive, dataset):
    with open(archive + "/dataset.json", encoding="utf-8") as file:
        found = json.load(file)
    for folder in ("imagesTr", "labelsTr"):
        os.makedirs(f"{dataset}/{folder}")
    for pair in found["training"][:2]:
        case = os.path.basename(pair["image"])[: -len(".nii.gz")]
        os.symlink(os.path.join(archive, pair["image"]), f"{dataset}/imagesTr/{case}_0000.nii.gz")
        os.symlink(os.path.join(archive, pair["label"]), f"{dataset}/labelsTr/{case}.nii.gz")
    text(dataset + "/dataset.json", {"channel_names": {"0": "T1w"}, "numTraining": 2, "file_ending": ".nii.gz",
                                     "labels": {"background": 0, "Anterior": 1, "Posterior": 2}})


def demo_bids(archive, folder):
    pairs = (("hippocampus_008", "sub-01/anat/sub-01"), ("hippocampus_015", "sub-02/ses-a/anat/sub-02_ses-a"))
    for case, name in pairs:
        os.makedirs(os.path.dirname(f"{folder}/{name}"))
        os.symlink(f"{archive}/imagesTr/{case}.nii.gz", f"{folder}/{name}_T1w.nii.gz")
    text(folder + "/dataset_description.json", {"Name": "x", "BIDSVersion": "1.9.0"})


def exported(truths, masks, report):
    with open(masks + "/summary.json", encoding="utf-8") as file:
        summary = json.load(file)
    rows = stored.report(report)
    assert len(summary["metric_per_case"]) == len(rows) == 2
    for case in summary["metric_per_case"]:
        name = os.path.basename(case["prediction_file"])
        mask, truth = nibabel.load(case["prediction_file"]), nibabel.load(case["reference_file"])
        assert os.path.samefile(case["prediction_file"], f"{masks}/{name}")
        assert os.path.samefile(case["reference_file"], f"{truths}/{name}")
        assert mask.shape == truth.shape and numpy.array_equal(mask.affine, truth.affine)
        a, b = (numpy.asarray(image.dataobj) for image in (mask, truth))
        for row in rows[name[: -len(".nii.gz")]]:
            label = int(row["label"])
            dice = 2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum())
            got = case["metrics"][row["label"]]
            assert abs(got["Dice"] - float(row["dice"])) < 1e-9 and abs(got["Dice"] - dice) < 1e-9, (name, label)


def same(one, other):
    one, other = (json.load(open(name, encoding="utf-8")) for name in (one, other))
    pairs = [(one["foreground_mean"], other["foreground_mean"])]
    pairs += [(one["mean"][label], other["mean"][label]) for label in one["mean"]]
    found = [{os.path.basename(c["prediction_file"]): c["metrics"] for c in s["metric_per_case"]} for s in (one, other)]
    assert found[0] and found[0].keys() == found[1].keys()
    pairs += [(found[0][case][label], found[1][case][label]) for case in found[0] for label in found[0][case]]
    for a, b in pairs:
        assert a.keys() == b.keys(), (a, b)
        assert all(abs(a[key] - b[key]) <= 1e-9 * max(1, abs(a[key])) for key in a), (a, b)


if __name__ == "__main__":
    {f.__name__: f for f in (trees, listing, demo, demo_bids, exported, same)}[sys.argv[1]](*sys.argv[2:])
