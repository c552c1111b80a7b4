#!/usr/bin/env python3
"""How the time of each step grows with the archive: scan, start, run, restart, status, report, verify, retry.

    scripts/bench_catalog.py [--nocturne PROGRAM] [--model FOLDER] [--work FOLDER] [--studies 10000,30000,100000] [--masks 1000,4000]

Archives of tiny scans, one hard-linked file under many names, lie in the work folder (in memory by default). The scans have no
place in space, so that a run refuses each at once: what is left is bookkeeping. Archives of --masks studies are really
segmented. Prints seconds, and seconds of CPU a thousand studies: where a step is linear the latter stay level.
"""
import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LINKS = 20000  # of one file; file systems have limits
FOLDER = 1000  # studies


def nifti(size, is_placed):
    """A NIfTI-1 file of size^3 bytes, 1 mm; without a place in space it is refused by a run."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, size, size, size, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 2, 8)
    struct.pack_into("<8f", head, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", head, 108, 352)
    struct.pack_into("<f", head, 112, 1)
    struct.pack_into("<2h", head, 252, 0, int(is_placed))
    for row in range(3):
        struct.pack_into("<4f", head, 280 + 16 * row, *[1.0 if column == row else 0.0 for column in range(4)])
    head[344:348] = b"n+1\0"
    return bytes(head) + bytes((7 * i) % 251 for i in range(size**3))


def make_archive(folder, count, content):
    """A Decathlon folder and the same as a list, with names in folders of a thousand."""
    names = []
    for i in range(count):
        place = os.path.join(folder, "images", f"{i // FOLDER:03d}")
        if i % FOLDER == 0:
            os.makedirs(place)
        if i % LINKS == 0:
            original = os.path.join(folder, f"original-{i}")
            with open(original, "wb") as file:
                file.write(content)
        name = os.path.join(place, f"case_{i:06d}.nii")
        os.link(original, name)
        names.append(os.path.relpath(name, folder))
    with open(os.path.join(folder, "dataset.json"), "w", encoding="utf-8") as file:
        json.dump({"training": [], "test": names, "numTraining": 0, "numTest": count}, file)
    for file_name, key in (("list.csv", "study-{:06d}"), ("same.csv", "study")):
        with open(os.path.join(folder, file_name), "w", encoding="utf-8") as file:
            file.write("key,image,truth\n" + "".join(f"{key.format(i)},{name},\n" for i, name in enumerate(names)))


def cpu_seconds():
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cell(value, count):
    if value is None:
        return ""
    return f"{value[0]:.2f}; {1000 * value[1] / count:.4f}" if isinstance(value, tuple) else f"{value / count:.0f}"


class Bench:
    def __init__(self, options, work):
        self.options, self.work, self.rows = options, work, {}

    def command(self, *words):
        return [self.options.nocturne, *words, "--catalog", os.path.join(self.work, "catalog")]

    def start(self):
        self.begin, self.used = time.monotonic(), cpu_seconds()

    def note(self, step, count, seconds):
        cpu = cpu_seconds() - self.used
        self.rows.setdefault(step, {})[count] = seconds, cpu
        print(f"# {count:7d} {step:34s} {seconds:8.2f} s {cpu:8.2f} s of CPU", file=sys.stderr, flush=True)

    def time(self, step, count, *words, code=0):
        self.start()
        done = subprocess.run(self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        self.note(step, count, time.monotonic() - self.begin)
        if done.returncode != code:
            sys.exit(f"{step}: exit code {done.returncode}\n{done.stderr.decode()[-2000:]}")
        return done.stdout

    def run_words(self, *words):
        return ("run", "-m", self.options.model, "--results", os.path.join(self.work, "results"), "--threads", "1",
                "--progress", "none", *words)

    def results_words(self, *words):
        return (*words, "--results", os.path.join(self.work, "results"))

    def first_grant(self, step, count, *words):
        """Until the first study is in hand; then everything is killed."""
        self.start()
        process = subprocess.Popen(self.command(*self.run_words("--log-level", "debug", *words)), stderr=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, start_new_session=True)
        while True:
            with contextlib.closing(sqlite3.connect(f"file:{self.work}/catalog?mode=ro", uri=True)) as catalog:
                with contextlib.suppress(sqlite3.OperationalError):
                    if catalog.execute("SELECT count(*) FROM attempt WHERE outcome IS NULL").fetchone()[0]:
                        break
            if process.poll() is not None:
                sys.exit(f"{step}: the run ended with {process.returncode}")
            time.sleep(0.01)
        seconds = time.monotonic() - self.begin
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.note(step, count, seconds)

    def clear(self):
        for name in os.listdir(self.work):
            path = os.path.join(self.work, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def forget(self):
        for name in ("catalog", "catalog-wal", "catalog-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.work, name))

    def catalog_bytes(self):
        return sum(os.path.getsize(os.path.join(self.work, name)) for name in os.listdir(self.work)
                   if name.startswith("catalog") and not name.endswith(".lock"))

    def many(self, count):
        """Scans that a run refuses as soon as it has read them: a study costs what its bookkeeping costs."""
        self.clear()
        archive = os.path.join(self.work, "archive")
        make_archive(archive, count, nifti(8, False))
        self.time("scan a folder", count, "scan", archive)
        self.time("scan it again, nothing new", count, "scan", archive)
        self.forget()
        self.time("scan a list, one key for all", count, "scan", os.path.join(archive, "same.csv"))
        self.forget()
        self.time("scan a list", count, "scan", os.path.join(archive, "list.csv"))
        self.first_grant("start: to the first study granted", count, "--ranks", "1")
        self.time("run, every study fails", count, *self.run_words("--ranks", "1"), code=1)
        self.time("restart, nothing pending", count, *self.run_words("--ranks", "1"), code=1)
        self.time("status", count, *self.results_words("status"))
        self.time("report --csv", count, *self.results_words("report", "--csv"))
        self.rows.setdefault("catalog, bytes a study", {})[count] = self.catalog_bytes()
        self.time("retry", count, *self.results_words("retry"))
        self.first_grant("restart: to the first study granted", count, "--ranks", "1")

    def masks(self, count):
        self.clear()
        archive = os.path.join(self.work, "archive")
        make_archive(archive, count, nifti(8, True))
        self.time("masks: scan a folder", count, "scan", archive)
        self.time("masks: run", count, *self.run_words("--ranks", "1", "--window", "16,16,16"))
        self.time("masks: restart, all done", count, *self.run_words("--ranks", "1", "--window", "16,16,16"))
        self.time("masks: status", count, *self.results_words("status"))
        self.time("masks: report --csv", count, *self.results_words("report", "--csv"))
        self.time("masks: verify", count, *self.results_words("verify"))
        self.rows.setdefault("masks: catalog, bytes a study", {})[count] = self.catalog_bytes()

    def table(self):
        counts = sorted({count for row in self.rows.values() for count in row})
        print("| step | " + " | ".join(f"{count:,}" for count in counts) + " |")
        print("|---|" + "---|" * len(counts))
        for step, row in self.rows.items():
            print(f"| {step} | " + " | ".join(cell(row.get(c), c) for c in counts) + " |")
        print("\nSeconds; seconds of CPU a thousand studies.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nocturne", default=os.path.join(HERE, "..", "build", "nocturne"))
    parser.add_argument("--model", default=os.path.join(HERE, "..", "models", "hippocampus"))
    parser.add_argument("--work", default="/dev/shm")
    parser.add_argument("--studies", default="10000,30000,100000")
    parser.add_argument("--masks", default="")
    options = parser.parse_args()
    options.nocturne = os.path.abspath(options.nocturne)
    with tempfile.TemporaryDirectory(prefix="bench-catalog.", dir=options.work) as work:
        bench = Bench(options, work)
        for count in filter(None, options.studies.split(",")):
            bench.many(int(count))
        for count in filter(None, options.masks.split(",")):
            bench.masks(int(count))
        bench.table()


if __name__ == "__main__":
    main()
