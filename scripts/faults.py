#!/usr/bin/python3
"""Nothing lost, nothing doubled: runs over a small archive, each disturbed by faults at random instants, started
again until they are through, and checked by check_results.py against a run that nothing disturbed.

    faults.py [--runs N] [--seed N] [--only SEED] [--kind NAME] [--work FOLDER] [--progress]

Run i has the seed SEED + i, which decides its ranks, its fault and the instant (as a share of the time that such
a run takes undisturbed, so that a seed means the same on any machine). The folder of a run with a finding is
kept and named; `--only SEED` does that run again. Exit code 1 when something was found.

$NOC is the program, $BUILD the build folder. Only processes that carry the mark of this campaign in their
environment are ended, and all of them are.
"""
import argparse
import collections
import contextlib
import glob
import math
import os
import pwd
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import check_results  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))
MARK = "NOC_CAMPAIGN"
PATIENCE = 180    # s until a start must have ended by itself
MAX_STARTS = 6    # undisturbed ones, until everything is through
STUDIES = 24
MEASURED_FOR = 25  # runs, until the undisturbed times are taken again
TURN = 0.01
TEAMS = ((1, 1, 0), (2, 1, 0), (3, 1, 0), (4, 1, 0), (6, 1, 0), (4, 2, 0), (6, 2, 0), (6, 2, 1))
FINISHED = (0, 1)
SENTENCES = {69, 73, 74, 75}  # exit codes that a disturbed run may end with
STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
RANKS = ("coordinator", "writer", "worker")


# ---- processes ----

def fields(pid):
    """Of /proc/PID/stat from the third on, or None."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def environment(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return dict(word.split(b"=", 1) for word in file.read().split(b"\0") if b"=" in word)
    except OSError:
        return {}


def marked(mark):
    """{pid: environment} of the living processes that carry this mark, or one that begins with it."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            words = environment(name)
            is_ours = (words.get(MARK.encode(), b"") + b".").startswith(mark.encode() + b".")
            state = fields(name) if is_ours else None
            if state and state[0] not in "ZX":
                found[int(name)] = words
    return found


def send(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def clear(mark, patience=20):
    """Ends everyone who carries the mark; False when some would not go."""
    end = time.monotonic() + patience
    while found := marked(mark):
        send(found, signal.SIGKILL)
        time.sleep(TURN)
        if time.monotonic() > end:
            return False
    return True


# ---- one start of the program ----

class Start:
    """A `nocturne run` as a process, with the ranks below it."""

    def __init__(self, place, more=None, log="log"):
        place.starts += 1
        self.place, self.mark = place, f"{place.mark}.{place.starts}"
        team = place.team
        words = [place.program, "run", "-m", place.model, "--catalog", place.catalog, "--results", place.results,
                 "--threads", "1", "--window", "24,32,24", "--overlap", "0.5", "--part-studies", "3", "--heartbeat",
                 "0.2", "--lease", "1", "--log-level", "debug", "--progress", "none", "--ranks", str(team[0])]
        if team[1] > 1:
            words += ["--writers", str(team[1]), "--writers-per-part", str(team[2])]
        self.log_path = os.path.join(place.folder, log)
        with open(self.log_path, "ab") as file:
            file.write(f"---- start {place.starts}\n".encode())
            file.flush()
            self.log_start = file.tell()
            user = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} \
                if place.is_nobody else {}
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=place.folder, start_new_session=True,
                env={**os.environ, MARK: self.mark, "HOME": place.folder, **(more or {})}, **user)
        self.began = time.monotonic()

    def pids(self, target):
        """Of coordinator, writer, worker, mpirun, supervisor or everything; fewer while they are being started."""
        if target == "supervisor" or self.place.team[0] == 1:
            return [self.process.pid] if self.process.poll() is None else []
        everyone = marked(self.mark)
        if target == "everything":
            return list(everyone)
        ranks = {int(words[b"OMPI_COMM_WORLD_RANK"]): pid for pid, words in everyone.items()
                 if b"OMPI_COMM_WORLD_RANK" in words}
        if target == "mpirun":
            return [pid for pid in everyone if pid not in ranks.values() and pid != self.process.pid]
        ranks = {rank: pid for rank, pid in ranks.items() if rank in self.place.ranks(target)}
        return [ranks[self.place.random.choice(sorted(ranks))]] if ranks else []

    def is_over(self):
        """Its own process has ended, and all that it started."""
        return self.process.poll() is not None and not marked(self.mark)

    def said(self):
        with open(self.log_path, errors="replace") as file:
            file.seek(self.log_start)
            return file.read()


