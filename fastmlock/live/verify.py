"""Scenarios on the running kernel and on the model of it: how far they agree, and where they first part."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fastmlock.fuzz.pair import Fault, Outcome, against_live
from fastmlock.scenario.commands import Scenario
from fastmlock.scenario.observe import COUNTERS
from fastmlock.scenario.system import SystemUnderTest

from .image import Imaged
from .machine import Machine
from .system import LiveSystem

ModelMaker = Callable[[], SystemUnderTest]


@dataclass(frozen=True)
class Verified:
    """One scenario, run on both."""

    name: str
    outcome: Outcome | None
    fault: str = ""
    """The error that a system broke down with."""

    @property
    def ok(self) -> bool:
        return self.outcome is not None and self.outcome.difference is None

    def as_json(self) -> dict[str, object]:
        if self.outcome is None:
            return {"scenario": self.name, "agrees": False, "fault": self.fault}
        out = self.outcome
        return {"scenario": self.name, "agrees": self.ok, "steps": out.steps, "equal": out.steps - out.differing,
                "soft": out.soft, "unsettled": out.unsettled, "left_out": out.unsupported,
                "first_difference": None if out.difference is None else
                {"step": out.difference.step, "cmd": out.difference.cmd, "what": list(out.difference.texts)}}


def visible_counters(machine: Machine) -> tuple[str, ...]:
    """Those counters that are exact here: all with stat_refresh, else the events."""
    return COUNTERS if machine.refresh else tuple(name for name in COUNTERS if "_pgs_" in name)


def pair_of(machine: Machine, model: ModelMaker) -> tuple[ModelMaker, ModelMaker]:
    """Makers of the model's and of the live system that have the same processes."""
    return (lambda: Imaged(model(), unprivileged=not machine.can_lock)), (lambda: LiveSystem(machine))


def verify(scenarios: Iterable[Scenario], machine: Machine, model: ModelMaker, *,
           repeats: int = 5) -> Iterator[Verified]:
    """Runs each scenario on fresh systems. See `against_live` for `repeats`."""
    mine, live = pair_of(machine, model)
    for scenario in scenarios:
        try:
            yield Verified(scenario.name, against_live(scenario.lines, mine, live, repeats=repeats,
                                                       counters=visible_counters(machine),
                                                       disturbed=machine.disturbed))
        except Fault as fault:
            yield Verified(scenario.name, None, str(fault))


def table(results: Iterable[Verified]) -> Iterator[str]:
    """Lines of text: a row for each scenario, what differs below it."""
    rows = list(results)
    width = max((len(row.name) for row in rows), default=8)
    yield f"{'scenario'.ljust(width)}  steps  equal   soft  unsettled"
    for row in rows:
        if row.outcome is None:
            yield f"{row.name.ljust(width)}  broke down: {row.fault}"
            continue
        out = row.outcome
        yield (f"{row.name.ljust(width)}  {out.steps:5}  {out.steps - out.differing:5}  {out.soft:5}  "
               f"{out.unsettled:9}{'' if row.ok else '  differs'}")
        if out.difference is not None:
            yield f"    {out.difference}"
        for what in sorted(set(out.unsupported)):
            yield f"    {out.unsupported.count(what)} left out: {what}"
    outcomes = [row.outcome for row in rows if row.outcome is not None]
    steps = sum(out.steps for out in outcomes)
    soft, unsettled = sum(out.soft for out in outcomes), sum(out.unsettled for out in outcomes)
    yield (f"{len(rows)} scenarios, {sum(row.ok for row in rows)} agree; {steps} steps, "
           f"{steps - sum(out.differing for out in outcomes)} equal; {soft} differ in soft flags (A R D S W) only; "
           f"{unsettled} changed from run to run")
