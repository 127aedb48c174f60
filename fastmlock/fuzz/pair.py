"""One program on two systems: what each did, and the first step in which they differ."""
from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from fastmlock.scenario.compare import StepDifference, compare
from fastmlock.scenario.language import ScenarioError, parse
from fastmlock.scenario.run import Record, run
from fastmlock.scenario.system import Maker, NotSupported, opened

from .coverage import outcomes

PAUSE_SECONDS = 0.01
"""By how much the pause before each repetition grows."""


class Fault(Exception):
    """A system broke down; str() is the error it raised."""


@dataclass(frozen=True)
class Difference:
    """Where two runs part: the step (from 1), its command, and what differs, hard differences first."""

    step: int
    cmd: str
    texts: tuple[str, ...]

    def __str__(self) -> str:
        return f"step {self.step}: {self.cmd}: {'; '.join(self.texts[:3])}"


@dataclass
class Outcome:
    """What came of one program."""

    lines: list[str]
    """The program as it was run: without lines that a system has no path for."""
    steps: int = 0
    difference: Difference | None = None
    """The first of them."""
    differing: int = 0
    """Steps that differ."""
    unsupported: list[str] = field(default_factory=list)
    """What was left out and why, ``not supported: ...``."""
    soft: int = 0
    """Steps that differ in flags that do not count as differences."""
    unsettled: int = 0
    """Steps in which the live kernel did one thing in one repetition and another in the next."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """What the first system did (`fastmlock.fuzz.coverage`)."""


def records_of(lines: Sequence[str], make: Maker) -> tuple[list[Record], Exception | None, int]:
    """Runs a program -> its records, what ended it early, and the index of the line that did.

    Raises `Fault` for any error but NotSupported and ScenarioError.
    """
    scenario = parse("\n".join(lines) + "\n")
    records: list[Record] = []
    with opened(make) as system:
        try:
            for record in run(scenario, system, forget_lost=True):
                records.append(record)
        except (NotSupported, ScenarioError) as error:
            return records, error, scenario.commands[max(len(records) - 1, 0)].line - 1
        except (KeyboardInterrupt, OSError):
            raise
        except Exception as error:
            at = scenario.commands[max(len(records) - 1, 0)]
            raise Fault(f"line {at.line} ({at.text}): {type(error).__name__}: {error}") from error
    return records, None, -1


def runnable(lines: Sequence[str], make: Maker) -> tuple[list[str], list[Record], list[str]]:
    """Leaves out the lines that the system cannot run -> (lines, records, what was left out and why)."""
    kept, why = list(lines), list[str]()
    while True:
        try:
            parse("\n".join(kept) + "\n")
        except ScenarioError as error:
            del kept[error.line - 1]
            continue
        records, stopped, at = records_of(kept, make)
        if stopped is None:
            return kept, records, why
        if isinstance(stopped, NotSupported):
            why.append(str(stopped))
        del kept[at]


def exactly(mine: Sequence[Record], other: Sequence[Record]) -> Difference | None:
    """The first difference of any kind: every field of every record counts, all counters and flags too."""
    for a, b in zip(mine, other):
        if a != b and a["step"]:
            return Difference(int(str(a["step"])), str(a["cmd"]), tuple(_fields(a, b)))
    return None


def _fields(a: object, b: object, path: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            if a.get(key) != b.get(key) and key != "dv":
                yield from _fields(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
    else:
        yield f"{path}: {a!r} and {b!r}"


def against_exact(lines: Sequence[str], one: Maker, other: Maker) -> Outcome:
    """Two systems that must agree in everything."""
    kept, mine, why = runnable(lines, one)
    kept2, theirs, why2 = runnable(kept, other)
    if kept2 != kept:
        kept, mine, more = runnable(kept2, one)
        why2 += more
    difference = exactly(mine, theirs)
    return Outcome(kept, len(mine) - 1, difference, differing=difference is not None, unsupported=[*why, *why2],
                   outcomes=outcomes(mine[1:]))


_PAGE = re.compile(r"\S+: model (\S) mapcount (-?\d+) (no flags|\S+)(?: mlock_count -?\d+)?, "
                   r"real (\S) mapcount (-?\d+) (no flags|\S+)")
_AT_BATCH_TIME = frozenset("LUM")
_COUNTED_AT_BATCH_TIME = ("unevictable_pgs_culled", "unevictable_pgs_rescued", "unevictable_pgs_munlocked",
                          "unevictable_pgs_stranded", "nr_mlock", "nr_unevictable")


def batch_time_only(difference: StepDifference) -> bool:
    """Whether a step differs in nothing but when a per-cpu batch was worked off: L, U and M of pages, and counters."""
    for text in difference.hard:
        page = _PAGE.fullmatch(text)
        if page is not None:
            mine, real = (set() if flags == "no flags" else set(flags) for flags in (page[3], page[6]))
            differ = mine ^ real
            if (page[1], page[2]) != (page[4], page[5]) or differ & set("asTz") or not differ & _AT_BATCH_TIME:
                return False
        elif not text.startswith(_COUNTED_AT_BATCH_TIME):
            return False
    return True


def against_live(lines: Sequence[str], model: Maker, live: Maker, *, repeats: int = 12,
                 counters: bool | Collection[str] = True, disturbed: Callable[[], bool] = lambda: False) -> Outcome:
    """A model against a real kernel. A step differs if it differs in each of `repeats` runs of the program.

    Other programs of the machine fill and drain per-cpu batches as they like; what changes from run to run is
    counted as unsettled, not as a difference. So is a step that differs in every run, but in nothing except when a
    batch was worked off, if `disturbed` says that others kept the workers' cpu busy.
    """
    kept, mine, why = runnable(lines, model)
    kept2, real, why2 = runnable(kept, live)
    if kept2 != kept:
        kept, mine, more = runnable(kept2, model)
        why2 += more
    outcome = Outcome(kept, len(mine) - 1, unsupported=[*why, *why2], outcomes=outcomes(mine[1:]))
    always: dict[int, StepDifference] | None = None
    seen: set[int] = set()
    for repeat in range(repeats):
        comparison = compare(mine, real, counters=counters, partly_seen=True)
        differing = {one.step: one for one in comparison.differing if one.hard}
        outcome.soft = comparison.equal - comparison.equal_soft
        seen.update(differing)
        always = differing if always is None else {step: one for step, one in always.items() if step in differing}
        if not always:
            break
        time.sleep(PAUSE_SECONDS * repeat)      # a neighbour's burst of page faults passes
        real, _, _ = records_of(kept, live)
    if always and disturbed():
        always = {step: one for step, one in always.items() if not batch_time_only(one)}
    outcome.unsettled = len(seen.difference(always or {}))
    if always:
        first = always[min(always)]
        outcome.differing = len(always)
        outcome.difference = Difference(first.step, first.cmd, first.hard)
    return outcome
