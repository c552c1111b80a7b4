#!/usr/bin/env python3
"""What the death of a worker costs: runs of the demo's scans, in each of which one of two workers is killed.

    scripts/bench_kill.py [--nocturne PROGRAM] [--kills 10] [--copies 6]

For each kill: seconds that the dead worker had worked since its last finished study (the work that is lost), seconds until
the coordinator gave its studies back, attempts that ended with it, and whether ranks were started again. A study's length
is what one worker needs from one finished study to the next.
"""
import argparse
import contextlib
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "tests"))
import processes  # noqa: E402

WORKER = 3  # coordinator, writer, two workers


def ask(work, sql):
    with contextlib.closing(sqlite3.connect(f"file:{work}/catalog?mode=ro", uri=True)) as catalog:
        return catalog.execute(sql).fetchall()


def make_list(work, copies):
    images = os.path.join(ROOT, "demo", "archive", "imagesTr")
    path = os.path.join(work, "list.csv")
    with open(path, "w", encoding="utf-8") as file:
        file.write("key,image,truth\n")
        for name in sorted(os.listdir(images)):
            if name.endswith(".nii.gz"):
                file.writelines(f"{name[:-7]}-{i},{os.path.abspath(os.path.join(images, name))},\n" for i in range(copies))
    return path


def start(options, work):
    words = [options.nocturne, "run", "-m", os.path.join(ROOT, "models", "hippocampus"), "--catalog", f"{work}/catalog",
             "--results", f"{work}/results", "--ranks", "4", "--threads", "1", "--window", "24,32,24", "--overlap", "0.75",
             "--part-studies", "8"]
    return subprocess.Popen(words, stderr=open(f"{work}/log", "wb"))


def one_kill(options, instant):
    with tempfile.TemporaryDirectory(prefix="bench-kill.") as work:
        subprocess.run([options.nocturne, "scan", "--catalog", f"{work}/catalog", make_list(work, options.copies)],
                       check=True, stdout=subprocess.DEVNULL)
        run = start(options, work)
        ended = f"SELECT count(*) FROM attempt WHERE rank = {WORKER} AND ended_ns > 0"
        while run.poll() is None and ask(work, ended)[0][0] < 4:
            time.sleep(0.02)
        time.sleep(instant)
        os.kill(processes.ranks(run.pid)[WORKER], signal.SIGKILL)
        killed = time.time_ns()
        code = run.wait()
        finished = [row[0] for row in ask(work, f"SELECT ended_ns FROM attempt WHERE rank = {WORKER} AND outcome = 'done'"
                                                f" AND ended_ns < {killed} ORDER BY ended_ns")]
        crashed = ask(work, f"SELECT ended_ns FROM attempt WHERE rank = {WORKER} AND outcome = 'crash'")
        done = ask(work, "SELECT count(*) FROM result WHERE state = 'done'")[0][0]
        with open(f"{work}/log", encoding="utf-8") as log:
            restarts = log.read().count("starting them again")
        other = [row[0] for row in ask(work, "SELECT ended_ns FROM attempt WHERE rank = 2 AND outcome = 'done'"
                                             " ORDER BY ended_ns")]
        lengths = [(b - a) / 1e9 for a, b in zip(other, other[1:])]
        return {"code": code, "done": done, "restarts": restarts, "attempts": len(crashed),
                "lost": (killed - finished[-1]) / 1e9, "known": (max(row[0] for row in crashed) - killed) / 1e9,
                "study": statistics.median(lengths), "longest": max(lengths)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nocturne", default=os.path.join(ROOT, "build", "nocturne"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.nocturne = os.path.abspath(options.nocturne)
    instants = random.Random(options.seed)
    print("| kill | done | exit | restarts | attempts lost | work lost, s | a study, s (median, longest) | given back after, s |")
    print("|---|---|---|---|---|---|---|---|")
    for kill in range(options.kills):
        k = one_kill(options, instants.uniform(0, 1))
        print(f"| {kill + 1} | {k['done']} of {16 * options.copies} | {k['code']} | {k['restarts']} | {k['attempts']} |"
              f" {k['lost']:.2f} | {k['study']:.2f}, {k['longest']:.2f} | {k['known']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
