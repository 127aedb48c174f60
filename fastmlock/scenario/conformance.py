"""Every recorded scenario on every recorded kernel, held against a model; the result as a table."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from fastmlock.kernels import get

from . import recordings
from .commands import Fork, Scenario
from .compare import Comparison, compare
from .image import LIKELIEST, ORDERS, STACKS, Chance, Order
from .language import ScenarioError
from .run import Record, run
from .system import NotSupported, SystemUnderTest

SystemFactory = Callable[[str], SystemUnderTest]
"""Makes a fresh system of a release of the model."""


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario on one kernel: compared, or not supported."""

    kernel: str
    scenario: str
    comparison: Comparison | None
    unsupported: str = ""
    """What the model lacks, if it could not run the scenario: ``not supported: ...``."""
    failure: str = ""
    """What ended the run early: a scenario that went where the real kernel did not, or an error of the model."""

    chance: Chance = LIKELIEST
    """What the recorder is taken to have owed to chance."""

    @property
    def ok(self) -> bool:
        return not self.failure and (self.comparison is None or self.comparison.ok)


@dataclass(frozen=True, slots=True)
class Row:
    """What a kernel's results add up to."""

    kernel: str
    scenarios: int
    steps: int
    equal: int
    equal_soft: int
    fields: int
    unsettled_state: int
    unsettled_counters: int
    unsupported: int
    failures: int


