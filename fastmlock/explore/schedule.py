"""Pinned orders of a race: whose turn it is, and how far each turn goes.

    >>> print(*parse_schedule("p0 until lru_lock, p1 to end, p0 on"), sep="; ")
    p0 until lru_lock; p1 to end; p0 to end

A turn ends
  until LOCK [N]    when the party asks for that lock, the N-th time in this turn, and has not got it
  holding LOCK [N]  when it has just got it, and done nothing under it
  for N             after N requests (locks taken and released, points where the cpu may be given up)
  to end, on        with the call
Parties left over at the end go on to their ends, one after another.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .names import SCHEDULED

if TYPE_CHECKING:
    from .interleave import Interleaving

MOST_STEPS = 100_000
_NAME = re.compile(r"[a-z]+[0-9]{0,2}")


class ScheduleError(ValueError):
    """A schedule that is none, or that cannot be kept. `problem` says what is wrong, `remedy` how to mend it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem, self.remedy = problem, remedy


@dataclass(frozen=True, slots=True)
class Turn:
    """One party's turn: `how` is "until", "holding", "for" or "end"."""

    party: str
    how: str
    lock: str = ""
    count: int = 1

    def __str__(self) -> str:
        if self.how == "end":
            return f"{self.party} to end"
        if self.how == "for":
            return f"{self.party} for {self.count}"
        return f"{self.party} {self.how} {self.lock}" + (f" {self.count}" if self.count > 1 else "")


def parse_schedule(text: str, parties: Sequence[str] = ()) -> tuple[Turn, ...]:
    """Turns separated by commas; `parties`, if given, are those there are. Raises ScheduleError."""
    return tuple(_turn(part.split(), parties) for part in text.split(","))


def _turn(words: list[str], parties: Sequence[str]) -> Turn:
    usage = "write turns as: p0 until lru_lock, p1 to end, p0 on"
    if len(words) < 2:
        raise ScheduleError(f"the turn {' '.join(words)!a} is not complete" if words else "a turn is missing", usage)
    party, how, *rest = words
    if (parties and party not in parties) or not _NAME.fullmatch(party):
        raise ScheduleError(f"no party {party!a} in this race",
                            f"there are: {', '.join(parties)}" if parties else usage)
    if (how == "on" and not rest) or (how == "to" and rest == ["end"]):
        return Turn(party, "end")
    if how == "for" and len(rest) == 1:
        return Turn(party, "for", count=_count(rest[0]))
    if how in ("until", "holding") and 1 <= len(rest) <= 2:
        if rest[0] not in SCHEDULED:
            raise ScheduleError(f"no lock {rest[0]!a}", f"use one of: {', '.join(SCHEDULED)}")
        return Turn(party, how, rest[0], _count(rest[1]) if rest[1:] else 1)
    raise ScheduleError(f"the turn {' '.join(words)!a} is not understood",
                        "use: until LOCK [N], holding LOCK [N], for N, to end, on")


def _count(word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", word) or not 1 <= int(word) <= MOST_STEPS:
        raise ScheduleError(f"{word!a} is not a number of times", f"use 1 to {MOST_STEPS}")
    return int(word)


def play(race: Interleaving, parties: Sequence[str], turns: Sequence[Turn] = ()) -> tuple[int, ...]:
    """Runs the race by the schedule, then each party left to its end. -> the party that took each step.

    `parties` names the parties in the race's order. Raises ScheduleError where a turn cannot be kept. A party that
    fails ends the play; the world's error says why.
    """
    order: list[int] = []
    for turn in turns:
        if turn.party not in parties:
            raise ScheduleError(f"no party {turn.party!a} in this race", f"there are: {', '.join(parties)}")
        _play_turn(race, parties, parties.index(turn.party), turn, order)
    while race.failed() is None and not race.over():
        ready = [i for i in range(len(race)) if race.ready(i)]
        if not ready:
            waits = "; ".join(_waits(race, parties, i) for i in range(len(race)) if not race.done(i))
            raise ScheduleError(f"nobody can go on: {waits}", "this is a deadlock of the kernel, or of the model")
        while race.ready(ready[0]):
            race.step(ready[0])
            order.append(ready[0])
    return tuple(order)


def _play_turn(race: Interleaving, parties: Sequence[str], i: int, turn: Turn, order: list[int]) -> None:
    found = steps = 0
    if turn.how == "holding" and _stands_at(race, i, turn.lock):
        found = 1                               # asked for in an earlier turn, taken in this one
    while race.failed() is None:
        if turn.lock and found == turn.count:
            if turn.how == "holding":
                _must_be_ready(race, parties, i, turn)
                race.grant(i)
            return
        if (turn.how == "for" and steps == turn.count) or (turn.how == "end" and race.done(i)):
            return
        if race.done(i):
            raise ScheduleError(f"{turn} cannot be kept: {turn.party} has come to its end before",
                                f"write {turn.party} to end, or another lock")
        _must_be_ready(race, parties, i, turn)
        race.step(i)
        order.append(i)
        steps += 1
        found += _stands_at(race, i, turn.lock)


def _stands_at(race: Interleaving, i: int, lock: str) -> bool:
    asks = race.asks(i)
    return bool(asks and asks[0] == lock)


def _must_be_ready(race: Interleaving, parties: Sequence[str], i: int, turn: Turn) -> None:
    if not race.ready(i):
        raise ScheduleError(f"{turn} cannot be kept: {_waits(race, parties, i)}", "give the other one a turn before")


def _waits(race: Interleaving, parties: Sequence[str], i: int) -> str:
    other = race.hindered_by(i)
    asks = race.asks(i)
    holder = "nobody in this race" if other is None or other < 0 else parties[other]
    if other is not None and other >= 0 and (not asks or not any(lock[:2] == asks for lock in race.held(other))):
        return f"{parties[i]} needs the cpu that {holder} keeps, with preemption off"
    return f"{parties[i]} waits for {asks[0] if asks else 'its cpu'}, which {holder} holds"


def turns_of(race: Interleaving, parties: Sequence[str], order: Sequence[int]) -> tuple[Turn, ...]:
    """Plays an order step by step and says it in turns; the race is run to where the order ends."""
    turns: list[Turn] = []
    at = 0
    while at < len(order):
        i, first = order[at], at
        asked: dict[str, int] = {}
        while at < len(order) and order[at] == i:
            race.step(i)
            at += 1
            asks = race.asks(i)
            if asks:
                asked[asks[0]] = asked.get(asks[0], 0) + 1
        asks = race.asks(i)
        if race.done(i) or at == len(order):
            turns.append(Turn(parties[i], "end"))
        elif asks and asks[0] in SCHEDULED:
            turns.append(Turn(parties[i], "until", asks[0], asked[asks[0]]))
        else:
            turns.append(Turn(parties[i], "for", count=at - first))
    return tuple(turns)
