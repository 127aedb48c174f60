"""Both models against what real kernels answered tests/facts/facts.c: a heap that is gone, stacks, remap_file_pages,
SHM_LOCK and KSM, line by line. facts/RELEASE.txt is that program's own output: 5.10 and 6.1 of Debian, emulated, and a
live 6.18."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastmlock.reference import ReferenceSystem
from fastmlock.scenario.system import HEAP
from fastmlock.system import System

FACTS = Path(__file__).parent / "facts"
P = 4096
A, B, M, K, L, S = (0x100000000000 + n * 0x10000000 for n in range(6))
ANON, STACK, SHARED = 0x32, 0x132, 0x11
COUNTERS = ["nr_mlock", "nr_unevictable", *(f"unevictable_pgs_{name}" for name in (
    "culled", "scanned", "rescued", "mlocked", "munlocked", "cleared", "stranded"))]


class Facts:
    """The same calls as facts.c, on a model."""

    def __init__(self, system: Any) -> None:
        self.s, self.p = system, system.spawn()
        self.lines: list[str] = []
        self.before: dict[str, int] = {}

    def present(self, start: int, pages: range) -> list[int]:
        return [int(self.s.pte(self.p, start + n * P)[0] != "-") for n in pages]

    def poke(self, addr: int) -> int:
        signal: int = self.s.touch(self.p, addr, 1, True)[1]
        return signal

    def mark(self) -> None:
        self.s.drain_all()
        self.before = dict(self.s.vmstat())

    def tell(self, what: str) -> None:
        before = self.before
        self.mark()
        changed = [(name.removeprefix("unevictable_pgs_").removeprefix("nr_"), self.before[name] - before[name])
                   for name in COUNTERS]
        self.lines.append(f"{what}:" + "".join(f" {name}{change:+d}" for name, change in changed if change))

    def all(self) -> list[str]:
        self.heap_and_stacks()
        self.shared_memory()
        self.ksm()
        return self.lines

    def heap_and_stacks(self) -> None:
        s, p, say = self.s, self.p, self.lines.append
        say(f"brk grow {(s.brk(p, HEAP + 8 * P)[0] - HEAP) // P}")
        s.munmap(p, HEAP, 8 * P)
        say(f"brk shrink of unmapped: {(s.brk(p, HEAP + 4 * P)[0] - HEAP) // P}")
        s.mmap(p, A, 4 * P, 3, STACK, None, 0)
        s.mlock(p, A, 4 * P)
        locked = s.vm_lck(p)
        ret = s.peek(p, A - 6 * P, True)[0]
        there = sum(self.present(A, range(-6, 4)))
        say(f"peek locked stack: ret {ret} VmLck {s.vm_lck(p) - locked:+d} present {there}")
        say(f"fault 2 below: sig {self.poke(A - 9 * P)}, present {' '.join(map(str, self.present(A, range(-9, -5))))}")
        s.munlock(p, A - 9 * P, 13 * P)
        s.mmap(p, B, 4 * P, 3, ANON, None, 0)
        s.mmap(p, B + 400 * P, 4 * P, 3, STACK, None, 0)
        near = f"gap: +260 {self.poke(B + 260 * P)} +259 {self.poke(B + 259 * P)}"
        s.mprotect(p, B, 4 * P, 0)
        say(f"{near} none: +100 {self.poke(B + 100 * P)} +4 {self.poke(B + 4 * P)}")
        file = s.create_file("tmpfs", 8, sparse=True)
        s.mmap(p, M, 8 * P, 3, SHARED, file, 0)
        s.mlock2(p, M, 8 * P, 1)
        locked = s.vm_lck(p)
        ret = s.remap_file_pages(p, M, 4 * P, 0, 4, 0)[0]
        say(f"remap: ret {ret} VmLck {s.vm_lck(p) - locked:+d} present {sum(self.present(M, range(8)))}")
        s.munlock(p, M, 8 * P)
        s.munmap(p, M, 8 * P)

    def shared_memory(self) -> None:
        s, p = self.s, self.p
        segment = s.create_file("shm", 20, sparse=True)
        s.mmap(p, S, 20 * P, 3, SHARED, segment, 0)
        self.mark()
        for what, act in (("shm touch 8", lambda: s.touch(p, S, 8, True)), ("shm lock", lambda: s.shm_lock(p, segment)),
                          ("touch 8 more", lambda: s.touch(p, S + 8 * P, 8, True)),
                          ("mlock 8", lambda: s.mlock(p, S + 4 * P, 8 * P)),
                          ("munlock 4", lambda: s.munlock(p, S + 4 * P, 4 * P)),
                          ("shm unlock", lambda: s.shm_unlock(p, segment)),
                          ("munlock all", lambda: s.munlock(p, S, 20 * P))):
            act()
            self.tell(what)
        s.munmap(p, S, 20 * P)
        s.truncate(segment, 0)
        self.tell("gone")

    def ksm(self) -> None:
        s, p = self.s, self.p
        for start in (K, L):
            s.mmap(p, start, 8 * P, 3, ANON, None, 0)
            s.touch(p, start, 8, True)
        s.mlock(p, K, 8 * P)
        self.mark()
        for start in (K, L):
            s.madvise(p, start, 8 * P, 12)
        s.ksm(1)
        shared = {s.pte(p, start + n * P)[1] for start in (K, L) for n in range(8)}
        self.lines.append(f"shared {len(shared)} sharing {16 - len(shared)}")
        self.tell("ksm merge, first locked")
        for what, act in (("second locked onfault", lambda: s.mlock2(p, L, 8 * P, 1)),
                          ("munlock 4 of first", lambda: s.munlock(p, K, 4 * P)),
                          ("munlock 4 of second", lambda: s.munlock(p, L, 4 * P)),
                          ("write a locked one", lambda: self.poke(K + 5 * P)),
                          ("unmerge second", lambda: s.madvise(p, L, 8 * P, 13)), ("run 2", lambda: s.ksm(2)),
                          ("munlock rest", lambda: (s.munlock(p, K, 8 * P), s.munlock(p, L, 8 * P))),
                          ("unmapped", lambda: (s.munmap(p, K, 8 * P), s.munmap(p, L, 8 * P)))):
            act()
            self.tell(what)
        s.mmap(p, K, 8 * P, 3, ANON, None, 0)
        for n in range(8):
            self.poke(K + n * P)
        s.mlock(p, K, 8 * P)
        self.mark()
        s.madvise(p, K, 8 * P, 12)
        for what, act in (("eight locked into one", lambda: s.ksm(1)), ("munlock 4", lambda: s.munlock(p, K, 4 * P)),
                          ("munlock 4 more", lambda: s.munlock(p, K + 4 * P, 4 * P)),
                          ("unmapped", lambda: s.munmap(p, K, 8 * P))):
            act()
            self.tell(what)


@pytest.mark.parametrize("model", [System, ReferenceSystem], ids=["compiled", "plain"])
@pytest.mark.parametrize("release", ["5.10", "6.1", "6.18"])
def test_facts(release: str, model: type) -> None:
    real = (FACTS / f"{release}.txt").read_text().splitlines()
    assert len(real) == 28
    assert Facts(model(release)).all() == real
