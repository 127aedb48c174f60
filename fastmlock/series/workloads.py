"""The workloads that the series is put under.

Each is a function of a `Bench`: it sets up, calls `begin()`, and does what is measured. What a process does not do
itself (the CPU it runs on, who drains) is the bench's.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastmlock.scenario.system import (MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_LOCKED, MAP_PRIVATE, PROT_EXEC,
                                       PROT_READ, PROT_WRITE)

from .bench import ADDRESS, Bench

ROUNDS = 4
ANON = ADDRESS + (1 << 40)
MCL_CURRENT, MCL_FUTURE = 1, 2


def storm(b: Bench) -> None:
    """N processes have locked the same file; all exit at once"""
    file = b.file()
    leavers = b.spawn_mapped(file, b.procs, lock=True)
    b.begin()
    b.check()
    b.together([partial(b.system.exit, pid) for pid in leavers])


def one_by_one(b: Bench) -> None:
    """N processes have locked the same file; they exit one after another, oldest first"""
    file = b.file()
    leavers = b.spawn_mapped(file, b.procs, lock=True)
    b.begin()
    for pid in leavers:
        b.check()
        b.one(partial(b.system.exit, pid))


def lock_loops(b: Bench) -> None:
    """N processes that map the same file lock it, all at once, then unlock it, again and again"""
    file = b.file()
    pids = b.spawn_mapped(file, b.procs)
    b.begin()
    for _ in range(ROUNDS):
        b.together([partial(b.system.mlock, pid, ADDRESS, b.length) for pid in pids])
        b.check()
        b.together([partial(b.system.munlock, pid, ADDRESS, b.length) for pid in pids])
        b.check()


def remap_loops(b: Bench) -> None:
    """N processes unmap the file they have locked, all at once, and map it again with MAP_LOCKED, again and again"""
    file = b.file()
    pids = b.spawn_mapped(file, b.procs, lock=True)
    b.begin()
    for _ in range(ROUNDS):
        b.together([partial(b.system.munmap, pid, ADDRESS, b.length) for pid in pids])
        b.together([partial(b.map_file, pid, file, flags=MAP_LOCKED) for pid in pids])
        b.check()


def daemons(b: Bench) -> None:
    """N daemons under mlockall and as many ordinary processes share a library; the daemons exit at once"""
    library = b.file("ext4")
    system, own = b.system, max(1, b.pages // 8)
    pids = []
    for number in range(2 * b.procs):
        pid = b.spawn(number)
        system.mmap(pid, ADDRESS, b.length, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED_NOREPLACE, library, 0)
        system.mmap(pid, ANON, own * 4096, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_FIXED_NOREPLACE | MAP_ANONYMOUS, None, 0)
        system.touch(pid, ADDRESS, b.pages, False)
        system.touch(pid, ANON, own, True)
        pids.append(pid)
    for pid in pids[1::2]:
        system.mlockall(pid, MCL_CURRENT | MCL_FUTURE)
    b.begin()
    b.check()
    b.together([partial(system.exit, pid) for pid in pids[1::2]])


def migration(b: Bench) -> None:
    """N processes have locked the same file; its pages are migrated, then all exit at once"""
    file = b.file()
    pids = b.spawn_mapped(file, b.procs, lock=True)
    b.begin()
    b.one(b.system.compact)
    b.check()
    b.together([partial(b.system.exit, pid) for pid in pids])


def reclaim(b: Bench) -> None:
    """N processes lock a file that as many others only map; reclaim scans; then the lockers exit at once"""
    file = b.file("ext4")
    pids = b.spawn_mapped(file, 2 * b.procs)
    b.begin()
    b.together([partial(b.system.mlock, pid, ADDRESS, b.length) for pid in pids[1::2]])
    for _ in range(ROUNDS):
        b.one(partial(b.system.reclaim, b.pages))
    b.check()
    b.together([partial(b.system.exit, pid) for pid in pids[1::2]])


def oom(b: Bench) -> None:
    """N processes with locked memory of their own are killed; the reaper takes what it may; then all exit at once"""
    system = b.system
    pids = []
    for number in range(b.procs):
        pid = b.spawn(number)
        system.mmap(pid, ANON, b.length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED_NOREPLACE | MAP_ANONYMOUS,
                    None, 0)
        system.mlock(pid, ANON, b.length)
        pids.append(pid)
    b.begin()
    before = b.mapped_pages()
    for pid in pids:
        b.one(partial(system.reap, pid))
    b.reaped = before - b.mapped_pages()
    b.check()
    b.together([partial(system.exit, pid) for pid in pids])


#: pages of its own that each process of a workload has, as a share of the file's pages
OWN_PAGES = {"oom": 1.0, "daemons": 0.25}

WORKLOADS: dict[str, Callable[[Bench], None]] = {
    "storm": storm, "one-by-one": one_by_one, "lock-loops": lock_loops, "remap-loops": remap_loops, "daemons": daemons,
    "migration": migration, "reclaim": reclaim, "oom": oom,
}


def about(name: str) -> str:
    """What the workload does, in one sentence without its full stop."""
    return " ".join((WORKLOADS[name].__doc__ or "").split())
