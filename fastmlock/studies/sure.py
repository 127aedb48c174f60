"""How sure is a claim? The same storm under many tables of costs, drawn from what each constant may be.

Every cost has a range by its origin (`SPREAD`): a measured one is better known than an assumed one. A Latin hypercube
over the logarithms of all of them is drawn (scipy.stats.qmc), the two kernels run the storm under each sample, and
the answers are given as medians and intervals. What matters most is told by rank correlation between each constant
and the answer, and by the answers at the low and the high fifth of its range: a tornado.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from fastmlock.machine.costs import Cost, Costs
from fastmlock.studies.report import save
from fastmlock.studies.storm import Storm, run

#: origin -> by how much a constant may be larger or smaller, as a factor
SPREAD = {"measured": 1.2, "published": 1.4, "derived": 2.0, "assumed": 3.0, "given": 1.0, "definition": 1.0}

#: limits that the kernel's source gives: no uncertainty
EXACT = (
    "rwsem_timeout",
    "rwsem_spin_base",
    "rwsem_spin_reader",
    "slice",
    "wake_granularity",
    "watchdog_sample",
    "soft_lockup",
    "hung_task",
    "rcu_stall",
    "bias_inhibit_factor",
    "cna_threshold",
)

#: the topology's latencies: published for another machine of the same kind, or assumed
LATENCIES = {
    "node_transfer_ns": "published",
    "remote_ns": "published",
    "memory_ns": "assumed",
    "memory_remote_ns": "assumed",
}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What came out: `samples` float64[n, constants] (factors on the constants), `values` name -> float64[n]."""

    storm: Storm
    kernels: tuple[str, str]
    constants: tuple[str, ...]
    spreads: np.ndarray
    samples: np.ndarray
    values: dict[str, np.ndarray]
    central: dict[str, float]  #: with every constant at its own value

    def interval(self, name: str, share: float = 0.9) -> tuple[float, float, float]:
        """-> median and the ends of the central `share` of the answers."""
        low, middle, high = np.quantile(self.values[name], [(1 - share) / 2, 0.5, (1 + share) / 2])
        return float(middle), float(low), float(high)

    def tornado(self, name: str) -> list[tuple[str, float, float, float]]:
        """(constant, rank correlation, mean answer in the lowest fifth of its range, in the highest), most first."""
        y = self.values[name]
        rank_y = _ranks(y)
        out = []
        for i, constant in enumerate(self.constants):
            x = self.samples[:, i]
            fifth = max(1, len(x) // 5)
            order = np.argsort(x, kind="stable")
            rho = float(np.corrcoef(_ranks(x), rank_y)[0, 1]) if np.ptp(rank_y) and np.ptp(x) else 0.0
            out.append((constant, rho, float(y[order[:fifth]].mean()), float(y[order[-fifth:]].mean())))
        return sorted(out, key=lambda row: -abs(row[1]))


def _ranks(values: np.ndarray) -> np.ndarray:
    out = np.empty(len(values))
    out[np.argsort(values, kind="stable")] = np.arange(len(values))
    return out


def uncertain(costs: Costs) -> dict[str, float]:
    """The constants that are not known exactly, with their spread as a factor; latencies of lines among them."""
    out = {name: SPREAD[cost.origin.split(":")[0]] for name, cost in costs.items() if name not in EXACT and cost.ns}
    out.update({name: SPREAD[origin] for name, origin in LATENCIES.items()})
    return {name: spread for name, spread in out.items() if spread > 1}


def varied(costs: Costs, factors: dict[str, float]) -> Costs:
    """The table with each cost times its factor; what must be whole nanoseconds is rounded, and stays at least 1."""
    table = {
        name: cost
        if name not in factors
        else Cost(
            cost.ns * factors[name] if name.startswith("work.") else max(1, round(cost.ns * factors[name])), cost.origin
        )
        for name, cost in costs.items()
    }
    return Costs(table)


def sure(
    storm: Storm,
    kernels: tuple[str, str],
    *,
    samples: int = 64,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Answers:
    """Runs both kernels under `samples` tables of costs. The same samples and seed give the same answers in any number
    of threads. Raises ValueError for fewer than 5 samples."""
    from scipy.stats import qmc

    if samples < 5:
        raise ValueError(f"--sure {samples}: at least 5 samples are needed")
    base = storm.costs or Costs.default()
    ranges = uncertain(base)
    if not storm.locks:  # constants of locks that no kernel has
        ranges = {name: spread for name, spread in ranges.items() if name not in ("bias_scan", "percpu_sync")}
    names = tuple(ranges)
    spreads = np.array([ranges[name] for name in names])
    unit = qmc.LatinHypercube(len(names), rng=np.random.Generator(np.random.Philox(seed))).random(samples)
    factors = spreads ** (2 * unit - 1)

    def one(row: Sequence[float] | None) -> list[float]:
        chosen = {} if row is None else dict(zip(names, row))
        mine = replace(
            storm,
            costs=varied(base, {n: f for n, f in chosen.items() if n not in LATENCIES}),
            latencies=tuple((n, chosen[n]) for n in LATENCIES if n in chosen),
        )
        return [float(run(mine, kernel).last_exit_ns) for kernel in kernels]

    found = []
    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(one, [None, *factors]):
            found.append(result)
            if progress:
                progress(len(found) / (samples + 1))
    table = np.array(found)
    columns = {kernels[0]: table[:, 0], kernels[1]: table[:, 1], "ratio": table[:, 0] / table[:, 1]}
    return Answers(
        storm=storm,
        kernels=kernels,
        constants=names,
        spreads=spreads,
        samples=factors,
        values={name: column[1:] for name, column in columns.items()},
        central={name: float(column[0]) for name, column in columns.items()},
    )


def sentences(answers: Answers, most: int = 10) -> list[str]:
    """The intervals and the tornado as lines."""
    from fastmlock.studies.report import duration

    before, after = answers.kernels
    n = len(answers.samples)
    out = [f"{len(answers.constants)} uncertain constants, {n} samples; 90 % intervals"]
    for name in answers.kernels:
        middle, low, high = answers.interval(name)
        out.append(
            f"  {name:10} last exit after {duration(middle)} ({duration(low)} to {duration(high)}; "
            f"{duration(answers.central[name])} with every constant as it stands)"
        )
    middle, low, high = answers.interval("ratio")
    out.append(
        f"  {before} takes {middle:.2f} times as long as {after} ({low:.2f} to {high:.2f}; "
        f"{answers.central['ratio']:.2f} as they stand); slower in "
        f"{100 * float((answers.values['ratio'] > 1).mean()):.0f} % of the samples"
    )
    out.append(
        f"what matters most to that ratio (rank correlation; mean ratio in the lowest and highest fifth; one of "
        f"{n} samples is noise below {2 / np.sqrt(n):.2f}):"
    )
    for constant, rho, low, high in answers.tornado("ratio")[:most]:
        i = answers.constants.index(constant)
        out.append(f"  {constant:20} x/{answers.spreads[i]:.1f}  {rho:+.2f}   {low:.2f} .. {high:.2f}")
    return out


def draw(answers: Answers, path: str, most: int = 12) -> str:
    """The spread of the answers, and the tornado of the ratio. -> path"""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[2, 3])
    for i, name in enumerate(answers.kernels):
        ms = np.sort(answers.values[name]) / 1e6
        left.step(ms, np.arange(1, len(ms) + 1) / len(ms), where="post", label=name, color=f"C{i}")
        left.axvline(answers.central[name] / 1e6, color=f"C{i}", lw=0.8, ls=":")
    left.set_xscale("log")
    left.set_xlabel("last exit, ms of virtual time")
    left.set_ylabel("share of samples")
    left.legend()
    rows = answers.tornado("ratio")[:most][::-1]
    middle = float(np.median(answers.values["ratio"]))
    for i, (_, _, low, high) in enumerate(rows):
        right.barh(i, low - middle, left=middle, color="C0", alpha=0.7)
        right.barh(i, high - middle, left=middle, color="C3", alpha=0.7)
    right.axvline(middle, color="0.3", lw=0.8)
    right.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=8)
    right.set_xlabel(f"{answers.kernels[0]} / {answers.kernels[1]}; blue: constant low, red: high")
    return save(figure, path)
