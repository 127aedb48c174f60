"""What the laboratory itself costs: storms and lock loops beside a bare event loop, timed in one run, by CPU time."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from fastmlock.machine.bare import bare_loop
from fastmlock.machine.loops import loop_machine
from fastmlock.machine.topology import Topology
from fastmlock.studies.storm import SLICE_EVENTS, Progress, Storm, prepare, releases, start

ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table. Rates are of host CPU time, the best of some rounds."""

    what: str
    cpus: int
    events_per_s: float
    bare_events_per_s: float            #: of the bare loop over as many CPUs, just before
    ns_per_entry: float = 0.0           #: host ns per mlocked page-table entry; 0: not a storm

    @property
    def ratio(self) -> float:
        """How many times slower than the bare loop, per event."""
        return self.bare_events_per_s / self.events_per_s


def best(once: Callable[[], float]) -> float:
    return max(once() for _ in range(ROUNDS))


def bare(cpus: int, events: int = 2_000_000) -> float:
    """Events a second of the bare loop."""
    begin = time.process_time()
    bare_loop(cpus, events)
    return events / (time.process_time() - begin)


def lock_loop(cpus: int, acquisitions: int = 500_000) -> float:
    """Events a second of `cpus` tasks that take one spinlock in turn, through the whole machine layer."""
    machine = loop_machine(Topology.preset("generic", cpus=cpus), rounds=acquisitions // cpus, think_ns=0, hold_ns=100)
    begin = time.process_time()
    while machine.run():
        pass
    return float(machine.events / (time.process_time() - begin))


def exits(storm: Storm, kernel: str, progress: Progress | None = None) -> tuple[float, int]:
    """CPU time of a storm's exits alone, s, the best of some rounds; and how many events they were."""
    best_s = float("inf")
    for _ in range(ROUNDS):
        _, machine, leavers = prepare(storm, kernel, progress) if progress else prepare(storm, kernel)
        begin = time.process_time()
        for group in releases(storm, machine, leavers):
            for pid, at_ns in group:
                start(storm, machine, leavers, pid, at_ns)
            while machine.run(max_events=SLICE_EVENTS):
                pass
        best_s = min(best_s, time.process_time() - begin)
    return best_s, int(machine.events)


def lines(cpus: tuple[int, ...], pages: int, kernels: tuple[str, ...], progress: Progress) -> Iterator[Line]:
    """The table's lines: for each number of CPUs a lock loop, then a storm of as many processes on each kernel."""
    for n in cpus:
        yield Line(what="one spinlock, lock and unlock", cpus=n, events_per_s=best(lambda n=n: lock_loop(n)),  # type: ignore[misc]
                   bare_events_per_s=best(lambda n=n: bare(n)))      # type: ignore[misc]
        for kernel, coarse in product(kernels, (False, True)):
            reference = best(lambda n=n: bare(n))                   # type: ignore[misc]
            spent_s, events = exits(Storm(procs=n, cpus=n, pages=pages, coarse=coarse), kernel, progress)
            yield Line(what=f"exit storm, {kernel}{', coarse' if coarse else ''}", cpus=n,
                       events_per_s=events / spent_s, bare_events_per_s=reference,
                       ns_per_entry=spent_s / (n * pages) * 1e9)


def table(found: Iterable[Line]) -> Iterator[str]:
    """As Markdown, for the README."""
    yield "| what | CPUs | events/s, million | bare loop, same run | bare / this | host ns per entry | in bare events |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for line in found:
        entry = (f"{line.ns_per_entry:.0f} | {line.ns_per_entry * line.bare_events_per_s / 1e9:.1f}"
                 if line.ns_per_entry else " | ")
        yield (f"| {line.what} | {line.cpus:,} | {line.events_per_s / 1e6:.1f} | {line.bare_events_per_s / 1e6:.1f} | "
               f"{line.ratio:.1f} | {entry} |")
