"""brk, stacks, exec and remap_file_pages in single calls: what is answered and what is accounted. (KERNEL.md 2.3)"""
from __future__ import annotations

import errno
import signal
from typing import Any

import pytest

from fastmlock import kernels
from fastmlock.reference import KERNELS, ReferenceSystem
from fastmlock.scenario.system import HEAP
from fastmlock.system import System

PAGE, AT = 4096, 0x100000000000
STACK = 0x2 | 0x10 | 0x20 | 0x100
EVERY = [(System, name) for name in kernels.RELEASES] + [(ReferenceSystem, name) for name in KERNELS]
Case = tuple[Any, str]


def heap(s: Any, pid: int, pages: int) -> int:
    end, _ = s.brk(pid, HEAP + pages * PAGE)
    return (int(end) - HEAP) // PAGE


def rss(s: Any, pid: int) -> int:
    return sum(kb for *_, kb in s.vmas(pid)) // 4


@pytest.mark.parametrize("case", EVERY)
def test_a_heap_over_the_limit_stays_where_it_was(case: Case) -> None:
    s = case[0](case[1])
    p = s.spawn()
    s.set_rlimit_memlock(p, 8 * PAGE)
    s.setuid(p, 1000)
    assert heap(s, p, 20) == 20                         # not locked: no limit
    assert s.mlockall(p, 2) == (0, 0)
    assert heap(s, p, 28) == 28 and s.vm_lck(p) == 32 and rss(s, p) == 8
    assert heap(s, p, 29) == 28
    assert heap(s, p, 25) == 25 and s.vm_lck(p) == 20
    assert heap(s, p, -1) == 25


@pytest.mark.parametrize("case", EVERY)
def test_a_heap_that_is_no_longer_there(case: Case) -> None:
    s = case[0](case[1])
    p = s.spawn()
    heap(s, p, 8)
    s.munmap(p, HEAP, 8 * PAGE)
    assert heap(s, p, 4) == (8 if kernels.get(case[1]).release >= 601 else 4)


@pytest.mark.parametrize("case", EVERY)
def test_a_locked_stack_grows_by_the_faulting_page_and_within_the_limit(case: Case) -> None:
    s = case[0](case[1])
    p = s.spawn()
    s.set_rlimit_memlock(p, 12 * PAGE)
    s.setuid(p, 1000)
    s.mmap(p, AT, 4 * PAGE, 3, STACK, None, 0)
    s.mlock(p, AT, 4 * PAGE)
    assert s.touch(p, AT - 5 * PAGE, 1, True) == (1, 0)
    assert s.vm_lck(p) == 36 and rss(s, p) == 5         # its own page only
    assert s.touch(p, AT - 9 * PAGE, 1, True) == (0, signal.SIGSEGV)
    assert s.touch(p, AT - 8 * PAGE, 1, True) == (1, 0) and s.vm_lck(p) == 48


@pytest.mark.parametrize("case", EVERY)
def test_get_user_pages_populated_a_locked_stack(case: Case) -> None:
    s = case[0](case[1])
    p = s.spawn()
    s.mmap(p, AT, 4 * PAGE, 3, STACK, None, 0)
    s.mlock(p, AT, 4 * PAGE)
    assert s.peek(p, AT - 6 * PAGE, True) == (1, 0)
    assert s.vm_lck(p) == 40 and rss(s, p) == (10 if kernels.get(case[1]).release < 605 else 5)
    assert s.peek(p, AT + 4 * PAGE, False) == (-1, errno.EIO)


@pytest.mark.parametrize("case", EVERY)
def test_exec_leaves_nothing_locked(case: Case) -> None:
    s = case[0](case[1])
    p = s.spawn()
    s.mmap(p, AT, 8 * PAGE, 3, 0x2 | 0x10 | 0x20, None, 0)
    s.mlockall(p, 3)
    heap(s, p, 3)
    s.set_rlimit_memlock(p, 5 * PAGE)
    s.exec(p)
    s.drain_all()
    assert not s.vmas(p) and s.vm_lck(p) == 0 and heap(s, p, 0) == 0
    assert s.vmstat()["nr_mlock"] == 0 == s.vmstat()["nr_unevictable"]
    assert heap(s, p, 4) == 4 and s.vm_lck(p) == 0      # nor is what comes next
    s.setuid(p, 1000)
    assert s.mlock(p, HEAP, 4 * PAGE) == (0, 0) and s.mlock2(p, AT, PAGE, 2) == (-1, errno.EINVAL)


@pytest.mark.parametrize("case", EVERY)
def test_remapped_pages_are_locked_but_no_longer_on_fault(case: Case) -> None:
    s = case[0](case[1])
    p = s.spawn()
    file = s.create_file("tmpfs", 8)
    s.mmap(p, AT, 8 * PAGE, 3, 0x11, file, 0)
    s.mlock2(p, AT, 8 * PAGE, 1)
    assert s.remap_file_pages(p, AT, 4 * PAGE, 0, 4, 0) == (0, 0)
    assert [flags & 0x82000 for *_, flags, _, _ in s.vmas(p)] == [0x2000, 0x82000]
    assert s.pte(p, AT) == ("f", s.cached(file, 4)) and s.vm_lck(p) == 32 and rss(s, p) == 4
    assert s.remap_file_pages(p, AT, 8 * PAGE, 0, 0, 0) == (-1, errno.EINVAL)       # two kinds of VMA
    assert s.remap_file_pages(p, AT, PAGE, 1, 0, 0) == (-1, errno.EINVAL)
