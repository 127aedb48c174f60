"""Races of a scenario, played or searched, and what came of them in words.

    >>> from fastmlock.explore.race import search
    >>> found = search(default_race("p0 munlock A 0 1 | p1 munlock A 0 1"), "5.17-rc2+10")
    >>> [str(one.schedule) for one in found.outcomes if one.audit.left_unevictable]
    ['p0 until lru_lock, p1 to end, p0 to end']
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fastmlock.audit.account import Audit, audit
from fastmlock.scenario import commands as c
from fastmlock.scenario import language, races
from fastmlock.scenario.observe import changes
from fastmlock.scenario.run import Reply, Runner
from fastmlock.scenario.system import NotSupported

from .outcome import Found
from .schedule import play, turns_of
from .search import Search

__all__ = ["Outcome", "Played", "Searched", "default_race", "play_all", "search"]


@dataclass(frozen=True)
class Outcome:
    """One final state of a race, every CPU's batches drained."""

    schedule: str
    """An order with the fewest switches that leads here."""
    switches: int
    states: int
    """Different states of the machine that look like this from outside."""
    answers: tuple[Reply, ...]
    counters: dict[str, int]
    """What the race changed in /proc/vmstat."""
    pages: tuple[str, ...]
    """Each page of each file, and of each process's anonymous regions: "f[0] mapcount 2 LUM mlock_count 2"."""
    audit: Audit
    problem: str = ""
    """Why nobody could go on, if so."""


@dataclass(frozen=True)
class Searched:
    """All final states of one race."""

    command: c.Race
    kernel: str
    outcomes: tuple[Outcome, ...]
    states: int
    steps: int


@dataclass(frozen=True)
class Played:
    """One race of a scenario, in the order that its schedule pins."""

    command: c.Race
    outcome: Outcome


def search(scenario: c.Scenario, kernel: str, *, cpus: int = 2, max_states: int = 200_000,
           fine: bool = False) -> Searched:
    """Runs a scenario up to its first race and finds every final state of that race, whatever its schedule says.

    With `fine`, parties may also be interrupted between two pages of a batch, though not by those who need its lock.
    Raises ScenarioError if there is no race in it, SearchLimit, NotSupported, UnknownKernel.
    """
    from fastmlock.system import System

    system = System(kernel, cpus=cpus)
    runner = Runner(scenario, system)
    runner.start()
    command = _up_to_race(runner)
    before = dict(system.vmstat())
    started = races.Started(runner, command)
    if started.race is None:
        raise language.ScenarioError(scenario.name, command.line, "no command of this race enters the kernel",
                                     "see that its processes live and its arguments are valid")
    system.fine = fine
    finder = Search(started.race, max_states)
    found = finder.run()
    orders = [one.order for one in found]
    outcomes = []
    for one, order in zip(found, orders):
        schedule = _schedule(started, finder, order)
        finder.restore(one)
        outcomes.append(_outcome(runner, started, before, schedule, one))
    return Searched(command, kernel, tuple(outcomes), finder.states, finder.steps)


def play_all(scenario: c.Scenario, kernel: str, *, cpus: int = 2) -> list[Played]:
    """Runs a scenario and says of each of its races what its schedule comes to. Raises ScenarioError, NotSupported."""
    from fastmlock.system import System

    system = System(kernel, cpus=cpus)
    runner = Runner(scenario, system)
    runner.start()
    played = []
    for command in scenario.commands:
        if not isinstance(command, c.Race):
            runner.step(command)
            continue
        before = dict(system.vmstat())
        started = races.Started(runner, command)
        order: tuple[int, ...] = ()
        with races.told(runner, command):
            if started.race is not None:
                order = play(started.race, started.parties,
                             [turn for turn in command.turns if turn.party in started.parties])
                system.check()
                started.race.settle()
        switches = sum(a != b for a, b in pairwise(order))
        text = ", ".join(map(str, command.turns)) or ", ".join(f"{one} to end" for one in command.parties)
        played.append(Played(command, _outcome(runner, started, before, text, Found(0, order, switches, 1))))
    if not played:
        raise language.ScenarioError(scenario.name, 0, "no race in it", f"add one: {races.USAGE}")
    return played


def default_race(operations: str, *, pages: int = 1, name: str = "<race>") -> c.Scenario:
    """A scenario for bare operations, ``p0 munlock A 0 1 | p1 munlock A 0 1 [: SCHEDULE]``.

    A is a settled tmpfs file of `pages` pages, mapped shared and touched by every process named, each on a CPU of its
    own; those that do not begin with a mlock have locked it before. Raises ScenarioError.
    """
    parts, _ = races.split(operations.split())
    lines = [f"file f tmpfs {pages}"]
    processes = [part[0] for part in parts if part and part[0][:1] == "p" and part[0][1:].isdigit()]
    lockers = [part[0] for part in parts if part and part[0] in processes
               and part[1:2] not in (["mlock"], ["mlock2"], ["mlockall"])]
    for at, process in enumerate(processes):
        lines += [f"{process} cpu {at}", f"{process} mmap A f shared rw 0 {pages}", f"{process} touch A 0 {pages} r"]
    lines += [f"{process} mlock A 0 {pages}" for process in lockers]
    return language.parse("\n".join([*lines, "drain", f"race {operations}"]) + "\n", name)


def _up_to_race(runner: Runner) -> c.Race:
    for command in runner.scenario.commands:
        if isinstance(command, c.Race):
            return command
        runner.step(command)
    raise language.ScenarioError(runner.scenario.name, 0, "no race in it", f"add one: {races.USAGE}")


def _schedule(started: races.Started, finder: Search, order: Sequence[int]) -> str:
    """The order in words, found by playing it from the start."""
    assert started.race is not None
    finder.rewind()
    return ", ".join(map(str, turns_of(started.race, started.parties, order)))


def _outcome(runner: Runner, started: races.Started, before: dict[str, int], schedule: str, found: Found) -> Outcome:
    system = started.system
    problem = ""
    if started.race is not None and not started.race.over():
        problem = "deadlock: nobody can go on"
    try:
        system.check()
    except NotSupported as error:
        problem = str(error)
    return Outcome(schedule, found.switches, found.states, tuple(started.answers()),
                   changes(dict(system.vmstat()), before), tuple(_pages(runner)), audit(system), problem)


def _pages(runner: Runner) -> list[str]:
    system, lines = runner.system, []
    for file in runner.files:
        for index in range(file.pages):
            pfn = system.cached(file.id, index)
            if pfn:
                lines.append(f"{file.name}[{index}] {_page(*system.page(pfn))}")
    for number, process in enumerate(runner.processes):
        if process.pid is None or not system.alive(process.pid):
            continue
        for region in process.regions:
            for index in range(region.pages):
                kind, pfn = system.pte(process.pid, region.addr + index * 4096)
                if kind == "a":
                    lines.append(f"p{number}.{region.name}[{index}] {_page(*system.page(pfn))}")
    return lines


def _page(mapcount: int, flags: str, count: int) -> str:
    shown = "".join(flag for flag in flags if flag in "LUM") or "-"
    return f"mapcount {mapcount} {shown}" + (f" mlock_count {count}" if count >= 0 else "")
