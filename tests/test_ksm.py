"""KSM in locked and other memory: what is merged, who keeps it locked, and how it ends. (KERNEL.md 2.8)"""
from __future__ import annotations

from typing import Any

import pytest

from fastmlock import kernels
from fastmlock.fuzz.pair import against_exact
from fastmlock.reference import KERNELS, ReferenceSystem
from fastmlock.scenario.system import NotSupported
from fastmlock.system import System

PAGE, AT, ANON = 4096, 0x100000000000, 0x32
EVERY = [(System, name) for name in kernels.RELEASES] + [(ReferenceSystem, name) for name in KERNELS]
Case = tuple[Any, str]


def two(case: Case) -> tuple[Any, int, int]:
    """Two processes with eight equal pages each, of eight contents, all mergeable; the first has locked its own."""
    s = case[0](case[1])
    p, q = s.spawn(), s.spawn()
    for pid in (p, q):
        s.mmap(pid, AT, 8 * PAGE, 3, ANON, None, 0)
        s.touch(pid, AT, 8, True)
        s.madvise(pid, AT, 8 * PAGE, 12)
    s.mlock(p, AT, 8 * PAGE)
    s.drain_all()
    return s, p, q


def frames(s: Any, pid: int) -> list[int]:
    return [s.pte(pid, AT + n * PAGE)[1] for n in range(8)]


@pytest.mark.parametrize("case", EVERY)
def test_equal_pages_become_one_and_two_again(case: Case) -> None:
    s, p, q = two(case)
    assert not set(frames(s, p)) & set(frames(s, q))
    s.ksm(1)
    assert frames(s, p) == frames(s, q) and len(set(frames(s, p))) == 8
    assert all(s.page(pfn)[0] == 2 for pfn in frames(s, p)) and s.vm_lck(p) == 32
    s.touch(q, AT + PAGE, 2, True)                      # a copy each: a KSM page is never reused
    assert [a == b for a, b in zip(frames(s, p), frames(s, q))] == [True, False, False, *[True] * 5]
    s.ksm(1)                                            # 1 and 2 were written where 0 and 1 stand
    assert frames(s, q)[1:3] == frames(s, p)[:2]
    s.madvise(q, AT, 4 * PAGE, 13)
    assert not set(frames(s, q)[:4]) & set(frames(s, p))
    s.ksm(2)
    assert len({*frames(s, p), *frames(s, q)}) == 16
    s.exit(p)
    s.exit(q)
    s.drain_all()
    assert not s.vmstat()["nr_mlock"] and not s.vmstat()["nr_unevictable"]


@pytest.mark.parametrize("case", EVERY)
def test_a_shared_page_stays_locked_until_its_last_locker_goes(case: Case) -> None:
    s, p, q = two(case)
    s.ksm(1)
    s.mlock2(q, AT, 8 * PAGE, 1)                        # mlock() would populate, and so break the sharing
    s.drain_all()
    assert frames(s, p) == frames(s, q) and s.vmstat()["nr_mlock"] == 8
    if not case[1].startswith("5.17-rc2+"):             # in between, munlock is not itself (section 3.0)
        s.munlock(p, AT, 8 * PAGE)
        s.drain_all()
        assert s.vmstat()["nr_mlock"] == 8              # found by the walk before, by the count after
        s.munlock(q, AT, 8 * PAGE)
        s.drain_all()
        assert s.vmstat()["nr_mlock"] == 0


@pytest.mark.parametrize("kernel", kernels.RELEASES)
def test_both_models_agree(kernel: str) -> None:
    lines = """p0 mmap A anon private rw 0 20 locked
p0 madvise A 0 20 mergeable
p0 fork p1
ksm 1
p1 mlock A 2 9
p0 touch A 3 5 w
drain
ksm 1
p0 munlock A 0 10
p1 touch A 0 8 w
p0 madvise A 5 4 dontneed
ksm 1
p1 munmap A 8 6
p0 madvise A 12 4 unmergeable
p0 exit
drain
ksm 2
p1 exit
drain""".splitlines()
    outcome = against_exact(lines, lambda: System(kernel, check=True), lambda: ReferenceSystem(kernel))
    assert outcome.difference is None and outcome.steps == 19 and not outcome.unsupported


def test_what_is_not_modelled_says_so() -> None:
    for model in (System, ReferenceSystem):
        s = model("6.1")
        p = s.spawn()
        file = s.create_file("tmpfs", 4)
        s.mmap(p, AT, 4 * PAGE, 3, 0x12, file, 0)
        s.touch(p, AT, 4, True)
        s.madvise(p, AT, 4 * PAGE, 12)
        with pytest.raises(NotSupported, match="KSM of copies of file pages"):
            s.ksm(1)
