"""A point of verification: what the model says beside what is known, one line for each number, one picture."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

#: modules with a `point(quick)` function or several in POINTS; in the order in which they are run
MODULES = ("closed_forms", "ticket", "rwsem_curves", "munlock_2013", "ltp_33_pages", "mlockmany_2024", "live")

#: factors below are told, and meant, in per cent of what is known
PERCENT_BELOW = 1.5


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One number of the model beside the one it is held against."""

    what: str
    model: float
    known: float
    unit: str = ""
    x: float | None = None              #: where it stands in the picture
    series: str = ""                    #: the curve of the picture that it belongs to

    @property
    def ratio(self) -> float:
        return self.model / self.known if self.known else (1.0 if self.model == self.known else float("inf"))


@dataclass(frozen=True, kw_only=True)
class Point:
    """Numbers that belong together: they share a source, a tolerance and a picture.

    `factor` is how far a ratio may be from 1: 1.01 is "within 1 %" of what is known, 2 is "within a factor of two"
    either way, 1 is "exact". `checks` are statements on all of them, such as their order, with whether they hold.
    """

    name: str
    title: str
    source: str
    factor: float
    comparisons: Sequence[Comparison]
    checks: Sequence[tuple[str, bool]] = ()
    xlabel: str = ""
    ylabel: str = ""
    log: bool = False
    notes: Sequence[str] = ()
    skipped: str = ""                   #: why there is nothing to compare, if there is not
    extra: dict[str, Any] = field(default_factory=dict)

    def hit(self, comparison: Comparison) -> bool:
        least = 2 - self.factor if self.factor < PERCENT_BELOW else 1 / self.factor
        return least - 1e-12 <= comparison.ratio <= self.factor + 1e-12

    @property
    def misses(self) -> int:
        return sum(not self.hit(c) for c in self.comparisons) + sum(not holds for _, holds in self.checks)

    def tolerance(self) -> str:
        if self.factor == 1:
            return "exact"
        if self.factor < PERCENT_BELOW:
            return f"within {100 * (self.factor - 1):.0f} %"
        return f"within a factor of {self.factor:g}"


def points() -> dict[str, Callable[[bool], Point]]:
    """All points by name: functions that take whether to be quick."""
    out: dict[str, Callable[[bool], Point]] = {}
    for name in MODULES:
        out.update(import_module(f"fastmlock.verification.{name}").POINTS)
    return out


def verify(names: Sequence[str] = (), quick: bool = False) -> list[Point]:
    """Runs the points named, or all. Raises KeyError for a name there is not."""
    every = points()
    return [every[name](quick) for name in names or every]


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def lines(point: Point) -> list[str]:
    """One line for each number: what, model, known, ratio, whether it hit. Misses stand out."""
    out = [f"{point.title}; {point.tolerance()}", f"  source: {point.source}"]
    out += [f"  note: {note}" for note in point.notes]
    if point.skipped:
        return [*out, f"  NOT COMPARED  {point.skipped}"]
    width = max((len(c.what) for c in point.comparisons), default=0)
    for c in point.comparisons:
        out.append(f"  {'hit ' if point.hit(c) else 'MISS'}  {c.what:{width}}  model {number(c.model):>10}  "
                   f"known {number(c.known):>10} {c.unit:10} ratio {c.ratio:.3f}")
    out += [f"  {'hit ' if holds else 'MISS'}  {text}" for text, holds in point.checks]
    return out


def draw(point: Point, path: str) -> str:
    """The point's picture: known as circles, the model as lines, the tolerance as a band. -> path"""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curves = list(dict.fromkeys(c.series for c in point.comparisons))
    if all(c.x is not None for c in point.comparisons) and point.comparisons:
        for i, series in enumerate(curves):
            mine = sorted((c for c in point.comparisons if c.series == series), key=lambda c: c.x or 0)
            x = [c.x for c in mine if c.x is not None]
            axes.fill_between(x, [c.known / point.factor for c in mine], [c.known * point.factor for c in mine],
                              color=f"C{i}", alpha=0.12, linewidth=0)
            axes.plot(x, [c.known for c in mine], "o", color=f"C{i}", mfc="none", label=f"{series} known".strip())
            axes.plot(x, [c.model for c in mine], "-", color=f"C{i}", label=f"{series} model".strip())
        if point.log:
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
        axes.set_xlabel(point.xlabel)
        axes.set_ylabel(point.ylabel)
        axes.legend(fontsize=8)
    elif point.comparisons:
        y = range(len(point.comparisons))
        axes.axvspan(1 / point.factor, point.factor, alpha=0.15)
        axes.axvline(1, color="0.4", lw=0.8)
        axes.plot([c.ratio for c in point.comparisons], y, "o")
        axes.set_yticks(list(y), [c.what for c in point.comparisons], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("model / known")
    figure.suptitle(f"{point.title} ({point.tolerance()}, {point.misses} missed)", fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None} if path.endswith(".png") else None)
    return path
