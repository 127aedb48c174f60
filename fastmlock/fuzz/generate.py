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

SIZES = (1, 2, 3, 5, 8, 8, 14, 15, 16, 16, 17, 20, 31, 32, 33, 40)
ODD_BYTES = (1, 4095, 4096, 4097, -1, -4096, -4097, 0, 1 << 62, (1 << 63) - 1, -(1 << 63))
LIMITS = (0, 1, 4096, 8 * 4096, 20 * 4096, 64 << 10, 8 << 20, -1)
SYSCTLS = ("/cg/t/memory.high 0", "/sys/devices/system/cpu/cpu1/online 0", "/sys/devices/system/cpu/cpu1/online 1")
ADVICE = ("dontneed", "dontneed", "dontneed", "free", "willneed", "populate_read", "populate_write", "dontneed_locked",
          "cold", "pageout", "remove", "random", "normal", "dontfork", "dofork", "wipeonfork", "nohugepage", "hugepage",
          "mergeable", "sequential")


@dataclass(frozen=True)
class Profile:
    """What programs may hold."""

    commands: tuple[int, int] = (6, 26)
    """Fewest and most commands beside files and drains."""
    processes: int = 4
    ext4: bool = True
    leave_out: frozenset[str] = frozenset()
    """Verbs, and words of advice, that are not used."""
    chosen_addresses: bool = True
    """mremap to an address of the kernel's choice, where there may be neighbours that the model has not."""
    swap: float = 0.4
    """How many programs have a swap device."""
    drains: tuple[float, ...] = (1.0, 0.4, 0.05)
    """How often a command is followed by a drain; each program takes one of these."""


EVERYTHING = Profile()
LIVE = Profile(ext4=False, swap=0, leave_out=frozenset({"reclaim", "sysctl"}))
"""For a running kernel: from 6.16 ext4 reads in large folios, which the model has not."""
EMULATED = Profile(ext4=False, swap=0, processes=3, chosen_addresses=False, drains=(1.0, 1.0, 0.5),
                   leave_out=frozenset({"msync", "movepages", "mlockall", "brk", "stack", "growsdown", "remappages",
                                         "peek", "exec", "reclaim", "sysctl", "shm", "shmlock", "shmunlock", "oomkill"}))
"""For the recorder in a guest: its own program is known to within a few pages, so mlockall is left out."""


@dataclass
class _Region:
    pages: int
    file: str | None
    stack: bool = False


@dataclass
class _Process:
    regions: dict[str, _Region] = field(default_factory=dict)
    root: bool = True


