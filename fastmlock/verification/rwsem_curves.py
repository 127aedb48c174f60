"""One rwsem hammered by 1 to 64 threads: reads, writes, and both by turns."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastmlock.machine.costs import Costs
from fastmlock.machine.loops import loop_machine
from fastmlock.machine.topology import Topology
from fastmlock.state.layout import K
from fastmlock.verification.point import Comparison, Point

THREADS = (1, 2, 4, 8, 16, 32, 64)
#: kops/s on 4 sockets, 56 cores, 112 threads, about v5.0 (Waiman Long, mail 32026039588 of the archive)
PUBLISHED = {
    "write": (29_201, 6_807, 6_504, 6_762, 6_693, 6_145, 5_812),
    "read": (30_143, 13_299, 12_755, 13_412, 15_408, 15_286, 15_495),
    "mixed": (29_458, 1_171, 1_520, 764, 662, 496, 60),
}
#: "mixed means equal # of read and write locks", also by one thread alone: each does them by turns
LOOPS: dict[str, dict[str, Any]] = {"write": {"read_percent": 0}, "read": {"read_percent": 100},
                                    "mixed": {"by_turns": True}}
#: the rwsem of 5.0
BEFORE_5_2 = {"rwsem_handoff": 0, "rwsem_steal": 0, "rwsem_spin": 1, "rwsem_reader_spin": 0, "rwsem_spin_readers": 0,
              "rwsem_wake_skip": 0, "rwsem_wake_readers": 1 << 30, "rwsem_xadd": 1,
              "wake_off_cpu": 1}


#: what the published loop does besides its two lock operations: 34 ns a round by one thread alone, of which the
#: model's two atomics are 12. One number for all curves; the points of one thread are thereby an input.
LOOP_NS = 22


#: 1,000 ticks a second, as in the kernels of the publisher's employer
TICK_NS = 1_000_000


NODES, CORES = 4, 14
#: thread i runs on CPU i as Linux numbers them: first the cores of one socket after the other, then their siblings. Our
#: CPUs are numbered socket by socket.
PLACE = [i % (NODES * CORES) // CORES * 2 * CORES + i // (NODES * CORES) * CORES + i % CORES
         for i in range(2 * NODES * CORES)]


def kops(threads: int, kind: str, quick: bool, traits: dict[str, int] = BEFORE_5_2) -> float:
    """Thousands of lock operations per second of virtual time. The critical section is empty, as there."""
    topology = replace(Topology.preset("xeon-6242", cpus=len(PLACE), nodes=NODES), cores_per_node=CORES)
    machine = loop_machine(topology, Costs.default().replace(tick=TICK_NS), kind="rwsem", tasks=threads,
                           rounds=1 << 40, think_ns=LOOP_NS, hold_ns=0, seed=1, traits=traits, place=PLACE,
                           **LOOPS[kind])
    machine.run(until_ns=(10 if quick else 100) * 1_000_000)
    stat = machine.lock_stat[K.LK_TEST_RWSEM]
    return float(1e6 * stat["acquisitions"].sum() / machine.end_ns())


def point(quick: bool) -> Point:
    rows, checks = [], []
    model = {}
    for kind, known in PUBLISHED.items():
        model[kind] = [kops(n, kind, quick) for n in THREADS]
        rows += [Comparison(what=f"{kind}, {n} threads", model=m, known=k, unit="kops/s", x=n, series=kind)
                 for n, m, k in list(zip(THREADS, model[kind], known))[1:]]
    for i, n in enumerate(THREADS):
        def order(values: Mapping[str, Sequence[float]], at: int = i) -> list[str]:
            return sorted(values, key=lambda kind: values[kind][at])
        if n > 1:
            checks.append((f"{n} threads: {' < '.join(order(model))}", order(model) == order(PUBLISHED)))
    return Point(name="rwsem-curves", title="One rwsem, 2 to 64 threads: reads, writes, both by turns", factor=2,
                 source="Waiman Long, 13 Feb 2019, 1550095217-12047-2-git-send-email-longman@redhat.com, before the "
                        "patch: 4 sockets, 56 cores, 112 threads",
                 comparisons=rows, checks=checks, xlabel="threads", ylabel="kops/s", log=True,
                 notes=["machine: xeon-6242 with 4 nodes of 14 cores, as published core-to-core (theirs was probably a "
                        "Broadwell, see docs/verification.md); nothing fitted but the loop around the lock, 22 ns, "
                        "from one thread alone; the published critical section is not known, nor where its threads "
                        "ran: here on the CPUs in the order in which Linux numbers them",
                        "idle states are those of that Xeon's driver; where sleeping costs more than it brings depends "
                        "on them"])


POINTS = {"rwsem-curves": point}
