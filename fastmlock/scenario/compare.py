"""Holds the records of one run of a scenario against a recording of a real kernel.

Of every step
  hard   ret, err, sig; VmLck; VMAs; of every page its kind, mapcount, the flags L U M a s T z, and
         mlock_count where the recording has one; the change in this step of the seven
         unevictable_pgs_* events, of nr_mlock, of nr_unevictable and of hugetlb's free and reserved pages
  soft   the flags A R D S W of every page
Not looked at: pages that the recorder did not know ("?"); page state of steps in which the recording's
repetitions disagree, and counters and soft flags where those do; counters of a machine that other
programs used (6.18); page state and counters from a `compact` on, which moves pages as chance has it.
"""
from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]

COUNTERS = (
    "unevictable_pgs_culled", "unevictable_pgs_scanned", "unevictable_pgs_rescued",
    "unevictable_pgs_mlocked", "unevictable_pgs_munlocked", "unevictable_pgs_cleared",
    "unevictable_pgs_stranded", "nr_mlock", "nr_unevictable", "HugePages_Free", "HugePages_Rsvd",
)
HARD_FLAGS, SOFT_FLAGS = frozenset("LUMasTz"), frozenset("ARDSW")
SEEN_PAGES = frozenset("fac")


class RecordError(ValueError):
    """Not the records of a scenario run; str() is one line that says where and why."""


@dataclass(frozen=True, slots=True)
class StepDifference:
    step: int
    cmd: str
    hard: tuple[str, ...]
    soft: tuple[str, ...]

    def lines(self, most: int = 6) -> Iterator[str]:
        """The step, and its first `most` differences, hard ones first, indented."""
        yield f"step {self.step}: {self.cmd}"
        texts = [*self.hard, *(f"(soft) {text}" for text in self.soft)]
        yield from (f"    {text}" for text in texts[:most])
        if len(texts) > most:
            yield f"    and {len(texts) - most} more"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing one run with one recording; all counts are of the recording's steps."""

    steps: int
    equal: int
    """Steps equal in every hard field."""
    equal_soft: int
    """Steps equal in the soft fields too."""
    fields: int
    """Hard fields looked at, over all steps."""
    unsettled_state: int
    """Steps whose page state is left out since the repetitions of the recording disagree."""
    unsettled_counters: int
    """Steps whose counters and soft flags are left out for that reason."""
    differing: tuple[StepDifference, ...]

    @property
    def ok(self) -> bool:
        return self.equal == self.steps

    def __str__(self) -> str:
        return f"steps {self.steps}, equal {self.equal}, equal with soft flags {self.equal_soft}"


@dataclass(slots=True)
class _Look:
    """Collects the differences of one step; says which fields of it count."""

    state: bool
    everything: bool
    pages: bool
    counters: Collection[str]
    partly_seen: bool
    hard: list[str] = field(default_factory=list)
    soft: list[str] = field(default_factory=list)
    fields: int = 0

    def same(self, what: str, mine: object, real: object) -> None:
        self.fields += 1
        if mine != real:
            self.hard.append(f"{what}: model {mine!r}, real {real!r}")


def compare(mine: Iterable[Record], real: Sequence[Record], *,
            counters: bool | Collection[str] | None = None, partly_seen: bool = False) -> Comparison:
    """Compares a run with a recording, step by step. Raises `RecordError` on what is neither.

    `counters` says whether the counters were the scenario's own, or which; None: all but for the shared machine of
    6.18. With `partly_seen` a page of which only the kind was seen (mapcount -1) is held against that alone.
    """
    try:
        return _compare(mine, real, counters, partly_seen)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"not records of a scenario: {type(error).__name__}: {error}") from error


def with_repetitions(records: Sequence[Record], others: Sequence[Record]) -> list[dict[str, Any]]:
    """A recording whose `agree` also counts another recording of the same scenario on the same kernel: what the two do
    not have alike, or the other's own repetitions not, is not settled. Raises `RecordError`."""
    differing = {one.step: one for one in compare(records, others).differing}
    agree_of = {other["step"]: other["agree"] for other in others if other.get("step")}
    counted = []
    for record in records:
        if record.get("step"):
            state, everything, times = agree_of[record["step"]]
            mine = record.get("agree", (1, 1, 1))
            one = differing.get(record["step"])
            record = {**record, "agree": [state + mine[0] * (one is None or not one.hard),
                                          everything + mine[1] * (one is None), times + mine[2]]}
        counted.append(dict(record))
    return counted


