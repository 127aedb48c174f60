"""Transparent huge pages: both models against recordings of real kernels, and the points of the series against the
specification's tables (sections 1.7, 2.4, 2.8, 3.0), where nothing was recorded."""
from __future__ import annotations

from typing import Any

import pytest

from fastmlock.fuzz.generate import HUGE, program
from fastmlock.fuzz.pair import against_exact
from fastmlock.kernels import SERIES
from fastmlock.reference import ReferenceSystem
from fastmlock.scenario import conformance, parse, recordings
from fastmlock.scenario.run import run
from fastmlock.system import System

RECORDED = [(kernel, name) for kernel in ("5.10", "6.1", "6.12", "host-6.18") for name in recordings.huge(kernel)]


def test_what_is_recorded() -> None:
    assert len(RECORDED) == 135


@pytest.mark.parametrize("model", [System, ReferenceSystem], ids=["compiled", "plain"])
@pytest.mark.parametrize("kernel", ["5.10", "6.1", "6.12", "host-6.18"])
def test_recordings(kernel: str, model: type) -> None:
    """No step may differ, in no field."""
    for name, (scenario, real) in recordings.huge(kernel).items():
        held = conformance.hold(scenario, real, recordings.release(kernel), model)
        assert held.comparison is not None and held.ok, (name, held.unsupported, held.failure)
        differing = held.comparison.differing
        assert not differing, (name, [line for one in differing[:2] for line in one.lines()])


# ---- the points of the series
OPENING = """
sysctl /sys/kernel/mm/transparent_hugepage/enabled madvise
p0 mmap A anon private rw 0 512
p0 madvise A 0 512 hugepage
"""
EVENTS = {"m": "mlocked", "u": "munlocked", "c": "culled", "r": "rescued", "x": "cleared"}


def events(kernel: str, model: type, text: str, step: int) -> str:
    """The letters of the events that `step` (from 1 behind the opening) and the drain behind it counted, each of them
    512 times."""
    lines = [line for command in text.strip().splitlines() for line in (command, "drain")]
    records: list[Any] = list(run(parse(OPENING + "\n".join(lines)), model(kernel)))
    before, after = records[3 + 2 * (step - 1)], records[3 + 2 * step]
    found = ""
    for letter, name in EVENTS.items():
        now, then = (record["dv"].get(f"unevictable_pgs_{name}", 0) for record in (after, before))
        assert now - then in (0, 512), (kernel, name, now, then)
        found += letter if now > then else ""
    return found


def point(kernel: str) -> int:
    return int(kernel.partition("+")[2] or 0)


def table(*rows: tuple[int, str]) -> dict[str, str]:
    """(first point, what happens from there on) ... -> kernel -> what happens."""
    return {kernel: [what for first, what in rows if first <= point(kernel)][-1] for kernel in SERIES}


TABLE = [
    # KERNEL.md 3.0, its columns A, C, munlock and unmap L of C, for one THP in place of P pages
    ("mlock A", "p0 touch A 0 1 w\np0 mlock A 0 512", 2, table((0, "mc"), (2, ""), (7, "mc"))),
    ("mlock C", "p0 mlock A 0 512", 1, table((0, "mc"))),
    ("munlock", "p0 mlock A 0 512\np0 munlock A 0 512", 2, table((0, "ur"), (1, ""), (7, "ur"))),
    ("unmap L", "p0 mlock A 0 512\np0 munmap A 0 512", 2, table((0, "ur"), (1, "rx"), (5, "ur"))),
    # 2.8 and patch 04: splitting the pmd ends PG_mlocked, first by clear_page_mlock(), then as one pmd's munlock
    ("split", "p0 mlock A 0 512\np0 mprotect A 0 8 r", 2, table((0, "rx"), (4, "ur"))),
    # ptes of a THP are never counted
    ("lock split", "p0 touch A 0 1 w\np0 mprotect A 0 8 r\np0 mprotect A 0 8 rw\np0 mlock2 A 0 512 onfault", 4,
     table((0, ""))),
    # 2.4: through 01 an anonymous THP is marked only if no other pmd maps it; from 07 each locked pmd counts
    ("two maps", "p0 touch A 0 1 w\np0 fork p1\np0 mlock2 A 0 512 onfault", 3, table((0, ""), (7, "mc"))),
    ("second of two", "p0 touch A 0 1 w\np0 fork p1\np0-1 mlock2 A 0 512 onfault\np0 munlock A 0 512", 4,
     table((0, ""))),
    ("last of two",
     "p0 touch A 0 1 w\np0 fork p1\np0-1 mlock2 A 0 512 onfault\np0 munlock A 0 512\np1 munlock A 0 512", 5,
     table((0, ""), (7, "ur"))),
]


