"""The part of the recorder's processes that no scenario names: program, static data, heap, stack.

A scenario sees it in three ways. mlockall() locks it too (VmLck and the counters). A process that writes static data
for the first time since a fork gets a copy, which takes a place in its cpu's lru_add batch. And the controller, from
which every worker is forked, does the same on its own cpu. The layout is the recorder's own (a static program with
large static buffers); where its pages are shared with the controller is known to within a few, since that depends on
how much it has printed.

Everything here goes through the system calls that a `Host` offers, so that one image serves every model.
"""
from __future__ import annotations

from typing import Protocol, runtime_checkable

from .system import (
    MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_PRIVATE, PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE, VM_DONTEXPAND, VM_IO,
    VM_PFNMAP, VM_READ, SystemUnderTest,
)

MADV_WILLNEED = 3
PROGRAM_PAGES = 206
COMMAND_PAGE, BUFFER_FIRST, BUFFER_LAST, TOUCH_PAGE, PROCESS_TABLE = 0x4D0, 0x513, 0xA13, 0x613, 0xA54
HEAP, STACK_TOP, DRAIN_PAGE, LOCAL_DRAIN_PAGE = 0xA80, 0x7FFFFFFFE, 0x7FFFF7FF0, 0x7F0000000
TLS_PAGE = HEAP + 1
RELRO, RELRO_PAGES = 0x4C8, 4
R, RW, RX = PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC
SEGMENTS = (                    # first page, pages, protection, page of the program file or None
    (0x400, 1, R, 0), (0x401, 156, RX, 1), (0x49D, 43, R, 157), (RELRO, RELRO_PAGES, RW, 199), (0x4CC, 3, RW, 203),
    (0x4CF, 1447, RW, None), (HEAP, 34, RW, None), (DRAIN_PAGE, 1, RW, None), (STACK_TOP - 32, 33, RW, None))
VVAR = (0x7FFFFFFFF + 0x10, 4, VM_READ | VM_IO | VM_PFNMAP | VM_DONTEXPAND)
VDSO = (0x7FFFFFFFF + 0x14, 2, VM_READ | VM_DONTEXPAND)
WARM_STACK = range(STACK_TOP - 10, STACK_TOP - 1)
OWN_DATA = (0x4CC, *range(HEAP + 2, HEAP + 7))
SCENARIO_TEXT = range(0x4D2, 0x4D5)     # as long as a scenario of 40 to 60 lines
WRITTEN = (*range(0x4CC, 0x4CF), *SCENARIO_TEXT, *range(BUFFER_FIRST, BUFFER_LAST + 1), TLS_PAGE, DRAIN_PAGE, STACK_TOP,
           STACK_TOP - 1, *WARM_STACK)
USED_TEXT = (0x400, 0x401, 0x411, 0x49D)            # three windows of fault-around
FIRST_LOOK = range(0x4F0, 0x4F0 + 12)


@runtime_checkable
class Host(SystemUnderTest, Protocol):
    """What a model offers beyond a system under test so that its processes can have the image."""

    controller: int
    """The process that owns the files, as a pid of the calls."""
    child_runs_first: bool
    """After a fork the child writes before its parent does (6.6 on)."""
    write_prefaults: bool
    """write() faults its buffer in before it looks the page up (through 6.15)."""

    def create_file(self, fs: str, pages: int, *, sparse: bool = False, observe: bool = True) -> int:
        """As a system under test; without `observe` the controller does not map it."""
        ...

    def map_special(self, pid: int, addr: int, length: int, vm_flags: int) -> None:
        """A mapping of the kernel's own, with just these vm_flags."""
        ...


