"""The part of the recorder's processes that no scenario names: program, static data, heap, stack.

A scenario sees it in three ways. mlockall() locks it too (VmLck and the counters). A process that writes static data
for the first time since a fork gets a copy, which takes a place in its cpu's lru_add batch. And the controller, from
which every worker is forked, does the same on its own cpu; what it has copied the workers no longer share with it.
The layout is the recorder's own (a static program with large static buffers, its symbols at the addresses below).

Everything here goes through the system calls that a `Host` offers, so that one image serves every model.
"""
from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from errno import EINVAL
from typing import Any, Protocol, runtime_checkable

from .system import (
    MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_PRIVATE, PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE, VM_DONTEXPAND, VM_IO,
    VM_PFNMAP, VM_READ, SystemUnderTest,
)

MADV_WILLNEED = 3
R, RW, RX = PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC
PROGRAM, PROGRAM_PAGES = "/bin/mlock_oracle", 206
HEAP, STACK_TOP, DRAIN_PAGE, LOCAL_DRAIN_PAGE = 0xA80, 0x7FFFFFFFE, 0x7FFFF7FF0, 0x7F0000000
RELRO, RELRO_PAGES = 0x4C8, 4           # its upper two pages are written by the start-up code
SEGMENTS = (                    # first page, pages, protection, page of the program file or None
    (0x400, 1, R, 0), (0x401, 156, RX, 1), (0x49D, 43, R, 157), (RELRO, RELRO_PAGES, RW, 199), (0x4CC, 3, RW, 203),
    (0x4CF, 1447, RW, None), (HEAP, 34, RW, None), (DRAIN_PAGE, 1, RW, None), (STACK_TOP - 32, 33, RW, None))
VVAR = (DRAIN_PAGE + 1, 4, VM_READ | VM_IO | VM_PFNMAP | VM_DONTEXPAND)
VDSO = (DRAIN_PAGE + 5, 2, VM_READ | VM_DONTEXPAND)