def choose(kernels: Sequence[str] = (), scenarios: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The recorded (kernel, scenario) meant; both empty for all. Scenarios may be patterns like ``s2*``.

    Raises `recordings.UnknownRecording` for a kernel that was not recorded and a pattern that fits nothing.
    """
    chosen = list(dict.fromkeys(recordings.recorded(name) for name in kernels)) or list(recordings.kernels())
    pairs = []
    for kernel in chosen:
        there = recordings.scenarios(kernel)
        pairs += [(kernel, name) for name in there
                  if not scenarios or any(fnmatchcase(name, pattern) for pattern in scenarios)]
    for pattern in scenarios:
        if not any(fnmatchcase(name, pattern) for _, name in pairs):
            known = sorted({name for kernel in chosen for name in recordings.scenarios(kernel)})
            raise recordings.UnknownRecording(f"no recorded scenario {pattern!r}; there are: {', '.join(known)}")
    return pairs


def check(kernel: str, scenario: str, system: SystemFactory) -> Result:
    """Runs one scenario on a fresh system and compares it with the recording made on `kernel`; see `hold`."""
    held = hold(recordings.scenario(scenario), recordings.load(kernel, scenario), recordings.release(kernel), system)
    return replace(held, kernel=kernel, scenario=scenario)


def hold(scenario: Scenario, real: list[Record], release: str, system: SystemFactory) -> Result:
    """Runs a scenario on a fresh system of a release and compares it with a recording of it.

    The recorder's buffers are filled with what it printed, which counters of the whole machine are part of; that is
    taken from the recording. What it owes to chance is not in the recording: where its stack lay shows in what
    mlockall() of its own pages counts, and who went first after a fork in whose copies are marked. If a
    step differs other chances are tried: all placements, then of one fork after the other who went first, and the
    placements once more; all steps are of the one that agrees best.
    """
    best = _run(scenario, real, release, system, LIKELIEST)
    forks = sum(isinstance(command, Fork) for command in scenario.commands)

    def better(chances: Iterable[Chance]) -> None:
        nonlocal best
        for chance in chances:
            if best.comparison is None or best.failure or not best.comparison.differing:
                return
            best = max(best, _run(scenario, real, release, system, chance), key=_agreement)

    better(replace(best.chance, stack=stack) for stack in STACKS)
    usual = (Order(bool(get(release).child_runs_first)),) * forks
    for fork in range(forks):
        before = (best.chance.orders or usual)[:fork]
        after = (best.chance.orders or usual)[fork + 1:]
        better(replace(best.chance, orders=(*before, order, *after)) for order in ORDERS)
    if forks:
        better(replace(best.chance, stack=stack) for stack in STACKS)
    return best


def _agreement(result: Result) -> tuple[int, int]:
    return (0, 0) if result.comparison is None else (result.comparison.equal, result.comparison.equal_soft)


def _run(scenario: Scenario, real: list[Record], release: str, system: SystemFactory, chance: Chance) -> Result:
    mine: list[Record] = []
    failure = ""
    try:
        mine.extend(run(scenario, system(release), kernel=release, image=True, chance=chance, real=real))
    except NotSupported as error:
        return Result(release, scenario.name, None, unsupported=str(error), chance=chance)
    except ScenarioError as error:
        failure = str(error)
    except Exception as error:  # an error of the model is a difference like any other: told, and the table goes on
        failure = f"{type(error).__name__}: {error}".partition("\n")[0]
    return Result(release, scenario.name, compare(mine, real), failure=failure, chance=chance)


def check_all(pairs: Iterable[tuple[str, str]], system: SystemFactory) -> Iterator[Result]:
    """`check` of each (kernel, scenario)."""
    return (check(kernel, scenario, system) for kernel, scenario in pairs)


def summary(results: Iterable[Result]) -> list[Row]:
    """One row per kernel, in the order in which the kernels first come."""
    of_kernel: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        of_kernel[result.kernel].append(result)
    return [_row(kernel, own) for kernel, own in of_kernel.items()]


def _row(kernel: str, results: list[Result]) -> Row:
    compared = [result.comparison for result in results if result.comparison is not None]
    return Row(
        kernel,
        scenarios=len(compared),
        steps=sum(one.steps for one in compared),
        equal=sum(one.equal for one in compared),
        equal_soft=sum(one.equal_soft for one in compared),
        fields=sum(one.fields for one in compared),
        unsettled_state=sum(one.unsettled_state for one in compared),
        unsettled_counters=sum(one.unsettled_counters for one in compared),
        unsupported=sum(bool(result.unsupported) for result in results),
        failures=sum(bool(result.failure) for result in results),
    )


# ---- as text

COLUMNS = ("kernel", "scenarios", "steps", "equal", "with soft", "hard fields",
           "not settled", "not supported", "failed")


def table(results: Sequence[Result], *, each: bool = False) -> Iterator[str]:
    """Lines: the table (of each scenario too, if `each`), what is not settled, what is not supported."""
    rows = []
    for row in summary(results):
        if each:
            rows += [_cells(f"{one.kernel} {one.scenario}", _row(one.kernel, [one]))
                     for one in results if one.kernel == row.kernel]
        rows.append(_cells(row.kernel, row))
    widths = [max(len(cells[at]) for cells in [COLUMNS, *rows]) for at in range(len(COLUMNS))]
    for cells in [COLUMNS, *rows]:
        yield "  ".join([cells[0].ljust(widths[0]), *(
            cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))]).rstrip()
    if any(row.unsettled_counters or row.unsettled_state for row in summary(results)):
        yield ""
        yield ("not settled: steps in which repetitions of the recording disagree with each other, in page state / "
               "in counters or soft flags; these fields of them are left out")
    reasons: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        if result.unsupported:
            reasons[result.unsupported][result.kernel].append(result.scenario)
    for reason, of_kernel in sorted(reasons.items()):
        yield ""
        yield reason
        yield from (f"    {kernel}: {', '.join(names)}" for kernel, names in of_kernel.items())


def _cells(name: str, row: Row) -> tuple[str, ...]:
    return (name, str(row.scenarios), str(row.steps), str(row.equal), str(row.equal_soft), str(row.fields),
            f"{row.unsettled_state}/{row.unsettled_counters}", str(row.unsupported), str(row.failures))


def differences(results: Iterable[Result], *, steps: int = 1) -> Iterator[str]:
    """Lines: the first `steps` differing steps of each result; those with hard differences go first."""
    for result in results:
        found = () if result.comparison is None else result.comparison.differing
        chosen = sorted(found, key=lambda one: not one.hard)[:steps]
        if result.failure:
            yield f"{result.kernel} {result.scenario}: ended early: {result.failure}"
        for one in sorted(chosen, key=lambda one: one.step):
            head, *rest = one.lines()
            yield f"{result.kernel} {result.scenario} {head}"
            yield from rest
