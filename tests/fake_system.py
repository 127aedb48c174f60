"""A system under test that keeps VMAs and present pages and nothing else: enough to test what drives it."""
from __future__ import annotations

import errno
from itertools import pairwise
from dataclasses import dataclass, field

from fastmlock.scenario.system import (
    MAP_ANONYMOUS, MAP_LOCKED, MAP_SHARED, PAGE_SIZE, PROT_WRITE, SIGSEGV, VM_LOCKED, VM_READ,
    VM_SHARED, VM_WRITE,
)


@dataclass
class Vma:
    start: int
    end: int
    flags: int
    file: int | None
    offset: int


@dataclass
class Process:
    cpu: int
    vmas: list[Vma] = field(default_factory=list)
    ptes: dict[int, tuple[str, int]] = field(default_factory=dict)
    limit: int = 8 << 20
    uid: int = 0


class FakeSystem:
    """Every call but those on a hole succeeds; `calls` lists them all."""

    smaps_shows_lf = False

    def __init__(self, kernel: str = "fake", cpus: int = 2, worker_cpu: int = 0, controller_cpu: int = 1) -> None:
        self.kernel, self.cpus, self.worker_cpu, self.controller_cpu = kernel, cpus, worker_cpu, controller_cpu
        self.processes: dict[int, Process] = {}
        self.files: dict[int, list[int]] = {}
        self.pages: dict[int, str] = {}
        self.mlocked = 0
        self.next_pfn, self.next_pid = 100, 10
        self.calls: list[tuple[object, ...]] = []

    # ---- processes

    def spawn(self, *, cpu: int = 0) -> int:
        self.next_pid += 1
        self.processes[self.next_pid] = Process(cpu)
        self.calls.append(("spawn", cpu))
        return self.next_pid

    def fork(self, pid: int) -> int:
        parent = self.processes[pid]
        child = self.spawn(cpu=parent.cpu)
        self.processes[child].vmas = [
            Vma(v.start, v.end, v.flags & ~VM_LOCKED, v.file, v.offset) for v in parent.vmas]
        return child

    def exit(self, pid: int) -> None:
        self.calls.append(("exit", pid))
        del self.processes[pid]

    def alive(self, pid: int) -> bool:
        return pid in self.processes

    def set_cpu(self, pid: int, cpu: int) -> None:
        self.processes[pid].cpu = cpu

    def set_rlimit_memlock(self, pid: int, limit_bytes: int) -> tuple[int, int]:
        self.processes[pid].limit = limit_bytes
        return 0, 0

    def setuid(self, pid: int, uid: int) -> tuple[int, int]:
        self.processes[pid].uid = uid
        return 0, 0

    # ---- system calls

    def mmap(self, pid, addr, length, prot, flags, file, offset):
        self.calls.append(("mmap", addr, length, prot, flags, file, offset))
        if not length:
            return -1, errno.EINVAL
        assert (file is None) == bool(flags & MAP_ANONYMOUS)
        self.munmap(pid, addr, length)
        bits = VM_READ | (VM_WRITE if prot & PROT_WRITE else 0) | (VM_SHARED if flags & MAP_SHARED else 0)
        bits |= VM_LOCKED if flags & MAP_LOCKED else 0
        self.processes[pid].vmas.append(Vma(addr, addr + length, bits, file, offset // PAGE_SIZE))
        return addr, 0

    def _vma(self, pid: int, addr: int) -> Vma | None:
        return next((v for v in self.processes[pid].vmas if v.start <= addr < v.end), None)

    def _cut(self, pid: int, addr: int, length: int, keep) -> None:
        """Applies `keep` to the part of every VMA in the range; None from it removes that part."""
        end, out = addr + length, []
        for v in self.processes[pid].vmas:
            cuts = sorted({v.start, v.end} | {x for x in (addr, end) if v.start < x < v.end})
            for a, b in pairwise(cuts):
                part = Vma(a, b, v.flags, v.file, v.offset + (a - v.start) // PAGE_SIZE)
                if addr <= a < end:
                    part = keep(part)
                if part:
                    out.append(part)
        self.processes[pid].vmas = sorted(out, key=lambda v: v.start)

    def munmap(self, pid, addr, length):
        self._cut(pid, addr, length, lambda part: None)
        ptes = self.processes[pid].ptes
        for a in [a for a in ptes if addr <= a < addr + length]:
            del ptes[a]
        return 0, 0

    def mremap(self, pid, addr, old_len, new_len, flags, new_addr):
        self.calls.append(("mremap", addr, old_len, new_len, flags, new_addr))
        v = self._vma(pid, addr)
        if v is None or not new_len:
            return -1, errno.EFAULT if v is None else errno.EINVAL
        to = new_addr or addr
        self.munmap(pid, addr, old_len)
        self.processes[pid].vmas.append(Vma(to, to + new_len, v.flags, v.file, v.offset))
        return to, 0

    def msync(self, pid, addr, length, flags):
        return 0, 0

    def mprotect(self, pid, addr, length, prot):
        return 0, 0

    def madvise(self, pid, addr, length, advice):
        self.calls.append(("madvise", addr, length, advice))
        return 0, 0

    def mlock2(self, pid, addr, length, flags):
        self.calls.append(("mlock2", addr, length, flags))
        if flags & ~1:
            return -1, errno.EINVAL

        def lock(v: Vma) -> Vma:
            v.flags |= VM_LOCKED
            return v
        if length < 1 << 40:
            self.mlocked += length // PAGE_SIZE
            self._cut(pid, addr, length, lock)
            self.touch(pid, addr, length // PAGE_SIZE, False)
        return 0, 0

    def mlock(self, pid, addr, length):
        return self.mlock2(pid, addr, length, 0)

    def munlock(self, pid, addr, length):
        def unlock(v: Vma) -> Vma:
            v.flags &= ~VM_LOCKED
            return v
        self.mlocked -= length // PAGE_SIZE if length < 1 << 40 else 0
        self._cut(pid, addr, length, unlock)
        return 0, 0

    def mlockall(self, pid, flags):
        self.calls.append(("mlockall", flags))
        return (0, 0) if flags else (-1, errno.EINVAL)

    def munlockall(self, pid):
        return 0, 0

    def touch(self, pid, addr, pages, write):
        for done in range(pages):
            at = addr + done * PAGE_SIZE
            v = self._vma(pid, at)
            if v is None:
                return done, SIGSEGV
            if at not in self.processes[pid].ptes:
                self.processes[pid].ptes[at] = self._fault(v, at)
        return pages, 0

    def _fault(self, v: Vma, at: int) -> tuple[str, int]:
        if v.file is None:
            return "a", self._new_page("a")
        index, file = v.offset + (at - v.start) // PAGE_SIZE, self.files[v.file]
        if index >= len(file):
            return "-", 0
        file[index] = file[index] or self._new_page("D")
        return "f", file[index]

    def _new_page(self, flags: str) -> int:
        self.next_pfn += 1
        self.pages[self.next_pfn] = flags
        return self.next_pfn

    def move_pages(self, pid, addr):
        return 0, 0

    def local_drain(self, pid):
        self.calls.append(("local_drain", pid))
        return 0, 0

    # ---- the controller

    def create_file(self, fs, pages, *, sparse=False):
        number = len(self.files) + 1
        self.files[number] = [0 if sparse else self._new_page("D") for _ in range(pages)]
        return number

    def drain_all(self):
        self.calls.append(("drain_all",))

    def truncate(self, file, pages):
        self.files[file] = (self.files[file] + [0] * pages)[:pages]
        return 0, 0

    def punch(self, file, offset, pages):
        for index in range(offset, min(offset + pages, len(self.files[file]))):
            self.files[file][index] = 0
        return (0, 0) if pages else (-1, errno.EINVAL)

    def fadvise_dontneed(self, file, offset, pages):
        return -1, errno.EINVAL

    def pwrite(self, file, offset, pages):
        pages_of = self.files[file]
        pages_of.extend([0] * (offset + pages - len(pages_of)))
        for index in range(offset, offset + pages):
            pages_of[index] = self._new_page("D")
        return PAGE_SIZE, 0

    def pread(self, file, offset, pages):
        return PAGE_SIZE, 0

    def compact(self):
        return 0, 0

    def drop_caches(self, what):
        return (1, 0) if 1 <= what <= 4 else (-1, errno.EINVAL)

    def sysctl(self, path, value):
        return -1, errno.ENOENT

    # ---- what can be seen

    def vmstat(self):
        return {"nr_mlock": self.mlocked, "nr_file_pages": 7}

    def vm_lck(self, pid):
        return sum((v.end - v.start) // 1024 for v in self.processes[pid].vmas if v.flags & VM_LOCKED)

    def vmas(self, pid):
        ptes = self.processes[pid].ptes
        return [(v.start, v.end, v.flags, 0, 4 * sum(v.start <= a < v.end for a in ptes))
                for v in sorted(self.processes[pid].vmas, key=lambda v: v.start)]

    def pte(self, pid, addr):
        return self.processes[pid].ptes.get(addr, ("-", 0))

    def page(self, pfn):
        return 1, self.pages[pfn], -1

    def file_pages(self, file):
        return len(self.files[file])

    def cached(self, file, index):
        return self.files[file][index] if index < len(self.files[file]) else 0
