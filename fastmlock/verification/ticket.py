"""A ticket lock against the Markov chain of Boyd-Wickizer et al., "Non-scalable locks are dangerous" (2012)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmlock.machine.costs import Costs
from fastmlock.machine.loops import loop_machine
from fastmlock.machine.topology import Topology
from fastmlock.state.layout import K
from fastmlock.verification.point import Comparison, Point

LINE_NS, HOLD_NS, THINK_NS = 100, 1_000, 200_000
CPUS = (4, 16, 32, 48, 64, 96, 128)


def published_chain(n: int) -> float:
    """Acquisitions per ns. State k = CPUs at the lock; it fills at (n - k) / think and empties at
    1 / (hold + fixed + line * waiters / 2): the line serves the waiters in any order, the next owner after half of
    them. `fixed` is what a hand-over costs whoever waits: taking the line away, and the owner's own half transfer."""
    weight = np.ones(n + 1)
    rate = np.zeros(n + 1)
    for k in range(1, n + 1):
        waiters = k - 1
        rate[k] = 1 / (HOLD_NS + (1.5 * LINE_NS + LINE_NS * waiters / 2 if waiters else 0))
        weight[k] = weight[k - 1] * (n - k + 1) / THINK_NS / rate[k]
    weight /= weight.sum()
    return float(weight @ rate)


def exact_chain(n: int) -> float:
    """Acquisitions per ns of the lock as it is: holding and handing over are two phases, and newcomers of the second
    one wait for no part of it. Embedded where a hold begins, by waiters: they arrive over an exponential hold, then
    over a hand-over of (1 + j) transfers with j from 1 to W."""
    p = np.zeros((n, n))  # from waiters at a hold's begin to those at the next
    length = np.zeros(n)  # mean time between the two
    for w in range(n):
        at_end = np.zeros(n)
        reach = 1.0
        for v in range(w, n):
            arrive = (n - 1 - v) / THINK_NS
            ends = (1 / HOLD_NS) / (1 / HOLD_NS + arrive)
            at_end[v] = reach * ends
            reach *= 1 - ends
        length[w] = HOLD_NS
        for v in range(w, n):
            if v == 0:  # nobody waits: the next begins with the next arrival
                length[w] += at_end[0] * THINK_NS / n
                p[w, 0] += at_end[0]
                continue
            for j in range(1, v + 1):
                gap = (1 + j) * LINE_NS
                share = at_end[v] / v
                length[w] += share * gap
                p[w, v - 1 :] += share * _binomial(n - v, 1 - np.exp(-gap / THINK_NS))[: n - v + 1]
    a = np.vstack([p.T - np.eye(n), np.ones(n)])
    stationary = np.linalg.lstsq(a, np.append(np.zeros(n), 1.0), rcond=None)[0]
    return float(1 / (stationary @ length))


def _binomial(n: int, p: float) -> np.ndarray:
    out = np.zeros(n + 1)
    out[0] = (1 - p) ** n
    for k in range(n):
        out[k + 1] = out[k] * (n - k) / (k + 1) * p / (1 - p)
    return out


def simulate(n: int, kind: int, acquisitions: int) -> float:
    zero: dict[str, Any] = {field: 0 for field in Topology.__dataclass_fields__ if field.endswith("_ns")}
    topology = Topology(
        name="uniform", cpus=n, nodes=1, cores_per_node=n, cache_lines=0, **{**zero, "node_transfer_ns": LINE_NS}
    )
    machine = loop_machine(
        topology,
        Costs.zero(),
        rounds=1 << 40,
        think_ns=THINK_NS,
        hold_ns=HOLD_NS,
        exponential=True,
        seed=7,
        traits={"spin_kind": kind},
    )
    machine.run(until_ns=THINK_NS * 20)
    stat = machine.lock_stat[K.LK_TEST_SPIN, 1]
    begin, at = int(stat["acquisitions"]), machine.now_ns
    machine.run(max_events=5 * acquisitions)
    return (int(stat["acquisitions"]) - begin) / (machine.now_ns - at)


def point(quick: bool) -> Point:
    rows, checks = [], []
    rates, queued = {}, {}
    for n in CPUS[:5] if quick else CPUS:
        rates[n] = simulate(n, 1, 100_000 if quick else 2_000_000)
        rows += [
            Comparison(
                what=f"{n} CPUs: published chain",
                model=1e6 * rates[n],
                known=1e6 * published_chain(n),
                unit="per ms",
                x=n,
                series="published chain",
            ),
            Comparison(
                what=f"{n} CPUs: chain of this lock",
                model=1e6 * rates[n],
                known=1e6 * exact_chain(n),
                unit="per ms",
                x=n,
                series="chain of this lock",
            ),
        ]
        queued[n] = simulate(n, 0, 100_000)
    top, last = max(rates.values()), rates[max(rates)]
    if not quick:
        checks = [
            (f"it collapses: {1e6 * last:.0f} per ms at {max(rates)} CPUs, {1e6 * top:.0f} at best", last < 0.7 * top),
            (
                f"the queued lock does not: {1e6 * queued[max(rates)]:.0f} at {max(rates)} CPUs, "
                f"{queued[max(rates)] / last:.1f} times as many",
                queued[max(rates)] > 2 * last,
            ),
        ]
    return Point(
        name="ticket",
        title="Ticket lock: the Markov chain and its collapse",
        factor=1.01,
        source="Boyd-Wickizer et al., OLS 2012, section 4; the second chain is solved numerically here",
        comparisons=rows,
        checks=checks,
        xlabel="CPUs",
        ylabel="acquisitions per ms",
        notes=[f"hold {HOLD_NS} ns, think {THINK_NS} ns, exponential; a line takes {LINE_NS} ns"],
    )


POINTS = {"ticket": point}
