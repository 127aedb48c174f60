"""Locks alone against queueing theory, on a machine without distances or costs."""
from __future__ import annotations

from typing import Any

from fastmlock.machine.costs import Costs
from fastmlock.machine.loops import loop_machine
from fastmlock.machine.topology import Topology
from fastmlock.state.layout import K
from fastmlock.verification.point import Comparison, Point


def machine_repairman(n: int, think_ns: float, hold_ns: float, servers: int = 1) -> tuple[float, float]:
    """A closed network of `servers` exponential FIFO servers in a row and a delay, by mean-value analysis:
    throughput per ns, and the mean number at one server."""
    queue = throughput = 0.0
    for k in range(1, n + 1):
        response = hold_ns * (1 + queue)
        throughput = k / (servers * response + think_ns)
        queue = throughput * response
    return throughput, queue


def _run(cpus: int, think_ns: int, hold_ns: int, acquisitions: int, **loop: Any) -> tuple[float, float, float]:
    """-> throughput per ns, mean number at the lock, mean wait in ns"""
    machine = loop_machine(Topology.ideal(cpus), Costs.zero(), rounds=1 << 40, think_ns=think_ns, hold_ns=hold_ns,
                           exponential=loop.pop("exponential", True), seed=3, **loop)
    throughput, _ = machine_repairman(cpus, think_ns, hold_ns)
    machine.run(until_ns=int(acquisitions / throughput))
    stat = machine.lock_stat[K.LK_TEST_SPIN, 1]
    n = int(stat["acquisitions"])
    return (n / machine.now_ns, (int(stat["waittime_total"]) + int(stat["holdtime_total"])) / machine.now_ns,
            int(stat["waittime_total"]) / n)


def repairman(quick: bool) -> Point:
    rows = []
    for cpus, think, hold in ((2, 20_000, 10_000), (8, 100_000, 10_000), (16, 100_000, 10_000), (32, 50_000, 10_000),
                              (64, 500_000, 10_000)):
        x, number, _ = _run(cpus, think, hold, 300_000 if quick else 2_000_000)
        theory, queue = machine_repairman(cpus, think, hold)
        rows.append(Comparison(what=f"{cpus} CPUs, think {think // hold} holds: acquisitions", model=1e6 * x,
                               known=1e6 * theory, unit="per ms", x=cpus, series="acquisitions per ms"))
        rows.append(Comparison(what=f"{cpus} CPUs, think {think // hold} holds: at the lock", model=number, known=queue,
                               unit="CPUs", x=cpus, series="CPUs at the lock"))
    return Point(name="machine-repairman", title="One FIFO lock is the machine repairman", factor=1.01,
                 source="closed form: M/M/1//N by mean-value analysis", comparisons=rows, xlabel="CPUs",
                 ylabel="see legend", log=True)


def hand_over(quick: bool) -> Point:
    """Many CPUs that each come rarely are nearly a Poisson stream: the wait for the lock is that of M/M/1 with
    exponential holds and of M/G/1 (Pollaczek-Khinchine) with constant ones; finite populations fall short of it by
    about 1/N of the queue, so N is large."""
    rows = []
    cpus, hold = 4000, 1_000
    for load in (0.3, 0.5, 0.7):
        think = int(cpus * hold / load)
        n = 2_000_000 if quick else 8_000_000
        for exponential, kind, factor in ((True, "M/M/1", 1.0), (False, "M/D/1", 0.5)):
            wait = _wait(cpus, think, hold, n, exponential)
            rows.append(Comparison(what=f"{kind}, load {load}: mean wait", model=wait,
                                   known=factor * load / (1 - load) * hold, unit="ns", x=load, series=kind))
    return Point(name="hand-over", title="Waiting for a lock taken by many: M/M/1 and M/G/1", factor=1.01,
                 source="closed form: Pollaczek-Khinchine, W = load / (1 - load) * (1 + cv^2) / 2 * hold",
                 comparisons=rows, xlabel="load", ylabel="mean wait, ns")


def _wait(cpus: int, think_ns: int, hold_ns: int, acquisitions: int, exponential: bool) -> float:
    """Thinking is always exponential; `exponential` is the hold."""
    machine = loop_machine(Topology.ideal(cpus), Costs.zero(), rounds=1 << 40, think_ns=think_ns, hold_ns=hold_ns,
                           exponential=True, constant_hold=not exponential, seed=5)
    warm = think_ns + think_ns // 2
    machine.run(until_ns=warm)
    stat = machine.lock_stat[K.LK_TEST_SPIN, 1]
    before = stat.copy()
    machine.run(until_ns=warm + acquisitions * think_ns // cpus)
    return float((stat["waittime_total"] - before["waittime_total"]) / (stat["acquisitions"] - before["acquisitions"]))


def two_locks(quick: bool) -> Point:
    rows = []
    for cpus, think in ((2, 50_000), (4, 10_000), (8, 100_000), (16, 200_000), (32, 200_000)):
        x, _, _ = _run(cpus, think, 10_000, 500_000 if quick else 2_000_000, kind="two_locks", test_locks=2)
        rows.append(Comparison(what=f"{cpus} CPUs, think {think // 10_000} holds: rounds", model=1e6 * x / 2,
                               known=1e6 * machine_repairman(cpus, think, 10_000, 2)[0], unit="per ms", x=cpus,
                               series="rounds per ms"))
    return Point(name="two-locks", title="Two locks in a row are a closed network", factor=1.01,
                 source="closed form: mean-value analysis (Reiser and Lavenberg 1980)", comparisons=rows,
                 xlabel="CPUs", ylabel="rounds per ms", log=True)


POINTS = {"machine-repairman": repairman, "hand-over": hand_over, "two-locks": two_locks}
