"""From what was measured to costs.toml and machine.toml, each constant with its spread.

Only some operations set constants: a getppid sets `syscall`, a write fault on a shared page that is cached sets
`fault`, a first touch of an anonymous page `alloc`, its unmapping `free`, MADV_POPULATE_READ of pages that are there
`level` (it descends to each), MADV_COLD of active pages, less that of inactive ones, `lru_size`, the probe `atomic`, a
line's transfer, and what the next line of a row takes.
mlock and munlock set nothing: they are what the model is then held against (`fastmlock verification live`).
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, replace
from pathlib import Path

from fastmlock.calibrate.kernel import Measured, measure
from fastmlock.calibrate.model import costs_of
from fastmlock.machine.costs import Costs
from fastmlock.machine.topology import Topology, TopologyError

#: constant -> the operation that sets it, in the order in which they are set
SET_BY = {"work.level": "populate", "work.lru_size": "deactivate", "work.fault": "fault_shared",
          "work.alloc": "fault_anon", "work.free": "unmap_anon"}
HELD_OUT = ("mlock_anon", "munlock_anon", "mlock_shared", "munlock_shared", "mlock_shared_2", "munlock_shared_2")
NEWEST = "6.18"


def probe(repetitions: int) -> dict[str, Measured]:
    """The compiled probe: `uncontended`, `own_row` and, with two CPUs, `hand_over` and `row`, ns."""
    from fastmlock.calibrate.handover import hand_over_ns, own_row_ns, row_ns, uncontended_ns

    out = {"uncontended": Measured.of([uncontended_ns() for _ in range(repetitions)]),
           "own_row": Measured.of([own_row_ns() for _ in range(repetitions)])}
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        for name, turns in (("hand_over", hand_over_ns), ("row", row_ns)):
            answered = [ns for ns in (turns(cpus[0], cpus[1]) for _ in range(repetitions)) if ns is not None]
            if answered:
                out[name] = Measured.of(answered)
    return out


def this_machine(hand_over_ns: float | None, row_ns: float | None = None) -> Topology:
    """The running machine's shape, limited to the CPUs this process may use, with the measured transfers."""
    cpus = len(os.sched_getaffinity(0))
    try:
        topology = Topology.load("/sys").scaled(cpus=cpus)
    except TopologyError:
        topology = Topology(cpus=cpus, nodes=1, cores_per_node=cpus)
    if hand_over_ns is None:
        return topology
    ns = max(1, round(hand_over_ns))
    return replace(
        topology,
        node_transfer_ns=ns,
        smt_ns=min(topology.smt_ns, ns),
        row_ns=0 if row_ns is None else min(ns, max(1, round(row_ns))),
        name=platform.node() or "this machine",
        source=f"measured: compare-and-swap ping-pong of two CPUs, {ns} ns one way; remote and memory latencies "
        "assumed",
    )


def fitted(measured: dict[str, Measured], topology: Topology, kernel: str = NEWEST) -> Costs:
    """The table of costs under which the model's operations of SET_BY take what was measured; none below 0."""
    costs = Costs.default().replace(work_syscall=measured["syscall"].ns)
    if "uncontended" in measured:
        atomic = max(1, round(measured["uncontended"].ns))
        costs = costs.replace(atomic=atomic, work_atomic=measured["uncontended"].ns)
    alone = replace(topology, cpus=1, nodes=1)
    for _ in range(2):
        for constant, operation in SET_BY.items():
            if operation not in measured:
                continue

            def at(ns: float, costs: Costs = costs, constant: str = constant) -> Costs:
                return costs.replace(**{constant.replace(".", "_"): max(0.0, ns)})

            ns, gap = costs[constant].ns, measured[operation].ns - costs_of(kernel, costs, alone)[operation]
            times = (costs_of(kernel, at(ns + 10), alone)[operation] - costs_of(kernel, costs, alone)[operation]) / 10
            costs = at(ns + gap / times)
    return costs


def write(directory: str, measured: dict[str, Measured], costs: Costs, topology: Topology) -> list[str]:
    """costs.toml, machine.toml and measured.json. -> their paths"""
    out = Path(directory)
    out.mkdir(parents=True, exist_ok=True)
    origin = {"work.syscall": "syscall", "atomic": "uncontended", "work.atomic": "uncontended", **SET_BY}
    groups: dict[str, list[str]] = {"work": [], "lock": []}
    for constant, operation in origin.items():
        if operation not in measured:
            continue
        m = measured[operation]
        group, name = ("work", constant[5:]) if constant.startswith("work.") else ("lock", constant)
        ns = round(costs[constant].ns, 1) if group == "work" else int(costs[constant].ns)
        groups[group].append(
            f'{name} = {{ ns = {ns}, origin = "measured: {operation} {m.ns:.1f} ns, 10 to 90 % of '
            f'{m.repetitions} from {m.low_ns:.1f} to {m.high_ns:.1f}" }}'
        )
    paths = [out / "costs.toml", out / "machine.toml", out / "measured.json"]
    paths[0].write_text(
        f"# fastmlock calibrate on {platform.release()}\n"
        + "".join(f"\n[{group}]\n" + "\n".join(lines) + "\n" for group, lines in groups.items() if lines)
    )
    fields = {name: getattr(topology, name) for name in Topology.__dataclass_fields__}
    paths[1].write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items()))
    paths[2].write_text(
        json.dumps({"kernel": platform.release(), "operations": {k: asdict(m) for k, m in measured.items()}}, indent=1)
    )
    return [str(path) for path in paths]


def calibrate(directory: str, repetitions: int = 25) -> tuple[dict[str, Measured], Costs, Topology, list[str]]:
    """Measures, fits and writes. Raises fastmlock.calibrate.kernel.MeasureError, an OSError."""
    measured = {**probe(repetitions), **measure(repetitions)}
    topology = this_machine(measured["hand_over"].ns if "hand_over" in measured else None,
                            measured["row"].ns - measured["own_row"].ns if "row" in measured else None)
    costs = fitted(measured, topology)
    return measured, costs, topology, write(directory, measured, costs, topology)
