"""The processes of a run, found from the pid of its supervisor.

    processes.py ranks PID              pids of its ranks, one a line: RANK PID
    processes.py rank PID NUMBER        pid of one rank
    processes.py mpirun PID             pid of its mpirun, which is the session of all ranks
    processes.py wait PID COUNT         until so many ranks are there (exit code 1: a minute has passed)
    processes.py kill PID [SECONDS]     after so long: SIGKILL to the supervisor, mpirun and every rank
    processes.py gone SESSION           until no process of the session lives (likewise)
    processes.py cpu SECONDS PID...     CPU seconds that each spent meanwhile, one a line
"""
import os
import signal
import sys
import time

PATIENCE = 60


def stat(pid):
    """Fields of /proc/PID/stat from the third on, or None."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def lives(pid):
    fields = stat(pid)
    return fields is not None and fields[0] not in "ZX"


def everyone():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children(pid):
    return [p for p in everyone() if lives(p) and (stat(p) or [0, 0])[1] == str(pid)]


def session(number):
    return [p for p in everyone() if lives(p) and (stat(p) or [0] * 4)[3] == str(number)]


def mpirun(supervisor):
    """The supervisor's child that leads a session of its own."""
    return next((p for p in children(supervisor) if (stat(p) or [0] * 4)[3] == str(p)), None)


def rank_of(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return None
    return next((int(w[21:]) for w in words if w.startswith(b"OMPI_COMM_WORLD_RANK=")), None)


def ranks(supervisor):
    leader = mpirun(supervisor)
    found = {rank_of(p): p for p in (session(leader) if leader else []) if rank_of(p) is not None}
    return dict(sorted(found.items()))


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            sys.exit(1)
        time.sleep(0.02)


def kill_all(supervisor):
    leader = mpirun(supervisor)
    for pid in [supervisor] + (session(leader) if leader else []):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if leader:
        wait_for(lambda: not session(leader))


def cpu_seconds(pid):
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(command, *words):
    number = int(words[0]) if command != "cpu" else 0
    if command == "ranks":
        for rank, pid in ranks(number).items():
            print(rank, pid)
    elif command == "rank":
        print(ranks(number).get(int(words[1]), ""))
    elif command == "mpirun":
        print(mpirun(number) or "")
    elif command == "wait":
        wait_for(lambda: len(ranks(number)) == int(words[1]))
    elif command == "kill":
        time.sleep(float(words[1]) if len(words) > 1 else 0)
        kill_all(number)
    elif command == "gone":
        wait_for(lambda: not session(number))
    elif command == "cpu":
        pids = [int(word) for word in words[1:]]
        before = [cpu_seconds(pid) for pid in pids]
        time.sleep(float(words[0]))
        for pid, start in zip(pids, before):
            print(f"{cpu_seconds(pid) - start:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
