"""Huge pages of tmpfs files: both models against recordings of real kernels, and the points of the series against the
specification (sections 1.7, 2.4 to 2.8, 3), where nothing was recorded."""
from __future__ import annotations

from typing import Any

import pytest

from fastmlock.fuzz.generate import HUGE_FILES, program
from fastmlock.fuzz.pair import against_exact
from fastmlock.kernels import SERIES
from fastmlock.reference import ReferenceSystem
from fastmlock.scenario import conformance, parse, recordings
from fastmlock.scenario.run import run
from fastmlock.scenario.system import NotSupported
from fastmlock.system import System

KERNELS = ("5.10", "6.1", "6.12", "host-6.18")
MODELS = pytest.mark.parametrize("model", [System, ReferenceSystem], ids=["compiled", "plain"])


def test_what_is_recorded() -> None:
    recorded = {kernel: len(recordings.huge(kernel, files=True)) for kernel in KERNELS}
    assert recorded == {"5.10": 25, "6.1": 32, "6.12": 28, "host-6.18": 7}


@MODELS
@pytest.mark.parametrize("kernel", KERNELS)
def test_recordings(kernel: str, model: type) -> None:
    """No step may differ, in no field."""
    for name, (scenario, real) in recordings.huge(kernel, files=True).items():
        held = conformance.hold(scenario, real, recordings.release(kernel), model)
        assert held.comparison is not None and held.ok, (name, held.unsupported, held.failure)
        differing = held.comparison.differing
        assert not differing, (name, [line for one in differing[:2] for line in one.lines()])


# ---- the points of the series
OPENING = """
procs 2
sysctl /sys/kernel/mm/transparent_hugepage/enabled madvise
file F tmpfs 512 huge
p0-1 mmap A F shared rw 0 512
"""
EVENTS = {"m": "mlocked", "u": "munlocked", "c": "culled", "r": "rescued", "x": "cleared", "s": "stranded"}


def events(kernel: str, model: type, text: str, step: int) -> str:
    """The letters of the events that `step` (from 1 behind the opening) and the drain behind it counted, each of them
    512 times."""
    lines = [line for command in text.strip().splitlines() for line in (command, "drain")]
    records: list[Any] = list(run(parse(OPENING + "\n".join(lines)), model(kernel)))
    first = len(records) - len(lines)
    before, after = records[first + 2 * step - 3], records[first + 2 * step - 1]
    found = ""
    for letter, name in EVENTS.items():
        now, then = (record["dv"].get(f"unevictable_pgs_{name}", 0) for record in (after, before))
        assert now - then in (0, 512), (kernel, name, now, then)
        found += letter if now > then else ""
    return "".join(sorted(found))


def table(*rows: tuple[int, str]) -> dict[str, str]:
    """(first point, what happens from there on) ... -> kernel -> what happens."""
    return {kernel: "".join(sorted([what for first, what in rows if first <= point(kernel)][-1])) for kernel in SERIES}


def point(kernel: str) -> int:
    return int(kernel.partition("+")[2] or 0)


TABLE = [
    # KERNEL.md 3.0, columns A, B, munlock and unmap L, for one THP in place of P pages
    ("mlock A", "p0 touch A 0 1 r\np0 mlock A 0 512", 2, table((0, "mc"), (2, ""), (7, "mc"))),
    ("mlock B", "p0 mlock A 0 512", 1, table((0, "mc"), (2, ""), (4, "mc"))),
    ("munlock", "p0 mlock A 0 512\np0 munlock A 0 512", 2, table((0, "ur"), (1, ""), (7, "ur"))),
    ("unmap L", "p0 mlock A 0 512\np0 munmap A 0 512", 2, table((0, "ur"), (1, "xr"), (2, ""), (4, "xr"), (5, "ur"))),
    # 2.4, 3 (04): a fault in a locked vma
    ("fault", "p0 mlock2 A 0 512 onfault\np0 touch A 0 1 r", 2, table((0, ""), (4, "mc"))),
    # 2.8: a boundary within the pmd: it goes, by clear_page_mlock() to 04, by the munlock of rmap removal from 05
    ("cut", "p0 mlock A 0 512\np0 mprotect A 0 8 r", 2, table((0, "xr"), (2, ""), (4, "xr"), (5, "ur"))),
    # 1.7: a pte that maps part of a THP that is Mlocked ends that, to 03; from 04 ptes do not matter
    ("pte", "p0 mlock A 0 512\np1 mmap B F shared r 3 100 locked", 2, table((0, "xr"), (2, ""))),
    # 2.7, 3 (04, 06): the first of two lockers leaves
    ("first of two", "p0-1 mlock A 0 512\np0 munmap A 0 512", 2, table((0, "m"), (1, ""), (4, "ur"), (6, ""))),
    ("last of two", "p0-1 mlock A 0 512\np0 munmap A 0 512\np1 munmap A 0 512", 3,
     table((0, "ur"), (1, "xr"), (2, ""), (6, "ur"))),
    # 2.8: a hole in the file
    ("punch", "p0 mlock A 0 512\npunch F 3 1", 2, table((0, "xr"), (2, ""), (4, "xr"), (5, "ur"))),
]


