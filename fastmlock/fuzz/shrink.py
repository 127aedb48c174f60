"""Makes a program that shows something as small as it can be: delta debugging over its lines, then over its numbers."""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from fastmlock.scenario.language import ScenarioError, parse

Shows = Callable[[list[str]], bool]
_NUMBER = re.compile(r"(?<= )\d+(?= |$)")


def shrink(lines: Sequence[str], shows: Shows, *, most: int = 2000) -> list[str]:
    """The smallest program found that `shows` still holds for; no single line of it can be left out.

    `shows` is asked at most `most` times, and only for programs that the language accepts.
    """
    asked = 0

    def still(program: list[str]) -> bool:
        nonlocal asked
        if asked >= most:
            return False
        try:
            parse("\n".join(program) + "\n")
        except ScenarioError:
            return False
        asked += 1
        return shows(program)

    kept = list(lines)
    while True:
        before = kept
        kept = _fewer_lines(kept, still)
        kept = _smaller_numbers(kept, still)
        if kept == before:
            return kept


def _fewer_lines(lines: list[str], still: Shows) -> list[str]:
    """Zeller's ddmin, by complements only: blocks of half the lines first, single lines last."""
    size = max(1, len(lines) // 2)
    while True:
        at, smaller = 0, False
        while at < len(lines):
            rest = lines[:at] + lines[at + size:]
            if rest and still(rest):
                lines, smaller = rest, True
            else:
                at += size
        if size == 1 and not smaller:
            return lines
        size = max(1, size // 2)


def _smaller_numbers(lines: list[str], still: Shows) -> list[str]:
    for at in range(len(lines)):
        position = 0
        while (match := _NUMBER.search(lines[at], position)) is not None:
            value = int(match[0])
            for less in dict.fromkeys((0, 1, 2, value // 2, value - 1)):
                if not 0 <= less < value:
                    continue
                line = lines[at][:match.start()] + str(less) + lines[at][match.end():]
                if still([*lines[:at], line, *lines[at + 1:]]):
                    lines = [*lines[:at], line, *lines[at + 1:]]
                    break
            position = match.start() + 1
    return lines
