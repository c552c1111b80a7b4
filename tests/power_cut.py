#!/usr/bin/python3
"""Power cuts at every instant of a recorded run.

    power_cut.py record [--network] [--die KIND:TEXT] FOLDER WORDS...
    power_cut.py replay [--random N] [--continued N] [--seed N] [--apart] [--forget KIND:TEXT]... [--late KIND:TEXT] FOLDER

`record` lets the program scan, run WORDS, infer and export, all below FOLDER/disk, and preloads shim_record.so, which
writes down in one order what all processes do to files, what they sync and what they acknowledge (FOLDER/log). With
--network the catalog believes to be on a network file system; with --die a first run is killed after that call.

`replay` cuts the power before the first and after each of these calls. What a disk may hold then:

- of a file: all that was written before its last sync; of what came later each page of 4096 bytes in any of
  its states, the last one torn at a sector; its size in any of its states
- of a folder: the names of its last sync; of the changes since then any
- a sync of a file says nothing of its name; a renamed file has one name or the other

Tried are nothing and all of what was not synced, names without data, data without names, and N random choices.
In each state that differs from those before:

- the catalog passes SQLite's integrity check
- a study that is done has its mask in its part, with its hash, and the part has its size
- a file under a name that it got by renaming is whole
- what was acknowledged is there: the studies of a scan, those of a committed part, each file of a command that
  ended with 0

In a sample the program itself goes on from there: `status` and `verify` agree, `run` ends with 0, and then every study
is done once, with the mask of the recorded run, and nothing is left over.

With --apart each process is a machine of its own: what it syncs is what it wrote itself.
--forget KIND:TEXT leaves out the records of that kind (s: sync of a file, S: of a folder, r: rename) whose path holds
TEXT: what a program would leave behind that forgot to. --late puts them behind the next part's acknowledgement. Prints
what does not hold; exit code 1.
"""
import argparse
import collections
import glob
import hashlib
import io
import json
import os
import random
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time

import h5py

import run_check

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))
NOC = os.environ.get("NOC", os.path.join(BUILD, "nocturne"))
SHIM = os.path.join(BUILD, "tests", "shim_record.so")
MODEL = os.path.join(ROOT, "models", "hippocampus")
STUDIES, PAGE, SECTOR = 6, 4096, 512
CATALOG, RESULTS = "catalog/studies.sqlite", "results"
FOLDERS = (os.path.dirname(CATALOG), "out")  # there before the record begins
HEAD = struct.Struct("=IIQqIIQ")

Call = collections.namedtuple("Call", "kind process inode offset path other data")


# ---- the record ----

def read_calls(path):
    with open(path, "rb") as file:
        data = file.read()
    calls, at = [], 0
    while at < len(data):
        kind, process, inode, offset, name, other, size = HEAD.unpack_from(data, at)
        at += HEAD.size
        texts = data[at:at + name].decode(), data[at + name:at + name + other].decode()
        at += name + other
        calls.append(Call(chr(kind), process, inode, offset, *texts, data[at:at + size]))
        at += size
    return calls


def write_list(path):
    archive = os.path.join(ROOT, "demo", "archive")
    images = sorted(glob.glob(os.path.join(archive, "imagesTr", "*.nii.gz")))[:STUDIES]
    with open(path, "w") as file:
        print("key,image,truth", file=file)
        for image in images:
            name = os.path.basename(image)
            print(f"{name.split('.')[0]},{image},{os.path.join(archive, 'labelsTr', name)}", file=file)
    return images