class _Writer:
    def __init__(self, rng: random.Random, profile: Profile) -> None:
        self.rng, self.profile = rng, profile
        self.lines: list[str] = []
        self.files: dict[str, int] = {}
        self.segments: set[str] = set()
        self.alive: dict[int, _Process] = {}
        self.started = 0
        self.moves = rng.random() < 0.25
        self.swaps = 0
        """How much oftener than else memory is paged out."""

    # ---- choices

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def size(self) -> int:
        return self.rng.choice((520, 600)) if self.chance(0.01) else self.rng.choice(SIZES)

    def span(self, pages: int) -> tuple[int, int]:
        """Offset and length in a range of `pages`; seldom outside of it."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.35:
            return 0, pages
        off = rng.randrange(pages) if pages else 0
        if kind < 0.90:
            return off, rng.randint(1, max(1, pages - off))
        if kind < 0.96:
            return off, pages - off + rng.randint(1, 4)
        return rng.choice(((-1, 2), (0, 0), (pages, 1), (off, -1), (-2, pages + 4)))

    def where(self) -> tuple[str, int, str, _Region] | None:
        """(who, process, region's name, region); several processes where all have the region."""
        have = [p for p, process in self.alive.items() if process.regions]
        if not have:
            return None
        p = self.rng.choice(have)
        name = self.rng.choice(sorted(self.alive[p].regions))
        who = f"p{p}"
        if self.chance(0.08):
            last = p
            while last + 1 in self.alive and name in self.alive[last + 1].regions:
                last += 1
            who = f"p{p}-{last}" if last > p else who
        return who, p, name, self.alive[p].regions[name]

    def members(self, who: str) -> list[int]:
        first, _, last = who[1:].partition("-")
        return list(range(int(first), int(last or first) + 1))

    # ---- commands

    def mmap(self) -> str:
        rng = self.rng
        p = rng.choice(sorted(self.alive))
        who = f"p{p}"
        if self.chance(0.1) and p + 1 in self.alive:
            who = f"p{p}-{p + 1}"
        name = rng.choice("ABCDE")
        source = rng.choice([*self.files, *self.files, "anon"])
        sharing = rng.choice(("shared", "private"))
        prot = rng.choice(("rw", "rw", "rw", "r", "r", "none"))
        if source == "anon":
            off, pages = 0, self.size()
        else:
            size = max(self.files[source], 1)
            off = rng.randrange(size) if self.chance(0.3) else 0
            pages = max(1, size - off + rng.choice((0, 0, 0, 0, 2, -1, -3)))
        words = [name, source, sharing, prot, str(off), str(pages)]
        words += [word for word, often in (("locked", 0.15), ("populate", 0.12), ("noreserve", 0.03))
                  if self.chance(often)]
        stack = (source == "anon" and sharing == "private" and self.chance(0.15)) or self.chance(0.01)
        if stack and "growsdown" not in self.profile.leave_out:
            words.append("growsdown")
        under = sorted(set.intersection(*(set(self.alive[q].regions) for q in self.members(who))))
        if under and self.chance(0.15):
            over = rng.choice(under)
            words.append(f"at={over}+{rng.randrange(max(1, self.alive[p].regions[over].pages))}")
        for q in self.members(who):
            self.alive[q].regions[name] = _Region(pages, None if source == "anon" else source, stack)
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
        return f"{self.anyone()} mlockall {flags}".rstrip()

    def anyone(self) -> str:
        return f"p{self.rng.choice(sorted(self.alive))}"

    def touch(self) -> str | None:
        if (there := self.where()) is None:
            return None
        who, _, name, region = there
        off, pages = self.span(region.pages)
        return f"{who} touch {name} {off} {pages} {self.rng.choice('rww')}"

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
        new = self.rng.choice((pages, pages, grown, shrunk, 0))
        options = ("", "maymove", "maymove", "move", "move", "dontunmap", "move dontunmap")
        option = self.rng.choice(options if self.profile.chosen_addresses else ("", "move", "move dontunmap"))
        target = self.rng.choice((name, name, "M"))
        new = max(0, new)
        self.alive[p].regions[target] = replace(region, pages=new)
        return " ".join(f"p{p} mremap {name} {off} {pages} {new} {option} {target}".split())

    def madvise(self) -> str | None:
        if (there := self.where()) is None:
            return None
        who, _, name, region = there
        off, pages = self.span(region.pages)
        words = (*ADVICE, *self.swaps * ("pageout", "pageout"))
        choice = [word for word in words if word not in self.profile.leave_out]
        return f"{who} madvise {name} {off} {pages} {self.rng.choice(choice)}"

    def mprotect(self) -> str | None:
        if (there := self.where()) is None:
            return None
        who, _, name, region = there
        off, pages = self.span(region.pages)
        return f"{who} mprotect {name} {off} {pages} {self.rng.choice(('r', 'rw', 'rw', 'none'))}"

    def msync(self) -> str | None:
        if (there := self.where()) is None:
            return None
        who, _, name, region = there
        off, pages = self.span(region.pages)
        return f"{who} msync {name} {off} {pages} {self.rng.choice(('async', 'invalidate', 'sync', ''))}".rstrip()

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
        return f"{self.anyone()} setuid {self.rng.choice((1000, 1000, 0))}"

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
        if self.started >= self.profile.processes + 3:
            return None
        p = self.rng.choice(sorted(self.alive))
        child = self.started
        self.started += 1
        parent = self.alive[p]
        self.alive[child] = _Process(dict(parent.regions), parent.root)
        return f"p{p} fork p{child}"

    def end(self, verb: str) -> Callable[[], str | None]:
        def write() -> str | None:
            if len(self.alive) < 2:
                return None
            p = self.rng.choice(sorted(self.alive))
            del self.alive[p]
            return f"p{p} {verb}"
        return write

    def truncate(self) -> str | None:
        file = self.rng.choice(sorted(self.files))
        if file in self.segments:
            return None
        size = self.files[file]
        return f"truncate {file} {self.rng.choice((0, size // 2, max(0, size - 1), size, size + 5))}"

    def file_range(self, verb: str) -> Callable[[], str]:
        def write() -> str:
            file = self.rng.choice(sorted(self.files))
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
            "mprotect": (4, self.mprotect), "msync": (0.4, self.msync), "rlimit": (1, self.rlimit),
            "setuid": (0.7, self.setuid), "cpu": (2, self.cpu), "ldrain": (2, self.ldrain),
            "movepages": (1, self.movepages), "fork": (2.5, self.fork), "brk": (1.5, self.brk),
            "stack": (4, self.stack),
            "remappages": (0.5, self.remappages), "peek": (0.7, self.peek), "exec": (0.4, self.exec),
            "shmlock": (3, self.shmctl("shmlock")), "shmunlock": (3, self.shmctl("shmunlock")),
            "oomkill": (0.4, self.oomkill),
             "exit": (2, self.end("exit")),
            "kill": (0.5, self.end("kill")), "truncate": (1.5, self.truncate), "punch": (1.7, self.file_range("punch")),
            "fadvise": (1.5, self.file_range("fadvise")), "fwrite": (1.5, self.file_range("fwrite")),
            "fread": (1.5, self.file_range("fread")), "drain": (1.5, lambda: "drain"),
            "reclaim": (0.8, lambda: f"reclaim {self.rng.choice((3, 16, 40))}"),
            "sysctl": (0.7, lambda: f"sysctl {self.rng.choice(SYSCTLS)}"),
        }

    def write(self) -> str:
        rng, profile = self.rng, self.profile
        drains = rng.choice(profile.drains)
        for number in range(rng.choice((1, 1, 1, 2, 2, 3))):
            file = "FGH"[number]
            fs = "ext4" if profile.ext4 and self.chance(0.15) else "tmpfs"
            self.files[file] = pages = rng.choice(SIZES)
            owner = ""
            if self.chance(0.15) and "shm" not in profile.leave_out:
                fs, owner = "shm", rng.choice(("", " uid=1000"))
                self.segments.add(file)
            self.lines.append(f"file {file} {fs} {pages}{' sparse' if self.chance(0.12) else ''}{owner}")
        self.started = rng.randint(1, profile.processes)
        self.lines.insert(0, f"procs {self.started}")
        if self.chance(profile.swap):
            self.swaps = 5
            self.lines.insert(1, f"swap {rng.choice((40, 600, 4096))}")
        self.alive = {p: _Process() for p in range(self.started)}
        for _ in range(self.started):
            if self.chance(0.8):
                self.lines.append(self.mmap())
        choices = {verb: pair for verb, pair in self.choices().items() if verb not in profile.leave_out}
        verbs, weights = list(choices), [weight for weight, _ in choices.values()]
        for _ in range(rng.randint(*profile.commands)):
            line = choices[rng.choices(verbs, weights)[0]][1]()
            if line is None:
                continue
            self.lines.append(line)
            if self.chance(drains) and line != "drain":
                self.lines.append("drain")
        return "\n".join(self.lines[:c.MAX_LINES]) + "\n"


def program(seed: int | str, index: int, profile: Profile = EVERYTHING) -> str:
    """The text of program `index` of `seed`: the same on every machine and every run."""
    return _Writer(random.Random(f"{seed}/{index}"), profile).write()
