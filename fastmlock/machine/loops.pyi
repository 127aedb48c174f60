from typing import Any

from fastmlock.machine.costs import Costs
from fastmlock.machine.machine import Machine
from fastmlock.machine.topology import Topology
from fastmlock.state.world import WorldHandle

def start_loop(world: WorldHandle, task: int, kind: str, *, rounds: int, think_ns: int, hold_ns: int,
               exponential: bool = False, obj: int = 0, lock_class: int | None = None, read_percent: int = 0,
               seed: int = 0, cpu: int | None = None) -> None: ...
def loop_machine(topology: Topology, costs: Costs | None = None, *, tasks: int | None = None,
                 kernel: str = "5.17-rc2", traits: dict[str, int] | None = None, test_locks: int = 1,
                 kind: str = "lock", **loop: Any) -> Machine: ...
