"""Random programs in the scenario language: valid ones, and those that the kernel refuses.

A program is a function of (seed, index, profile) alone. The generator follows which regions and processes there
should be, so that most commands do something, and now and then asks for what cannot be done: ranges beyond a region,
lengths that wrap, flags that do not exist, a process without permission.
"""
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fastmlock.scenario import commands as c

BIG = (510, 512, 514, 520, 600, 1030)
"""Pages of more than one page table."""
SIZES = (1, 2, 3, 5, 8, 8, 14, 15, 16, 16, 17, 20, 31, 32, 33, 40)
ODD_BYTES = (1, 4095, 4096, 4097, -1, -4096, -4097, 0, 1 << 62, (1 << 63) - 1, -(1 << 63))
LIMITS = (0, 1, 4096, 8 * 4096, 20 * 4096, 64 << 10, 40 * 4096, 100 * 4096, 8 << 20, -1)
ADVICE = ("dontneed", "dontneed", "dontneed", "free", "willneed", "populate_read", "populate_write", "dontneed_locked",
          "cold", "pageout", "remove", "random", "normal", "dontfork", "dofork", "wipeonfork", "nohugepage", "hugepage",
          "mergeable", "mergeable", "unmergeable", "sequential")
MSYNC = ("async", "invalidate", "invalidate", "", "sync", "async invalidate", "async sync")
SYSCTL = "sysctl /proc/sys/vm/max_map_count"
NR_HUGEPAGES = "sysctl /proc/sys/vm/nr_hugepages"
SYSCTLS = ("sysctl /cg/t/memory.high 0", "sysctl /sys/devices/system/cpu/cpu1/online 0",
           "sysctl /sys/devices/system/cpu/cpu1/online 1")


@dataclass(frozen=True)
class Kind:
    """What a program is about. Programs of one kind reach what a mixture of everything seldom does."""

    often: float
    favours: dict[str, float] = field(default_factory=dict)
    """Verb -> how many times as often as in others."""
    poor: float = 0.0
    """Chance that a process begins without privilege and with a low limit."""
    crowd: tuple[int, int] | None = None
    """Processes at the start, if not as few as the profile says."""
    together: float = 0.08
    """Chance that a command is for several processes."""
    over: float = 0.15
    """Chance that a mapping is put over another."""
    arena: float = 0.0
    """Chance that a process begins with a large mapping for others to be put over."""
    spoil: float = 1.0
    """Scales how often a range lies outside of its region."""
    mergeable: float = 0.0
    """Chance that an advice is for KSM."""


KINDS = (
    Kind(0.50),
    Kind(0.16, {"mlock": 1.5, "mlock2": 1.5, "mlockall": 4, "mmap": 1.5, "rlimit": 5, "setuid": 2, "mremap": 1.5},
         poor=0.85),
    Kind(0.09, {"touch": 1.5, "fork": 0, "mmap": 0.6, "exit": 3, "cpu": 2}, crowd=(5, 18), together=0.5),
    Kind(0.13, {"mprotect": 4, "mlock": 2, "munlock": 2, "mremap": 2.5, "madvise": 2, "munmap": 1.5}, over=0.6,
         arena=0.8, spoil=2.0),
    Kind(0.07, {"truncate": 5, "punch": 5, "fadvise": 4, "fwrite": 4, "fread": 4, "file": 3}),
    Kind(0.05, {"fork": 6, "exit": 2, "touch": 2, "madvise": 1.5, "mremap": 2}),
    Kind(0.04, {"ksm": 15, "madvise": 2, "touch": 2, "fork": 2}, mergeable=0.7),
)