@pytest.mark.parametrize("model", [System, ReferenceSystem], ids=["compiled", "plain"])
@pytest.mark.parametrize("name, text, step, expected", TABLE, ids=[row[0] for row in TABLE])
def test_points_of_the_series(name: str, text: str, step: int, expected: dict[str, str], model: type) -> None:
    found = {kernel: events(kernel, model, text, step) for kernel in SERIES}
    assert {kernel: "".join(sorted(what)) for kernel, what in found.items()} == {
        kernel: "".join(sorted(what)) for kernel, what in expected.items()}


@pytest.mark.parametrize("kernel", SERIES[6:])
def test_mlock_count_is_of_pmds(kernel: str) -> None:
    """06: the count of a THP is kept in its head, one for each pmd in a locked vma; from 07 the walk counts too."""
    system = System(kernel)
    system.sysctl("/sys/kernel/mm/transparent_hugepage/enabled", "always")
    parent = system.spawn()
    addr, _ = system.mmap(parent, 0x100000000000, 512 * 4096, 3, 0x2 | 0x10 | 0x20 | 0x2000, None, 0)
    system.drain_all()
    _, pfn = system.pte(parent, addr)
    assert system.page(pfn) == (1, "LUMasT", 1) and system.page(pfn + 1) == (1, "aT", -1)
    child = system.fork(parent)
    system.mlock2(child, addr, 512 * 4096, 1)
    assert system.page(pfn)[2] == (2 if point(kernel) >= 7 else 1)


@pytest.mark.parametrize("model", [System, ReferenceSystem], ids=["compiled", "plain"])
def test_huge_pages_that_nobody_enabled_and_that_stay(model: type) -> None:
    """MADV_COLLAPSE does not ask the setting, and what is huge stays so when it is switched off."""
    system = model("6.1")
    pid = system.spawn()
    addr, _ = system.mmap(pid, 0x100000000000, 512 * 4096, 3, 0x2 | 0x10 | 0x20, None, 0)
    system.touch(pid, addr, 512, True)
    assert system.madvise(pid, addr, 512 * 4096, 25) == (0, 0)
    system.sysctl("/sys/kernel/mm/transparent_hugepage/enabled", "never")
    assert system.mlock(pid, addr, 512 * 4096) == (0, 0) and system.vmstat()["nr_mlock"] == 512
    assert system.munlock(pid, addr, 4096) == (0, 0) and system.vmstat()["nr_mlock"] == 0
    assert system.page(system.pte(pid, addr)[1])[:2] == (1, "LDasT")
    system.exit(pid)
    assert system.vmstat()["nr_inactive_anon"] == model("6.1").vmstat()["nr_inactive_anon"]


@pytest.mark.parametrize("kernel", ["5.10", "5.17-rc2", "5.17-rc2+06", "5.17-rc2+13", "6.1", "6.18"])
def test_random_programs(kernel: str) -> None:
    for index in range(12):
        outcome = against_exact(program("thp", index, HUGE).splitlines(), lambda: System(kernel),
                                lambda: ReferenceSystem(kernel))
        assert outcome.difference is None, (index, outcome.difference)