class Image:
    """The controller's own image, from which every worker is forked; made on a fresh `host`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.looked = self.counted = self.copied = False
        me = host.controller
        program = host.create_file("tmpfs", PROGRAM_PAGES, observe=False)
        for start, pages, prot, pgoff in SEGMENTS:
            flags = MAP_PRIVATE | MAP_FIXED_NOREPLACE | (MAP_ANONYMOUS if pgoff is None else 0)
            host.mmap(me, start * PAGE_SIZE, pages * PAGE_SIZE, prot, flags, None if pgoff is None else program,
                      (pgoff or 0) * PAGE_SIZE)
        for start, pages, vm_flags in (VVAR, VDSO):
            host.map_special(me, start * PAGE_SIZE, pages * PAGE_SIZE, vm_flags)
        self._read(me, RELRO)
        for page in range(RELRO + 1, RELRO + RELRO_PAGES):      # written by the start-up code, then made read-only
            self._read(me, page)
            self._write(me, page)
        host.mprotect(me, RELRO * PAGE_SIZE, RELRO_PAGES * PAGE_SIZE, R)
        for page in WRITTEN:
            self._write(me, page)
        host.drain_all()
        host.pwrite(program, 0, PROGRAM_PAGES)                  # used a second time: in constant use
        host.drain_all()

    def _read(self, pid: int, page: int) -> None:
        self.host.touch(pid, page * PAGE_SIZE, 1, False)

    def _write(self, pid: int, page: int) -> None:
        self.host.touch(pid, page * PAGE_SIZE, 1, True)

    # ------------------------------------------------------------ processes
    def spawn(self, cpu: int) -> int:
        """fork, and what the controller and the worker write until the worker answers its first call. -> pid"""
        pid = self.host.fork(self.host.controller)
        self.host.set_cpu(pid, cpu)
        self._write(self.host.controller, PROCESS_TABLE)
        for page in (COMMAND_PAGE, TLS_PAGE, STACK_TOP - 1, *WARM_STACK, *OWN_DATA):
            self._write(pid, page)
        for page in USED_TEXT:
            self._read(pid, page)
        return pid

    def command(self, pid: int) -> None:
        """A worker receives a command: it writes its command block, its thread's data and its stack."""
        for page in (COMMAND_PAGE, TLS_PAGE, STACK_TOP - 1):
            self._write(pid, page)

    def touch(self, pid: int) -> None:
        """Before it touches memory a worker saves where to go on after a signal."""
        self._write(pid, TOUCH_PAGE)

    def fork(self, pid: int) -> int:
        """Who runs first copies what it writes, the other finds its pages unshared. The new thread's data is written by
        the child alone. -> pid of the child"""
        child = self.host.fork(pid)
        writes = {pid: (COMMAND_PAGE, STACK_TOP - 1), child: (COMMAND_PAGE, STACK_TOP - 1, TLS_PAGE)}
        for process in (child, pid) if self.host.child_runs_first else (pid, child):
            for page in writes[process]:
                self._write(process, page)
        return child

    def local_drain(self, pid: int) -> tuple[int, int]:
        """The recorder's way to lru_add_drain(): MADV_WILLNEED of a fresh anonymous page."""
        at = LOCAL_DRAIN_PAGE * PAGE_SIZE
        if self.host.mmap(pid, at, PAGE_SIZE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, None, 0)[0] == -1:
            return -1, 12
        answer = self.host.madvise(pid, at, PAGE_SIZE, MADV_WILLNEED)
        self.host.munmap(pid, at, PAGE_SIZE)
        return answer

    # ------------------------------------------------------------ the controller
    def count(self) -> None:
        """The controller reads the counters for the first time."""
        if not self.counted:
            self.counted = True
            for page in (TOUCH_PAGE, *range(BUFFER_FIRST, BUFFER_FIRST + 3)):
                self._write(self.host.controller, page)

    def look(self) -> None:
        """The controller looks at a process's pages for the first time: its own buffers for that are new."""
        if not self.looked:
            self.looked = True
            for page in FIRST_LOOK:
                self._write(self.host.controller, page)

    def copy(self, file: int, offset: int, *, write: bool) -> None:
        """The first copy from or to a file. A write whose buffer is not there yet fails after the page was looked up,
        where the kernel has not prefaulted, and is done again."""
        if not self.copied and write and not self.host.write_prefaults:
            self.host.pwrite(file, offset, 1)
        self.copied = True
