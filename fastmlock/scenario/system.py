"""What a system under test must offer so that a scenario can be run on it.

Three things speak this protocol: the compiled model (`fastmlock.system.System`), the plain Python
reference (`fastmlock.reference.ReferenceSystem`), and the running kernel (`fastmlock.live.LiveSystem`). System
calls take byte addresses and lengths as the real ones do and answer ``(ret, errno)``: `ret` is -1 on failure and
`errno` a value of the `errno` module, 0 on success.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

PAGE_SIZE = 4096
FAR = 1 << 16
"""Pages behind the end of a file up to which a read may leave one there."""
CPU_SWITCH = re.compile(r"/sys/devices/system/cpu/cpu(\d{1,4})/online")
HEAP = 0x80000000000
"""Byte address where the heap of every process begins."""

# constants of the system call interface, as in the kernel's uapi headers
PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
MAP_GROWSDOWN, MAP_LOCKED, MAP_NORESERVE, MAP_POPULATE = 0x100, 0x2000, 0x4000, 0x8000
MAP_NONBLOCK, MAP_HUGETLB, MAP_FIXED_NOREPLACE = 0x10000, 0x40000, 0x100000
MLOCK_ONFAULT = 1
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
SIGBUS, SIGSEGV = 7, 11

VM_READ, VM_WRITE, VM_EXEC, VM_SHARED = 0x1, 0x2, 0x4, 0x8
VM_PFNMAP, VM_LOCKED, VM_IO, VM_DONTEXPAND = 0x400, 0x2000, 0x4000, 0x40000
VM_LOCKONFAULT, VM_ACCOUNT, VM_HUGETLB, VM_MIXEDMAP = 0x80000, 0x100000, 0x400000, 0x10000000


class NotSupported(Exception):
    """The model has no such path. The text starts with ``not supported: `` and names what is missing."""

    def __init__(self, what: str) -> None:
        super().__init__(f"not supported: {what}")


class SystemUnderTest(Protocol):
    """One simulated machine with one kernel. Processes and files are small integers."""

    # ---- processes; a new one is root, on `cpu`, with the release's default RLIMIT_MEMLOCK
    def spawn(self, *, cpu: int = 0) -> int: ...
    def fork(self, pid: int) -> int: ...
    def exit(self, pid: int) -> None: ...
    def exec(self, pid: int) -> None: ...
    def set_cpu(self, pid: int, cpu: int) -> None: ...
    def set_rlimit_memlock(self, pid: int, limit_bytes: int) -> tuple[int, int]: ...
    def setuid(self, pid: int, uid: int) -> tuple[int, int]: ...

    # ---- system calls
    def mmap(self, pid: int, addr: int, length: int, prot: int, flags: int,
             file: int | None, offset: int) -> tuple[int, int]: ...
    def brk(self, pid: int, addr: int) -> tuple[int, int]:
        """-> (the break there is then, 0); what cannot be done leaves it where it was."""
        ...

    def remap_file_pages(self, pid: int, addr: int, length: int, prot: int, pgoff: int,
                         flags: int) -> tuple[int, int]: ...
    def msync(self, pid: int, addr: int, length: int, flags: int) -> tuple[int, int]: ...
    def shm_lock(self, pid: int, file: int) -> tuple[int, int]: ...
    def shm_unlock(self, pid: int, file: int) -> tuple[int, int]: ...
    def munmap(self, pid: int, addr: int, length: int) -> tuple[int, int]: ...
    def mremap(self, pid: int, addr: int, old_len: int, new_len: int, flags: int,
               new_addr: int) -> tuple[int, int]: ...
    def mprotect(self, pid: int, addr: int, length: int, prot: int) -> tuple[int, int]: ...
    def madvise(self, pid: int, addr: int, length: int, advice: int) -> tuple[int, int]: ...
    def mlock(self, pid: int, addr: int, length: int) -> tuple[int, int]: ...
    def mlock2(self, pid: int, addr: int, length: int, flags: int) -> tuple[int, int]: ...
    def munlock(self, pid: int, addr: int, length: int) -> tuple[int, int]: ...
    def mlockall(self, pid: int, flags: int) -> tuple[int, int]: ...
    def munlockall(self, pid: int) -> tuple[int, int]: ...
    def touch(self, pid: int, addr: int, pages: int, write: bool) -> tuple[int, int]:
        """Read or write one byte of each page; -> (pages done, signal or 0)."""
        ...

    def move_pages(self, pid: int, addr: int) -> tuple[int, int]: ...
    def local_drain(self, pid: int) -> tuple[int, int]:
        """lru_add_drain() on the process's cpu."""
        ...

    # ---- the controller, which runs on its own cpu
    def create_file(self, fs: str, pages: int, *, sparse: bool = False, owner: int = 0, huge: bool = False) -> int:
        """A file of `pages` pages on "tmpfs" (mounted huge=always, if `huge`) or "ext4", or a "shm" segment of the user
        `owner`, written page by page unless `sparse`; on "hugetlb", nothing of it is there."""
        ...

    def drain_all(self) -> None: ...
    def truncate(self, file: int, pages: int) -> tuple[int, int]: ...
    def punch(self, file: int, offset: int, pages: int) -> tuple[int, int]: ...
    def fadvise_dontneed(self, file: int, offset: int, pages: int) -> tuple[int, int]: ...
    def pwrite(self, file: int, offset: int, pages: int) -> tuple[int, int]: ...
    def pread(self, file: int, offset: int, pages: int) -> tuple[int, int]: ...
    def ksm(self, run: int) -> tuple[int, int]:
        """/sys/kernel/mm/ksm/run: 1 until nothing is left to merge, 2 gives every place a page of its own again; then a
        drain."""
        ...

    def oom_kill(self, pid: int) -> None:
        """The process is killed, and the OOM reaper takes its memory before it gets to exit."""
        ...

    def compact(self) -> tuple[int, int]: ...
    def drop_caches(self, what: int) -> tuple[int, int]: ...
    def sysctl(self, path: str, value: str) -> tuple[int, int]: ...

    def peek(self, pid: int, addr: int, write: bool) -> tuple[int, int]:
        """Read or write one byte of a process's memory through /proc/PID/mem; -> (1, 0) or (-1, EIO)."""
        ...

    # ---- what can be seen from outside
    def alive(self, pid: int) -> bool: ...
    def vmstat(self) -> dict[str, int]:
        """/proc/vmstat after /proc/sys/vm/stat_refresh: nr_mlock, nr_unevictable, unevictable_pgs_*, nr_*active_*."""
        ...

    def vm_lck(self, pid: int) -> int:
        """VmLck of /proc/PID/status, in kB."""
        ...

    def vmas(self, pid: int) -> list[tuple[int, int, int, int, int]]:
        """(first byte, end byte, vm_flags, Locked kB, Rss kB) of each VMA, as smaps shows them."""
        ...

    def pte(self, pid: int, addr: int) -> tuple[str, int]:
        """(kind, pfn): "f" file page, "a" anonymous, "s" swap or migration entry (pfn 0), "-" none (pfn 0)."""
        ...

    def page(self, pfn: int) -> tuple[int, str, int]:
        """(mapcount, flag letters in the recordings' order LUMARDasSWKiTBz, mlock_count or -1)."""
        ...

    def file_pages(self, file: int) -> int: ...

    def cached(self, file: int, index: int) -> int:
        """pfn of the page in the page cache, 0 if there is none."""
        ...


class RacingSystem(SystemUnderTest, Protocol):
    """A system whose calls can be begun without being run, so that several are under way at once."""

    def defer(self) -> None: ...
    def begun(self) -> list[int]: ...
    def deferred_tasks(self) -> list[int]: ...
    def answer(self, task: int) -> tuple[int, int, int]:
        """(ret, errno, signal) of the task's last call."""
        ...

    def check(self) -> None:
        """Raises what kept the last run from going on."""
        ...


Maker = Callable[[], SystemUnderTest]
"""Makes a fresh system; `opened` closes it after use if it can be closed."""


@contextmanager
def opened(make: Maker) -> Iterator[SystemUnderTest]:
    """A fresh system for the length of a block."""
    system = make()
    try:
        yield system
    finally:
        close = getattr(system, "close", None)
        if close is not None:
            close()
