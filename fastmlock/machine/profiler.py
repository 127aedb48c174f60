"""Where the tasks of a machine are, looked at again and again in virtual time: `perf record` of the simulated kernel.

    profiler = Profiler(samples=1000)
    profiler.attach(machine)
    while profiler.run(max_events=1 << 20):
        ...                                     # progress
    profiler.times_ns, profiler.seen, profiler.stacks

Looking stops the machine between two events and changes nothing: a run that is profiled ends with the same bytes as
one that is not. Virtual time is cut into windows of one length, and there is one look in each, not at the same place of
all, lest it keep step with a loop. How long a run takes is not known before it is over: the windows begin small and
double whenever twice the wanted number is full, and every other look is then forgotten.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fastmlock.machine.callstack import RUNNING, WAIT_CLASS, Stack, stack
from fastmlock.machine.layout import ENUMS
from fastmlock.machine.machine import LOCK_CLASSES

if TYPE_CHECKING:
    from fastmlock.machine.machine import Machine

_LIVE = [ENUMS["TaskState"][name] for name in ("TASK_RUNNABLE", "TASK_RUNNING", "TASK_UNINTERRUPTIBLE")]


class Profiler:
    """Looks at every task `samples` to twice as many times, once in each window of `every_ns` of virtual time.

    Parameters
    ----------
    samples : how many looks to keep at least, if the run is long enough
    every_ns : the window to begin with

    Attributes
    ----------
    every_ns : the window reached
    stacks : what was seen, each once; number 0 is a task that has not begun or is over
    """

    def __init__(self, samples: int = 1000, every_ns: int = 1024) -> None:
        if samples < 1 or every_ns < 1:
            raise ValueError(f"{samples} samples every {every_ns} ns: at least 1 of each is needed")
        self.samples = samples
        self.every_ns = every_ns
        self.stacks = [Stack((), RUNNING)]
        self._numbers: dict[bytes, int] = {}
        self._known: dict[Stack, int] = {}
        self._looks: list[tuple[int, np.ndarray]] = []

    def attach(self, machine: Machine, names: Mapping[int, str] | None = None) -> None:
        """From now on `run` runs this machine. `names` are its tasks' commands, by number; others are "task"."""
        self.machine = machine
        self.names = dict(names or {})

    @property
    def times_ns(self) -> np.ndarray:
        """int64[looks]: when each was."""
        return np.array([at_ns for at_ns, _ in self._looks], np.int64)

    @property
    def seen(self) -> np.ndarray:
        """int32[looks, tasks]: indexes of `stacks`."""
        return np.array([numbers for _, numbers in self._looks], np.int32).reshape(len(self._looks), -1)

    def run(self, max_events: int) -> int:
        """`Machine.run` for about `max_events` events, looking on the way; 0 means that nothing is left to do."""
        done = 0
        while done < max_events:
            at_ns = self._next_ns()
            wanted = max_events - done
            came = self.machine.run(until_ns=at_ns, max_events=wanted)
            done += came
            if came >= wanted:
                break
            if not self.machine.live:
                return done + int(self.machine.run(max_events=max(1, max_events - done)))
            if len(self._looks) == 2 * self.samples:
                self._looks = [look for look in self._looks if look[0] // self.every_ns % 2 == 0]
                self.every_ns *= 2
            if not self._looks or at_ns // self.every_ns > self._looks[-1][0] // self.every_ns:
                self._looks.append((at_ns, self._numbers_at(at_ns)))
        return done

    def _next_ns(self) -> int:
        """When to look next: multiples of the golden ratio's inverse, of which the places in the windows are the
        fractions, spread evenly and keep step with nothing."""
        window = self.machine.now_ns // self.every_ns
        if self._looks:
            window = max(window, self._looks[-1][0] // self.every_ns + 1)
        while True:
            at_ns = window * self.every_ns + (((window + 1) * 2654435769 & 0xffffffff) * self.every_ns >> 32)
            if at_ns >= self.machine.now_ns:
                return at_ns
            window += 1

    def _numbers_at(self, at_ns: int) -> np.ndarray:
        """int32[tasks]: what each is at, as indexes of `stacks`."""
        records = self.machine.tasks
        live = np.flatnonzero(np.isin(records["state"], _LIVE) & (records["start_ns"] < at_ns))
        found = self.machine.callstacks(live)
        data, size = found.tobytes(), found.itemsize * found.shape[1]
        keys = [data[begin:begin + size] for begin in range(0, len(data), size)]
        for key in dict.fromkeys(keys):
            if key not in self._numbers:
                self._numbers[key] = self._number(np.frombuffer(key, np.int32))
        numbers = np.zeros(len(records), np.int32)
        numbers[live] = [self._numbers[key] for key in keys]
        return numbers

    def _number(self, row: np.ndarray) -> int:
        at = stack(row, f" [{LOCK_CLASSES[row[WAIT_CLASS]]}]")
        if at not in self._known:
            self._known[at] = len(self.stacks)
            self.stacks.append(at)
        return self._known[at]