class Place:
    """A recording's folder, and the program's commands in it."""

    def __init__(self, folder):
        self.folder = os.path.realpath(folder)
        self.disk, self.log = os.path.join(self.folder, "disk"), os.path.join(self.folder, "log")
        self.whole, self.list = os.path.join(self.folder, "whole"), os.path.join(self.folder, "list.csv")
        self.network = os.path.join(self.folder, "network")

    def at(self, *names):
        return os.path.join(self.disk, *names)

    def command(self, words, is_recorded=False, death=None):
        environment = dict(os.environ)
        if death:
            environment["NOC_RECORD_DIE"] = death
        if is_recorded:
            environment.update(NOC_RECORD=self.log, NOC_RECORD_ROOT=self.disk)
        if os.path.exists(self.network):
            environment["NOC_RECORD_NFS"] = self.at(os.path.dirname(CATALOG))
        if is_recorded or os.path.exists(self.network):
            environment["LD_PRELOAD"] = " ".join(filter(None, [os.environ.get("LD_PRELOAD"), SHIM]))
            options = os.environ.get("ASAN_OPTIONS")  # which wants to be the first library
            environment["ASAN_OPTIONS"] = ":".join(filter(None, [options, "verify_asan_link_order=0"]))
        return subprocess.run([NOC, *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=300, check=False)

    def where(self):
        return ["--catalog", self.at(CATALOG), "--results", self.at(RESULTS)]

    def scan(self, **how):
        return self.command(["scan", "--catalog", self.at(CATALOG), self.list], **how)

    def run(self, *words, **how):
        return self.command(["run", "-m", MODEL, *self.where(), "--threads", "1", "--window", "24,32,24", "--overlap",
                             "0.25", "--part-studies", "2", "--log-level", "debug", *words], **how)


def record(folder, words, is_network, death):
    place = Place(folder)
    for name in FOLDERS:
        os.makedirs(place.at(name))
    images = write_list(place.list)
    if is_network:
        with open(place.network, "w"):
            pass
    steps = {
        "scan": place.scan,
        "killed": lambda **how: place.run(*words, death=death, **how),
        "run": lambda **how: place.run(*words, **how),
        "infer": lambda **how: place.command(
            ["infer", "-m", MODEL, "--threads", "1", "-o", place.at("out", "one.nii.gz"), images[0]], **how),
        "export": lambda **how: place.command(["export", *place.where(), "-o", place.at("new", "masks")], **how),
    }
    for name, step in steps.items():
        if name == "killed" and not death:
            continue
        done = step(is_recorded=True)
        if done.returncode != (-9 if name == "killed" else 0):
            sys.exit(f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        with open(place.log, "ab") as log:
            text = f"power_cut: {name} ended with 0".encode()
            log.write(HEAD.pack(ord("k"), os.getpid(), 0, 0, 0, 0, len(text)) + text)
    os.rename(place.disk, place.whole)


# ---- a disk that forgets what was not synced ----

def applied(content, changes):
    data = bytearray(content)
    for offset, piece in changes:
        if piece is None:  # truncated there
            del data[offset:]
            data.extend(bytes(offset - len(data)))
        else:
            data.extend(bytes(max(0, offset - len(data))))
            data[offset:offset + len(piece)] = piece
    return bytes(data)


class File:
    def __init__(self, content=b""):
        self.synced = self.now = content
        self.changes, self.writers = [], []
        self.promised = {}  # name that it got by renaming: what it held then

    def change(self, offset, piece, writer):
        self.changes.append((offset, piece))
        self.writers.append(writer)
        self.now = applied(self.now, [(offset, piece)])

    def sync(self, writer):
        """Of everybody's changes, or of one writer's."""
        synced = [change for change, who in zip(self.changes, self.writers) if writer in (None, who)]
        left = [(change, who) for change, who in zip(self.changes, self.writers) if writer not in (None, who)]
        self.synced = applied(self.synced, synced) if left else self.now
        self.changes, self.writers = [change for change, _ in left], [who for _, who in left]

    def survivor(self, how, chance):
        """What is left: of nothing, all or a random choice of what was not synced."""
        if how == "none" or not self.changes:
            return self.synced
        return self.now if how == "all" else self.random_survivor(chance)

    def random_survivor(self, chance):
        sizes, touched = [len(self.synced)], collections.defaultdict(list)
        for offset, piece in self.changes:
            end = offset if piece is None else offset + len(piece)
            last = max(sizes[-1], end) if piece is None else end
            for page in range(min(offset, sizes[-1]) // PAGE, (last + PAGE - 1) // PAGE):
                touched[page].append((offset, piece))
            sizes.append(end if piece is None else max(sizes[-1], end))
        size = chance.choice([sizes[-1], chance.choice(sizes)])
        data = bytearray(self.synced[:size])
        data.extend(bytes(size - len(data)))
        for page, changes in touched.items():
            start, states = page * PAGE, [self.synced[page * PAGE:(page + 1) * PAGE].ljust(PAGE, b"\0")]
            for offset, piece in changes:
                states.append(self.changed_page(states[-1], start, offset, piece))
            some = chance.randrange(len(states))
            kept = states[some]
            if some + 1 < len(states) and page == max(touched):
                tear = SECTOR * chance.randrange(PAGE // SECTOR)
                kept = states[some + 1][:tear] + kept[tear:]
            data[start:start + PAGE] = kept[:max(0, size - start)]
        return bytes(data)

    @staticmethod
    def changed_page(page, start, offset, piece):
        if piece is None:
            kept = min(PAGE, max(0, offset - start))
            return page[:kept] + bytes(PAGE - kept)
        low, high = max(offset, start), min(offset + len(piece), start + PAGE)
        if low >= high:
            return page
        return page[:low - start] + piece[low - offset:high - offset] + page[high - start:]


class Folder:
    def __init__(self):
        self.synced, self.now, self.changes = {}, {}, []

    @staticmethod
    def apply(names, change):
        """(name or None that goes, name or None that comes, what it names)"""
        old, new, node = change
        if old is not None:
            names.pop(old, None)
        if new is not None:
            names[new] = node

    def change(self, *change):
        self.changes.append(change)
        self.apply(self.now, change)

    def sync(self):
        self.synced, self.changes = dict(self.now), []

    def survivor(self, how, chance):
        if how == "all":
            return self.now
        names = dict(self.synced)
        if how == "random":
            count = chance.choice([len(self.changes), chance.randint(0, len(self.changes))])
            share = chance.choice([0.5, 1])
            for change in self.changes[:count]:
                if chance.random() < share:
                    self.apply(names, change)
        return names


class Disk:
    def __init__(self, folders, is_apart):
        self.root, self.inodes, self.is_apart = Folder(), {}, is_apart
        for name in folders:
            self.root.change(None, name, Folder())
        self.root.sync()

    def folder(self, path):
        node = self.root
        for name in filter(None, path.split("/")):
            node = node.now[name]
        return node

    def split(self, path):
        folder, _, name = path.rpartition("/")
        return self.folder(folder), name

    def play(self, call):
        if call.kind == "c":
            folder, name = self.split(call.path)
            self.inodes[call.inode] = File()
            folder.change(None, name, self.inodes[call.inode])
        elif call.kind in "wt":
            self.inodes[call.inode].change(call.offset, call.data if call.kind == "w" else None, call.process)
        elif call.kind == "s":
            self.inodes[call.inode].sync(call.process if self.is_apart else None)
        elif call.kind == "S":
            self.folder(call.path).sync()
        elif call.kind == "m":
            folder, name = self.split(call.path)
            folder.change(None, name, Folder())
        elif call.kind in "ud":
            folder, name = self.split(call.path)
            folder.change(name, None, None)
        elif call.kind in "rl":
            self.play_name(call)

    def play_name(self, call):
        source, old = self.split(call.path)
        target, new = self.split(call.other)
        node = source.now[old]
        if call.kind == "r":
            node.promised[call.other] = node.now
        if source is not target and call.kind == "r":
            source.change(old, None, None)
        target.change(old if source is target and call.kind == "r" else None, new, node)

    def survivors(self, names, data, chance):
        """[(path, file, what it holds)] of one state after a power cut; a folder's file is None."""
        found, waiting = [], [("", self.root)]
        while waiting:
            path, folder = waiting.pop()
            for name, node in folder.survivor(names, chance).items():
                below = path + "/" + name if path else name
                if isinstance(node, Folder):
                    found.append((below, None, b""))
                    waiting.append((below, node))
                else:
                    found.append((below, node, node.survivor(data, chance)))
        return sorted(found, key=lambda entry: entry[0])


def materialise(entries, folder):
    os.makedirs(folder)
    for path, file, content in entries:
        where = os.path.join(folder, path)
        if file is None:
            os.makedirs(where, exist_ok=True)
        else:
            with open(where, "wb") as made:
                made.write(content)


# ---- what must hold ----

class Catalog:
    """What SQLite makes of the files that were left: rows {key: (state, part, hash)}, parts {number: bytes}."""

    def __init__(self, path):
        self.damage, self.rows, self.parts, self.keys, self.has_set = None, {}, {}, set(), False
        database = sqlite3.connect(path)
        try:
            database.execute("PRAGMA synchronous = OFF")
            said = database.execute("PRAGMA integrity_check").fetchone()[0]
            self.damage = None if said == "ok" else said
            if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0:
                self.keys = {key for key, in database.execute("SELECT key FROM study")}
                self.has_set = database.execute("SELECT count(*) FROM result_set").fetchone()[0] > 0
                self.parts = dict(database.execute("SELECT number, bytes FROM part"))
                self.rows = {key: rest for key, *rest in database.execute(
                    "SELECT s.key, r.state, r.part, r.mask_sha256 FROM result r JOIN study s ON s.id = r.study_id")}
        except sqlite3.DatabaseError as error:
            self.damage = str(error)
        finally:
            database.close()

    def done(self):
        return {key: (part, sha256) for key, (state, part, sha256) in self.rows.items() if state == "done"}


def part_path(number):
    return f"{RESULTS}/part-{number:06}.h5"


class Judge:
    """Knows how the recorded run ended, and what each state must hold."""

    def __init__(self, place, scratch):
        self.place, self.scratch, self.catalogs, self.masks = place, scratch, {}, {}
        ended = shutil.copytree(os.path.dirname(os.path.join(place.whole, CATALOG)), os.path.join(scratch, "end"))
        self.end = Catalog(os.path.join(ended, os.path.basename(CATALOG)))  # a copy: opening may change it
        self.wanted = run_check.masks(os.path.join(place.whole, RESULTS))

    def catalog(self, state):
        files = tuple((path, content) for path, file, content in state
                      if file and path.startswith(CATALOG) and not path.endswith(".lock"))
        if files not in self.catalogs:
            where = os.path.join(self.scratch, "state")
            materialise([(os.path.basename(path), True, content) for path, content in files], where)
            here = os.path.join(where, os.path.basename(CATALOG))
            self.catalogs[files] = Catalog(here) if os.path.exists(here) else None
            shutil.rmtree(where)
        return self.catalogs[files]

    def hashes(self, content):
        """{key: SHA-256 of its mask} of a part; a sentence when it cannot be read."""
        if content not in self.masks:
            try:
                with h5py.File(io.BytesIO(content), "r") as part:
                    self.masks[content] = {key: hashlib.sha256(study["mask"][()].tobytes()).hexdigest()
                                           for key, study in part["studies"].items()}
            except (OSError, KeyError, RuntimeError, ValueError) as error:
                self.masks[content] = str(error).splitlines()[0]
        return self.masks[content]

    def complaints(self, state, acknowledged):
        held = {path: content for path, file, content in state if file}
        for path, file, content in state:
            if file and content != file.promised.get(path, content):
                yield f"{path} has its name and not its content"
        catalog = self.catalog(state)
        if catalog is None or catalog.damage:
            if catalog or "scan" in acknowledged:
                yield f"the catalog is {catalog.damage if catalog else 'gone'}"
            return
        done = catalog.done()
        for key, (number, sha256) in done.items():
            content = held.get(part_path(number))
            masks = "missing" if content is None else self.hashes(content)
            if isinstance(masks, str) or masks.get(key) != sha256:
                yield f"{key} is done, and not in {part_path(number)}: {masks}"
            elif catalog.parts.get(number) != len(content):
                yield f"{part_path(number)} has {len(content)} bytes, the catalog says {catalog.parts.get(number)}"
        for what in acknowledged:
            yield from self.broken(what, catalog, done, held)

    def broken(self, what, catalog, done, held):
        if what == "scan" and catalog.keys != self.end.keys:
            yield f"{len(self.end.keys - catalog.keys)} studies that were scanned are gone"
        if isinstance(what, int):
            for key, (number, _) in self.end.done().items():
                if number == what and key not in done:
                    yield f"{key} was acknowledged with part {number} and is {catalog.rows.get(key, ['gone'])[0]}"
        if what == "run" and (set(done) != self.end.keys or f"{RESULTS}/index.h5" not in held):
            yield f"run has ended with 0, and {len(done)} studies are done"
        wanted = {"infer": ["out/one.nii.gz"], "export": [f"new/masks/{key}.nii.gz" for key in self.end.keys]}
        for path in wanted.get(what, []):
            if path not in held:
                yield f"{what} has ended with 0, and {path} is gone"

    # ---- the program goes on ----

    def continued(self, state, acknowledged):
        place, catalog = self.place, self.catalog(state)
        shutil.rmtree(place.disk, ignore_errors=True)
        materialise(state, place.disk)
        journal = any(path == CATALOG + "-journal" and content for path, _, content in state)
        if catalog and catalog.has_set:
            yield from self.looked_at(catalog, journal, any(path == RESULTS for path, _, _ in state))
        if "scan" not in acknowledged:
            yield from self.failed("scan", place.scan())
        yield from self.failed("run", place.run("--ranks", "1"))
        yield from self.failed("verify", place.command(["verify", *place.where()]))
        yield from self.differences()

    @staticmethod
    def failed(name, done, may_refuse=False):
        is_refused = done.returncode == 69 and "only its writer can settle" in done.stderr
        if done.returncode != 0 and not (is_refused and may_refuse):
            yield f"{name} ends with {done.returncode}: {(done.stdout + done.stderr)[-800:]}"

    def looked_at(self, catalog, has_journal, has_results):
        """By the commands that only read. Where a journal must be rolled back, which is the next run's, `status` takes
        the older status.json or refuses, as `verify` does."""
        status = self.place.command(["status", "--json", *self.place.where()])
        yield from self.failed("status", status, has_journal)
        said = json.loads(status.stdout)["studies"]["done"] if status.returncode == 0 else 0
        if said > len(catalog.done()) or (said < len(catalog.done()) and not has_journal):
            yield f"status says that {said} studies are done, the catalog {len(catalog.done())}"
        if has_results:
            yield from self.failed("verify", self.place.command(["verify", *self.place.where()]), has_journal)

    def differences(self):
        catalog = Catalog(self.place.at(CATALOG))
        if set(catalog.done()) != self.end.keys:
            yield f"after all {len(catalog.done())} studies are done"
        if run_check.masks(self.place.at(RESULTS)) != self.wanted:
            yield "the masks are not those of the recorded run, each once"
        for name in os.listdir(self.place.at(RESULTS)):
            if name.endswith((".open", ".unknown")):
                yield f"{name} is left over"


# ---- all states ----

def acknowledgement(call):
    """What a record acknowledges: the number of a committed part or the name of a command; None."""
    text = call.data.decode(errors="replace") if call.kind == "k" else ""
    part = re.search(r"part (\d+) is committed", text)
    command = re.match(r"power_cut: (\w+) ended with 0", text)
    return int(part[1]) if part else command[1] if command else None


KINDS = (("none", "none"), ("all", "all"), ("all", "none"), ("none", "all"))


def states(calls, disk, randoms, chance):
    """(records played, state, what was acknowledged) for each cut and each choice."""
    acknowledged = []
    for count in range(len(calls) + 1):
        if count > 0:
            what = acknowledgement(calls[count - 1])
            disk.play(calls[count - 1])
            if what is not None and what not in acknowledged:
                acknowledged.append(what)
        for names, data in KINDS + (("random", "random"),) * randoms:
            yield count, disk.survivors(names, data, chance), tuple(acknowledged)


def check_record(place, calls):
    """Nothing escaped the recorder: with all of it the disk is what the run left behind."""
    disk = Disk(FOLDERS, False)
    for call in calls:
        disk.play(call)
    left = {path: content for path, file, content in disk.survivors("all", "all", None) if file}
    for folder, _, names in os.walk(place.whole):
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), place.whole)
            if path.endswith("-shm"):
                continue
            with open(os.path.join(folder, name), "rb") as file:
                if left.pop(path, None) != file.read():
                    yield f"the record does not explain {path}"
    for path in left:
        yield f"the record has {path}, the disk has not"


def is_like(call, pattern):
    return pattern is not None and call.kind == pattern[0] and pattern[2:] in call.path


def damaged(calls, forgotten, late):
    """As if the program had left out or put off some calls."""
    for pattern in forgotten + [late] * (late is not None):
        if not any(is_like(call, pattern) for call in calls):
            sys.exit(f"{pattern}: there is no such record")
    kept, waiting = [], []
    for call in calls:
        if is_like(call, late):
            waiting.append(call)
        elif not any(is_like(call, pattern) for pattern in forgotten):
            kept.append(call)
        if isinstance(acknowledgement(call), int):
            kept += waiting
            waiting = []
    return kept


def replay(given):
    place, chance, start = Place(given.folder), random.Random(given.seed), time.monotonic()
    calls, found = read_calls(place.log), []
    said = list(check_record(place, calls))
    calls = damaged(calls, given.forget, given.late)
    cuts = [call for call in calls if call.kind != "k"]
    scratch = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    seen, tried, pool = set(), 0, []
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        judge = Judge(place, folder)
        for count, state, acknowledged in states(calls, Disk(FOLDERS, given.apart), given.random, chance):
            tried += 1
            mark = hash((tuple((path, file is None, content) for path, file, content in state), acknowledged))
            if mark in seen:
                continue
            seen.add(mark)
            for sentence in judge.complaints(state, acknowledged):
                found.append(f"after {count} of {len(calls)} records: {sentence}")
            if len(found) >= given.most:
                break
            keep(pool, (count, state, acknowledged), given.continued, len(seen), chance)
        checked = time.monotonic() - start
        pool = pool if not said + found else []
        for count, state, acknowledged in pool:
            for sentence in judge.continued(state, acknowledged):
                found.append(f"after {count} of {len(calls)} records, going on: {sentence}")
    for sentence in said + found:
        print(sentence)
    print(f"{len(cuts)} calls that change a disk, {tried} cuts tried, {len(seen)} different states checked in "
          f"{checked:.1f} s; from {len(pool)} of them the program went on, in "
          f"{time.monotonic() - start - checked:.1f} s; seed {given.seed}; {len(said + found)} findings")
    return 1 if said + found else 0


def keep(pool, item, size, seen, chance):
    """A fair sample of what comes by."""
    if len(pool) < size:
        pool.append(item)
    elif (place := chance.randrange(seen)) < size:
        pool[place] = item


def main():
    words = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].strip())
    commands = words.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("folder")
    recording.add_argument("--network", action="store_true")
    recording.add_argument("--die")
    recording.add_argument("words", nargs=argparse.REMAINDER)
    replaying = commands.add_parser("replay")
    replaying.add_argument("folder")
    replaying.add_argument("--random", type=int, default=2)
    replaying.add_argument("--continued", type=int, default=20)
    replaying.add_argument("--seed", type=int, default=1)
    replaying.add_argument("--forget", action="append", default=[])
    replaying.add_argument("--late")
    replaying.add_argument("--apart", action="store_true")
    replaying.add_argument("--most", type=int, default=20, help="findings after which it stops")
    given = words.parse_args()
    if given.command == "replay":
        return replay(given)
    record(given.folder, given.words, given.network, given.die)
    return 0


if __name__ == "__main__":
    sys.exit(main())
