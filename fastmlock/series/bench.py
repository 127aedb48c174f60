"""One kernel under one workload: who carries the calls out, and what is counted."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fastmlock.audit.account import Audit, audit
from fastmlock.explore.interleave import Interleaving
from fastmlock.explore.names import LOCKS
from fastmlock.scenario.system import MAP_FIXED_NOREPLACE, MAP_PRIVATE, MAP_SHARED, PAGE_SIZE, PROT_READ, PROT_WRITE
from fastmlock.state.world import ModelError
from fastmlock.system import System

ADDRESS = 0x100000000000
EVENTS = ("culled", "rescued", "mlocked", "munlocked", "cleared", "stranded")
STAGGER_NS = 400

Call = Callable[[], object]


class Driver(Protocol):
    """Runs calls that have been begun, all at once, to their ends."""

    def run(self, tasks: list[int]) -> None: ...
    def times(self) -> dict[str, int]:
        """Columns that this driver adds: times in ns, or numbers of waits."""
        ...


class Untimed:
    """Each call some requests in its turn; nothing has a duration. Counts how often a lock was waited for."""

    quantum, seed = 8, 1

    def __init__(self, system: System) -> None:
        self.system = system
        self.waits = dict.fromkeys(LOCKS[:6], 0)

    def run(self, tasks: list[int]) -> None:
        race = Interleaving(self.system, tasks)
        if not race.in_turn(self.quantum, self.seed):
            self.system.check()
            raise ModelError("nobody can go on")
        self.system.check()
        for lock, number in race.waits().items():
            if lock in self.waits:
                self.waits[lock] += number

    def times(self) -> dict[str, int]:
        return {f"waits_{lock}": number for lock, number in self.waits.items()}


class Timed:
    """The calls run on a simulated machine, released one shortly behind the other. Counts virtual time."""

    def __init__(self, system: System, machine: str) -> None:
        from fastmlock.machine.machine import Machine
        from fastmlock.machine.topology import Topology

        self.system = system
        system.fine = True              # time passes page by page inside a batch
        self.machine = Machine(system, Topology.preset(machine, cpus=system.cpus, nodes=None))
        self.spent_ns = self.longest_ns = 0

    def run(self, tasks: list[int]) -> None:
        begin = self.machine.end_ns()
        for at, task in enumerate(tasks):
            self.machine.start(task, begin + at * STAGGER_NS)
        while self.machine.run(max_events=1 << 20):
            pass
        ended = self.machine.tasks[tasks]
        self.spent_ns += int(ended["exit_ns"].max()) - begin
        self.longest_ns = max(self.longest_ns, int((ended["exit_ns"] - ended["start_ns"]).max()))

    def times(self) -> dict[str, int]:
        from fastmlock.studies.storm import DOING

        cpu_ns = self.machine.cpu_ns()
        doing = {f"cpu_{name}_ns": int(sum(cpu_ns[account].sum() for account in accounts))
                 for name, accounts in DOING.items() if name != "idle"}
        return {"time_ns": self.spent_ns, "longest_call_ns": self.longest_ns, **doing}


def _nodes(machine: str | None, cpus: int) -> int:
    if machine is None:
        return 1
    from fastmlock.machine.topology import Topology

    return Topology.preset(machine, cpus=cpus, nodes=None).nodes


@dataclass
class Worst:
    """The greatest number of pages found wrong at any check, batches drained."""

    unmarked: int = 0
    evictable: int = 0
    nr_mlock_off: int = 0

    def take(self, found: Audit) -> None:
        self.unmarked = max(self.unmarked, found.unmarked)
        self.evictable = max(self.evictable, found.evictable)
        if abs(found.nr_mlock_off) > abs(self.nr_mlock_off):
            self.nr_mlock_off = found.nr_mlock_off


@dataclass
class Bench:
    """A machine with one kernel, as a workload uses it: first its setting up, then `begin`, then what is measured.

    Sizes are `procs` processes, each on a CPU of its own, and `pages` pages of 4 KiB. `machine` is a topology preset of
    fastmlock.machine, or None for an untimed run.
    """

    kernel: str
    procs: int
    pages: int
    machine: str | None = None
    system: System = field(init=False)
    worst: Worst = field(default_factory=Worst, init=False)
    reaped: int = field(default=0, init=False)
    """Pages that the OOM reaper took."""

    def __post_init__(self) -> None:
        n = 2 * self.procs + 4
        tables = self.pages // 512 + 3
        cpus = max(2, self.procs)
        self.system = System(self.kernel, cpus=cpus, nodes=_nodes(self.machine, cpus), capacity={
            "pages": 2 * self.pages + 4096, "tasks": n + 8, "mms": n + 8, "vmas": 4 * n + 64, "nodes": 8 * n + 256,
            "leaves": 3 * n * tables, "tables": n * 8, "cache": 2 * self.pages + 256})
        self.running: Driver | None = None

    def mapped_pages(self) -> int:
        """Present page-table entries of all processes."""
        return sum(int(self.system.mms[mm]["rss"]) for mm in self.system.tasks["mm"][:self.system.nr_tasks] if mm)

    # ---- what a workload is made of
    def file(self, fs: str = "tmpfs") -> int:
        """A file of `pages` pages that nobody maps yet."""
        return int(self.system.create_file(fs, self.pages, observe=False))

    def spawn(self, number: int) -> int:
        """A process; number n runs on CPU n, the CPUs taken in turn."""
        return int(self.system.spawn(cpu=number % self.system.cpus))

    def spawn_mapped(self, file: int, count: int, *, lock: bool = False, touch: bool = True) -> list[int]:
        """`count` processes that map `file` shared at ADDRESS, in turn."""
        found = []
        for number in range(count):
            pid = self.spawn(number)
            self.map_file(pid, file)
            if touch:
                self.system.touch(pid, ADDRESS, self.pages, False)
            if lock:
                self.system.mlock(pid, ADDRESS, self.length)
            found.append(pid)
        return found

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return self.pages * PAGE_SIZE

    def map_file(self, pid: int, file: int, *, shared: bool = True, flags: int = 0) -> None:
        self.system.mmap(pid, ADDRESS, self.length, PROT_READ | (PROT_WRITE if shared else 0),
                         (MAP_SHARED if shared else MAP_PRIVATE) | MAP_FIXED_NOREPLACE | flags, file, 0)

    def begin(self) -> None:
        """From here on all is counted. Batches are drained."""
        self.system.drain_all()
        self.counts, self.vmstat = self.system.counts, dict(self.system.vmstat())
        self.running = Untimed(self.system) if self.machine is None else Timed(self.system, self.machine)

    def together(self, calls: list[Call]) -> None:
        """All these system calls at once."""
        assert self.running is not None, "begin() comes first"
        self.system.defer()
        try:
            for call in calls:
                call()
        finally:
            tasks = self.system.deferred_tasks()
        if tasks:
            self.running.run(tasks)

    def one(self, call: Call) -> None:
        """One system call, with nobody else running."""
        self.together([call])

    def check(self) -> None:
        """Drains, and holds the kernel's account against the page tables."""
        self.system.drain_all()
        self.worst.take(audit(self.system))

    def row(self) -> dict[str, object]:
        """What was measured; drains."""
        assert self.running is not None, "begin() comes first"
        self.system.drain_all()
        left = audit(self.system)
        now, counts = self.system.vmstat(), self.system.counts
        return {
            **{name: counts[name] - self.counts[name] for name in counts},
            **{name: now[f"unevictable_pgs_{name}"] - self.vmstat[f"unevictable_pgs_{name}"] for name in EVENTS},
            "worst_unmarked": self.worst.unmarked, "worst_evictable": self.worst.evictable,
            "worst_nr_mlock_off": self.worst.nr_mlock_off,
            "left_unevictable": left.left_unevictable, "left_marked": left.left_marked,
            "reaped": self.reaped, "left_nr_mlock_off": left.nr_mlock_off, "left_count_high": left.count_high,
            **self.running.times(),
        }
