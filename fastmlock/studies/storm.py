"""The exit storm: processes that have mlocked the same file leave, on a simulated machine.

    >>> from fastmlock.studies.storm import Storm, run
    >>> before = run(Storm(procs=4, pages=64, cpus=4), "5.17-rc2")
    >>> after = run(Storm(procs=4, pages=64, cpus=4), "5.18")
    >>> after.rmap_walks, after.munlocks
    (0, 256)

Mapping and locking run untimed; the exits run on the machine, through the same compiled flows.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from fastmlock import kernels
from fastmlock.flows.ids import FLOWS
from fastmlock.machine.costs import Costs
from fastmlock.machine.layout import ACCOUNTS
from fastmlock.machine.locks import lock_options
from fastmlock.machine.machine import LOCK_CLASSES, Machine
from fastmlock.machine.profiler import Profiler
from fastmlock.machine.report import watchdog_lines
from fastmlock.machine.topology import Topology
from fastmlock.scenario.system import (MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_PRIVATE, MAP_SHARED, PAGE_SIZE,
                                       PROT_READ, PROT_WRITE)
from fastmlock.state.layout import K, STRUCTS
from fastmlock.studies.checkpoint import Checkpoint
from fastmlock.studies.memory import available_bytes
from fastmlock.system import System

ADDRESS = 0x100000000000
SLICE_EVENTS = 1 << 20
MAX_MAP_COUNT = 65530
ASIDE = 0x200000000000          # where a process's other thread has a page of its own
ASIDE_NS = 1000                 # how long after its process's call that thread touches it
ORDERS = ("together", "in-turn", "newest-first")
LEAVES = ("exit", "munlock")
SURVIVORS = ("none", "before", "after")

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0 to 1."""

#: what a CPU did, as the report sums it up: column -> accounts of the machine
DOING = {
    "working": ("work",),
    "i_mmap_read": ("i_mmap_read_spin", "i_mmap_read_sleep"),
    "i_mmap_write": ("i_mmap_write_spin", "i_mmap_write_sleep"),
    "other_rwsem": ("rwsem_read_spin", "rwsem_read_sleep", "rwsem_write_spin", "rwsem_write_sleep"),
    "page_lock": ("page_spin", "page_sleep"),
    "lru_lock": ("lru_spin",),
    "ptl": ("ptl_spin", "other_spin"),
    "lines": ("page_line", "lock_line"),
    "switching": ("switch",),
    "idle": ("idle",),
}
assert sorted(sum(DOING.values(), ())) == sorted(ACCOUNTS)


class StormError(ValueError):
    """A storm that cannot be run; the text is one line and says how to mend it."""


