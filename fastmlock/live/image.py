"""Gives the processes of a modelled system the memory that the worker processes of a live one have themselves.

The workers' own pages (layout.py) are few, known and written at known moments, so a model can have the same: then
what mlockall() locks, what counts against a limit, and the copies that a fork leads to are equal to the last page.
"""
from __future__ import annotations

from typing import Any

from fastmlock.scenario.system import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PAGE_SIZE, SystemUnderTest

from .layout import DATA, DATA_PAGES, DRAIN, IMAGE, IMAGE_PAGES

_ANON = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
NOBODY = 65534


class Imaged:
    """`system` with processes that have a worker's pages; all else is passed on.

    `unprivileged` makes every new process one without CAP_IPC_LOCK, as the workers of a user who is not root are.
    """

    def __init__(self, system: SystemUnderTest, *, unprivileged: bool = False) -> None:
        self.system, self.unprivileged = system, unprivileged

    def __getattr__(self, name: str) -> Any:
        return getattr(self.system, name)

    def spawn(self, *, cpu: int = 0) -> int:
        pid = self.system.spawn(cpu=cpu)
        self._lay_out(pid)
        if self.unprivileged:
            self.system.setuid(pid, NOBODY)
        return pid

    def exec(self, pid: int) -> None:
        self.system.exec(pid)
        self._lay_out(pid)

    def _lay_out(self, pid: int) -> None:
        self.system.mmap(pid, IMAGE, IMAGE_PAGES * PAGE_SIZE, 7, _ANON, None, 0)
        self.system.mmap(pid, DRAIN, PAGE_SIZE, 0, _ANON, None, 0)
        self.system.touch(pid, IMAGE, IMAGE_PAGES, True)

    def fork(self, pid: int) -> int:
        child = self.system.fork(pid)
        for process in (pid, child):
            self.system.touch(process, DATA, DATA_PAGES, True)
        return child
