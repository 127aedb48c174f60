"""What a task is doing, as the stack that the kernel would show: its flows, and what it does about a lock.

A row is what that follows from (`Machine.callstacks`, and the watchdogs' reports): int32[CALLSTACK], the numbers of the
task's flows, outermost first, -1 behind the last; then state, phase, class of the lock it waits for, whether to write,
whether it waits still, and its request. A batch's flow carries the kind of batch as well.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastmlock.flows.ids import SYMBOLS
from fastmlock.machine.layout import ENUMS
from fastmlock.state.layout import ENUMS as WORLD_ENUMS
from fastmlock.state.layout import STRUCTS, K

#: what a task can be at: on its CPU, on it and waiting, off it, off it and ready
STATES = ("running", "spinning", "asleep", "waiting for a CPU")
RUNNING, SPINNING, ASLEEP, READY = range(4)

FLOWS_MAX = STRUCTS["Task"]["stack"].shape[0]
WAIT_CLASS = FLOWS_MAX + 2              #: where in a row that is

_PHASE, _TASK = ENUMS["Phase"], ENUMS["TaskState"]
_BATCHES = {K.PVEC_LRU_ADD: "__pagevec_lru_add", K.PVEC_MLOCK: "mlock_pagevec"}
_BATCHES |= {number: f"pagevec_lru_move_fn [{name.removeprefix('PVEC_').lower()}]"
             for name, number in WORLD_ENUMS["PvecKind"].items()
             if name.startswith("PVEC_") and number not in _BATCHES}

_REQUESTS = {K.REQ_SPIN_LOCK: "_raw_spin_lock", K.REQ_SPIN_UNLOCK: "_raw_spin_unlock", K.REQ_DOWN_READ: "down_read",
             K.REQ_UP_READ: "up_read", K.REQ_DOWN_WRITE: "down_write", K.REQ_UP_WRITE: "up_write",
             K.REQ_DOWNGRADE: "downgrade_write", K.REQ_DOWN_READ_TRYLOCK: "down_read_trylock",
             K.REQ_LOCK_PAGE: "lock_page", K.REQ_UNLOCK_PAGE: "unlock_page", K.REQ_WAIT_PAGE: "wait_on_page_locked"}

# what one does in a slow path, under its name
_WAITS = {_PHASE[name]: frames for name, frames in {
    "PH_RW_REVOKE": ("[readers without a count]",), "PH_RW_UNDO": (), "PH_RW_SECTION": ("_raw_spin_lock_irq",),
    "PH_RW_BLOCK": ("schedule",), "PH_RW_OSQ": ("rwsem_optimistic_spin", "osq_lock"),
    "PH_RW_SPIN": ("rwsem_optimistic_spin", "rwsem_spin_on_owner"), "PH_RW_HANDOFF": ("rwsem_spin_on_owner",),
    "PH_PAGE_SECTION": ("_raw_spin_lock_irq",), "PH_PAGE_BLOCK": ("io_schedule",)}.items()}
_BLOCKS = (_PHASE["PH_RW_BLOCK"], _PHASE["PH_PAGE_BLOCK"])


@dataclass(frozen=True)
class Stack:
    """Kernel functions, outermost first; behind a lock's function stands which lock."""

    frames: tuple[str, ...]
    state: int                          #: index of STATES


def stack(row: np.ndarray, lock: str) -> Stack:
    """The stack of a row, with `lock` behind the function of the lock it asks for.

    A segment of a flow passes in PH_STEP after REQ_WORK, and before any other request in PH_REQ; in PH_STEP after a
    lock's request the lock's line is under way.
    """
    state, phase, lock_class, write, waiting, req = (int(value) for value in row[FLOWS_MAX:])
    frames = [_flow(int(flow)) for flow in row[:FLOWS_MAX] if flow >= 0]
    doing = RUNNING
    if req in _REQUESTS and (phase in _WAITS or phase in (_PHASE["PH_STEP"], _PHASE["PH_SPIN"])):
        frames.append(_REQUESTS[req] + lock)
    if phase == _PHASE["PH_SPIN"]:
        frames.append("native_queued_spin_lock_slowpath")
        doing = SPINNING
    elif phase == _PHASE["PH_DELAY"]:
        frames.append("[work]")
    elif phase in _WAITS:
        frames.append(_slow_path(lock_class == K.LK_PAGE, bool(write), bool(waiting)))
        if phase not in _BLOCKS:
            doing = SPINNING
        if phase not in _BLOCKS or state != _TASK["TASK_RUNNING"]:      # else about to sleep, or just woken
            frames += _WAITS[phase]
    if state == _TASK["TASK_UNINTERRUPTIBLE"]:
        doing = ASLEEP
    elif state == _TASK["TASK_RUNNABLE"]:
        frames.append("[waits for a CPU]")
        doing = READY
    return Stack(tuple(frames), doing)


def _flow(number: int) -> str:
    kind = number // ENUMS["Callstack"]["BATCH_KIND"] - 1
    return SYMBOLS[number] if kind < 0 else _BATCHES[kind]


def _slow_path(page: bool, write: bool, waiting: bool) -> str:
    if page:
        return "__lock_page" if waiting else "wake_up_page"
    return f"rwsem_down_{'write' if write else 'read'}_slowpath" if waiting else "rwsem_wake"