def _compare(mine: Iterable[Record], real: Sequence[Record], counters: bool | Collection[str] | None,
             partly_seen: bool) -> Comparison:
    if counters is None:
        counters = not str(real[0].get("kernel", "")).startswith("6.18")
    names = COUNTERS if counters is True else tuple(counters or ())
    of_step = {record.get("step"): record for record in mine if record.get("step")}
    steps = equal = equal_soft = fields = unsettled_state = unsettled_counters = 0
    differing: list[StepDifference] = []
    moved = False
    for record in real:
        if not record.get("step"):
            continue
        steps += 1
        moved = moved or record["cmd"].startswith("compact")
        agree = record.get("agree", (1, 1, 1))
        unsettled_state += agree[0] != agree[2]
        unsettled_counters += agree[1] != agree[2]
        everything = agree[1] == agree[2] and not moved
        look = _Look(state=agree[0] == agree[2], everything=everything, pages=not moved,
                     counters=names if everything else (), partly_seen=partly_seen)
        _step(look, of_step.get(record["step"]), record)
        fields += look.fields
        equal += not look.hard
        equal_soft += not look.hard and not look.soft
        if look.hard or look.soft:
            differing.append(StepDifference(record["step"], record["cmd"], tuple(look.hard), tuple(look.soft)))
    return Comparison(steps, equal, equal_soft, fields, unsettled_state, unsettled_counters, tuple(differing))


def _step(look: _Look, mine: Record | None, real: Record) -> None:
    if mine is None:
        look.hard.append("step missing")
        return
    if mine.get("cmd", real["cmd"]) != real["cmd"]:
        look.hard.append(f"cmd: model ran {mine['cmd']!r}")
    for key, none in (("ret", 0), ("err", ""), ("sig", 0)):
        look.same(key, mine.get(key) or none, real.get(key) or none)
    if look.state:
        for process, state in real.get("p", {}).items():
            _process(look, process, mine.get("p", {}).get(process), state)
        if look.pages:
            for file, runs in real.get("f", {}).items():
                _pages(look, file, mine.get("f", {}).get(file, []), runs)
    for name in COUNTERS:
        if name in look.counters:
            look.same(name, mine.get("dvs", {}).get(name, 0), real.get("dvs", {}).get(name, 0))


def _process(look: _Look, where: str, mine: Record | None, real: Record) -> None:
    if mine is None:
        look.hard.append(f"{where}: missing")
        return
    look.same(f"{where} VmLck", mine.get("VmLck"), real.get("VmLck"))
    for name, region in real["reg"].items():
        got = mine.get("reg", {}).get(name)
        if got is None:
            look.hard.append(f"{where}.{name}: missing")
            continue
        look.same(f"{where}.{name} vma", got["vma"], region["vma"])
        if look.pages:
            _pages(look, f"{where}.{name}", got["pg"], region["pg"])


def _pages(look: _Look, where: str, mine: Sequence[Any], real: Sequence[Any]) -> None:
    """Compares runs [first, last, kind, mapcount, flags, mlock_count] page by page."""
    look.fields += sum((last - first + 1) * (3 + (count >= 0))
                       for first, last, kind, _, _, count in real if kind != "?")
    if mine == real:
        return
    got, want = _by_page(mine), _by_page(real)
    hard, soft = [], []
    for index in sorted(want):
        kind, mapcount, flags, count = want[index]
        if kind == "?":
            continue
        page = got.get(index)
        if page is None:
            hard.append((index, f"missing, real {_shown(want[index])}"))
        elif look.partly_seen and mapcount < 0 and kind in SEEN_PAGES:
            if page[0] != kind:
                hard.append((index, f"model {page[0]}, real {kind}"))
        elif (page[0] != kind or page[1] != mapcount or (count >= 0 and page[3] != count)
              or HARD_FLAGS & set(page[2]) != HARD_FLAGS & set(flags)):
            hard.append((index, f"model {_shown(page)}, real {_shown(want[index])}"))
        elif look.everything and SOFT_FLAGS & set(page[2]) != SOFT_FLAGS & set(flags):
            soft.append((index, f"flags {page[2]}, real {flags}"))
    look.hard.extend(_joined(where, hard))
    look.soft.extend(_joined(where, soft))


def _by_page(runs: Sequence[Any]) -> dict[int, Sequence[Any]]:
    return {index: run[2:] for run in runs for index in range(run[0], run[1] + 1)}


def _shown(page: Sequence[Any]) -> str:
    kind, mapcount, flags, count = page
    text = f"{kind} mapcount {mapcount} {flags or 'no flags'}"
    return text if count < 0 else f"{text} mlock_count {count}"


def _joined(where: str, lines: list[tuple[int, str]]) -> Iterator[str]:
    """One line for neighbouring pages that differ alike."""
    start = 0
    for at, (index, text) in enumerate(lines, 1):
        if at == len(lines) or lines[at] != (index + 1, text):
            first = lines[start][0]
            pages = str(first) if first == index else f"{first}-{index}"
            yield f"{where}[{pages}]: {text}"
            start = at


def read_records(text: bytes | str, name: str) -> list[dict[str, Any]]:
    """The records in JSON lines; blank lines are none. Raises `RecordError`, which names `name`."""
    records = []
    if isinstance(text, str):
        text = text.encode()
    for at, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{name}:{at}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise RecordError(f"{name}:{at}: not a record: a JSON object is wanted")
        records.append(record)
    if not records:
        raise RecordError(f"{name}: no records in it")
    return records


def load_records(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records in a file of JSON lines. Raises `RecordError` or OSError."""
    with open(path, "rb") as stream:
        return read_records(stream.read(), os.fspath(path))