class Place:
    """The folder of one run: catalog, results, log."""

    def __init__(self, campaign, seed):
        self.random = random.Random(seed)
        self.seed, self.folder = seed, os.path.join(campaign.work, f"seed-{seed}")
        self.program, self.model, self.mark = campaign.program, campaign.model, f"{campaign.mark}.{seed}"
        self.catalog = os.path.join(self.folder, "catalog")
        self.results = os.path.join(self.folder, "results")
        self.starts, self.aside, self.is_nobody, self.hit_at = 0, 0, False, None
        self.team = self.random.choice(TEAMS)
        self.recovered_after = None
        os.mkdir(self.folder)
        shutil.copy(campaign.catalog, self.catalog)

    def ranks(self, role):
        count, writers = self.team[:2]
        if count == 2:
            return {"coordinator": [0], "writer": [0], "worker": [1]}[role]
        return {"coordinator": [0], "writer": list(range(1, 1 + writers)),
                "worker": list(range(1 + writers, count))}[role]

    def last_part(self):
        """The highest number of a closed part; the catalog itself is left alone."""
        try:
            return max((int(name[5:11]) for name in os.listdir(self.results) if len(name) == 14 and
                        name.startswith("part-")), default=0)
        except FileNotFoundError:
            return 0

    def hit(self):
        """A fault has happened, now."""
        if self.hit_at is None:
            self.hit_at, self.part_at = time.monotonic(), self.last_part()


class Trouble(Exception):
    pass


# ---- faults: each prepares a plan ----

class Plan:
    """What disturbs the first start: an environment, steps (instant as a share, function of the start), what is
    damaged once it has ended, and the exit codes that may come of it."""

    def __init__(self, name):
        self.name, self.environment, self.steps = name, {}, []
        self.damage, self.codes, self.limit_s = None, SENTENCES, PATIENCE


def instant(rand):
    """Mostly while studies are in work, sometimes while ranks start or after the end."""
    return rand.uniform(0.3, 1.0) if rand.random() < 0.8 else rand.uniform(0, 1.1)


def signal_step(plan, place, at, target, number):
    def step(start):
        pids = start.pids(target)
        if pids:
            place.hit()
        send(pids, number)
        if number == signal.SIGSTOP:
            place.asleep.extend(pids)
    plan.steps.append((at, step))


def wake_step(plan, place, seconds):
    """Seconds after the step before it."""
    plan.steps.append((("after", seconds), lambda start: send(place.asleep, signal.SIGCONT)))


def process_fault(plan, place, at):
    rand = place.random
    target = rand.choice(RANKS + ("mpirun", "supervisor", "everything"))
    if rand.random() < 0.6:
        signal_step(plan, place, at, target, signal.SIGKILL)
        return f"kill {target}"
    signal_step(plan, place, at, target, signal.SIGSTOP)
    wake_step(plan, place, rand.uniform(0.1, 5))
    return f"stop {target}"


def one_process(place):
    plan = Plan("")
    plan.name = process_fault(plan, place, instant(place.random))
    return plan


def two_processes(place):
    plan, at = Plan("two at once"), instant(place.random)
    process_fault(plan, place, at)
    process_fault(plan, place, min(at + place.random.choice((0, 0.05, 0.3)), 1.2))
    return plan


def asked_to_stop(place):
    number = place.random.choice((signal.SIGTERM, signal.SIGUSR1, signal.SIGINT))
    plan = Plan(number.name)
    signal_step(plan, place, instant(place.random), "supervisor", number)
    plan.codes = {75}
    if place.random.random() < 0.5:  # and then something dies while it drains
        plan.name += ", then a death"
        plan.codes = SENTENCES
        signal_step(plan, place, ("after", place.random.uniform(0, 0.1)),
                    place.random.choice(RANKS + ("mpirun", "everything")), signal.SIGKILL)
    return plan


