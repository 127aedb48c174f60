"""How often exit takes i_mmap_rwsem for writing: once a file VMA, from 6.11 once for up to eight neighbours."""
from __future__ import annotations

import pytest

from fastmlock.flows.ids import FLOWS
from fastmlock.machine.machine import LOCK_CLASSES, Machine
from fastmlock.machine.topology import Topology
from fastmlock.system import System

ADDRESS, GAP = 0x100000000000, 1024 * 4096


@pytest.mark.parametrize("kernel, step, writes", [
    ("5.17-rc2", 4096, 20), ("5.18", 4096, 20), ("6.1", 4096, 20),
    ("6.12", 4096, 3),              # 8 + 8 + 4
    ("6.12", GAP, 20),              # too far apart
])
def test_write_locks_at_exit(kernel: str, step: int, writes: int) -> None:
    system = System(kernel)
    file = system.create_file("tmpfs", 40, observe=False)
    pid = system.spawn()
    for i in range(20):                     # pages that do not follow each other in the file: nothing merges
        assert system.mmap(pid, ADDRESS + i * step, 4096, 1, 0x11, file, 2 * i * 4096)[1] == 0
    machine = Machine(system, Topology.preset("generic", cpus=2, nodes=1))
    machine.start(pid, flow=FLOWS["F_SYS_EXIT"])
    machine.run()
    assert machine.lock_stat[LOCK_CLASSES.index("i_mmap_rwsem"), 1]["acquisitions"] == writes
    assert system.mappings["nr_vmas"][file] == 0
