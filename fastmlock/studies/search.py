"""How many processes does it take? The smallest storm that makes a watchdog of the kernel speak up.

The number of processes that leave, or of others that map the file, is doubled until one storm trips the watchdog, then
the gap is halved. That finds the smallest number if more are never better; whether they were, in what was tried, is
part of the answer. Where no storm trips it, the answer says how near the worst came.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fastmlock.machine.costs import Costs
from fastmlock.machine.layout import REPORTS
from fastmlock.machine.machine import LOCK_CLASSES, Machine
from fastmlock.machine.report import watchdog_lines
from fastmlock.studies.storm import SLICE_EVENTS, Progress, Storm, StormError, prepare, releases, start

#: what a search may look for -> the kind of report
EVENTS = {name.replace(" ", "-"): name for name in REPORTS}


#: what may be searched for: field of a storm -> what the answer calls it
VARIES = {"procs": "processes", "mappers": "mappers"}
SPINLOCKS = ("lru_lock", "ptl")


def patience_ns(costs: Costs | None, event: str) -> int:
    """How long it must last at least for the watchdog to report it."""
    table = costs or Costs.default()
    return int(table[EVENTS[event].replace(" ", "_")].ns)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of one storm."""

    tripped: bool
    dmesg: tuple[str, ...]  #: the reports' lines
    end_ns: int  #: virtual time at which it was over, or the watchdog spoke up
    wait_ns: int  #: the longest wait for a lock, of those that the watchdog could have seen and that came to an end
    wait_lock: str  #: whose it was; "" if nobody waited


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to. `number` is None if no storm that was tried tripped the watchdog."""

    kernel: str
    event: str
    vary: str  #: what was searched (VARIES)
    number: int | None
    trials: dict[int, Trial]  #: number -> what came of it, in the order in which they were tried
    patience_ns: int

    @property
    def dmesg(self) -> tuple[str, ...]:
        """The reports of the smallest storm that trips the watchdog."""
        return () if self.number is None else self.trials[self.number].dmesg

    @property
    def monotone(self) -> bool:
        """No storm that was tried is harmless while a smaller one is not."""
        return self.number is None or all(trial.tripped for n, trial in self.trials.items() if n >= self.number)

    def sentence(self) -> str:
        what = VARIES[self.vary]
        if self.number is None:
            most = max(self.trials)
            text = (
                f"{self.kernel}: no {self.event} with up to {most} {what}; the largest storm was over after "
                f"{self.trials[most].end_ns / 1e9:.3g} s"
            )
            return text + "; " + self._why()
        text = f"{self.kernel}: {self.number} {what} are the smallest number found that trips the {self.event} detector"
        text += f"; {self.number - 1} do not" if self.number - 1 in self.trials else ""
        if not self.monotone:
            largest = max(n for n, trial in self.trials.items() if not trial.tripped)
            return text + f", but {largest} do not either: more are not always worse here, and smaller ones may"
        return (
            text + f" ({len(self.trials)} sizes tried, and among them more were never better; the others were not "
            "tried)"
        )

    def _why(self) -> str:
        kind = "sleep" if self.event == "hung-task" else "spinning"
        n, worst = max(self.trials.items(), key=lambda item: item[1].wait_ns)
        if not worst.wait_ns:
            return f"nobody waited, and it takes {self.patience_ns / 1e9:g} s"
        return (
            f"the longest {kind} in one go was {worst.wait_ns / 1e9:.3g} s, for {worst.wait_lock} with {n} "
            f"{VARIES[self.vary]}, and it takes {self.patience_ns / 1e9:g} s or more"
        )


def longest_wait(machine: Machine, event: str) -> tuple[int, str]:
    """The longest wait so far for a lock that one sleeps for, or (other events) spins for: ns and whose."""
    found = [
        (int(stat["waittime_max"]), f"{name} ({('read', 'write')[write]})" if name not in SPINLOCKS else name)
        for name, row in zip(LOCK_CLASSES, machine.lock_stat)
        for write, stat in enumerate(row)
        if stat["contentions"] and (name in SPINLOCKS) == (event != "hung-task")
    ]
    return max(found, default=(0, ""))


def trips(storm: Storm, kernel: str, event: str, progress: Progress | None = None) -> Trial:
    """Runs the storm until the watchdog reports `event` or all are gone."""
    system, machine, leavers = prepare(storm, kernel)
    kind = REPORTS.index(EVENTS[event])
    begin = system.counts["munlocks"]
    for group in releases(storm, machine, leavers):
        for pid, at_ns in group:
            start(storm, machine, leavers, pid, at_ns)
        while machine.run(max_events=SLICE_EVENTS):
            if progress:
                progress(
                    f"{kernel}: {storm.procs} processes",
                    min(1.0, (system.counts["munlocks"] - begin) / (storm.procs * storm.pages)),
                )
            if (machine.reports["kind"] == kind).any():
                break
        if (machine.reports["kind"] == kind).any():
            lines = tuple(watchdog_lines(machine, kernel=kernel))
            return Trial(tripped=True, dmesg=lines, end_ns=machine.now_ns, wait_ns=0, wait_lock="")
    wait_ns, wait_lock = longest_wait(machine, event)
    return Trial(tripped=False, dmesg=(), end_ns=machine.end_ns(), wait_ns=wait_ns, wait_lock=wait_lock)


def smallest(
    storm: Storm,
    kernel: str,
    event: str,
    *,
    most: int,
    vary: str = "procs",
    tell: Callable[[int, Trial], None] | None = None,
) -> Found:
    """The smallest number of processes (or what else `vary` says), at most `most`, whose storm trips the detector; the
    storm's own number is where the search begins. All else of the storm stays, CPUs too.

    tell : called with the number and what came of it after each storm

    Raises StormError where a storm that is asked for does not fit into memory.
    """
    if vary not in VARIES:
        raise StormError(f"--vary {vary}: one of {', '.join(VARIES)} is needed")
    trials: dict[int, Trial] = {}

    def attempt(number: int) -> bool:
        one = replace(storm, procs=number) if vary == "procs" else replace(storm, mappers=number)
        trials[number] = trips(one, kernel, event)
        if tell:
            tell(number, trials[number])
        return trials[number].tripped

    def found(number: int | None) -> Found:
        return Found(
            kernel=kernel,
            event=event,
            vary=vary,
            number=number,
            trials=trials,
            patience_ns=patience_ns(storm.costs, event),
        )

    low, n = 0, min(max(1, getattr(storm, vary)), most)
    while not attempt(n):
        low = n
        if n == most:
            return found(None)
        n = min(2 * n, most)
    high = n
    while high - low > 1:
        middle = (low + high) // 2
        if attempt(middle):
            high = middle
        else:
            low = middle
    return found(high)
