"""The model's own cost of the operations that `kernel` times, on one or two simulated CPUs of this machine."""
from __future__ import annotations

from statistics import median

from fastmlock.calibrate.kernel import MADV_COLD, MADV_POPULATE_READ, PAGES
from fastmlock.flows.ids import FLOWS
from fastmlock.machine.costs import Costs
from fastmlock.machine.machine import Machine
from fastmlock.machine.topology import Topology
from fastmlock.system import System

ADDRESS = 0x100000000000
SIZE = PAGES * 4096


def costs_of(kernel: str, costs: Costs, topology: Topology) -> dict[str, float]:
    """ns per page of every operation, by the names of `kernel.measure`."""
    out = {}
    for kind in ("anon", "shared"):
        system = System(kernel, cpus=topology.cpus, nodes=topology.nodes)
        file = system.create_file("tmpfs", PAGES, observe=False) if kind == "shared" else None
        flags = 0x1 | 0x10 if kind == "shared" else 0x22 | 0x10
        if file is not None:                                    # another mapping keeps the pages
            keeper = system.spawn(cpu=0)
            system.mmap(keeper, ADDRESS, SIZE, 3, flags, file, 0)
            system.touch(keeper, ADDRESS, PAGES, True)
        pid = system.spawn(cpu=0)
        system.mmap(pid, ADDRESS, SIZE, 3, flags, file, 0)
        machine = Machine(system, topology, costs)
        steps = [("fault", "F_TOUCH", (ADDRESS >> 12, PAGES, 1)), ("mlock", "F_SYS_MLOCK", (ADDRESS, SIZE, 0x2000)),
                 ("munlock", "F_SYS_MUNLOCK", (ADDRESS, SIZE)), ("unmap", "F_SYS_MUNMAP", (ADDRESS, SIZE))]
        if kind == "shared":
            populate = (ADDRESS >> 12, (ADDRESS >> 12) + PAGES, MADV_POPULATE_READ)
            steps[1:1] = 3 * [("populate", "F_SYS_MADVISE", populate)]      # the first ones make the pages active
        for name, flow, arguments in steps:
            out[f"{name}_{kind}"] = _step(machine, pid, flow, arguments)
    out["populate"] = out.pop("populate_shared")
    out["deactivate"] = _deactivate(kernel, costs, topology)
    if topology.cpus > 1:
        out.update(_two(kernel, costs, topology))
    return out


def _step(machine: Machine, pid: int, flow: str, arguments: tuple[int, ...]) -> float:
    """ns per page of one call, alone on the machine."""
    begin = machine.end_ns()
    machine.start(pid, begin, flow=FLOWS[flow], args=arguments)
    machine.run()
    return float(int(machine.tasks[pid]["exit_ns"]) - begin) / PAGES


def _deactivate(kernel: str, costs: Costs, topology: Topology) -> float:
    """`kernel._deactivate` in the model."""
    system = System(kernel, cpus=topology.cpus, nodes=topology.nodes)
    pid = system.spawn(cpu=0)
    system.mmap(pid, ADDRESS, SIZE, 3, 0x22 | 0x10, None, 0)
    system.touch(pid, ADDRESS, PAGES, True)
    machine = Machine(system, topology, costs)
    ns = [_step(machine, pid, "F_SYS_MADVISE", (ADDRESS >> 12, (ADDRESS >> 12) + PAGES, advice))
          for advice in (MADV_COLD, *3 * [MADV_POPULATE_READ], MADV_COLD, MADV_COLD)]
    return ns[-2] - ns[-1]


def _two(kernel: str, costs: Costs, topology: Topology, rounds: int = 12) -> dict[str, float]:
    """Two processes on two CPUs lock and unlock the same file in a loop; medians of the later rounds of one."""
    system = System(kernel, cpus=topology.cpus, nodes=topology.nodes)
    file = system.create_file("tmpfs", PAGES, observe=False)
    pids = []
    for cpu in (0, 1):
        pids.append(system.spawn(cpu=cpu))
        system.mmap(pids[-1], ADDRESS, SIZE, 3, 0x1 | 0x10, file, 0)
        system.touch(pids[-1], ADDRESS, PAGES, True)
    machine = Machine(system, topology, costs)
    calls = {"mlock": ("F_SYS_MLOCK", (ADDRESS, SIZE, 0x2000)), "munlock": ("F_SYS_MUNLOCK", (ADDRESS, SIZE))}
    spent: dict[str, list[float]] = {"mlock": [], "munlock": []}
    doing = {pid: "mlock" for pid in pids}
    begun = {}
    for i, pid in enumerate(pids):
        begun[pid] = 1_000 * i
        machine.start(pid, begun[pid], flow=FLOWS["F_SYS_MLOCK"], args=calls["mlock"][1])
    at_ns = 0
    while len(spent["munlock"]) < rounds:
        at_ns += 500
        machine.run(until_ns=at_ns)
        for pid in pids:
            task = machine.tasks[pid]
            if int(task["exit_ns"]) >= begun[pid] and system.tasks[pid]["depth"] < 0:
                if pid == pids[0]:
                    spent[doing[pid]].append((int(task["exit_ns"]) - begun[pid]) / PAGES)
                doing[pid] = "munlock" if doing[pid] == "mlock" else "mlock"
                begun[pid] = max(at_ns, int(task["exit_ns"]))
                flow, arguments = calls[doing[pid]]
                machine.start(pid, begun[pid], flow=FLOWS[flow], args=arguments)
    return {f"{name}_shared_2": median(values[1:]) for name, values in spent.items()}
