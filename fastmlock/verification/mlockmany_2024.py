"""What remains after the rework: spinning for the lruvec lock inside mlock(), at 64 threads on two sockets."""
from __future__ import annotations

from fastmlock.machine.machine import Machine
from fastmlock.machine.topology import Topology
from fastmlock.system import System
from fastmlock.verification.point import Comparison, Point

FLOW_MLOCK_LOOP = 203
EXPONENTIAL = 1 << 28
ADDRESS = 0x100000000000
MLOCK, SPIN = 46.4, 22.3        # per cent of all cycles


def shares(threads: int, region_pages: int, calls: int, think_ns: int) -> tuple[float, float, float]:
    """-> share of the CPUs' time in mlock(), share spinning for the lruvec lock, ns of one call."""
    topology = Topology.preset("icelake-8375c", cpus=64)
    pages = region_pages * calls
    system = System("6.12", cpus=topology.cpus, nodes=topology.nodes, capacity={
        "pages": threads * pages + 1024, "leaves": threads * (pages // 512 + 4), "tables": threads * 8,
        "ptes": threads * (pages // 512 + 4), "vmas": threads * 8 + 64, "tasks": threads + 8, "mms": threads + 8,
        "anon_vmas": threads * 2 + 32, "avcs": threads * 4 + 32, "nodes": threads * 8 + 64})
    pids = [system.spawn(cpu=i) for i in range(threads)]
    for pid in pids:
        system.mmap(pid, ADDRESS, pages * 4096, 3, 0x22 | 0x10, None, 0)
    machine = Machine(system, topology)
    for pid in pids:
        machine.start(pid, (pid * 997) % 5000, flow=FLOW_MLOCK_LOOP, args=(calls, ADDRESS, region_pages * 4096, think_ns | EXPONENTIAL))
    machine.run()
    cpu_ns = machine.cpu_ns()
    tasks = machine.tasks[pids]
    total = int((tasks["exit_ns"] - tasks["start_ns"]).sum())
    thinking = threads * calls * think_ns
    return 1 - thinking / total, int(cpu_ns["lru_spin"].sum()) / total, (total - thinking) / (threads * calls)


def point(quick: bool) -> Point:
    rows, notes = [], []
    calls = 60 if quick else 300
    for region in (1, 16):
        alone = shares(1, region, calls, 1000)[2]
        think = round(alone * (100 - MLOCK) / (MLOCK - SPIN))
        mlock, spin, _ = shares(64, region, calls, think)
        notes.append(f"regions of {region} pages: one call alone {alone:.0f} ns, {think} ns between calls; in mlock() "
                     f"{100 * mlock:.1f} % of the time")
        rows.append(Comparison(what=f"regions of {region} pages: cycles spinning for it", model=100 * spin, known=SPIN,
                               unit="% of all"))
    return Point(name="mlockmany-2024", title="The lruvec lock's share of mlock()", factor=2, comparisons=rows,
                 source="0day, 22 Aug 2024, stress-ng mlockmany, 64 threads, 2 x Xeon Gold 6346: mlock() 46.4 % of "
                        "cycles, native_queued_spin_lock_slowpath below it 22.3 %",
                 notes=["time between calls is set so that, without any spinning, mlock() to the rest is as published "
                        "(24.1 : 53.6); how much they then spin is the model's own; the size of its regions is not "
                        "known", *notes])


POINTS = {"mlockmany-2024": point}
