"""The words of one command, and what can be wrong with them."""
from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from .commands import MAX_NAME, MAX_PROCESSES
from .system import PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE

NUMBER = re.compile(r"[+-]?[0-9]{1,20}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
PROCESSES = re.compile(r"p([0-9]{1,9})(?:-([0-9]{1,9}))?")
LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
INT_MIN, INT_MAX = -(2**31), 2**31 - 1


class ScenarioError(ValueError):
    """A scenario that cannot be run. str() is one line: ``FILE:LINE: what is wrong; how to mend it``.

    `line` counts from 1; 0, and left out of the text, where the file as a whole is meant.
    """

    def __init__(self, file: str, line: int, problem: str, remedy: str) -> None:
        self.file, self.line, self.problem, self.remedy = file, line, problem, remedy
        where = f"{file}:{line}" if line else file
        super().__init__(one_line(f"{where}: {problem}; {remedy}"))


class Wrong(Exception):
    """What is wrong with the command being parsed, and how to mend it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


def one_line(text: str) -> str:
    return "".join(ch if ch.isprintable() else "?" for ch in text)


def quoted(word: str) -> str:
    return ascii(word if len(word) <= 40 else word[:37] + "...")


class Words:
    """The words of one command, taken from left to right."""

    def __init__(self, words: list[str], usage: str) -> None:
        self.words, self.usage, self.at = words, usage, 0

    def wrong(self, problem: str) -> Wrong:
        return Wrong(problem, f"write: {self.usage}")

    def take(self, what: str) -> str:
        if self.at >= len(self.words):
            raise self.wrong(f"{what} is missing")
        self.at += 1
        return self.words[self.at - 1]

    def values(self, *keys: str) -> dict[str, str]:
        """Takes the words KEY=VALUE of these keys out of those left."""
        found: dict[str, str] = {}
        for word in self.words[self.at:]:
            key, equals, value = word.partition("=")
            if equals and key in keys:
                if key in found:
                    raise self.wrong(f"{key}= is there twice")
                found[key] = value
                self.words.remove(word)
        return found

    def others(self, choices: Collection[str]) -> list[str]:
        """Takes the words that are none of `choices` out of those left."""
        found = [word for word in self.words[self.at:] if word not in choices]
        self.words[self.at:] = [word for word in self.words[self.at:] if word in choices]
        return found

    def options(self, bits: Mapping[str, int]) -> int:
        """Takes all words that are left: options, as the bits they stand for."""
        flags = 0
        while self.at < len(self.words):
            word = self.take("an option")
            if word not in bits:
                raise self.wrong(f"{quoted(word)} is not an option")
            flags |= bits[word]
        return flags

    def choice(self, what: str, choices: tuple[str, ...]) -> str:
        word = self.take(what)
        if word not in choices:
            raise Wrong(f"{what} is {quoted(word)}", f"use one of: {', '.join(choices)}")
        return word

    def number(self, what: str, low: int, high: int) -> int:
        return number(self.take(what), what, low, high)

    def pages(self, what: str) -> int:
        """Any offset or length in pages that a system call can be given."""
        return self.number(what, LONG_MIN // PAGE_SIZE, LONG_MAX // PAGE_SIZE)

    def name(self, what: str) -> str:
        return name(self.take(what), what)

    def protection(self) -> int:
        word = self.take("the protection")
        if word == "none":
            return 0
        bits = {"r": PROT_READ, "w": PROT_WRITE, "x": PROT_EXEC}
        if any(letter not in bits for letter in word):
            raise Wrong(f"the protection is {quoted(word)}", "use none or letters of rwx")
        return sum(bits[letter] for letter in set(word))

    def end(self) -> None:
        if self.at < len(self.words):
            raise self.wrong(f"{quoted(self.words[self.at])} is one word too many")


def number(word: str, what: str, low: int, high: int) -> int:
    if not NUMBER.fullmatch(word):
        raise Wrong(f"{what} is {quoted(word)}, not a number", "write a decimal integer")
    value = int(word)
    if not low <= value <= high:
        raise Wrong(f"{what} {value} is out of range", f"use {low} to {high}")
    return value


def name(word: str, what: str) -> str:
    if not NAME.fullmatch(word):
        raise Wrong(f"{what} {quoted(word)} is not a name",
                     "use letters, digits and _ . - (not first)")
    if len(word) > MAX_NAME:
        raise Wrong(f"{what} {quoted(word)} is too long", f"use at most {MAX_NAME} characters")
    return word


def processes(word: str) -> range:
    match = PROCESSES.fullmatch(word)
    if not match:
        raise Wrong(f"{quoted(word)} is not a process", "write p0 to p71, or p0-7 for several")
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if max(first, last) >= MAX_PROCESSES:
        raise Wrong(f"{word} is out of range", f"use p0 to p{MAX_PROCESSES - 1}")
    if last < first:
        raise Wrong(f"{word} is no process at all", "write the lower number first")
    return range(first, last + 1)