@dataclass(frozen=True)
class Profile:
    """What programs may hold."""

    commands: tuple[int, int] = (6, 26)
    """Fewest and most commands beside files and drains."""
    processes: int = 4
    ext4: float = 0.15
    """How many files are on a disk."""
    sparse: float = 0.12
    """How many files begin as a hole."""
    pages: tuple[int, ...] = ()
    """Sizes of files, if not the usual ones."""
    advice: tuple[str, ...] = ()
    """More words of advice."""
    kinds: tuple[Kind, ...] = KINDS
    leave_out: frozenset[str] = frozenset()
    """Verbs, and words of advice, that are not used."""
    chosen_addresses: bool = True
    """mremap to an address of the kernel's choice, where there may be neighbours that the model has not."""
    huge: bool = False
    """Anonymous regions of huge pages, and commands that cut them."""
    huge_files: bool = False
    """Files on a tmpfs that is mounted huge=always, and collapse of those that are not."""
    hugetlb: bool = False
    """Regions of huge pages from a small pool, of files and of anonymous memory."""
    special: float = 0.0
    """How often a mapping is of secret memory, a packet socket's ring or physical memory."""
    swap: float = 0.4
    """How many programs have a swap device."""
    drains: tuple[float, ...] = (1.0, 0.4, 0.05)
    """How often a command is followed by a drain; each program takes one of these."""


EVERYTHING = Profile()
HUGETLB = Profile(hugetlb=True, ext4=0, swap=0.1,
                  leave_out=frozenset({"remappages", "movepages", "msync", "remove"}))
SPECIAL = Profile(special=0.4, swap=0.1, leave_out=frozenset({"remove", "remappages", "ksm"}))
HUGE = Profile(huge=True, ext4=0, leave_out=frozenset({"msync", "ksm", "reclaim", "sysctl"}))
HUGE_FILES = Profile(huge=True, huge_files=True, ext4=0, leave_out=frozenset({"msync", "ksm", "sysctl", "compact"}))
LIVE = Profile(ext4=0, swap=0, leave_out=frozenset({"compact", "dropcaches", "sysctl", "ksm", "reclaim"}))
"""For a running kernel: from 6.16 ext4 reads in large folios, which the model has not."""
EMULATED = Profile(ext4=0.25, swap=0, processes=3, chosen_addresses=False, drains=(1.0, 1.0, 0.5, 0.15),
                   kinds=(*KINDS, Kind(0.25, {"dropcaches": 7, "fadvise": 3, "fwrite": 3, "fread": 3, "truncate": 2,
                                              "punch": 2, "msync": 3, "movepages": 3, "kill": 3, "ldrain": 2})),
                   leave_out=frozenset({"brk", "stack", "growsdown", "remappages", "peek", "exec", "shm", "shmlock",
                                         "shmunlock", "oomkill", "sysctl", "unmergeable", "ksm", "reclaim"}))
"""For the recorder in a guest, which has no words for some; what lies beside an address of the kernel's choice there
is not modelled. One kind more is about what changes files and caches from outside."""
DISK = Profile(ext4=0.9, sparse=0.7, pages=(3, 6, 12, 20, 33, 40, 64, 100), swap=0, processes=3,
               chosen_addresses=False, drains=(1.0, 1.0, 0.5),
               advice=3 * ("normal", "random", "sequential", "sequential", "hugepage", "willneed", "pageout"),
               kinds=(Kind(1.0, {"fread": 8, "fadvise": 5, "touch": 3, "madvise": 2, "truncate": 1.5}),),
               leave_out=EMULATED.leave_out)
"""Files on a disk that are read in, by calls and by faults."""


@dataclass
class _Region:
    pages: int
    file: str | None
    writable: bool = True
    stack: bool = False
    mapped: tuple[str, ...] = ()
    """Of a file: which, shared or private, access, first page."""


@dataclass
class _Process:
    regions: dict[str, _Region] = field(default_factory=dict)