# the recorder's static variables: first byte, bytes
NEXT_ADDRESS = (0x4CC100, 8)            # nextaddr: where the next region goes
MINCORE = (0x4CE340, 4096)              # mv[], one byte a page
FILL = (0x4CF340, 4096)                 # what new files are filled with
COMMAND_PAGE = 0x4D0                    # c and r: a worker's command and reply
READ_TO = (0x4D0420, 4096)              # where fread reads to
LINES, LINE_BYTES = 0x4D2420, 200       # the scenario's lines, each in a slot
PAGEMAP = (0x4EB420, 0x8000)            # pm[]
STATES, STATE_BYTES = 0x4F3420, 32      # ps[], one a page
BIG, BIG_BYTES = 0x513760, 1 << 20      # what was read of /proc
TOUCH_PAGE = 0x613                      # jb: where a worker goes on after a signal; v0 and v1, the counters
OUTPUT, OUTPUT_BYTES = 0x613940, 1 << 22
FILES, FILE_BYTES = 0xA13BC0, 0x8090
PROCESSES, PROCESS_BYTES, PROCESS_HEAD, REGION_BYTES = 0xA54040, 1552, 16, 64
TLS_PAGE, STREAM_PAGE = HEAP, HEAP + 1      # the thread's data; where the recorder keeps what it prints to
SOCKETS = (0xA74, 0xA75)        # sv[][] and what lies beside it
START_UP = (*range(0x4CC, 0x4CF), *range(BIG // PAGE_SIZE, (OUTPUT + OUTPUT_BYTES) // PAGE_SIZE + 1), 0xA6F, 0xA70,
            0xA74, 0xA75, TLS_PAGE, STREAM_PAGE, HEAP + 2, DRAIN_PAGE)
AT_FORK = (0x4CC, 0xA70, STREAM_PAGE)   # written by the controller before it divides
CHILDS_OWN = (0x4CD, 0xA74, 0xA75)      # written by a child of a worker before it answers
WORKERS_OWN = (COMMAND_PAGE, *CHILDS_OWN, TLS_PAGE)
# one page each of the windows of fault-around that a process runs in: the worker's loop, the C library's calls, the
# table of the loop's switch (which a fork's child comes to with its first command), sigsetjmp
LOOP, CALLS, SWITCH, SETJMP = 0x401, 0x440, 0x49D, 0x420
WINDOW = 16                     # pages of one
VMSTAT_BYTES = 3600
VM_SHARED = 0x8
VM_SHOWN = 0xF27F_E50F          # the flags that VmFlags has a word for, of those that a VMA keeps here


@dataclass(frozen=True, slots=True)
class Stack:
    """Where a process's stack lies, which the kernel draws by chance at exec (randomize_va_space): `depth` is how many
    bytes below its end the frames of a worker begin. The other distances are the program's own, measured on a live
    kernel and in a guest (a process's stack pointer against its pagemap)."""

    depth: int

    def pages(self, above: int, below: int) -> tuple[int, ...]:
        """The pages from `above` bytes over the worker's frames down to `below` bytes under where they begin."""
        return tuple(range(STACK_TOP - (self.depth + below - 1) // PAGE_SIZE,
                           STACK_TOP - max(self.depth - above, 0) // PAGE_SIZE + 1))

    @property
    def at_start(self) -> tuple[int, ...]:
        """Written before any worker is there: the environment, what main() was called with, main()."""
        return STACK_TOP, *self.pages(2750, 2360)

    @property
    def controllers(self) -> tuple[int, ...]:
        """What the controller goes on writing."""
        return self.pages(1740, 2360)

    @property
    def workers(self) -> tuple[int, ...]:
        """What a worker writes until it waits for its first command: 32 KiB on purpose."""
        return self.pages(0, WORKER_FRAME + 640)

    @property
    def frame(self) -> tuple[int, ...]:
        """What a worker writes with each command, and on either side of a fork."""
        return tuple(page for page in self.pages(0, WORKER_FRAME + 290) if page <= self.pages(0, WORKER_FRAME)[0])

    @property
    def signal(self) -> tuple[int, ...]:
        """What a signal's frame is written over."""
        return tuple(page for page in self.pages(0, WORKER_FRAME + 3600) if page <= self.frame[-1])


WORKER_FRAME = 0x80F8


def placements() -> tuple[Stack, ...]:
    """One stack of each kind that there may be, the likeliest first. The kernel takes up to 8 KiB at random."""
    kinds: dict[tuple[tuple[int, ...], ...], list[Stack]] = {}
    for depth in range(3000, 3000 + 8192, 16):
        stack = Stack(depth)
        kind = (stack.at_start, stack.controllers, stack.workers, stack.frame, stack.signal)
        kinds.setdefault(kind, []).append(stack)
    return tuple(stacks[0] for stacks in sorted(kinds.values(), key=len, reverse=True))


STACKS = placements()
"""The placements that a recording may have been made with, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Order:
    """Parent and child write the same pages after a fork, on one cpu. From 6.6 on (EEVDF) either may go first, and a
    guest shows both within one scenario; before, the parent does, if it is not preempted."""

    child_first: bool
    pages: int = 99
    """The first writes so many of its pages before the other runs."""
    resumed: bool = False
    """The parent was off the cpu before: when it came back the kernel wrote its rseq area, in the thread's data."""


ORDERS = (Order(True), Order(False), Order(False, resumed=True),
          *(Order(first, pages) for first, most in ((True, 7), (False, 3)) for pages in range(1, most)))
"""All that may come of one fork."""


@dataclass(frozen=True, slots=True)
class Chance:
    """What a run of the recorder owes to chance, and no recording says."""

    stack: Stack = STACKS[0]
    orders: tuple[Order, ...] = ()
    """Who goes first after each fork of a worker in turn; the release's own way for the rest."""


LIKELIEST = Chance()

def pages_of(start: int, length: int) -> range:
    """The pages under `length` bytes from `start` on."""
    return range(start // PAGE_SIZE, (start + max(length, 1) - 1) // PAGE_SIZE + 1)


def smaps_bytes(release: int, vma: tuple[int, ...], name: str) -> int:
    """How long smaps is for one VMA, (start, end, vm_flags, ...). (show_smap)

    Every size is a line of 28 letters: 20 of them, Pss_Dirty from 6.0 and KSM from 6.4; then THPeligible, the
    protection key, and VmFlags, of which mr, mw, me and sd are not kept here, nor is ms of shared memory, nor
    dw of the program (to 5.14)."""
    start, end, flags = vma[:3]
    head = 74 + len(name) if name else 25 + max(8, len(f"{start:x}")) + max(8, len(f"{end:x}"))
    lines = 28 * (20 + (release >= 600) + (release >= 604)) + (25 if release >= 607 else 18) + 25 + 10
    if release == 517:                          # the series' own build: no protection keys, no sd
        lines -= 28
    if name in ("[vvar]", "[vdso]"):
        return head + lines + 3 * 7
    words = (flags & VM_SHOWN).bit_count() + 4 + (flags & VM_SHARED != 0) + (name == PROGRAM and release < 515)
    return head + lines + 3 * words


def printed(record: dict[str, Any]) -> int:
    """Bytes that the recorder prints for this record."""
    own = {key: value for key, value in record.items() if key != "agree"}
    return len(json.dumps(own, separators=(",", ":"))) + 1


@runtime_checkable
class Host(SystemUnderTest, Protocol):
    """What a model offers beyond a system under test so that its processes can have the image."""

    controller: int
    """The process that owns the files, as a pid of the calls."""
    release: int
    """major * 100 + minor."""
    child_runs_first: bool
    """After a fork the child writes before its parent does (6.6 on)."""
    write_prefaults: bool
    """write() faults its buffer in before it looks the page up (through 6.15)."""

    def create_file(self, fs: str, pages: int, *, sparse: bool = False, observe: bool = True,
                    owner: int = 0, huge: bool = False) -> int:
        """As a system under test; without `observe` the controller does not map it."""
        ...

    def file_of(self, pid: int, addr: int) -> int | None:
        """The file that the VMA at `addr` maps, None for private anonymous memory."""
        ...

    def map_special(self, pid: int, addr: int, length: int, vm_flags: int) -> None:
        """A mapping of the kernel's own, with just these vm_flags."""
        ...


class Image:
    """The controller's own image, from which every worker is forked; made on a fresh `host`. `lines`: how long the
    scenario is."""

    def __init__(self, host: Host, lines: int, chance: Chance = LIKELIEST) -> None:
        self.host, self.stack, self.orders = host, chance.stack, iter(chance.orders)
        self.written: set[int] = set()          # by the controller since the last fork
        self.running: set[tuple[int, int]] = set()
        self.copied = False
        self.printed = 0
        self.paths: dict[int, str] = {}
        me = host.controller
        program = host.create_file("rootfs", PROGRAM_PAGES, observe=False)
        self.paths[program] = PROGRAM
        for start, pages, prot, pgoff in SEGMENTS:
            flags = MAP_PRIVATE | MAP_FIXED_NOREPLACE | (MAP_ANONYMOUS if pgoff is None else 0)
            host.mmap(me, start * PAGE_SIZE, pages * PAGE_SIZE, prot, flags, None if pgoff is None else program,
                      (pgoff or 0) * PAGE_SIZE)
        for start, pages, vm_flags in (VVAR, VDSO):
            host.map_special(me, start * PAGE_SIZE, pages * PAGE_SIZE, vm_flags)
        for page in range(RELRO, RELRO + 2):
            self._read(me, page)
        for page in range(RELRO + 2, RELRO + RELRO_PAGES):      # written, then made read-only
            self._read(me, page)
            self._write(me, page)
        host.mprotect(me, RELRO * PAGE_SIZE, RELRO_PAGES * PAGE_SIZE, R)
        for start, pages, *_ in SEGMENTS[1:3]:                  # it runs through all of the program
            for page in range(start // WINDOW * WINDOW, start + pages, WINDOW):
                self._read(me, max(start, page))
        self._mine((*pages_of(LINES, (lines - 1) * LINE_BYTES), *START_UP, *self.stack.at_start))
        host.drain_all()
        host.pwrite(program, 0, PROGRAM_PAGES)                  # used a second time: in constant use
        host.drain_all()

    def _read(self, pid: int, page: int) -> None:
        self.host.touch(pid, page * PAGE_SIZE, 1, False)

    def _write(self, pid: int, page: int) -> None:
        self.host.touch(pid, page * PAGE_SIZE, 1, True)

    def _run(self, pid: int, page: int) -> None:
        """A page of the program comes to be run. It is brought in once: the file is the guest's root's, not of the
        cgroup whose memory a scenario may have reclaimed."""
        if (pid, page) not in self.running:
            self.running.add((pid, page))
            self._read(pid, page)

    def _mine(self, pages: Iterable[int]) -> None:
        """The controller writes these pages."""
        for page in pages:
            if page not in self.written:
                self.written.add(page)
                self._write(self.host.controller, page)

    # ------------------------------------------------------------ processes
    def spawn(self, number: int, cpu: int) -> int:
        """fork, and what the controller and worker `number` write until it answers its first call. -> pid"""
        for page in AT_FORK:
            self._write(self.host.controller, page)
        pid = self.host.fork(self.host.controller)
        self.written.clear()
        self.host.set_cpu(pid, cpu)
        self._mine(self.stack.controllers)
        self.process(number)
        for page in (*WORKERS_OWN, *self.stack.workers):
            self._write(pid, page)
        for page in (LOOP, CALLS, SWITCH):
            self._read(pid, page)
        return pid

    def command(self, pid: int) -> None:
        """A worker receives a command: it writes its command block, its thread's data and its stack."""
        self._run(pid, SWITCH)
        for page in (COMMAND_PAGE, TLS_PAGE, *self.stack.frame):
            self._write(pid, page)

    def wait(self, pid: int) -> None:
        """A worker has answered and waits for the next command: it looks up its socket."""
        for page in SOCKETS:
            self._read(pid, page)

    def touch(self, pid: int) -> None:
        """Before it touches memory a worker saves where to go on after a signal."""
        self._write(pid, TOUCH_PAGE)
        self._run(pid, SETJMP)

    def signal(self, pid: int) -> None:
        """A worker catches a signal: the frame for its handler is written below its own."""
        for page in reversed(self.stack.signal):
            self._write(pid, page)

    def fork(self, pid: int) -> int:
        """Who runs first copies what it writes, the other finds its pages unshared. The new thread's data and the C
        library's own are written by the child alone. -> pid of the child"""
        child = self.host.fork(pid)
        order = next(self.orders, Order(self.host.child_runs_first))
        writes = {pid: (*((TLS_PAGE,) if order.resumed else ()), COMMAND_PAGE, *self.stack.frame),
                  child: (TLS_PAGE, *CHILDS_OWN, *self.stack.frame, COMMAND_PAGE)}
        first, second = (child, pid) if order.child_first else (pid, child)
        for process, pages in ((first, writes[first][:order.pages]), (second, writes[second]),
                               (first, writes[first][order.pages:])):
            for page in pages:
                self._write(process, page)
        for page in (LOOP, CALLS):
            self._read(child, page)
        return child

    def local_drain(self, pid: int) -> tuple[int, int]:
        """The recorder's way to lru_add_drain(): MADV_WILLNEED of a fresh anonymous page, or of MAP_FAILED if it
        gets none, which is no page's address."""
        at = LOCAL_DRAIN_PAGE * PAGE_SIZE
        if self.host.mmap(pid, at, PAGE_SIZE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, None, 0)[0] == -1:
            return -1, EINVAL
        answer = self.host.madvise(pid, at, PAGE_SIZE, MADV_WILLNEED)
        self.host.munmap(pid, at, PAGE_SIZE)
        return answer

    # ------------------------------------------------------------ the controller
    def drain_answer(self) -> int:
        """It drains by asking for a page of its own to be moved to where it is, and is told if that is swapped out."""
        return 0 if self.host.pte(self.host.controller, DRAIN_PAGE * PAGE_SIZE)[0] == "a" else -1

    def start(self, record: dict[str, Any]) -> None:
        """It reads the counters for the first time, and prints this record of step 0."""
        self.count()
        self.prints(printed(record))

    def count(self) -> None:
        """It reads the counters."""
        self._mine((*pages_of(BIG, VMSTAT_BYTES), TOUCH_PAGE))

    def new_address(self) -> None:
        """It gives out an address for a region."""
        self._mine(pages_of(*NEXT_ADDRESS))

    def process(self, number: int, length: int = PROCESS_HEAD) -> None:
        """It notes that process `number` is there, or is no more; a fork's child has a copy of all of its parent's."""
        self._mine(pages_of(PROCESSES + number * PROCESS_BYTES, length))

    def region(self, number: int, place: int) -> None:
        """It notes a region of process `number`, in that place of its list."""
        self._mine(pages_of(PROCESSES + number * PROCESS_BYTES + PROCESS_HEAD + place * REGION_BYTES, REGION_BYTES))

    def create(self, number: int, sparse: bool) -> None:
        """It makes its file `number`."""
        self._mine(pages_of(FILES + number * FILE_BYTES, FILE_BYTES))
        if not sparse:
            self._mine(pages_of(*FILL))

    def created(self, file: int, fs: str, name: str) -> None:
        """A file is there, under the recorder's name for it, which ends with its pid."""
        self.paths[file] = f"/{'ext4' if fs == 'ext4' else 'tmpfs'}/{name}.123"

    def _name(self, pid: int, vma: tuple[int, ...]) -> str:
        """What smaps calls this VMA."""
        first, end = vma[0] // PAGE_SIZE, vma[1] // PAGE_SIZE
        file = self.host.file_of(pid, vma[0])
        if file is not None:
            return self.paths.get(file, "/dev/zero (deleted)")
        special = {HEAP: "[heap]", VVAR[0]: "[vvar]", VDSO[0]: "[vdso]"}
        return special.get(first, "[stack]" if first <= STACK_TOP < end else "")

    def reads_process(self, pid: int) -> None:
        """It reads status and smaps of a process. In the series' own build the heap is one VMA with the static data:
        how long smaps is there nothing says but which frames come back, and this is what agrees with them."""
        release = self.host.release
        length = sum(smaps_bytes(release, vma, self._name(pid, vma)) for vma in self.host.vmas(pid)
                     if release != 517 or vma[0] != HEAP * PAGE_SIZE)
        self._mine(pages_of(BIG, length + 1))

    def reads_region(self, pages: int) -> None:
        """It reads the pagemap of a region."""
        self._mine((*pages_of(*PAGEMAP), *pages_of(STATES, pages * STATE_BYTES)))

    def reads_file(self, pages: int) -> None:
        """It asks which pages of a file are cached."""
        self._mine((*pages_of(*MINCORE), *pages_of(STATES, pages * STATE_BYTES)))

    def prints(self, length: int) -> None:
        """It prints so many bytes more of a record."""
        self._mine((STREAM_PAGE, *pages_of(OUTPUT + self.printed, length)))
        self.printed += length

    def printed_all(self, start: int, record: dict[str, Any]) -> None:
        """It has printed all of this record, which begins at byte `start`."""
        self.printed = start
        self.prints(printed(record))

    def copies_from(self, file: int, offset: int) -> None:
        """It is about to write to a file. Where the kernel does not prefault the buffer, a first write fails after the
        page was looked up, and is done again."""
        if not self.copied and not self.host.write_prefaults:
            self.host.pwrite(file, offset, 1)
        self.copied = True

    def copies_to(self) -> None:
        """It has read a page."""
        self._mine(pages_of(*READ_TO))
        self.copied = True
