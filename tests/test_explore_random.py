"""Random races on many kernels: whatever the order, references, mappings and lists add up afterwards."""
import random

import numpy as np
import pytest

from fastmlock import System
from fastmlock.explore.search import Search
from fastmlock.kernels import SERIES
from fastmlock.scenario import language, races
from fastmlock.scenario import commands as c
from fastmlock.scenario.run import Runner
from fastmlock.scenario.system import NotSupported
from fastmlock.state.layout import K

KERNELS = [*SERIES, "5.10", "5.18", "6.1", "6.12", "6.18"]
OPERATIONS = [
    "mlock A 0 2", "mlock A 1 1", "munlock A 0 2", "munlock A 0 1", "munmap A 0 2", "munmap A 1 1", "exit",
    "munlockall", "mlockall current", "touch A 0 2 r", "touch B 0 2 w", "mlock B 0 2", "munlock B 0 2",
    "munmap B 0 2", "mlock2 A 0 2 onfault",
    "mprotect B 0 1 r", "madvise A 0 2 dontneed", "madvise A 0 1 pageout", "madvise B 0 2 cold", "ldrain"]
CONTROLLED = ["truncate f 1", "punch f 0 1", "fadvise f 0 2", "drain", "compact", "reclaim 8", "reap p0"]


def scenario(rng):
    fs = rng.choice(["tmpfs", "ext4"])
    lines = [f"file f {fs} 2", "p1 cpu 1", "p2 cpu 1"]
    for process in range(3):
        sharing = rng.choice(["shared", "shared", "private"])
        lines += [f"p{process} mmap A f {sharing} rw 0 2", f"p{process} mmap B anon private rw 0 2"]
    for _ in range(rng.randrange(5)):
        lines.append(f"p{rng.randrange(3)} " + rng.choice(
            ["touch A 0 2 r", "touch A 0 1 w", "touch B 0 2 w", "mlock A 0 2", "mlock B 0 2", "mlock2 A 0 2 onfault",
             "munlock A 0 1"]))
    if rng.random() < 0.7:
        lines.append("drain")
    racers = rng.sample(range(3), rng.choice([2, 2, 2, 3]))
    parts = [f"p{process} {rng.choice(OPERATIONS)}" for process in racers]
    if rng.random() < 0.35:
        parts[-1] = rng.choice(CONTROLLED)
    return "\n".join([*lines, "race " + " | ".join(parts)]) + "\n"


def invariants(system):
    """After a drain: nothing is locked or in a batch, each reference and each mapping is accounted for, and the lists
    are as long as they say."""
    pages = system.pages[:int(system.pages["refcount"].nonzero()[0].max()) + 1]
    flags = pages["flags"]
    used = (flags & (K.PG_buddy | K.PG_reserved) == 0) & (pages["refcount"] > 0)
    assert not (flags[used] & K.PG_locked).any()
    assert not system.pvecs["nr"].any()
    cached = np.bincount(system.cache[(system.cache > 0) & (system.cache < len(pages))], minlength=len(pages))
    assert (pages["refcount"][used] == pages["mapcount"][used] + cached[used]).all(), "references"
    mapped = np.zeros(len(pages), int)
    for pid in range(1, system.nr_tasks):
        for start, end, *_ in system.vmas(pid) if system.alive(pid) else ():
            for addr in range(start, end, 4096):
                kind, pfn = system.pte(pid, addr)
                if pfn and kind in "fa":
                    mapped[pfn] += 1
    assert (mapped[used] == pages["mapcount"][used]).all(), "mappings"
    for lru in range(5):
        listed = used & (flags & K.PG_lru != 0)
        mine = listed & ((flags & K.PG_unevictable != 0) if lru == 4 else (
            (flags & K.PG_unevictable == 0) & ((flags & K.PG_active != 0) == bool(lru & 1))
            & ((flags & K.PG_swapbacked != 0) == (lru < 2))))
        assert int(system.lruvecs["nr"][:, lru].sum()) == int(mine.sum()), f"list {lru}"
    assert not (used & (flags & K.PG_active != 0) & (flags & K.PG_unevictable != 0)).any()
    nr_mlock = int(system.stat[K.ST_MLOCK] + system.stat_diff[:, K.ST_MLOCK].sum())
    assert nr_mlock == int((used & (flags & K.PG_mlocked != 0)).sum()), "nr_mlock is the number of marked pages"


def explore(text, kernel, max_states=3000):
    """Every outcome of the text's race; -> how many there are."""
    system = System(kernel, cpus=2)
    parsed = language.parse(text)
    runner = Runner(parsed, system)
    runner.start()
    for command in parsed.commands[:-1]:
        runner.step(command)
    race = parsed.commands[-1]
    assert isinstance(race, c.Race)
    started = races.Started(runner, race)
    if started.race is None:
        return 0
    finder = Search(started.race, max_states)
    try:
        found = finder.run()
    except ValueError:                          # too large
        return 0
    for one in found:
        finder.restore(one)
        try:
            system.check()
        except NotSupported:
            continue
        assert started.race.over(), f"deadlock by {one.order}"
        invariants(system)
    return len(found)


@pytest.mark.parametrize("seed", range(40))
def test_random_races(seed):
    rng = random.Random(seed)
    done = 0
    for _ in range(6):
        text, kernel = scenario(rng), rng.choice(KERNELS)
        try:
            done += explore(text, kernel)
        except Exception as error:
            raise AssertionError(f"{kernel}\n{text}") from error
    assert done