class _Writer:
    def __init__(self, rng: random.Random, profile: Profile) -> None:
        self.rng, self.profile = rng, profile
        self.lines: list[str] = []
        self.files: dict[str, int] = {}
        self.segments: set[str] = set()
        self.huge: set[str] = set()
        """Files of huge pages."""
        self.alive: dict[int, _Process] = {}
        self.started = 0
        self.kind = rng.choices(profile.kinds, [kind.often for kind in profile.kinds])[0]
        self.moves = rng.random() < 0.25
        self.advise = ""
        self.swaps = 0
        """How much oftener than else memory is paged out."""

    # ---- choices

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def size(self) -> int:
        return self.rng.choice(BIG if self.chance(0.01) else SIZES)

    def span(self, pages: int) -> tuple[int, int]:
        """Offset and length in a range of `pages`; seldom outside of it."""
        rng = self.rng
        kind = rng.random()
        if pages >= 512 and kind > 0.5:
            off = rng.choice((0, 0, 0, 1, 100, 256, 500, 511, 512))
            return off, max(1, min(pages - off, rng.choice((1, 2, 12, 30, 256, 412, 512, 512, pages))))
        if kind < 0.35:
            return 0, pages
        off = rng.randrange(pages) if pages else 0
        outside = 0.1 * self.kind.spoil
        if kind < 1 - outside:
            return off, rng.randint(1, max(1, pages - off))
        if kind < 1 - 0.4 * outside:
            return off, pages - off + rng.randint(1, 4)
        return rng.choice(((-1, 2), (0, 0), (pages, 1), (off, -1), (-2, pages + 4)))

    def where(self) -> tuple[str, int, str, _Region] | None:
        """(who, process, region's name, region); several processes where all have the region."""
        have = [p for p, process in self.alive.items() if process.regions]
        if not have:
            return None
        p = self.rng.choice(have)
        name = self.rng.choice(sorted(self.alive[p].regions))
        who = self.several(p, name) if self.chance(self.kind.together) else f"p{p}"
        return who, p, name, self.alive[p].regions[name]

    def several(self, p: int, name: str | None = None) -> str:
        """p and the processes next to it, as far as they live and have the region."""
        def has(q: int) -> bool:
            return q in self.alive and (name is None or name in self.alive[q].regions)
        first = last = p
        while has(last + 1):
            last += 1
        while self.kind.crowd and has(first - 1):
            first -= 1
        return f"p{first}-{last}" if last > first else f"p{p}"

    def members(self, who: str) -> list[int]:
        first, _, last = who[1:].partition("-")
        return list(range(int(first), int(last or first) + 1))

    # ---- commands

    def mmap(self) -> str:
        rng = self.rng
        p = rng.choice(sorted(self.alive))
        who = f"p{p}"
        if self.chance(max(0.1, self.kind.together)) and p + 1 in self.alive:
            who = self.several(p) if self.kind.crowd else f"p{p}-{p + 1}"
        name = rng.choice("ABCDE")
        source = rng.choice([*self.files, *self.files, "anon"])
        sharing = rng.choice(("shared", "private"))
        prot = rng.choice(("rw", "rw", "rw", "rw", "rw", "rw", "r", "r", "r", "none", "w", "rwx", "rx"))
        huge = False
        if source == "anon":
            off, pages = 0, self.size()
            if self.profile.huge and self.chance(0.7):
                pages = rng.choice((512, 512, 600, 1024, 1024, 1100))
                self.advise = f"{who} madvise {name} 0 {pages} hugepage"
            elif self.profile.hugetlb and self.chance(0.6):
                pages = rng.choice((512, 512, 600, 1024, 1024, 1536))
                huge = True
        elif source in self.huge:
            off, pages = rng.choice((0, 0, 0, 512, 100)), rng.choice((512, 1024, 1536))
            huge = True
        else:
            size = max(self.files[source], 1)
            off = rng.randrange(size) if self.chance(0.3) else 0
            pages = max(1, size - off + rng.choice((0, 0, 0, 0, 2, -1, -3)))
            if self.profile.huge_files and size >= 512 and self.chance(0.7):
                off, pages = 0, max(512, pages)         # aligned: else no pmd can map it
        if self.profile.special and self.chance(self.profile.special):
            source, sharing, off, pages = rng.choice(("secret", "packet", "devmem")), "shared", 0, self.size()
            huge = False
        elif self.chance(0.02):
            off, pages = rng.choice(((off, 0), (2**31 - 1, pages), (100, pages)))
        words = [name, source, sharing, prot, str(off), str(pages)]
        words += [word for word, often in (("locked", 0.15), ("populate", 0.12), ("noreserve", 0.03))
                  if self.chance(often * (4 if huge and word == "noreserve" else 1))]
        if huge and source == "anon":
            words.append("hugetlb")
        stack = (source == "anon" and sharing == "private" and self.chance(0.15)) or self.chance(0.01)
        if stack and "growsdown" not in self.profile.leave_out:
            words.append("growsdown")
        under = sorted(set.intersection(*(set(self.alive[q].regions) for q in self.members(who))))
        if under and self.chance(self.kind.over):
            over = rng.choice(under)
            size = max(1, self.alive[p].regions[over].pages)
            at = rng.randrange(size) if self.chance(0.9) else rng.choice((-1, -pages, size, size + 1))
            if size > 520 and self.chance(0.4):
                at = 512 - rng.randrange(min(pages + 1, 20))            # across two page tables, or at their border
            if huge and self.chance(0.8):
                at -= at % 512
            lower = self.alive[p].regions[over].mapped
            if source in self.files and lower and at >= 0 and self.chance(0.3):     # as if it were one mapping
                words[1:5] = source, sharing, prot, _ = *lower[:3], str(int(lower[3]) + at)
            words.append(f"at={over}+{at}")
        for q in self.members(who):
            self.alive[q].regions[name] = _Region(pages, source if source in self.files else None, "w" in prot, stack,
                                                    tuple(words[1:5]) if source in self.files else ())
        return f"{who} mmap {' '.join(words)}"

    def range_call(self, verb: str) -> Callable[[], str | None]:
        def write() -> str | None:
            if (there := self.where()) is None:
                return None
            who, _, name, region = there
            off, pages = self.span(region.pages)
            text = f"{who} {verb} {name} {off} {pages}"
            if verb == "mlock2":
                text += self.rng.choice((" onfault",) * 8 + ("", " flags=2", " flags=-1"))
            if self.chance(0.04):
                odd = self.rng.choice((1, 100, 4095))
                text += f" byteoff={odd}"
            if self.chance(0.03):
                # an unmapping of no matter what would take the worker's own memory along
                text += f" bytes={self.rng.choice(ODD_BYTES[:4] if verb == 'munmap' else ODD_BYTES)}"
            return text
        return write

    def mlockall(self) -> str:
        flags = self.rng.choice(("current", "future", "current future", "current onfault", "future onfault",
                                 "current future onfault", "onfault", ""))
        who = self.anyone() if not self.chance(self.kind.together) else self.several(int(self.anyone()[1:]))
        return f"{who} mlockall {flags}".rstrip()

    def anyone(self) -> str:
        return f"p{self.rng.choice(sorted(self.alive))}"

    def touch(self) -> str | None:
        if (there := self.where()) is None:
            return None
        who, _, name, region = there
        off, pages = self.span(region.pages)
        write = self.rng.choice("rww") if region.writable or self.chance(0.2) else "r"
        return f"{who} touch {name} {off} {pages} {write}"

    def stack(self) -> str | None:
        """Below a mapping that grows downwards, within and beyond its limits."""
        stacks = [(p, name) for p, process in self.alive.items() for name, region in process.regions.items()
                  if region.stack]
        if not stacks:
            return None
        p, name = self.rng.choice(stacks)
        below = self.rng.choice((1, 1, 2, 3, 5, 8, 16, 40, 300, 2040))
        if self.chance(0.3) and "peek" not in self.profile.leave_out:
            return f"p{p} peek {name} {-below} {self.rng.choice('rw')}"
        return f"p{p} touch {name} {-below} {self.rng.choice((1, 1, 2))} {self.rng.choice('rww')}"

    def brk(self) -> str:
        p = self.rng.choice(sorted(self.alive))
        pages = self.rng.choice((0, 1, 4, *SIZES))
        self.alive[p].regions["K"] = _Region(pages, None)
        return f"p{p} brk K {pages}"

    def remappages(self) -> str | None:
        if (there := self.where()) is None:
            return None
        who, _, name, region = there
        off, pages = self.span(region.pages)
        words = f"{who} remappages {name} {off} {pages} {self.rng.randrange(region.pages + 1)}"
        return words + (" nonblock" if self.chance(0.3) else "")

    def peek(self) -> str | None:
        if (there := self.where()) is None:
            return None
        _, p, name, region = there
        return f"p{p} peek {name} {self.rng.randrange(-1, region.pages + 1)} {self.rng.choice('rw')}"

    def exec(self) -> str:
        p = self.rng.choice(sorted(self.alive))
        self.alive[p].regions.clear()
        return f"p{p} exec"

    def mremap(self) -> str | None:
        if (there := self.where()) is None:
            return None
        _, p, name, region = there
        off, pages = self.span(region.pages)
        grown, shrunk = pages + self.rng.randint(1, 20), max(0, pages - self.rng.randint(1, 5))
        new = self.rng.choice((pages, pages, pages, grown, grown, shrunk, shrunk, shrunk, 0))
        options = ("", "maymove", "maymove", "move", "move", "dontunmap", "move dontunmap")
        option = self.rng.choice(options if self.profile.chosen_addresses else ("", "move", "move dontunmap"))
        if "dontunmap" in option and self.chance(0.7):
            new = pages
        target = self.rng.choice((name, name, "M"))
        new = max(0, new)
        self.alive[p].regions[target] = replace(region, pages=new)
        return " ".join(f"p{p} mremap {name} {off} {pages} {new} {option} {target}".split())

    def madvise(self) -> str | None:
        if (there := self.where()) is None:
            return None
        who, _, name, region = there
        off, pages = self.span(region.pages)
        words = (*ADVICE, *self.swaps * ("pageout", "pageout"), *5 * self.profile.huge_files * ("collapse",),
                 *self.profile.advice)
        if self.chance(self.kind.mergeable):
            words = ("mergeable", "mergeable", "mergeable", "unmergeable")
        choice = [word for word in words if word not in self.profile.leave_out]
        advice = self.rng.choice(choice)
        if advice == "collapse" and self.chance(0.7):
            off, pages = 0, region.pages
        return f"{who} madvise {name} {off} {pages} {advice}"

    def mprotect(self) -> str | None:
        if (there := self.where()) is None:
            return None
        who, _, name, region = there
        off, pages = self.span(region.pages)
        prot = self.rng.choice(("r", "rw", "rw", "rw", "none", "r", "w", "rx", "rwx"))
        if (off, pages) == (0, region.pages):
            for q in self.members(who):
                self.alive[q].regions[name] = replace(self.alive[q].regions[name], writable="w" in prot)
        return f"{who} mprotect {name} {off} {pages} {prot}"

    def msync(self) -> str | None:
        if (there := self.where()) is None:
            return None
        who, _, name, region = there
        off, pages = self.span(region.pages)
        return f"{who} msync {name} {off} {pages} {self.rng.choice(MSYNC)}".rstrip()


    def shmctl(self, verb: str) -> Callable[[], str | None]:
        def write() -> str | None:
            return f"{self.anyone()} {verb} {self.rng.choice(sorted(self.segments))}" if self.segments else None
        return write

    def oomkill(self) -> str | None:
        if len(self.alive) < 2:
            return None
        p = self.rng.choice(sorted(self.alive))
        del self.alive[p]
        return f"oomkill p{p}"

    def rlimit(self) -> str:
        return f"{self.anyone()} rlimit memlock {self.rng.choice(LIMITS)}"

    def setuid(self) -> str:
        return f"{self.anyone()} setuid {self.rng.choice((1000, 1000, 1000, 0, 1001))}"

    def cpu(self) -> str | None:
        return f"{self.anyone()} cpu {self.rng.choice((0, 1))}" if self.moves else None

    def ldrain(self) -> str:
        return f"{self.anyone()} ldrain"

    def movepages(self) -> str | None:
        if (there := self.where()) is None:
            return None
        _, p, name, region = there
        return f"p{p} movepages {name} {self.rng.randrange(region.pages + 1)}"

    def fork(self) -> str | None:
        if self.started >= self.profile.processes + (9 if self.kind.favours.get("fork", 0) > 1 else 3):
            return None
        p = self.rng.choice(sorted(self.alive))
        child = self.started
        self.started += 1
        parent = self.alive[p]
        self.alive[child] = _Process(dict(parent.regions))
        return f"p{p} fork p{child}"

    def end(self, verb: str) -> Callable[[], str | None]:
        def write() -> str | None:
            if len(self.alive) < 2:
                return None
            p = self.rng.choice(sorted(self.alive))
            who = f"p{p}"
            if self.kind.crowd and self.chance(0.3) and p + 1 in self.alive and len(self.alive) > 2:
                who = f"p{p}-{p + 1}"
            for q in self.members(who):
                del self.alive[q]
            return f"{who} {verb}"
        return write

    def file(self) -> str | None:
        name = "FGHJL"[len(self.files)] if len(self.files) < 5 else None
        if name is None:
            return None
        if self.profile.hugetlb and self.chance(0.4):
            self.files[name] = pages = self.rng.choice((512, 1024, 1536))
            self.huge.add(name)
            return f"file {name} hugetlb {pages}"
        fs, owner = "ext4" if self.profile.ext4 and self.chance(self.profile.ext4) else "tmpfs", ""
        self.files[name] = pages = 0 if self.chance(0.03) else self.size()
        if self.profile.pages:
            self.files[name] = pages = self.rng.choice(self.profile.pages)
        if self.profile.huge_files and fs == "tmpfs" and self.chance(0.8):
            self.files[name] = pages = self.rng.choice((512, 512, 600, 1024, 1030))
            if self.chance(0.7):
                owner = " huge"
        elif self.chance(0.15) and "shm" not in self.profile.leave_out:
            fs, owner = "shm", self.rng.choice(("", " uid=1000"))
            self.segments.add(name)
        return f"file {name} {fs} {pages}{' sparse' if self.chance(self.profile.sparse) else ''}{owner}"

    def sysctl(self) -> str:
        if self.profile.hugetlb and self.chance(0.8):
            return f"{NR_HUGEPAGES} {self.rng.choice((0, 1, 2, 4, 6, 9))}"
        return self.rng.choice((f"{SYSCTL} {self.rng.choice((4, 6, 8, 10, 14, 65530))}", *SYSCTLS))

    def truncate(self) -> str | None:
        file = self.rng.choice(sorted(self.files))
        if file in self.segments or file in self.huge:
            return None
        size = self.files[file]
        return f"truncate {file} {self.rng.choice((0, size // 2, max(0, size - 1), size, size + 5))}"

    def file_range(self, verb: str) -> Callable[[], str | None]:
        def write() -> str | None:
            file = self.rng.choice(sorted(self.files))
            if file in self.huge:
                return None
            off, pages = self.span(self.files[file])
            if file in self.segments:
                pages = min(pages, self.files[file] - max(off, 0))
            return f"{verb} {file} {max(off, 0)} {max(pages, 0)}"
        return write

    def choices(self) -> dict[str, tuple[float, Callable[[], str | None]]]:
        """verb -> weight, writer."""
        return {
            "mmap": (14, self.mmap), "munmap": (6, self.range_call("munmap")), "mlock": (14, self.range_call("mlock")),
            "mlock2": (6, self.range_call("mlock2")), "munlock": (9, self.range_call("munlock")),
            "mlockall": (2, self.mlockall), "munlockall": (1.5, lambda: f"{self.anyone()} munlockall"),
            "touch": (17, self.touch), "mremap": (4, self.mremap), "madvise": (7 + 2 * self.swaps, self.madvise),
            "mprotect": (4, self.mprotect), "msync": (0.7, self.msync), "rlimit": (1, self.rlimit),
            "setuid": (0.7, self.setuid), "cpu": (2, self.cpu), "ldrain": (2, self.ldrain),
            "movepages": (1, self.movepages), "fork": (2.5, self.fork), "brk": (1.5, self.brk),
            "stack": (4, self.stack), "remappages": (0.5, self.remappages), "peek": (0.7, self.peek),
            "exec": (0.4, self.exec), "exit": (2, self.end("exit")), "kill": (0.5, self.end("kill")),
            "shmlock": (3, self.shmctl("shmlock")), "shmunlock": (3, self.shmctl("shmunlock")),
            "oomkill": (0.4, self.oomkill),
            "ksm": (0 if self.swaps else 0.7, lambda: f"ksm {self.rng.choice((1, 1, 1, 2))}"),
            "truncate": (1.5, self.truncate), "punch": (1.7, self.file_range("punch")),
            "fadvise": (1.5, self.file_range("fadvise")), "fwrite": (1.5, self.file_range("fwrite")),
            "fread": (1.5, self.file_range("fread")), "drain": (1.5, lambda: "drain"), "file": (0.4, self.file),
            "reclaim": (0.8 + 2 * self.profile.huge_files, lambda: f"reclaim {self.rng.choice((3, 16, 40))}"),
            "compact": (0.3, lambda: "compact"),
            "khugepaged": (2.5 * self.profile.huge_files, lambda: "khugepaged"), "sysctl": (0.7, self.sysctl),
            "dropcaches": (0.3, lambda: f"dropcaches {self.rng.choice((1, 1, 2, 3))}"),
        }

    def add(self, line: str) -> None:
        self.lines += [line, self.advise] if self.advise else [line]
        self.advise = ""

    def begin(self) -> None:
        """Files, processes, what they may do, and a first mapping of each."""
        rng, profile, kind = self.rng, self.profile, self.kind
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
            if (line := self.file()) is not None:
                self.lines.append(line)
        self.started = rng.randint(*kind.crowd) if kind.crowd else rng.randint(1, profile.processes)
        self.lines.insert(0, f"procs {self.started}")
        if profile.hugetlb:
            self.lines.insert(1, f"{NR_HUGEPAGES} {rng.choice((1, 2, 3, 4, 6, 10))}")
        if profile.huge:
            self.lines.insert(1, "sysctl /sys/kernel/mm/transparent_hugepage/enabled madvise")
        if self.chance(profile.swap):
            self.swaps = 5
            self.lines.insert(1, f"swap {rng.choice((40, 600, 4096))}")
        self.alive = {p: _Process() for p in range(self.started)}
        for p in self.alive:
            if self.chance(kind.arena):
                pages = 1030 if self.chance(0.1) else 40        # the large one takes its time to be looked at
                self.alive[p].regions["A"] = _Region(pages, None)
                self.lines.append(f"p{p} mmap A anon {rng.choice(('private', 'private', 'shared'))} "
                                  f"{rng.choice(('none', 'rw', 'r'))} 0 {pages}")
            if self.chance(kind.poor):
                if self.chance(0.8):
                    self.lines.append(f"p{p} rlimit memlock {rng.choice(LIMITS[:-2])}")
                self.lines.append(f"p{p} setuid 1000")
        for _ in range(rng.randint(1, 4) if kind.crowd else self.started):
            if self.chance(0.8):
                self.add(self.mmap())

    def write(self) -> str:
        rng, profile = self.rng, self.profile
        drains = rng.choice(profile.drains)
        self.begin()
        choices = {verb: (weight * self.kind.favours.get(verb, 1), writer)
                   for verb, (weight, writer) in self.choices().items() if verb not in profile.leave_out}
        verbs, weights = list(choices), [weight for weight, _ in choices.values()]
        least, most = profile.commands
        for _ in range(rng.randint(least, most * 3 if self.chance(0.06) else most)):
            line = choices[rng.choices(verbs, weights)[0]][1]()
            if line is None:
                continue
            self.add(line)
            if self.chance(drains) and line != "drain":
                self.lines.append("drain")
        return "\n".join(self.lines[:c.MAX_LINES]) + "\n"


def program(seed: int | str, index: int, profile: Profile = EVERYTHING) -> str:
    """The text of program `index` of `seed`: the same on every machine and every run."""
    return _Writer(random.Random(f"{seed}/{index}"), profile).write()
