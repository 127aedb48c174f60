"""What the recorder sees after a command: VmLck, VMAs, pages of regions and of files, as JSON-able values."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from .system import (
    PAGE_SIZE, SystemUnderTest, VM_HUGETLB, VM_IO, VM_LOCKED, VM_LOCKONFAULT, VM_PFNMAP, VM_READ,
    VM_SHARED, VM_WRITE,
)
from .commands import MAX_PAGES

VM_GROWSDOWN, VM_HUGEPAGE, VM_NOHUGEPAGE = 0x100, 0x20000000, 0x40000000

COUNTERS = (
    "nr_mlock", "nr_unevictable", "unevictable_pgs_culled", "unevictable_pgs_scanned",
    "unevictable_pgs_rescued", "unevictable_pgs_mlocked", "unevictable_pgs_munlocked",
    "unevictable_pgs_cleared", "unevictable_pgs_stranded", "nr_inactive_anon", "nr_active_anon",
    "nr_inactive_file", "nr_active_file", "HugePages_Free", "HugePages_Rsvd",
)
"""The counters of /proc/vmstat, and the last two of /proc/meminfo, that a record shows, in its order."""

VM_FLAGS = (
    (VM_READ, "rd"), (VM_WRITE, "wr"), (VM_SHARED, "sh"), (VM_GROWSDOWN, "gd"), (VM_PFNMAP, "pf"),
    (VM_LOCKED, "lo"), (VM_IO, "io"), (VM_LOCKONFAULT, "lf"), (VM_HUGETLB, "ht"),
    (VM_HUGEPAGE, "hg"), (VM_NOHUGEPAGE, "nh"),
)
"""The VmFlags that a record shows, in the order in which smaps prints them."""

PageState = tuple[str, int, str, int]
"""kind, mapcount, flags, mlock_count; (kind, -1, "", -1) where no page is known."""
Run = list[int | str]
"""[first, last, kind, mapcount, flags, mlock_count]."""


@dataclass
class Region:
    """A named range of a process, as the scenario knows it; what is mapped there may have changed since."""

    name: str
    addr: int
    pages: int
    file: int | None
    """Number of the file in the scenario, None for anonymous memory."""
    offset: int
    shared: bool


@dataclass
class File:
    """A file of the scenario and, by index, the pfn under which a pagemap last showed each page."""

    name: str
    id: int
    pages: int
    """-1: not looked at."""
    seen: dict[int, int] = field(default_factory=dict)


def runs(pages: Iterable[PageState]) -> list[Run]:
    """Neighbours in equal state as one run [first, last, kind, mapcount, flags, mlock_count]."""
    out: list[Run] = []
    last: PageState | None = None
    for index, page in enumerate(pages):
        if page == last:
            out[-1][1] = index
        else:
            out.append([index, index, *page])
            last = page
    return out


def vm_flags(bits: int, *, shows_lf: bool) -> str:
    return " ".join(word for bit, word in VM_FLAGS if bits & bit and (shows_lf or bit != VM_LOCKONFAULT))


def changes(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """What each counter of `COUNTERS` has changed by, those that have not left out."""
    return {name: now.get(name, 0) - before.get(name, 0) for name in COUNTERS
            if now.get(name, 0) != before.get(name, 0)}


def _covered(region: Region, regions: list[Region]) -> bool:
    """Whether another region of the process lies, or lay, in this one's place."""
    return any(other is not region and other.addr < region.addr + region.pages * PAGE_SIZE
               and region.addr < other.addr + other.pages * PAGE_SIZE for other in regions)


class Recorder(Protocol):
    """What looking takes of the memory of the process that looks, in the order in which it looks."""

    def reads_process(self, pid: int) -> None: ...
    def reads_region(self, pages: int) -> None: ...
    def reads_file(self, pages: int) -> None: ...
    def prints(self, length: int) -> None:
        """`length` more bytes of the record are printed."""
        ...


def length(value: object) -> int:
    """Bytes of a value as the recorder prints it."""
    return len(json.dumps(value, separators=(",", ":")))


