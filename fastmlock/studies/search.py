"""How many processes does it take? The smallest storm that makes a watchdog of the kernel speak up.

The number of processes is doubled until one storm trips the watchdog, then the gap is halved. That finds the
smallest number if more processes are never better; whether they were, in what was tried, is part of the answer.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fastmlock.flows.ids import FLOWS
from fastmlock.machine.layout import REPORTS
from fastmlock.machine.report import watchdog_lines
from fastmlock.studies.storm import SLICE_EVENTS, Progress, Storm, prepare, releases

#: what a search may look for -> the kind of report
EVENTS = {name.replace(" ", "-"): name for name in REPORTS}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to. `procs` is None if no storm that was tried tripped the watchdog."""

    kernel: str
    event: str
    procs: int | None
    tried: dict[int, bool]              #: processes -> tripped, in the order in which they were tried
    dmesg: tuple[str, ...]              #: the first report of the smallest storm that trips
    end_ns: int                         #: virtual time at which the largest harmless storm was over

    @property
    def monotone(self) -> bool:
        """No storm that was tried is harmless while a smaller one is not."""
        return self.procs is None or all(tripped for n, tripped in self.tried.items() if n >= self.procs)

    def sentence(self) -> str:
        largest = max((n for n, tripped in self.tried.items() if not tripped), default=0)
        if self.procs is None:
            return (f"{self.kernel}: no {self.event} with up to {max(self.tried)} processes; the largest storm was over "
                    f"after {self.end_ns / 1e9:.3g} s")
        text = f"{self.kernel}: {self.procs} processes are the smallest number found that trips the {self.event} detector"
        text += f"; {self.procs - 1} do not" if self.procs - 1 in self.tried else ""
        if not self.monotone:
            return text + f", but {largest} do not either: more are not always worse here, and smaller ones may"
        return text + f" ({len(self.tried)} sizes tried, and among them more were never better; the others were not tried)"


def trips(storm: Storm, kernel: str, event: str, progress: Progress | None = None) -> tuple[bool, tuple[str, ...], int]:
    """Runs the storm until the watchdog reports `event` or all are gone.

    Returns whether it did, the report's lines, and the virtual time then, ns.
    """
    system, machine, leavers = prepare(storm, kernel)
    kind = REPORTS.index(EVENTS[event])
    start = system.counts["munlocks"]
    for group in releases(storm, machine, leavers):
        for pid, at_ns in group:
            machine.start(pid, at_ns, flow=FLOWS["F_SYS_EXIT"])
        while machine.run(max_events=SLICE_EVENTS):
            if progress:
                progress(f"{kernel}: {storm.procs} processes",
                         min(1.0, (system.counts["munlocks"] - start) / (storm.procs * storm.pages)))
            if (machine.reports["kind"] == kind).any():
                break
        if (machine.reports["kind"] == kind).any():
            return True, tuple(watchdog_lines(machine, kernel=kernel)), machine.now_ns
    return False, (), machine.end_ns()


def smallest(storm: Storm, kernel: str, event: str, *, most: int,
             tell: Callable[[int, bool, int], None] | None = None) -> Found:
    """The smallest number of processes, at most `most`, whose storm trips the detector; `storm.procs` is where the
    search begins. All else of the storm stays, CPUs too.

    tell : called with processes, whether they tripped it, and the virtual time, ns, after each storm

    Raises StormError where a storm that is asked for does not fit into memory.
    """
    tried: dict[int, bool] = {}
    lines: dict[int, tuple[str, ...]] = {}
    ends: dict[int, int] = {0: 0}

    def attempt(procs: int) -> bool:
        tried[procs], lines[procs], ends[procs] = trips(replace(storm, procs=procs), kernel, event)
        if tell:
            tell(procs, tried[procs], ends[procs])
        return tried[procs]

    low, n = 0, min(storm.procs, most)
    while not attempt(n):
        low = n
        if n == most:
            return Found(kernel=kernel, event=event, procs=None, tried=tried, dmesg=(), end_ns=ends[n])
        n = min(2 * n, most)
    high = n
    while high - low > 1:
        middle = (low + high) // 2
        if attempt(middle):
            high = middle
        else:
            low = middle
    return Found(kernel=kernel, event=event, procs=high, tried=tried, dmesg=lines[high], end_ns=ends[low])
