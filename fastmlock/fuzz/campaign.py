"""Many programs on two systems: from a seed, with checkpoints, and with each difference made small."""
from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .generate import EVERYTHING, Profile, program
from .pair import Difference, Fault, Outcome
from .shrink import shrink

Against = Callable[[Sequence[str]], Outcome]
"""Runs a program on the two systems of the campaign."""


@dataclass
class Totals:
    """What a campaign has come to so far."""

    programs: int = 0
    steps: int = 0
    soft: int = 0
    unsettled: int = 0
    differences: int = 0
    faults: int = 0
    unsupported: Counter[str] = field(default_factory=Counter)
    """Lines left out, by what is not supported."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """What the programs did (`fastmlock.fuzz.coverage`)."""
    files: list[str] = field(default_factory=list)
    """The shrunk programs that were written."""

    def add(self, outcome: Outcome) -> None:
        self.programs += 1
        self.steps += outcome.steps
        self.soft += outcome.soft
        self.unsettled += outcome.unsettled
        self.differences += outcome.difference is not None
        self.unsupported.update(outcome.unsupported)
        self.outcomes.update(outcome.outcomes)

    def lines(self) -> Iterator[str]:
        yield (f"{self.programs} programs, {self.steps} steps: {self.differences} programs differ, "
               f"{self.faults} broke a system down")
        if self.unsettled:
            yield f"{self.unsettled} steps changed from run to run on the live kernel and were not counted"
        if self.soft:
            yield f"{self.soft} steps differ in soft flags (A R D S W) only"
        for what, times in sorted(self.unsupported.items()):
            yield f"{times} lines left out: {what}"


@dataclass(frozen=True)
class Campaign:
    """`programs` programs of `seed` from index `first` on, run by `against`.

    With `folder`, differing programs are shrunk and written there as scenario files, and `checkpoint.json` in it says
    how far the campaign has come; run again with the same arguments it goes on from there.
    """

    seed: str
    programs: int
    against: Against
    first: int = 0
    profile: Profile = EVERYTHING
    folder: Path | None = None
    shrinks: int = 20
    """Differences made small; shrinking costs hundreds of runs, and many differences have one cause."""
    names: str = "two systems"

    def run(self, progress: Callable[[int], object] = lambda done: None) -> Totals:
        """Runs it, or the rest of it. `progress` is told the programs done."""
        totals = self._resume()
        try:
            for index in range(self.first + totals.programs, self.first + self.programs):
                self._one(index, totals)
                progress(totals.programs)
                if totals.programs % 100 == 0:
                    self._save(totals)
        finally:
            self._save(totals)
        return totals

    def _one(self, index: int, totals: Totals) -> None:
        lines = program(self.seed, index, self.profile).splitlines()
        try:
            outcome = self.against(lines)
        except Fault as fault:
            totals.programs += 1
            totals.faults += 1
            kind = _kind(str(fault))
            self._keep(index, lines, f"broke down at {fault}", totals,
                       lambda trial: _fault_kind(self.against, trial) == kind)
            return
        totals.add(outcome)
        if outcome.difference is not None:
            self._keep(index, outcome.lines, str(outcome.difference), totals, self._differs)

    def _differs(self, lines: list[str]) -> bool:
        try:
            return self.against(lines).difference is not None
        except Fault:
            return False

    def _keep(self, index: int, lines: list[str], what: str, totals: Totals,
              shows: Callable[[list[str]], bool]) -> None:
        if self.folder is None:
            totals.files.append(f"program {index}: {what}")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if len(totals.files) < self.shrinks:
            lines = shrink(lines, shows, most=600)
            what = self._why(lines) or what
        path = self.folder / f"d{index:06}.txt"
        head = [f"# {self.names}, seed {self.seed}, program {index}", f"# {what}"]
        path.write_text("\n".join([*(line[:190] for line in head), *lines]) + "\n")
        totals.files.append(str(path))

    def _why(self, lines: list[str]) -> str:
        try:
            difference: Difference | None = self.against(lines).difference
        except Fault as fault:
            return f"broke down at {fault}"
        return str(difference) if difference is not None else ""

    # ---- checkpoints

    @property
    def _checkpoint(self) -> Path | None:
        return None if self.folder is None else self.folder / "checkpoint.json"

    def _identity(self) -> list[object]:
        return [self.seed, self.first, self.names, repr(self.profile)]

    def _resume(self) -> Totals:
        if self._checkpoint is None or not self._checkpoint.exists():
            return Totals()
        saved = json.loads(self._checkpoint.read_text())
        if saved.pop("campaign") != self._identity():
            return Totals()
        for name in ("unsupported", "outcomes"):
            saved[name] = Counter(saved[name])
        return Totals(**saved)

    def _save(self, totals: Totals) -> None:
        if self._checkpoint is None:
            return
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._checkpoint.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps({"campaign": self._identity(), **vars(totals)}, indent=1))
        unfinished.replace(self._checkpoint)


def _kind(text: str) -> str:
    """An error without the line it was met at."""
    return text.partition("): ")[2]


def _fault_kind(against: Against, lines: list[str]) -> str:
    try:
        against(lines)
    except Fault as fault:
        return _kind(str(fault))
    return ""
