"""Each kind of damage that scripts/check_results.py must find.

    damages.py names                               one a line
    damages.py try NAME PLACE UNDISTURBED WORK     copies PLACE (catalog, results), damages the copy, and checks it:
                                                   exit code 1 unless exactly the expected sentence comes first
"""
import os
import shutil
import sqlite3
import subprocess
import sys

import h5py

CHECKER = os.path.join(os.path.dirname(__file__), "..", "scripts", "check_results.py")
FIRST, KEY = "results/part-000001.h5", None


def sql(statement, *values):
    database = sqlite3.connect("catalog")
    with database:
        database.execute(statement, values)
    database.close()


def change_mask(repair_hash):
    import hashlib
    with h5py.File(FIRST, "r+") as part:
        study = part["studies"][KEY]
        study["mask"][0, 0, 0] ^= 1
        if repair_hash:
            sha256 = hashlib.sha256(study["mask"][()].tobytes()).hexdigest()
            study.attrs.modify("mask_sha256", sha256.encode())
            sql("UPDATE result SET mask_sha256 = ? WHERE study_id = (SELECT id FROM study WHERE key = ?)", sha256, KEY)
    keep_size()


def keep_size():
    """A part that was written again may have another size; only the one damage shall be there."""
    sql("UPDATE part SET bytes = ? WHERE number = 1", os.path.getsize(FIRST))


def remove_study():
    with h5py.File(FIRST, "r+") as part:
        del part["studies"][KEY]
    keep_size()


def change_metric(both):
    with h5py.File(FIRST, "r+") as part:
        rows = part["metrics"][()]
        row = next(i for i, row in enumerate(rows) if row["key"].decode() == KEY)
        rows[row]["tp"] += 1
        part["metrics"][...] = rows
    keep_size()
    if both:
        sql("UPDATE metric SET tp = tp + 1 WHERE position = 0 AND study_id = (SELECT id FROM study WHERE key = ?)", KEY)


def cut_part(count):
    with open(FIRST, "r+b") as file:
        file.truncate(os.path.getsize(FIRST) - count)


def copy_study():
    with h5py.File(FIRST, "r") as part, h5py.File("results/part-000002.h5", "r+") as other:
        part.copy(part["studies"][KEY], other["studies"])
    sql("UPDATE part SET bytes = ? WHERE number = 2", os.path.getsize("results/part-000002.h5"))


def change_index(remove, add=None):
    with h5py.File("results/index.h5", "r+") as index:
        link = index["studies"].get(KEY, getlink=True)
        del index["studies"][KEY]
        if not remove:
            index["studies"][add or KEY] = h5py.ExternalLink("part-000002.h5", link.path)


def set_state(state, failure=None, sentence=None):
    sql("UPDATE result SET state = ?, failure = ?, sentence = ? WHERE study_id = (SELECT id FROM study WHERE key = ?)",
        state, failure, sentence, KEY)


DAMAGES = {
    "a voxel": (lambda: change_mask(False), "its mask has the hash"),
    "a voxel, hidden": (lambda: change_mask(True), "its mask is not that of the undisturbed run"),
    "a study gone from its part": (remove_study, "does not hold it"),
    "a metric": (lambda: change_metric(False), "are not those of the catalog"),
    "a metric, hidden": (lambda: change_metric(True), "its metrics are not those of the undisturbed run"),
    "a part gone": (lambda: os.remove(FIRST), "does not hold it"),
    "a part cut": (lambda: cut_part(1000), "does not hold it"),
    "a part longer": (lambda: open(FIRST, "ab").write(b"more"), "has another size"),
    "a part twice": (lambda: shutil.copy(FIRST, "results/part-000009.h5"), "stands in parts 1, 9"),
    "a study twice": (copy_study, "stands in parts 1, 2"),
    "an unknown part": (lambda: h5py.File("results/part-000009.h5", "w").close(), "cannot be read"),
    "an open part": (lambda: open("results/part-000009.h5.open", "w").close(), "was never closed"),
    "a part aside": (lambda: open("results/part-000009.h5.unknown", "w").close(), "set aside"),
    "no index": (lambda: os.remove("results/index.h5"), "the index cannot be read"),
    "an index that leaves one out": (lambda: change_index(True), "the index does not lead to"),
    "an index that leads elsewhere": (lambda: change_index(False), "to another part"),
    "an index that knows too much": (lambda: change_index(False, "stranger"), "leads to stranger"),
    "a pending study": (lambda: set_state("pending"), "is pending, neither done nor failed"),
    "a running study": (lambda: set_state("running"), "is running, neither done nor failed"),
    "a failure without a sentence": (lambda: set_state("failed", "crash"), "without a reason"),
    "a failure of one that can be done": (lambda: set_state("failed", "crash", "x"), "done in the undisturbed run"),
    "a study gone from the catalog": (
        lambda: sql("UPDATE study SET key = 'stranger' WHERE key = ?", KEY), "stranger is done in the catalog"),
    "a part gone from the catalog": (lambda: sql("DELETE FROM part WHERE number = 1"), "is an orphan"),
    "another results folder": (lambda: sql("UPDATE result_set SET results = '/no/such'"), "has no study"),
}


def main(command, *words):
    global KEY
    if command == "names":
        print("\n".join(DAMAGES))
        return
    name, place, undisturbed, work = words
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(place, work)
    os.chdir(work)
    sql("UPDATE result_set SET results = ?", os.path.abspath("results"))
    with h5py.File(FIRST, "r") as part:
        KEY = sorted(part["studies"])[0]
    damage, sentence = DAMAGES[name]
    damage()
    done = subprocess.run([sys.executable, CHECKER, "catalog", "results", undisturbed], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    sys.exit(not (done.returncode == 1 and sentence in done.stdout))


if __name__ == "__main__":
    main(*sys.argv[1:])
