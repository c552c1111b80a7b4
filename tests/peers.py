"""What of the comparison with PyTorch needs no PyTorch.

    peers.py compiled FILE...               every script can be read by Python
    peers.py windows GOLDEN                 starts, padding and importance map
    peers.py prepared SCAN TENSOR           what the network sees, beside `nocturne prepare`
    peers.py grid FOLDER                    a mask goes back into the voxel order of scans of every orientation
    peers.py studies ARCHIVE MASKS REPORT   keys and Dice as `nocturne report --csv` has them
    peers.py judged                         which differences from PyTorch are complained about
"""
import ast
import json
import os
import sys

import nibabel
import numpy
import scans
import stored
import tensors

sys.path.insert(0, os.path.join(os.environ["root"], "scripts"))
import bench_archive  # noqa: E402
import segment_torch  # noqa: E402


def compiled(complaints, *paths):
    for path in paths:
        with open(path, encoding="utf-8") as file:
            ast.parse(file.read(), path)


def windows(complaints, golden):
    with open(golden + "/starts.json", encoding="utf-8") as file:
        cases = json.load(file)
    complaints.check(cases, "no case of starts")
    for case in cases:
        pads = segment_torch.padding(case["size"], case["roi"])
        complaints.check([list(p) for p in zip(*pads)] == [case["pad_low"], case["pad_high"]], f"padding {pads}: {case}")
        got = list(segment_torch.starts(case["padded"], case["roi"], case["overlap"]))
        axes = [sorted({corner[a] for corner in got}) for a in range(3)]
        complaints.check(axes == case["axis_starts"] and len(got) == case["windows"], f"starts {axes}: {case}")
    for name, wanted in tensors.read(golden + "/importance.safetensors")[1].items():
        error = tensors.error(segment_torch.importance(wanted.shape, "gaussian"), wanted)
        complaints.check(error < 2e-6, f"importance {name}: off by {error}")


def prepared(complaints, scan, tensor):
    got, wanted = segment_torch.prepare(nibabel.load(scan)), tensors.read(tensor)[1]["input"]
    complaints.check(tensors.error(got, wanted) < 1e-6, f"{scan}: {got.shape} {wanted.shape}")


def grid(complaints, folder):
    for seed, code in enumerate(scans.CODES):
        image = scans.make(folder + "/scan.nii.gz", seed, size=(7, 9, 5), code=code)
        values = image.get_fdata()
        mask = segment_torch.on_grid(segment_torch.prepare(image)[0] > 0, image)
        complaints.check(numpy.array_equal(mask, values > values.mean()), f"{code}: a mask on another grid")


def studies(complaints, archive, masks, report):
    rows = stored.report(report)
    found = list(segment_torch.studies(archive))
    complaints.check(sorted(key for key, _, _ in found) == sorted(rows), "other keys")
    for key, _, truth in found:
        got = segment_torch.dice(stored.labels(f"{masks}/{key}.nii.gz"), stored.labels(truth), [1, 2])
        wanted = [float(row["dice"]) for row in rows[key]]
        complaints.check(numpy.allclose(got, wanted, atol=1e-8), f"{key}: Dice {got}, reported {wanted}")


class Figures:
    def __init__(self, share=0.999, error=2e-3, mean=1e-4, worst=-1e-3):
        self.share, self.error, self.mean, self.worst = share, error, mean, worst


def judged(complaints):
    torch = Figures(share=0.998, error=3e-2)
    complaints.check(not list(bench_archive.complaints(1.0, Figures(), torch)), "complaint about good figures")
    for share, ours in ((0.9999, Figures()), (1.0, Figures(share=0.997)), (1.0, Figures(error=4e-2)),
                        (1.0, Figures(mean=-2e-3)), (1.0, Figures(worst=2e-2))):
        complaints.check(len(list(bench_archive.complaints(share, ours, torch))) == 1, f"accepted: {share} {vars(ours)}")


if __name__ == "__main__":
    found = stored.Complaints()
    {f.__name__: f for f in (compiled, windows, prepared, grid, studies, judged)}[sys.argv[1]](found, *sys.argv[2:])
    found.end()
