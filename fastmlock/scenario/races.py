"""The command ``race``: several commands under way at once, in an order that may be pinned.

    race p0 munlock A 0 1 | p1 munlock A 0 1 : p0 until lru_lock, p1 to end, p0 on

What stands between bars are ordinary commands, begun together; behind the colon is the schedule, in the terms of
`fastmlock.explore.schedule`. A party is called by its process, or by its verb where the controller carries it out.
Without a schedule each goes to its end in turn.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from fastmlock.explore.schedule import ScheduleError, Turn, parse_schedule

from . import commands as c
from .system import NotSupported, RacingSystem
from .words import ScenarioError, Words, Wrong

if TYPE_CHECKING:
    from fastmlock.explore.interleave import Interleaving
    from fastmlock.scenario.run import Reply, Runner

MOST = 4
USAGE = "race COMMAND | COMMAND [| COMMAND] [: p0 until lru_lock, p1 to end, p0 on]"
CAN_RACE = (c.RangeCall, c.MlockAll, c.MunlockAll, c.Touch, c.Madvise, c.Mprotect, c.LocalDrain, c.Exit, c.Kill,
            c.Truncate, c.FileRange, c.Drain, c.Compact, c.Reclaim, c.Reap)
VERBS = ("mlock, mlock2, munlock, munmap, mlockall, munlockall, touch, madvise, mprotect, ldrain, exit, kill, "
         "truncate, punch, fadvise, drain, compact, reclaim, reap")


def split(words: list[str]) -> tuple[list[list[str]], list[str]]:
    """The words behind ``race``: those of each command, and those of the schedule."""
    schedule: list[str] = []
    if ":" in words:
        at = words.index(":")
        words, schedule = words[:at], words[at + 1:]
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts, schedule


def parse(at: tuple[int, str], words: Words, command: Callable[[str, list[str]], c.Command | None]) -> c.Race:
    """The command of the words left; `command` parses one of those that race. Raises `Wrong`."""
    taken = words.words[words.at:]
    words.at = len(words.words)
    parts, schedule = split(taken)
    if len(parts) < 2 or not all(parts):
        raise words.wrong("a race needs two commands, with a bar between them")
    if len(parts) > MOST:
        raise Wrong(f"{len(parts)} commands race", f"use at most {MOST}")
    racing: list[c.Command] = []
    names: list[str] = []
    for part in parts:
        one = None if part[0] == "race" else command(" ".join(part), part)
        if one is None or not isinstance(one, CAN_RACE) or (isinstance(one, c.FileRange) and one.verb not in (
                "punch", "fadvise")):
            raise Wrong(f"{' '.join(part)[:40]!a} cannot race", f"use one of: {VERBS}")
        if isinstance(one, c.ProcessCommand):
            if len(one.procs) != 1:
                raise Wrong(f"{part[0]} is more than one party", "give each process a command of its own")
            name = f"p{one.procs.start}"
        else:
            name = part[0]
            if any(not other.startswith("p") or not other[1:].isdigit() for other in names):
                raise Wrong("two commands of the controller race", "it can do one at a time")
        if name in names:
            raise Wrong(f"{name} is in the race twice", "a process can do one thing at a time")
        racing.append(one)
        names.append(name)
    turns: tuple[Turn, ...] = ()
    if ":" in taken:
        try:
            turns = parse_schedule(" ".join(schedule), names)
        except ScheduleError as error:
            raise Wrong(error.problem, error.remedy) from None
    return c.Race(*at, tuple(racing), tuple(names), turns)


class Started:
    """A race whose commands have been begun: the parties that run, and the answers of those that do not."""

    def __init__(self, runner: Runner, command: c.Race) -> None:
        from fastmlock.explore.interleave import Interleaving

        self.runner, self.command = runner, command
        if not hasattr(runner.system, "defer"):
            raise NotSupported("race on this system")
        system = self.system = cast(RacingSystem, runner.system)
        self.replies: list[Reply | int] = []
        system.defer()
        tasks: list[int] = []
        try:
            for part in command.commands:
                reply = runner.step(part)
                begun = system.begun()
                self.replies.append(begun[-1] if len(begun) > len(self.replies_running()) else reply)
        finally:
            tasks = system.deferred_tasks()
        self.parties = [name for name, reply in zip(command.parties, self.replies) if isinstance(reply, int)]
        self.race: Interleaving | None = Interleaving(system, tasks) if tasks else None

    def replies_running(self) -> list[int]:
        return [reply for reply in self.replies if isinstance(reply, int)]

    def answers(self) -> list[Reply]:
        """What each command answered, now that the race is over."""
        from .run import Reply

        return [Reply(*self.system.answer(reply)) if isinstance(reply, int) else reply
                for reply in self.replies]


def run(runner: Runner, command: c.Race) -> Reply:
    """Runs a race by its schedule; the answer is that of the first party, or of the last that answered -1."""
    from fastmlock.explore.schedule import play

    started = Started(runner, command)
    with told(runner, command):
        if started.race is not None:
            play(started.race, started.parties, [turn for turn in command.turns if turn.party in started.parties])
            started.system.check()
    replies = started.answers()
    return next((reply for reply in reversed(replies) if reply.ret == -1), replies[0])


@contextmanager
def told(runner: Runner, command: c.Race) -> Iterator[None]:
    """A schedule that cannot be kept becomes an error of the scenario."""
    try:
        yield
    except ScheduleError as error:
        raise ScenarioError(runner.scenario.name, command.line, error.problem, error.remedy) from None
