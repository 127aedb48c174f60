"""What remains after the rework: spinning for the lruvec lock inside mlock(), at 64 threads on two sockets."""

from __future__ import annotations

import numpy as np

from fastmlock.flows.ids import FLOWS
from fastmlock.machine.machine import Machine
from fastmlock.machine.topology import Topology
from fastmlock.state.layout import K
from fastmlock.system import System
from fastmlock.verification.point import Comparison, Point

EXPONENTIAL, EXITS = 1 << 28, 1 << 29
PH_SPIN = 2
ADDRESS = 0x100000000000
MLOCK, SPIN, EXIT = 46.4, 22.3, 7.1  # per cent of all cycles
#: the program locks its mapping 16 pages at a time
CHUNK = 16
#: chunks that a process locks before it is killed: 321,532 pages were locked on average, by 1,024 processes, so each
#: holds twice a 1,024th of them at its end
CHUNKS = 40
SAMPLE_NS = 10_000


def start(threads: int, processes: int, calls: int, think_ns: int, life_ns: int) -> tuple[System, Machine]:
    """`processes` one after another on each of `threads` CPUs: each locks `calls` chunks of fresh memory and exits. The
    CPUs begin spread over a life."""
    topology = Topology.preset("icelake-8375c", cpus=64)
    n, pages = threads * processes, CHUNK * calls
    system = System(
        "6.12",
        cpus=topology.cpus,
        nodes=topology.nodes,
        capacity={
            "pages": n * pages + 1024,
            "leaves": n * (pages // 512 + 4),
            "tables": n * 8,
            "ptes": n * (pages // 512 + 4),
            "vmas": n * 8 + 64,
            "tasks": n + 8,
            "mms": n + 8,
            "anon_vmas": n * 2 + 32,
            "avcs": n * 4 + 32,
            "nodes": n * 8 + 64,
        },
    )
    pids = [system.spawn(cpu=i % threads) for i in range(n)]
    for pid in pids:
        system.mmap(pid, ADDRESS, pages * 4096, 3, 0x22 | 0x10, None, 0)
    machine = Machine(system, topology)
    for i, pid in enumerate(pids):
        machine.start(
            pid,
            i % threads * life_ns // threads,
            flow=FLOWS["F_MLOCK_LOOP"],
            args=(calls, ADDRESS, CHUNK * 4096, think_ns | EXPONENTIAL | EXITS),
        )
    return system, machine


def profile(system: System, machine: Machine, begin_ns: int, end_ns: int) -> dict[str, float]:
    """Shares of the busy CPUs' time, by looking at all of them every so often, as perf does: in mlock, in exit, and in
    each of them spinning for the lruvec lock."""
    found = dict.fromkeys(("mlock", "mlock spin", "exit", "exit spin"), 0)
    samples = 0
    for at_ns in range(begin_ns, end_ns, SAMPLE_NS):
        machine.run(until_ns=at_ns)
        running = machine.arrays["cpus"]["curr"]
        tasks = running[running > 0] - 1
        samples += len(tasks)
        inside = system.tasks["stack"]["fn"][tasks, 1]
        deep = system.tasks["depth"][tasks] >= 1
        spins = (machine.tasks["phase"][tasks] == PH_SPIN) & (machine.tasks["wait_class"][tasks] == K.LK_LRU)
        for name, flow in (("mlock", "F_SYS_MLOCK"), ("exit", "F_SYS_EXIT")):
            here = deep & (inside == FLOWS[flow])
            found[name] += int(np.count_nonzero(here))
            found[f"{name} spin"] += int(np.count_nonzero(here & spins))
    return {name: 100 * n / samples for name, n in found.items()}


def point(quick: bool) -> Point:
    _, machine = start(1, 1, CHUNKS, 1000, 0)
    machine.run()
    call_ns = machine.cpu_ns()["work"][0] / CHUNKS - 1000
    think_ns = round(call_ns * (100 - MLOCK - EXIT) / (MLOCK - SPIN))
    life_ns = round(CHUNKS * (call_ns + think_ns))
    lives = 4 if quick else 12
    shares = profile(*start(64, lives, CHUNKS, think_ns, life_ns), 2 * life_ns, (lives - 1) * life_ns)
    return Point(
        name="mlockmany-2024",
        title="The lruvec lock's share of mlock()",
        factor=2,
        comparisons=[
            Comparison(what="spinning for it in mlock()", model=shares["mlock spin"], known=SPIN, unit="% of cycles"),
        ],
        source="0day, 22 Aug 2024, 202408221014.cf0a2408-oliver.sang@intel.com: stress-ng mlockmany, 64 threads, 2 x "
        "Xeon Gold 6346: mlock() 46.4 % of cycles, native_queued_spin_lock_slowpath below it 22.3 %, exit_mmap() "
        "7.1 %",
        notes=[
            "the time between calls is set so that mlock() without any spinning is to what is neither mlock nor exit "
            f"as published (24.1 : 46.5): {call_ns:.0f} ns of one call alone, {think_ns} ns between; how much they "
            "then spin is the model's own",
            f"in mlock() {shares['mlock']:.1f} % (published: {MLOCK}); in exit {shares['exit']:.1f} %, of which "
            f"spinning {shares['exit spin']:.1f} % (published: {EXIT} % in all)",
        ],
    )


POINTS = {"mlockmany-2024": point}