def file_fault(place):
    rand = place.random
    action, operations = rand.choice((
        ("ENOSPC", ("write",)), ("EIO", ("write", "sync", "rename", "create")), ("short", ("write",)),
        ("EROFS", ("create", "rename", "remove")), ("die", ("write", "sync", "rename", "create")),
        ("crash", ("write", "sync", "rename", "remove"))))
    operation = rand.choice(operations)
    what, text = rand.choice((("catalog", "/catalog"), ("results", "/results")))
    after = rand.randrange(150 if what == "catalog" and operation in ("write", "sync") else 12)
    times = rand.choice((0, 0, 1, 3)) if action in ("ENOSPC", "EIO", "short", "EROFS") else 1
    plan = Plan(f"{action} at {operation}, {what}")
    plan.environment["NOC_FAULT"] = f"{operation}:{text}:{action}:{after}:{times}"
    return plan


def killed_then(place, name, damage):
    """Killed in the middle, then something happens to a closed part."""
    plan = Plan(name)
    signal_step(plan, place, place.random.uniform(0.6, 1.2), "everything", signal.SIGKILL)
    plan.damage = damage
    return plan


def known_parts(place):
    with contextlib.closing(sqlite3.connect(place.catalog)) as database:
        return {number: os.path.join(place.results, f"part-{number:06}.h5")
                for number, in database.execute("SELECT number FROM part ORDER BY number")}


def truncate(place, path):
    with open(path, "r+b") as file:
        file.truncate(place.random.randrange(os.path.getsize(path)))
    place.aside += 1


def flip(place, path):
    """A bit of a mask's chunk; verify must find it, and who then removes the part gets it anew. A few bits of deflate's
    tables mean nothing: the mask is the same with them."""
    def read():
        with check_results.h5py.File(path, "r") as part:
            dataset = part["studies"][sorted(part["studies"])[0]]["mask"]
            return dataset.id.get_chunk_info(0), dataset[()].tobytes()
    chunk, mask = read()
    with open(path, "r+b") as file:  # before the checksum stands a byte with bits that mean nothing
        offset = chunk.byte_offset + place.random.randrange(chunk.size - 5)
        file.seek(offset)
        byte = file.read(1)[0] ^ (1 << place.random.randrange(8))
        file.seek(offset)
        file.write(bytes([byte]))
    code, said = verify(place)
    if code == 0 and read()[1] == mask:
        return
    if code != 69 or os.path.basename(path) not in said or "move damaged parts away" not in said:
        raise Trouble(f"verify ends with {code} on a flipped bit of {os.path.basename(path)}: {said}")
    os.remove(path)


def damage_part(how):
    def damage(place):
        parts = known_parts(place)
        if parts:
            place.hit()
            how(place, parts[place.random.choice(sorted(parts))])
    return damage


def part_fault(place):
    name, how = place.random.choice((("a part truncated", truncate), ("a bit flipped", flip),
                                     ("a part removed", lambda _, path: os.remove(path))))
    return killed_then(place, name, damage_part(how))


def strange_files(place):
    def damage(place):
        place.hit()
        os.makedirs(place.results, exist_ok=True)
        for name in ("part-000077.h5", "part-000078.h5.open", "part-seven.h5", "index.h5"):
            with open(os.path.join(place.results, name), "wb") as file:
                file.write(place.random.randbytes(place.random.randrange(3000)))
        place.aside += 1
    return killed_then(place, "strange files", damage)


def no_index(place):
    plan = Plan("no index")

    def damage(place):
        place.hit()
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(place.results, "index.h5"))
    plan.damage = damage
    return plan


def strange_schema(place):
    """A catalog of a schema that is newer, or never was, is refused with a sentence, and left as it is."""
    def damage(place):
        place.hit()
        with contextlib.closing(sqlite3.connect(place.catalog)) as database:
            version, = database.execute("PRAGMA user_version").fetchone()
            strange, word = place.random.choice(((99, "newer"), (0, "never was")))
            database.execute(f"PRAGMA user_version = {strange}")
            start = run_to_end(place, Start(place))
            database.execute(f"PRAGMA user_version = {version}")
        if start.process.returncode != 65 or word not in start.said():
            raise Trouble(f"schema {strange}: exit code {start.process.returncode}, not 65 with a reason")
    return killed_then(place, "a strange schema", damage)


