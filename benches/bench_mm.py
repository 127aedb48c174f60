"""Hot kernel paths, untimed: what the model itself costs. Run by asv."""
from __future__ import annotations

from fastmlock import probe
from fastmlock.system import System

ADDRESS = 0x100000000000
BASE, AFTER = "5.17-rc2", "5.18"


def mapped(kernel: str, pages: int, procs: int) -> tuple[System, int, list[int]]:
    """`procs` processes that map the same file, read in by all."""
    system = System(kernel, capacity={"pages": pages + 1024, "cache": pages + 64})
    file = system.create_file("tmpfs", pages, observe=False)
    pids = [system.spawn() for _ in range(procs)]
    for pid in pids:
        system.mmap(pid, ADDRESS, pages * 4096, 3, 0x11, file, 0)
        system.touch(pid, ADDRESS, pages, False)
    return system, file, pids


class PagevecDrain:
    """Filling and processing the mlock batch, 1,000 times."""
    params = [AFTER, "6.12"]
    param_names = ["kernel"]

    def setup(self, kernel: str) -> None:
        self.system, self.file, (self.pid,) = mapped(kernel, 64, 1)

    def time_drain(self, kernel: str) -> None:
        probe.pagevec_drain(self.system, self.pid, self.file, 1000)


class PteRange:
    """mlock and munlock of resident pages: the page-table walk after, populate and the batch engine before."""
    params = ([BASE, AFTER], [4096, 65536])
    param_names = ["kernel", "pages"]

    def setup(self, kernel: str, pages: int) -> None:
        self.system, _, (self.pid,) = mapped(kernel, pages, 1)

    def time_mlock_munlock(self, kernel: str, pages: int) -> None:
        self.system.mlock(self.pid, ADDRESS, pages * 4096)
        self.system.munlock(self.pid, ADDRESS, pages * 4096)


class RmapWalk:
    """1,000 walks past VMAs that are not locked."""
    params = ([8, 256, 4096], [False, True])
    param_names = ["vmas", "literal"]

    def setup(self, vmas: int, literal: bool) -> None:
        self.system, self.file, _ = mapped(BASE, 1, vmas)

    def time_walk(self, vmas: int, literal: bool) -> None:
        probe.rmap_walk(self.system, self.file, 0, 1000, literal)


class Populate:
    """Fault-around and populate of a file that is in the page cache."""
    params = ([BASE, AFTER], [65536])
    param_names = ["kernel", "pages"]

    def setup(self, kernel: str, pages: int) -> None:
        self.system, self.file, _ = mapped(kernel, pages, 0)

    def time_mmap_locked(self, kernel: str, pages: int) -> None:
        pid = self.system.spawn()
        self.system.mmap(pid, ADDRESS, pages * 4096, 3, 0x2011, self.file, 0)
        self.system.exit(pid)
