"""Each lock of the machine layer: host time of a loop of 64 CPUs over one of them. Run by asv."""
from __future__ import annotations

from fastmlock.machine.locks import LOCKS, lock_options
from fastmlock.machine.loops import loop_machine
from fastmlock.machine.machine import Machine
from fastmlock.machine.topology import Topology
from fastmlock.state.layout import K

ACQUISITIONS = 100_000


class Loop:
    """What the cases have in common: `machine` is a loop that has not begun."""
    number = 1
    repeat = 5
    warmup_time = 0
    machine: Machine

    def begin(self, **loop: object) -> None:
        self.machine = loop_machine(Topology.preset("generic", cpus=64), rounds=ACQUISITIONS // 64, think_ns=100,
                                    hold_ns=100, **loop)

    def run(self) -> None:
        while self.machine.run():
            pass


class SpinLock(Loop):
    """qspinlock, ticket, test-and-set, CNA."""
    params = sorted(LOCKS["spin"])
    param_names = ["spin"]

    def setup(self, spin: str) -> None:
        self.begin(traits=lock_options((f"spin={spin}",)))

    def time_loop(self, spin: str) -> None:
        self.run()


class PageLock(Loop):
    def setup(self) -> None:
        self.begin(lock_class=K.LK_PAGE, obj=1)

    def time_loop(self) -> None:
        self.run()


class RwSem(Loop):
    """The rwsem of each time and what-if, with no, some and nine in ten readers."""
    params = (sorted(LOCKS["rwsem"]), [0, 50, 90])
    param_names = ["rwsem", "read_percent"]

    def setup(self, rwsem: str, read_percent: int) -> None:
        self.begin(kind="rwsem", read_percent=read_percent, traits=lock_options((f"rwsem={rwsem}",)))

    def time_loop(self, rwsem: str, read_percent: int) -> None:
        self.run()


class IMmapRwSem(Loop):
    """i_mmap_rwsem as it is, with readers' bias (BRAVO), per CPU, one per node."""
    params = (sorted(LOCKS["i_mmap"]), [50, 99])
    param_names = ["i_mmap", "read_percent"]

    def setup(self, i_mmap: str, read_percent: int) -> None:
        self.begin(kind="rwsem", lock_class=K.LK_I_MMAP, obj=1, read_percent=read_percent,
                   traits=lock_options((f"i_mmap={i_mmap}",)))

    def time_loop(self, i_mmap: str, read_percent: int) -> None:
        self.run()