@MODELS
@pytest.mark.parametrize("name, text, step, expected", TABLE, ids=[row[0] for row in TABLE])
def test_points_of_the_series(name: str, text: str, step: int, expected: dict[str, str], model: type) -> None:
    assert {kernel: events(kernel, model, text, step) for kernel in SERIES} == expected


SMALL = "punch F 0 1\nfwrite F 0 1\n"
"""The file's huge page becomes small ones."""


@MODELS
def test_collapse_strands_what_is_locked(model: type) -> None:
    """Small pages are off their lists when they are unmapped: their marks are cleared (to 04), or taken back, without
    the pages being had. Those that mlock has not marked (02, 03) just go."""
    text = SMALL + "p0 mlock A 0 512\nkhugepaged"
    expected = table((0, "xs"), (2, ""), (4, "xs"), (5, "s"))
    assert {kernel: events(kernel, model, text, 4) for kernel in SERIES} == expected


def locks_of(kernel: str) -> tuple[int, int]:
    """How often i_mmap_rwsem was taken for write and for read while khugepaged collapsed 512 pages."""
    from fastmlock.machine.machine import LOCK_CLASSES
    from fastmlock.series.collapse import collapsing

    read, write = collapsing(kernel, 1, 3).lock_stat[LOCK_CLASSES.index("i_mmap_rwsem")]["acquisitions"].tolist()
    return write, read


@pytest.mark.parametrize("kernel, locks", [
    ("5.17-rc2", (513, 0)), ("5.17-rc2+11", (513, 0)), ("5.17-rc2+12", (1, 512)),
])
def test_collapse_takes_the_lock_of_the_file(kernel: str, locks: tuple[int, int]) -> None:
    """12: the zap of each page's range took i_mmap_rwsem for write, the reverse map is walked with it held for read;
    then the page tables go, once."""
    assert locks_of(kernel) == locks


LOST_MARK = """
procs 2
swap 2048
file F tmpfs 512 huge
p0 mmap A F shared r 0 512
p0 mlock2 A 0 512 onfault
p0 touch A 0 1 r
drain
reclaim 1
drain
"""


@MODELS
@pytest.mark.parametrize("kernel", ["5.10", *SERIES[:4]])
def test_reclaim_of_a_locked_huge_page_that_was_never_marked(kernel: str, model: type) -> None:
    """To 03 a fault marks nothing, and reclaim splits the THP before it looks who locks it."""
    records: list[Any] = list(run(parse(LOST_MARK), model(kernel)))
    assert {kind for _, _, kind, *_ in records[-1]["f"]["F"]} == {"x"}


RACE = """
procs 2
p1 cpu 1
swap 2048
file F tmpfs 512 huge
p0-1 mmap A F shared r 0 512
p0-1 touch A 0 1 r
p1 mlock A 0 512
drain
race p0 mlock A 0 512 | p1 munlock A 0 512 : p0 until lru_lock, p1 to end, p0 on
drain
reclaim 1
drain
"""


@pytest.mark.parametrize("kernel", SERIES[10:])
def test_reclaim_of_a_locked_huge_page_that_lost_its_mark(kernel: str) -> None:
    """From 13 on it is marked and stays whole."""
    records: list[Any] = list(run(parse(RACE), System(kernel, cpus=3)))
    seen = records[-1]["f"]["F"]
    if point(kernel) == 13:
        assert seen[0] == [0, 0, "c", 2, "LUMDsT", 0] and seen[-1][1] == 511
    else:
        assert {kind for _, _, kind, *_ in seen} == {"x"}


@pytest.mark.parametrize("kernel", ["5.10", "5.17-rc2+02", "5.17-rc2+05", "5.17-rc2+12", "6.1", "6.12"])
def test_random_programs(kernel: str) -> None:
    for index in range(8):
        outcome = against_exact(program("thp-files", index, HUGE_FILES).splitlines(), lambda: System(kernel),
                                lambda: ReferenceSystem(kernel))
        assert outcome.difference is None, (index, outcome.difference)


@MODELS
@pytest.mark.parametrize("kernel, text", [
    ("6.18", "file F tmpfs 512 huge\npunch F 3 1"),
    ("6.12", "swap 2048\nfile F tmpfs 512 huge\nreclaim 4\nreclaim 4\nreclaim 4\nreclaim 4"),
    ("6.1", "swap 8\nfile F tmpfs 4\np0 mmap A F shared rw 0 4\np0 touch A 0 4 w\ndrain\np0 madvise A 0 4 pageout\n"
            "p0 mmap B F shared rw 0 512\np0 madvise B 0 512 collapse"),
])
def test_what_is_refused(kernel: str, text: str, model: type) -> None:
    with pytest.raises(NotSupported):
        list(run(parse(text), model(kernel)))
