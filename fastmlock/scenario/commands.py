"""The commands of the scenario language, one frozen dataclass for each verb.

Units: offsets and lengths are pages of 4096 bytes unless the name ends in ``_bytes``. A process
command holds the numbers of the processes that carry it out, in turn, in `procs`.
"""
from __future__ import annotations

from dataclasses import dataclass

from fastmlock.explore.schedule import Turn

from .system import MAP_PRIVATE, MAP_SHARED

MAX_PROCESSES = 72
MAX_REGIONS = 24
MAX_FILES = 8
MAX_PAGES = 4096
MAX_LINES = 512
MAX_LINE_BYTES = 199
MAX_NAME = 15
MAX_WORDS = 20
MIN_SWAP, MAX_SWAP = 2, 1 << 20
"""Pages of a swap device, its header with them."""
RECORDED_WITH_SWAP, RECORDED_SWAP = "s31", 16384
"""Scenarios of that name are recorded with a swap device of so many pages."""

ADVICE = {
    "normal": 0, "random": 1, "sequential": 2, "willneed": 3, "dontneed": 4, "free": 8, "remove": 9,
    "dontfork": 10, "dofork": 11, "mergeable": 12, "unmergeable": 13, "hugepage": 14, "nohugepage": 15,
    "wipeonfork": 18, "cold": 20, "pageout": 21, "populate_read": 22, "populate_write": 23,
    "dontneed_locked": 24, "collapse": 25,
}
MSYNC = {"async": 1, "invalidate": 2, "sync": 4}


@dataclass(frozen=True, slots=True)
class Command:
    """Base of all: where the command stands (from 1) and its text as the recorder shows it."""

    line: int
    text: str


# ---- what the controller does


@dataclass(frozen=True, slots=True)
class CreateFile(Command):
    name: str
    fs: str
    pages: int
    sparse: bool
    owner: int
    """Of a shm segment; 0 for a file."""
    huge: bool = False
    """On a tmpfs mounted huge=always."""


@dataclass(frozen=True, slots=True)
class Truncate(Command):
    file: str
    pages: int


@dataclass(frozen=True, slots=True)
class FileRange(Command):
    """punch, fadvise, fwrite or fread of `pages` pages of a file from `offset`."""

    verb: str
    file: str
    offset: int
    pages: int


@dataclass(frozen=True, slots=True)
class Drain(Command):
    """lru_add_drain_all()."""


@dataclass(frozen=True, slots=True)
class Khugepaged(Command):
    """khugepaged scans everything twice; else it sleeps."""


@dataclass(frozen=True, slots=True)
class Compact(Command):
    pass


@dataclass(frozen=True, slots=True)
class Swapoff(Command):
    """swapoff of the device that was switched on at the start. Not the recorder's."""


@dataclass(frozen=True, slots=True)
class Reclaim(Command):
    """One pass of reclaim over at most `pages` pages of each active and each inactive file list. Not the recorder's."""

    pages: int


@dataclass(frozen=True, slots=True)
class Ksm(Command):
    """/sys/kernel/mm/ksm/run. Not the recorder's."""

    run: int


@dataclass(frozen=True, slots=True)
class OomKill(Command):
    """A process is killed, reaped and gone. Not the recorder's."""

    victim: int


@dataclass(frozen=True, slots=True)
class Reap(Command):
    """The OOM reaper takes what it may of a process, which exits later. Not the recorder's."""

    victim: int


@dataclass(frozen=True, slots=True)
class DropCaches(Command):
    what: int


@dataclass(frozen=True, slots=True)
class Sysctl(Command):
    path: str
    value: str


@dataclass(frozen=True, slots=True)
class Sleep(Command):
    ms: int


@dataclass(frozen=True, slots=True)
class Snap(Command):
    """Nothing but another look."""


@dataclass(frozen=True, slots=True)
class Race(Command):
    """Commands that are under way at once."""

    commands: tuple[Command, ...]
    parties: tuple[str, ...]
    """What each is called in the schedule: its process, or its verb."""
    turns: tuple[Turn, ...]
    """The schedule; none means each to its end in turn."""


# ---- what processes do


@dataclass(frozen=True, slots=True)
class ProcessCommand(Command):
    procs: range


SPECIAL = ("secret", "packet", "devmem")
"""What a process maps of its own: memory of memfd_secret(), the ring of a packet socket, physical memory."""