@dataclass(frozen=True, kw_only=True)
class Storm:
    """One storm. `procs` processes map the same `pages`-page file shared and mlock all of it, then exit.

    Raises StormError, before any work, for what cannot be.
    """

    procs: int = 16
    pages: int = 16384
    cpus: int = 16
    nodes: int | None = None            #: default: the machine's own
    machine: str = "generic"            #: a preset of fastmlock.machine, or a file (Topology.load)
    order: str = "together"             #: or "in-turn" (oldest first), "newest-first"
    leave: str = "exit"                 #: or "munlock": a call of a process that goes on, while another thread of it
                                        #: writes to a page of its own for the first time
    survivor: str = "none"              #: one more locker that stays, "before" or "after" the leavers in i_mmap
    interleave: bool = False            #: the file's pages are spread over the nodes in turn
    mappers: int = 0                    #: further processes that map and touch the file and never lock it
    maps: int = 1                       #: times that each of these maps it, touching it through the first one only
    bystanders: int = 0                 #: further ones, each on a CPU of its own, that map and unmap a page of the
                                        #: file in a loop until the leavers are gone: writers of i_mmap_rwsem
    stagger_ns: int = 400               #: between one process's release and the next: one waker wakes them in turn
    coarse: bool = False                #: a batch is one instant: three times faster here, cruder in lock-step
    seed: int = 0                       #: of the releases' jitter, up to stagger_ns each
    locks: tuple[str, ...] = ()         #: other locks than the kernel's: NAME=VALUE of fastmlock.machine.locks
    costs: Costs | None = field(default=None, compare=False)
    #: factors on latencies of the machine, such as ("remote_ns", 1.1)
    latencies: tuple[tuple[str, float], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name, least in (("procs", 1), ("pages", 1), ("cpus", 1), ("mappers", 0), ("maps", 1),
                            ("bystanders", 0), ("stagger_ns", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise StormError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least {least} is needed")
        if self.bystanders >= self.cpus:
            raise StormError(f"--bystanders {self.bystanders}: fewer than the {self.cpus} CPUs are needed, since "
                             "each has one to itself")
        if self.maps > MAX_MAP_COUNT:
            raise StormError(f"--maps {self.maps}: at most {MAX_MAP_COUNT} fit a process (vm.max_map_count)")
        if self.maps * self.pages > ADDRESS // PAGE_SIZE:
            raise StormError(f"--maps {self.maps}: so many of {self.pages} pages do not fit below {ADDRESS:#x}")
        if self.order not in ORDERS:
            raise StormError(f"--order {self.order}: one of {', '.join(ORDERS)} is needed")
        if self.leave not in LEAVES:
            raise StormError(f"--leave {self.leave}: one of {', '.join(LEAVES)} is needed")
        if self.bystanders and self.order != "together":
            raise StormError(f"--bystanders {self.bystanders}: only with --order together; "
                             "they go on until all have left")
        if self.survivor not in SURVIVORS:
            raise StormError(f"--survivor {self.survivor}: one of {', '.join(SURVIVORS)} is needed")
        if self.pages > 1 << 27:
            raise StormError(f"--pages {self.pages}: at most {1 << 27} fit a page number")
        lock_options(self.locks)
        self.topology()
        need, have = self.nbytes(), available_bytes()
        if need > have:
            raise StormError(f"{self.procs} processes x {self.pages} pages need about {need >> 20} MiB, and "
                             f"{have >> 20} MiB are free: lower --procs or --pages")

    def topology(self) -> Topology:
        """Raises fastmlock.machine.topology.TopologyError, a ValueError, in one line."""
        if self.machine.endswith((".toml", ".csv")) or "/" in self.machine:
            topology = Topology.load(self.machine, cpus=self.cpus, nodes=self.nodes)
        else:
            topology = Topology.preset(self.machine, cpus=self.cpus, nodes=self.nodes)
        if not self.latencies:
            return topology
        return replace(topology, **{name: round(getattr(topology, name) * by) for name, by in self.latencies})

    @property
    def mapped_by(self) -> int:
        """Processes that map the file."""
        return self.procs + self.mappers + self.bystanders + (self.survivor != "none")

    def capacity(self) -> dict[str, int]:
        """Records that the world will hold, by pool; nothing grows during the storm."""
        tables = self.pages // 512 + 2
        n = self.mapped_by + 2
        threads = self.procs if self.leave == "munlock" else 0
        vmas = n + self.mappers * (self.maps - 1) + threads
        return {"pages": self.pages + 1024 + threads, "cache": self.pages + 64, "vmas": vmas + 16, "nodes": vmas + 128,
                "mms": n + 8 + threads, "tasks": n + 8 + threads, "leaves": n * tables + threads,
                "tables": n * (tables // 512 + 5) + 3 * threads, "ptes": 64 + threads,
                "anon_vmas": n + 32 + threads, "avcs": n + 128 + threads}

    def nbytes(self) -> int:
        """About what the arrays take, world and machine together."""
        c = self.capacity()
        # a page and its line; a table and its lock; a task, its batches and the touched part of its gather
        size = {"pages": STRUCTS["Page"].itemsize + 12, "leaves": STRUCTS["Leaf"].itemsize + 24, "tables": 2048,
                "vmas": STRUCTS["Vma"].itemsize + STRUCTS["File"].itemsize, "nodes": STRUCTS["TreeNode"].itemsize,
                "tasks": STRUCTS["Task"].itemsize + 4 * K.GATHER_MAX + 1024}
        return int(sum(c[pool] * each for pool, each in size.items())) + (64 << 20)


@dataclass(frozen=True, kw_only=True)
class StormResult:
    """What one kernel made of a storm. Times are virtual, in ns; `doing` sums over CPUs."""

    kernel: str
    storm: Storm
    last_exit_ns: int                   #: from the start to the last exit
    exit_ns: np.ndarray                 #: int64[procs]: how long each process took
    doing: dict[str, int]               #: CPU time by what was done, ns (DOING)
    rmap_walks: int
    rmap_vmas: int                      #: VMAs visited by them
    lru_locks: int                      #: acquisitions of lru_lock
    munlocks: int
    watchdog: dict[str, int]            #: reports by kind
    dmesg: tuple[str, ...]              #: the same as the kernel prints them
    bystander_rounds: int               #: of mmap and munmap, all bystanders together
    bystander_round_ns: float           #: mean time of one
    nr_mlock: int                       #: left behind
    nr_unevictable: int
    vmstat: dict[str, int]              #: changes during the exits
    lock_stat: np.ndarray               #: of fastmlock.machine: rows LOCK_CLASSES, columns read and write
    events: int
    transfers: int
    setup_s: float                      #: host time
    run_s: float
    nbytes: int

    @property
    def median_exit_ns(self) -> int:
        return int(np.median(self.exit_ns))

    @property
    def p99_exit_ns(self) -> int:
        return int(np.percentile(self.exit_ns, 99))

    @property
    def max_exit_ns(self) -> int:
        return int(self.exit_ns.max())

    @property
    def entries(self) -> int:
        """Mlocked page-table entries that went."""
        return self.storm.procs * self.storm.pages

    def record(self, *, host: bool = True) -> dict[str, object]:
        """One flat row: what Parquet and JSON get. Without `host`, only what is the same in every run."""
        storm = asdict(self.storm)
        storm.pop("costs")
        storm.pop("latencies")
        storm["locks"] = ",".join(self.storm.locks)
        row: dict[str, object] = {
            "kernel": self.kernel, **storm,
            "last_exit_ns": self.last_exit_ns, "exit_median_ns": self.median_exit_ns, "exit_p99_ns": self.p99_exit_ns,
            "exit_max_ns": self.max_exit_ns, "rmap_walks": self.rmap_walks, "rmap_vmas": self.rmap_vmas,
            "lru_locks": self.lru_locks, "munlocks": self.munlocks, "bystander_rounds": self.bystander_rounds,
            "bystander_round_ns": self.bystander_round_ns, "nr_mlock": self.nr_mlock,
            "nr_unevictable": self.nr_unevictable, "events": self.events, "line_transfers": self.transfers,
        }
        row.update({f"cpu_{name}_ns": ns for name, ns in self.doing.items()})
        row.update({f"watchdog_{name.replace(' ', '_')}": n for name, n in self.watchdog.items()})
        row.update(self.vmstat)
        if host:
            row.update(host_setup_s=self.setup_s, host_run_s=self.run_s, nbytes=self.nbytes)
        return row


def _quiet(what: str, share: float) -> None:
    pass


def _processes(storm: Storm) -> list[tuple[int, bool]]:
    """(CPU, does it lock) of each process that maps the file, in the order of their coming; bystanders come later."""
    survivor = {where: [(storm.procs, True)] if storm.survivor == where else [] for where in ("before", "after")}
    return [(i, False) for i in range(storm.mappers)] + survivor["before"] + [(i, True) for i in range(storm.procs)] \
        + survivor["after"]


def prepare(storm: Storm, kernel: str, progress: Progress = _quiet,
            checkpoint: Checkpoint | None = None) -> tuple[System, Machine, list[int]]:
    """Everything up to the exits, untimed: -> the system, the machine, and the leavers in i_mmap order. Bystanders are
    started; nothing has run yet. A `checkpoint` keeps which processes have come, and is gone on from."""
    topology = storm.topology()
    kernels.get(kernel)
    processes = _processes(storm)
    if checkpoint and checkpoint.exists():
        system = System(kernel, cpus=topology.cpus, nodes=topology.nodes)
        meta = checkpoint.load(system)
    else:
        system = System(kernel, cpus=topology.cpus, nodes=topology.nodes, capacity=storm.capacity())
        file = system.create_file("tmpfs", storm.pages, observe=False, interleave=storm.interleave)
        meta = {"file": file, "pids": []}
    file, pids = meta["file"], meta["pids"]
    length = storm.pages * PAGE_SIZE
    for cpu, lock in processes[len(pids):]:
        pid = system.spawn(cpu=cpu % (topology.cpus - storm.bystanders))
        system.mmap(pid, ADDRESS, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0)
        if lock:
            system.mlock(pid, ADDRESS, length)
            if storm.leave == "munlock":
                system.mmap(pid, ASIDE, PAGE_SIZE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, None, 0)
        else:
            system.touch(pid, ADDRESS, storm.pages, False)
            for i in range(1, storm.maps):          # downwards, as the kernel places them
                system.mmap(pid, ADDRESS - i * length, length, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0)
        pids.append(pid)
        if checkpoint and checkpoint.due():
            checkpoint.write(system, None, meta)
        try:
            progress(f"{kernel}: mapping and locking", len(pids) / len(processes))
        except KeyboardInterrupt:
            if checkpoint:
                checkpoint.write(system, None, meta)
            raise
    first = storm.mappers + (storm.survivor == "before")
    leavers = pids[first:first + storm.procs]
    system.drain_all()
    system.fine = not storm.coarse
    system.checking = False         # races leave counts that no sequence of calls could (the specification, 4.1: O1)
    machine = Machine(system, topology, storm.costs, seed=storm.seed, traits=lock_options(storm.locks))
    for i in range(storm.bystanders):
        machine.start(system.spawn(cpu=topology.cpus - 1 - i), 0, flow=FLOWS["F_MAP_LOOP"],
                      args=(ADDRESS, file, leavers[0], leavers[0] + storm.procs))
    if storm.leave == "munlock":
        for pid in leavers:
            thread = system.spawn(cpu=(system.tasks[pid]["cpu"] + storm.procs) % (topology.cpus - storm.bystanders))
            system.tasks[thread]["mm"] = system.tasks[pid]["mm"]        # its own stays empty
    return system, machine, leavers


def _bystanders(storm: Storm, leavers: list[int]) -> range:
    """The bystanders' tasks. Behind them come, with --leave munlock, the leavers' other threads."""
    first = leavers[-1] + 1 + (storm.survivor == "after")
    return range(first, first + storm.bystanders)


def _names(storm: Storm, leavers: list[int]) -> dict[int, str]:
    """What a profile calls the tasks."""
    bystanders = _bystanders(storm, leavers)
    threads = range(bystanders.stop, bystanders.stop + (storm.procs if storm.leave == "munlock" else 0))
    return dict.fromkeys(leavers, "leaver") | dict.fromkeys(bystanders, "bystander") | dict.fromkeys(threads, "thread")


def start(storm: Storm, machine: Machine, leavers: list[int], pid: int, at_ns: int) -> None:
    """The process `pid`, one of the leavers, begins to leave at `at_ns` of virtual time."""
    if storm.leave == "exit":
        machine.start(pid, at_ns, flow=FLOWS["F_SYS_EXIT"])
        return
    machine.start(pid, at_ns, flow=FLOWS["F_SYS_MUNLOCK"], args=(ADDRESS, storm.pages * PAGE_SIZE))
    thread = _bystanders(storm, leavers).stop + leavers.index(pid)
    machine.start(thread, at_ns + ASIDE_NS, flow=FLOWS["F_TOUCH"], args=(ASIDE // PAGE_SIZE, 1, 1))


def releases(storm: Storm, machine: Machine, leavers: list[int]) -> Iterator[list[tuple[int, int]]]:
    """Who begins to exit when: groups of (pid, virtual ns); each group is started, and has gone when the next is asked
    for."""
    if storm.order == "together":
        jitter = np.random.Generator(np.random.Philox(storm.seed)).integers(0, storm.stagger_ns + 1, storm.procs)
        yield [(pid, i * storm.stagger_ns + int(jitter[i])) for i, pid in enumerate(leavers)]
    else:
        for pid in leavers if storm.order == "in-turn" else reversed(leavers):
            yield [(pid, machine.end_ns())]


def _empty(storm: Storm, kernel: str) -> tuple[System, Machine]:
    """A system and a machine of the storm's shape, to put a checkpoint into."""
    topology = storm.topology()
    system = System(kernel, cpus=topology.cpus, nodes=topology.nodes)
    return system, Machine(system, topology, storm.costs, seed=storm.seed, traits=lock_options(storm.locks))


def run(storm: Storm, kernel: str, progress: Progress = _quiet, checkpoint: Checkpoint | None = None,
        profiler: Profiler | None = None) -> StormResult:
    """Runs the storm on one kernel. Raises StormError, UnknownKernel or ModelError.

    With a `checkpoint`, goes on from what it holds, if anything, and keeps the state there every now and then and when
    `progress` raises; what it holds is removed when the storm is over. A `profiler` looks on, and changes nothing.
    """
    begin = time.perf_counter()
    meta: dict[str, Any]
    if checkpoint and checkpoint.exists() and checkpoint.timed():
        kernels.get(kernel)
        system, machine = _empty(storm, kernel)
        meta = checkpoint.load(system, machine)
    else:
        system, machine, began = prepare(storm, kernel, progress, checkpoint)
        meta = {"leavers": began, "counts": system.counts, "stat": system.vmstat(), "started": 0}
        if checkpoint:
            checkpoint.write(system, machine, meta)
    leavers: list[int] = meta["leavers"]
    counts: dict[str, int] = meta["counts"]
    stat: dict[str, int] = meta["stat"]
    ready = time.perf_counter()
    runner = profiler or machine
    if profiler:
        profiler.attach(machine, _names(storm, leavers))
    what = f"{kernel}: {storm.procs} processes exit"

    def go() -> None:
        while runner.run(max_events=SLICE_EVENTS):
            if checkpoint and checkpoint.due():
                checkpoint.write(system, machine, meta)
            progress(what, min(1.0, (system.counts["munlocks"] - counts["munlocks"]) / (storm.procs * storm.pages)))

    try:
        if meta["started"]:
            go()
        for number, group in enumerate(releases(storm, machine, leavers)):
            if number < meta["started"]:
                continue
            for pid, at_ns in group:
                start(storm, machine, leavers, pid, at_ns)
            meta["started"] = number + 1
            go()
    except KeyboardInterrupt:
        if checkpoint:
            checkpoint.write(system, machine, meta)
        raise
    if checkpoint:
        checkpoint.remove()
    over = time.perf_counter()
    progress(what, 1.0)

    tasks = machine.tasks[leavers]
    loops = _bystanders(storm, leavers)
    loop_ns = int(sum(machine.tasks[pid]["exit_ns"] - machine.tasks[pid]["start_ns"] for pid in loops))
    rounds = int(sum(system.tasks[pid]["ret"] for pid in loops))
    cpu_ns = machine.cpu_ns()
    after = system.counts
    left = system.vmstat()
    kinds = machine.reports["kind"]
    return StormResult(
        kernel=kernel, storm=storm, last_exit_ns=int(tasks["exit_ns"].max() - tasks["start_ns"].min()),
        exit_ns=(tasks["exit_ns"] - tasks["start_ns"]).copy(),
        doing={name: int(sum(cpu_ns[account].sum() for account in accounts)) for name, accounts in DOING.items()},
        watchdog={name: int((kinds == i).sum()) for i, name in enumerate(("hung task", "soft lockup", "rcu stall"))},
        dmesg=tuple(watchdog_lines(machine, kernel=kernel)),
        nr_mlock=left["nr_mlock"], nr_unevictable=left["nr_unevictable"],
        vmstat={name: left[name] - stat[name] for name in left if name.startswith("unevictable_pgs")},
        lock_stat=machine.lock_stat.copy(), events=machine.events, transfers=machine.transfers,
        bystander_rounds=rounds, bystander_round_ns=loop_ns / rounds if rounds else 0.0,
        setup_s=ready - begin, run_s=over - ready, nbytes=system.nbytes() + machine.nbytes(),
        **{name: after[name] - counts[name] for name in after},
    )


__all__ = ["DOING", "LEAVES", "LOCK_CLASSES", "ORDERS", "SURVIVORS", "Storm", "StormError", "StormResult", "prepare",
           "run", "start"]
