"""What must hold after a run that was disturbed and then went to its end.

    run_check.py CATALOG RESULTS UNDISTURBED [innocent]

Every study of the catalog is done, once: its mask stands in exactly one part, and equals that of the
undisturbed results, where KEY stands for each KEY-NUMBER. No unfinished part is left. No attempt is charged,
and with the word `innocent` no study is suspected of having killed its worker. Prints what does not hold;
exit code 1.
"""
import glob
import hashlib
import os
import sqlite3
import sys

import h5py


def masks(folder):
    """{key: [hash of its mask in each part that holds it]}"""
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "part-*.h5"))):
        with h5py.File(path, "r") as part:
            for key, study in part["studies"].items():
                mask = study["mask"][()]
                digest = hashlib.sha256(str((mask.shape, mask.dtype)).encode() + mask.tobytes()).hexdigest()
                found.setdefault(key, []).append(digest)
    return found


def complaints(catalog, results, undisturbed, innocent):
    wanted, found = masks(undisturbed), masks(results)
    database = sqlite3.connect(f"file:{catalog}?mode=ro", uri=True)
    rows = database.execute(
        "SELECT s.key, r.state, r.attempts, r.is_suspect FROM result r JOIN study s ON s.id = r.study_id"
        " JOIN result_set t ON t.id = r.set_id WHERE t.results = ?", (os.path.abspath(results),)).fetchall()
    if not rows:
        yield "the catalog has no study of these results"
    for key, state, attempts, suspect in rows:
        if state != "done":
            yield f"{key} is {state}"
        if attempts:
            yield f"{key}: {attempts} attempts are charged"
        if innocent and suspect:
            yield f"{key} is a suspect"
        if len(found.get(key, [])) != 1:
            yield f"{key} stands in {len(found.get(key, []))} parts"
        elif found[key] != wanted.get(key.rpartition("-")[0]):
            yield f"{key}: not the mask of an undisturbed run"
    for path in glob.glob(os.path.join(results, "*.open")) + glob.glob(os.path.join(results, "*.unknown")):
        yield f"{path} is left"


if __name__ == "__main__":
    said = list(complaints(*sys.argv[1:4], "innocent" in sys.argv[4:]))
    print("\n".join(said))
    sys.exit(1 if said else 0)