@dataclass(frozen=True, slots=True)
class Mmap(ProcessCommand):
    region: str
    file: str | None
    shared: bool
    prot: int
    offset: int
    pages: int
    flags: int
    """MAP_LOCKED, MAP_POPULATE, MAP_NORESERVE: what the options say, no more."""
    at: tuple[str, int] | None
    """Region and page offset in it to map over, or None for an address of its own."""
    special: str = ""
    """One of `SPECIAL`, if it is neither a file nor anonymous memory."""

    @property
    def sharing(self) -> int:
        return MAP_SHARED if self.shared else MAP_PRIVATE


@dataclass(frozen=True, slots=True)
class RangeCall(ProcessCommand):
    """mlock, mlock2, munlock or munmap."""

    verb: str
    region: str
    offset: int
    pages: int
    skip_bytes: int
    """``byteoff=``: added to the address."""
    length_bytes: int | None
    """``bytes=``: the length in place of `pages`, signed."""
    flags: int


@dataclass(frozen=True, slots=True)
class MlockAll(ProcessCommand):
    flags: int


@dataclass(frozen=True, slots=True)
class MunlockAll(ProcessCommand):
    pass


@dataclass(frozen=True, slots=True)
class Touch(ProcessCommand):
    region: str
    offset: int
    pages: int
    write: bool


@dataclass(frozen=True, slots=True)
class Brk(ProcessCommand):
    """The heap, which is the region of this name from now on, shall have so many pages. Not the recorder's."""

    region: str
    pages: int


@dataclass(frozen=True, slots=True)
class RemapPages(ProcessCommand):
    """remap_file_pages. Not the recorder's."""

    region: str
    offset: int
    pages: int
    file_offset: int
    flags: int


@dataclass(frozen=True, slots=True)
class Peek(ProcessCommand):
    """The controller reads or writes a page of the process through /proc/PID/mem. Not the recorder's."""

    region: str
    offset: int
    write: bool


@dataclass(frozen=True, slots=True)
class Mremap(ProcessCommand):
    region: str
    offset: int
    old_pages: int
    new_pages: int
    flags: int
    """MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP; with MREMAP_FIXED to a new address."""
    target: str
    """The region's name afterwards; it may be the old one."""


@dataclass(frozen=True, slots=True)
class Madvise(ProcessCommand):
    region: str
    offset: int
    pages: int
    advice: int


@dataclass(frozen=True, slots=True)
class Mprotect(ProcessCommand):
    region: str
    offset: int
    pages: int
    prot: int


@dataclass(frozen=True, slots=True)
class Msync(ProcessCommand):
    region: str
    offset: int
    pages: int
    flags: int


@dataclass(frozen=True, slots=True)
class ShmLock(ProcessCommand):
    """shmctl(SHM_LOCK) or SHM_UNLOCK. Not the recorder's."""

    segment: str
    lock: bool


@dataclass(frozen=True, slots=True)
class Rlimit(ProcessCommand):
    limit_bytes: int
    """RLIMIT_MEMLOCK, -1 for unlimited."""


@dataclass(frozen=True, slots=True)
class Setuid(ProcessCommand):
    uid: int


@dataclass(frozen=True, slots=True)
class SetCpu(ProcessCommand):
    cpu: int


@dataclass(frozen=True, slots=True)
class LocalDrain(ProcessCommand):
    """lru_add_drain() on the process's cpu."""


@dataclass(frozen=True, slots=True)
class MovePages(ProcessCommand):
    region: str
    offset: int


@dataclass(frozen=True, slots=True)
class Offline(ProcessCommand):
    """The memory block that a page lies in leaves the machine. Not the recorder's."""

    region: str
    offset: int


@dataclass(frozen=True, slots=True)
class Fork(ProcessCommand):
    child: int


@dataclass(frozen=True, slots=True)
class Exec(ProcessCommand):
    """execve, and a drain: the process begins anew without regions. Not the recorder's."""


@dataclass(frozen=True, slots=True)
class Exit(ProcessCommand):
    """exit; several processes are released before any is waited for."""


@dataclass(frozen=True, slots=True)
class Kill(ProcessCommand):
    pass


@dataclass(frozen=True, slots=True)
class Scenario:
    """A checked program: its name, its commands in order, and the processes that it starts with."""

    name: str
    commands: tuple[Command, ...]
    processes: tuple[int, ...]
    lines: tuple[str, ...] = ()
    """The text, line by line, without comments."""
    swap_pages: int = 0
    """Of the swap device that is on from the start, 0 for none."""