def locked_catalog(place):
    plan, held = Plan("catalog locked"), []

    def lock(start):
        database = sqlite3.connect(place.catalog, timeout=5, isolation_level=None)
        with contextlib.suppress(sqlite3.OperationalError):
            database.execute("BEGIN IMMEDIATE")
            place.hit()
        held.append(database)
    plan.steps.append((instant(place.random), lock))
    seconds = place.random.choice((0.5, 2, 14))  # the program waits ten seconds for it
    plan.steps.append((("after", seconds), lambda start: held.pop().close()))
    return plan


def two_runs(place):
    """The second waits for the first and takes over, or names it and refuses, when it takes longer than that."""
    plan, second = Plan("a second run"), []
    is_long = place.random.random() < 0.25

    def begin(start):
        place.hit()
        if is_long:
            send(start.pids("everything"), signal.SIGSTOP)
        second.append(Start(place, log="log.second"))

    def end(start):
        other = second.pop()
        while not other.is_over() and time.monotonic() - other.began < PATIENCE:
            time.sleep(TURN)
        send(start.pids("everything"), signal.SIGCONT)
        code = other.process.poll()
        is_refused = code == 75 and "pid" in other.said()
        if not (is_refused if is_long else is_refused or code in FINISHED):
            raise Trouble(f"a second run ends with {code}: {other.said()[-300:]}")
    plan.name += ", the first stopped" if is_long else ""
    plan.steps.append((place.random.uniform(0.5, 0.8), begin))
    plan.steps.append((("after", 0), end))
    return plan


def read_only(place):
    """The folder cannot be written any more; root would not notice."""
    plan = Plan("results read-only")
    if os.geteuid() == 0:
        place.is_nobody = True
        for path in (place.folder, place.catalog):
            shutil.chown(path, "nobody")

    def close(start):
        if os.path.isdir(place.results):
            place.hit()
            os.chmod(place.results, 0o555)
    plan.steps.append((instant(place.random), close))
    plan.damage = lambda place: os.path.isdir(place.results) and os.chmod(place.results, 0o755)
    return plan


def become_nobody_works():
    if os.geteuid() != 0:
        return True
    try:
        return subprocess.run(["true"], user="nobody", check=False).returncode == 0
    except (OSError, KeyError, PermissionError, subprocess.SubprocessError):
        return False


FAULTS = {"process": (one_process, 36), "two": (two_processes, 14), "stop": (asked_to_stop, 10),
          "file": (file_fault, 24), "part": (part_fault, 6), "strange": (strange_files, 2), "index": (no_index, 1),
          "schema": (strange_schema, 1), "locked": (locked_catalog, 3), "second": (two_runs, 3),
          "read-only": (read_only, 3)}


# ---- one run ----

def run_to_end(place, start, steps=(), expected_s=1.0):
    """Until the start and all its processes are gone; the steps happen at their instants."""
    steps, before = list(steps), start.began
    while True:
        now = time.monotonic()
        if steps:
            at = steps[0][0]
            due = before + at[1] if isinstance(at, tuple) else start.began + at * expected_s
            if now >= due:
                steps.pop(0)[1](start)
                before = time.monotonic()
                continue
        if place.hit_at and place.recovered_after is None and place.last_part() > place.part_at:
            place.recovered_after = now - place.hit_at
        if not steps and start.is_over() or start.process.poll() is not None and steps and start.is_over() and \
                not isinstance(steps[0][0], tuple):
            return start
        if now - start.began > PATIENCE:
            clear(start.mark)
            raise Trouble(f"start {place.starts} did not end by itself in {PATIENCE} s")
        time.sleep(TURN)


