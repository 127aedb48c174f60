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
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastmlock.flows.ids import FLOWS, SYMBOLS
from fastmlock.machine.layout import ENUMS
from fastmlock.machine.machine import LOCK_CLASSES
from fastmlock.state.layout import ENUMS as WORLD_ENUMS
from fastmlock.state.layout import K

if TYPE_CHECKING:
    from fastmlock.machine.machine import Machine

#: what a task can be at: on its CPU, on it and waiting, off it, off it and ready
STATES = ("running", "spinning", "asleep", "waiting for a CPU")
RUNNING, SPINNING, ASLEEP, READY = range(4)

_PHASE, _TASK = ENUMS["Phase"], ENUMS["TaskState"]
_BATCH = 1 << 12                # a flow's number plus so much for each kind of batch: F_PVEC, told apart

_BATCHES = {K.PVEC_LRU_ADD: "__pagevec_lru_add", K.PVEC_MLOCK: "mlock_pagevec"}
_BATCHES |= {number: f"pagevec_lru_move_fn [{name.removeprefix('PVEC_').lower()}]"
             for name, number in WORLD_ENUMS["PvecKind"].items()
             if name.startswith("PVEC_") and number not in _BATCHES}

# what waits for a rwsem or a page do, under the slow path's own name
_RWSEM_WAITS = {
    "PH_RW_REVOKE": ("[readers without a count]",), "PH_RW_UNDO": (), "PH_RW_SECTION": ("_raw_spin_lock_irq",),
    "PH_RW_BLOCK": ("schedule",), "PH_RW_OSQ": ("rwsem_optimistic_spin", "osq_lock"),
    "PH_RW_SPIN": ("rwsem_optimistic_spin", "rwsem_spin_on_owner"), "PH_RW_HANDOFF": ("rwsem_spin_on_owner",),
}
_PAGE_WAITS = {"PH_PAGE_SECTION": ("_raw_spin_lock_irq",), "PH_PAGE_BLOCK": ("io_schedule",)}
_WAITS = {_PHASE[name]: frames for name, frames in (_RWSEM_WAITS | _PAGE_WAITS).items()}
_FIELDS = ("state", "phase", "wait_class", "wait_write", "waiting")
_BLOCKS = (_PHASE["PH_RW_BLOCK"], _PHASE["PH_PAGE_BLOCK"])

# the lock's own function while it is taken or given back without waiting: its line is on the way
_REQUESTS = {K.REQ_SPIN_LOCK: "_raw_spin_lock", K.REQ_SPIN_UNLOCK: "_raw_spin_unlock", K.REQ_DOWN_READ: "down_read",
             K.REQ_UP_READ: "up_read", K.REQ_DOWN_WRITE: "down_write", K.REQ_UP_WRITE: "up_write",
             K.REQ_DOWNGRADE: "downgrade_write", K.REQ_DOWN_READ_TRYLOCK: "down_read_trylock",
             K.REQ_LOCK_PAGE: "lock_page", K.REQ_UNLOCK_PAGE: "unlock_page", K.REQ_WAIT_PAGE: "wait_on_page_locked"}


@dataclass(frozen=True)
class Stack:
    """What a task does: kernel functions, outermost first; a lock's name stands in [] behind its function."""

    frames: tuple[str, ...]
    state: int                          #: index of STATES


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
        state = records["state"]
        live = np.flatnonzero(((state == _TASK["TASK_RUNNABLE"]) | (state == _TASK["TASK_RUNNING"])
                               | (state == _TASK["TASK_UNINTERRUPTIBLE"])) & (records["start_ns"] < at_ns))
        tasks = self.machine.world.arrays["tasks"]
        flows, kinds = tasks["stack"]["fn"][live].astype(np.int32), tasks["stack"]["b"][live]
        flows[np.arange(flows.shape[1]) > tasks["depth"][live, None]] = -1
        flows += np.where(flows == FLOWS["F_PVEC"], _BATCH * (1 + kinds), 0).astype(np.int32)
        rows = np.column_stack([flows, *(records[name][live] for name in _FIELDS), tasks["req"][live]])
        numbers = np.zeros(len(records), np.int32)
        data, size = rows.tobytes(), rows.itemsize * rows.shape[1]
        keys = [data[begin:begin + size] for begin in range(0, len(data), size)]
        for key in dict.fromkeys(keys):
            if key not in self._numbers:
                self._numbers[key] = self._number(np.frombuffer(key, np.int32))
        numbers[live] = [self._numbers[key] for key in keys]
        return numbers

    def _number(self, row: np.ndarray) -> int:
        stack = _stack([int(flow) for flow in row[:-6] if flow >= 0], *(int(value) for value in row[-6:]))
        if stack not in self._known:
            self._known[stack] = len(self.stacks)
            self.stacks.append(stack)
        return self._known[stack]


def _stack(flows: list[int], state: int, phase: int, lock_class: int, write: int, waiting: int, req: int) -> Stack:
    """A task's flows, and what it does about a lock. A segment of a flow passes in PH_STEP after REQ_WORK, and before
    any other request in PH_REQ; in PH_STEP after a lock's request the lock's line is under way."""
    frames = [_BATCHES[flow // _BATCH - 1] if flow >= _BATCH else SYMBOLS[flow] for flow in flows]
    lock = f" [{LOCK_CLASSES[lock_class]}]"
    doing = RUNNING
    if phase == _PHASE["PH_SPIN"]:
        frames += ["_raw_spin_lock" + lock, "native_queued_spin_lock_slowpath"]
        doing = SPINNING
    elif phase == _PHASE["PH_DELAY"]:
        frames.append("[work]")
    elif phase in _WAITS:
        page = phase >= _PHASE["PH_PAGE_SECTION"]
        slow = ("__lock_page" if page else f"rwsem_down_{'write' if write else 'read'}_slowpath") if waiting else \
            "wake_up_page" if page else "rwsem_wake"
        frames.append(slow + lock)
        if phase not in _BLOCKS:
            frames += _WAITS[phase]
            doing = SPINNING
        elif state != _TASK["TASK_RUNNING"]:        # else about to sleep, or just woken
            frames += _WAITS[phase]
    elif phase == _PHASE["PH_STEP"] and req in _REQUESTS:
        frames.append(_REQUESTS[req] + lock)
    if state == _TASK["TASK_UNINTERRUPTIBLE"]:
        doing = ASLEEP
    elif state == _TASK["TASK_RUNNABLE"]:
        frames.append("[waits for a CPU]")
        doing = READY
    return Stack(tuple(frames), doing)