class Observer:
    """Looks at one system. `files` is the runner's list, shared with it; `forget_lost` as in `run`."""

    def __init__(self, system: SystemUnderTest, files: list[File], *, forget_lost: bool = False) -> None:
        self.system, self.files, self.forget_lost = system, files, forget_lost
        self.shows_lf = bool(getattr(system, "smaps_shows_lf", True))

    def look(self, processes: Iterable[tuple[int, int, list[Region]]],
             recorder: Recorder | None = None) -> dict[str, object]:
        """The "p" and "f" of a record, of the living `processes` (number, pid, regions) and all files.

        A `recorder`'s own pages change while it looks, and with them what it sees of frames that come to it.
        """
        page = self._pages()
        p: dict[str, object] = {}
        f: dict[str, object] = {}
        if recorder:
            recorder.prints(len(',"p":{'))
        for number, pid, regions in processes:
            state = {"VmLck": self.system.vm_lck(pid), "reg": {}}
            if recorder:
                recorder.prints(bool(p) + length({f"p{number}": state}) - len("{}}}"))
                recorder.reads_process(pid)
            state["reg"] = self._regions(pid, regions, page, recorder)
            p[f"p{number}"] = state
            if recorder:
                recorder.prints(len("}}"))
        if recorder:
            recorder.prints(len('},"f":{'))
        for file in self.files:
            if recorder:
                recorder.reads_file(file.pages)
                page = self._pages()
            f[file.name] = runs(self._file(file, page))
            if recorder:
                recorder.prints((len(f) > 1) + length({file.name: f[file.name]}) - len("{}"))
        return {"p": p, "f": f}

    def _pages(self) -> Callable[[str, int], PageState]:
        known: dict[int, tuple[int, str, int]] = {}

        def page(kind: str, pfn: int) -> PageState:
            if not pfn:
                return kind, -1, "", -1
            state = known.get(pfn)
            if state is None:
                state = known[pfn] = self.system.page(pfn)
            return kind, *state
        return page

    def _regions(self, pid: int, regions: list[Region], page: Callable[[str, int], PageState],
                 recorder: Recorder | None) -> dict[str, object]:
        if not regions:
            return {}
        vmas = self.system.vmas(pid)
        shown: dict[str, object] = {}
        for region in regions:
            vma = self._vmas(vmas, region)
            if recorder:
                recorder.prints(bool(shown) + length({region.name: {"vma": vma}}) - len("{}}"))
                recorder.reads_region(region.pages)
                page = self._pages()
            pages = runs(self._region(pid, region, page, _covered(region, regions)))
            if recorder:
                recorder.prints(length({"pg": pages}))        # with a comma and a brace for two braces
            shown[region.name] = {"vma": vma, "pg": pages}
        return shown

    def _vmas(self, vmas: list[tuple[int, int, int, int, int]], region: Region) -> list[list[int | str]]:
        start, end = region.addr, region.addr + region.pages * PAGE_SIZE
        return [[(first - start) // PAGE_SIZE, (last - start) // PAGE_SIZE,
                 vm_flags(bits, shows_lf=self.shows_lf), locked, rss]
                for first, last, bits, locked, rss in vmas if first < end and last > start]

    def _region(self, pid: int, region: Region, page: Callable[[str, int], PageState],
                covered: bool) -> Iterable[PageState]:
        """Every page of the region; a file's page seen here is known by its pfn from now on.

        The recorder takes what other regions have mapped into a `covered` one for the file's pages too.
        """
        seen = None if region.file is None or (self.forget_lost and covered) else self.files[region.file].seen
        pte = self.system.pte
        for index in range(region.pages):
            kind, pfn = pte(pid, region.addr + index * PAGE_SIZE)
            if kind == "f" and seen is not None and region.offset + index < MAX_PAGES:
                seen[region.offset + index] = pfn
            yield page(kind, pfn)

    def _file(self, file: File, page: Callable[[str, int], PageState]) -> Iterable[PageState]:
        """As many pages as the file had when it was made, one at least; none of huge pages, unknown to mincore().

        The state shown is that of the pfn last seen, even where another page has taken its place since.
        """
        for index in range(max(file.pages, 1) if file.pages >= 0 else 0):
            if not self.system.cached(file.id, index):
                if self.forget_lost:
                    file.seen.pop(index, None)
                yield "x", -1, "", -1
            elif not file.seen.get(index):
                yield "?", -1, "", -1
            else:
                yield page("c", file.seen[index])