def verify(place):
    done = subprocess.run([place.program, "verify", "--catalog", place.catalog, "--results", place.results],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stdout


def look_at_end(place, start, codes):
    code = start.process.returncode
    was_killed = code < 0 and -code in (signal.SIGKILL, signal.SIGTERM)
    if code not in FINISHED and code not in codes and not (was_killed and place.may_be_killed):
        raise Trouble(f"start {place.starts} ends with {code}")
    said = start.said()
    for number, name in ((11, "Segmentation fault"), (6, "Aborted"), (7, "Bus error"), (8, "Floating point")):
        if f"signal {number} ({name}" in said or -code == number:
            raise Trouble(f"start {place.starts}: a process crashed by signal {number}")
    if code in SENTENCES and not any(word in said for word in (" error ", " warn ", "no new studies", "pid")):
        raise Trouble(f"start {place.starts} ends with {code} and gives no reason")


def disturb(place, plan, expected_s):
    place.asleep = []
    place.may_be_killed = True
    log = os.path.join(place.folder, "faults")
    more = {**plan.environment}
    if plan.environment:
        more |= {"LD_PRELOAD": os.path.join(BUILD, "tests", "shim_faults.so"), "NOC_FAULT_LOG": log}
    start = Start(place, more)
    if plan.environment:  # the first line of the log is the first fault
        plan.steps = [(0, lambda _: None)]
    run_to_end(place, start, plan.steps, expected_s)
    if plan.environment and os.path.exists(log):
        place.hit_at = time.monotonic() - (time.time() - os.path.getmtime(log))
        place.part_at = place.last_part()
    look_at_end(place, start, plan.codes)
    if plan.damage:
        plan.damage(place)


def finish(place):
    """Undisturbed starts until all is through; how many it took."""
    place.may_be_killed = False
    for count in range(1, MAX_STARTS + 1):
        start = run_to_end(place, Start(place))
        look_at_end(place, start, {75})
        if start.process.returncode in FINISHED:
            return count
    raise Trouble(f"{MAX_STARTS} undisturbed starts did not come to the end")


def run_once(campaign, place, plan):
    """All findings of one run: what check_results.py says, and what else went wrong."""
    try:
        disturb(place, plan, campaign.expected_s(place.team))
        finish(place)
        found = check_results.check(place.catalog, place.results, campaign.masks, place.aside)
        code, said = verify(place)
        if code != 0:
            found.append(check_results.Finding("differs", f"verify ends with {code}: {said}"))
        return found
    except Trouble as trouble:
        return [check_results.Finding("trouble", str(trouble))]


# ---- the campaign ----

class Campaign:
    def __init__(self, work):
        self.work, self.mark = work, f"{os.getpid()}.{time.time_ns()}"
        self.kept, self.seconds, self.masks = False, {}, None

    def prepare(self):
        work = self.work
        os.chmod(work, 0o755)  # also nobody works here
        self.program = os.path.join(work, "nocturne")
        shutil.copy(os.environ.get("NOC", os.path.join(BUILD, "nocturne")), self.program)
        self.model = shutil.copytree(os.path.join(ROOT, "models", "hippocampus"), os.path.join(work, "model"))
        shutil.copytree(os.path.join(ROOT, "demo", "archive"), os.path.join(work, "archive"))
        self.catalog = os.path.join(work, "catalog")
        self.make_catalog()

    def make_catalog(self):
        """STUDIES studies, some scans twice, and one that cannot be read."""
        archive = os.path.join(self.work, "archive")
        scans = sorted(glob.glob(os.path.join(archive, "imagesTr", "*.nii.gz")))
        with open(os.path.join(self.work, "list.csv"), "w") as file:
            file.write("key,image,truth\n")
            for i in range(STUDIES):
                scan, name = scans[i % len(scans)], os.path.basename(scans[i % len(scans)])
                file.write(f"{name[:-7]}-{i // len(scans)},{scan},{os.path.join(archive, 'labelsTr', name)}\n")
            file.write(f"broken,{os.path.join(archive, 'broken.nii.gz')},\n")
        with open(scans[0], "rb") as file, open(os.path.join(archive, "broken.nii.gz"), "wb") as broken:
            broken.write(file.read(100))
        subprocess.run([self.program, "scan", "--catalog", self.catalog, os.path.join(self.work, "list.csv")],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=PATIENCE)
        for name in glob.glob(self.catalog + "-*"):
            raise SystemExit(f"{name} is left by scan: the catalog cannot be copied alone")

    def expected_s(self, team):
        """What an undisturbed run of this team takes; the first one's masks are those to compare with."""
        if team not in self.seconds:
            shutil.rmtree(os.path.join(self.work, f"seed-undisturbed-{team}"), ignore_errors=True)
            place = Place(self, f"undisturbed-{team}")
            place.team = team
            start = run_to_end(place, Start(place))
            self.seconds[team] = time.monotonic() - start.began
            found = check_results.check(place.catalog, place.results, self.masks)
            if start.process.returncode != 1 or found:
                raise SystemExit(f"an undisturbed run of {team} ends with {start.process.returncode}: {found}")
            self.masks = self.masks or check_results.read_parts(place.results)
            shutil.rmtree(place.folder)
        return self.seconds[team]

    def end(self):
        clear(self.mark)
        if self.kept:
            print(f"kept: {self.work}")
        else:
            shutil.rmtree(self.work, ignore_errors=True)


def percentile(values, share):
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def choose_fault(place, kind, allowed):
    names = sorted(allowed)
    name = kind or place.random.choices(names, [FAULTS[n][1] for n in names])[0]
    return FAULTS[name][0](place)


def report(campaign, histogram, found, recoveries, starts, began):
    print("\nseconds of an undisturbed run by ranks/writers/writers a part:", ", ".join(
        f"{ranks}/{writers}/{group or writers} {seconds:.1f}"
        for (ranks, writers, group), seconds in sorted(campaign.seconds.items())))
    total = sum(count for count, _ in histogram.values())
    print(f"\n{'fault':<34} runs  struck")
    for name in sorted(histogram):
        print(f"{name:<34} {histogram[name][0]:4}  {histogram[name][1]:6}")
    print(f"\n{total} runs, {starts} starts, {sum(hit for _, hit in histogram.values())} struck while the run was under "
          f"way, in {time.monotonic() - began:.0f} s")
    if recoveries:
        print(f"from the fault to the next closed part: median {percentile(recoveries, 0.5):.1f} s, p95 "
              f"{percentile(recoveries, 0.95):.1f} s, max {max(recoveries):.1f} s ({len(recoveries)} runs)")
    kinds = collections.Counter(finding.kind for findings in found.values() for finding in findings)
    print(f"{kinds['lost']} lost, {kinds['doubled']} doubled, {kinds['differs']} differing, {kinds['left']} left "
          f"over, {kinds['trouble']} that did not end as they must")
    for seed in found:
        print(f"again: scripts/faults.py --only {seed}")


def run_campaign(campaign, given):
    began, histogram, found, recoveries, starts = time.monotonic(), {}, {}, [], 0
    allowed = set(FAULTS) - (set() if become_nobody_works() else {"read-only"})
    for name in sorted(set(FAULTS) - allowed):
        print(f"left out, this user cannot do it: {name}")
    seeds = [given.only] if given.only is not None else range(given.seed, given.seed + given.runs)
    try:
        for number, seed in enumerate(seeds):
            if number % MEASURED_FOR == 0:  # the machine's mood changes
                campaign.seconds.clear()
            place = Place(campaign, seed)
            plan = choose_fault(place, given.kind, allowed)
            findings = run_once(campaign, place, plan)
            if not clear(place.mark):
                findings.append(check_results.Finding("trouble", "a process would not end"))
            count, hits = histogram.get(plan.name, (0, 0))
            histogram[plan.name] = (count + 1, hits + (place.hit_at is not None))
            starts += place.starts
            if place.recovered_after is not None:
                recoveries.append(place.recovered_after)
            if given.progress or findings:
                print(f"seed {seed}: {plan.name}, ranks {place.team[0]}, writers {place.team[1]}: {place.starts} starts"
                      f"{'' if place.recovered_after is None else f', {place.recovered_after:.1f} s'}"
                      f"{', FOUND' if findings else ''}", flush=True)
            for finding in findings:
                print(f"    {finding.kind}: {finding.sentence}", flush=True)
            if findings:
                found[seed], campaign.kept = findings, True
                print(f"    kept: {place.folder}", flush=True)
            else:
                shutil.rmtree(place.folder)
    finally:
        report(campaign, histogram, found, recoveries, starts, began)
    return 1 if found else 0


def stop(*_):
    """The first signal ends the campaign; the next ones must not end its clearing up."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(1)


def main():
    words = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    words.add_argument("--runs", type=int, default=200)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--only", type=int, help="this seed alone")
    words.add_argument("--kind", choices=sorted(FAULTS), help="faults of this kind only")
    words.add_argument("--work", help="where to work, instead of a new folder in $TMPDIR")
    words.add_argument("--progress", action="store_true", help="a line a run")
    given = words.parse_args()
    for number in STOPS:
        signal.signal(number, stop)
    campaign = Campaign(tempfile.mkdtemp(prefix="noc-faults.", dir=given.work))
    try:
        campaign.prepare()
        return run_campaign(campaign, given)
    finally:
        campaign.end()


if __name__ == "__main__":
    sys.exit(main())
