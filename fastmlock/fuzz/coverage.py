"""What programs did: each verb with its options, and what came of it, counted."""
from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_PROCESS = re.compile(r"p[0-9]+(-[0-9]+)?")
_VALUES = ("at=", "bytes=", "byteoff=")
_ARROW = " -> "


def outcomes(records: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """"verb options -> what came of it" of each step: an errno, a signal, or "done"."""
    counts: Counter[str] = Counter()
    for record in records:
        words = str(record["cmd"]).split()
        if words and _PROCESS.fullmatch(words[0]):
            words = words[1:]
        if words:
            signal = record.get("sig")
            done = record["err"] or (f"signal {signal}" if signal else "done")
            counts[" ".join([words[0], *_options(words)]) + _ARROW + str(done)] += 1
    return counts


def _options(words: list[str]) -> list[str]:
    """What of a command is a choice among few: no names, no numbers."""
    if words[0] == "mmap":
        return ["anon" if words[2] == "anon" else "file", *_lower(words[3:])]
    if words[0] == "mremap":
        old, new = int(words[3]), int(words[4])
        return ["grow" if new > old else "shrink" if new < old else "same size", *_lower(words[5:])]
    return _lower(words[1:])


def _lower(words: list[str]) -> list[str]:
    found = [word.partition("=")[0] + "=" if word.startswith(_VALUES) else word for word in words]
    return [word for word in found if word[0].islower() and not _PROCESS.fullmatch(word)]


def table(counts: Counter[str]) -> Iterator[str]:
    """One line for each verb with its options: how often, and what came of it."""
    results: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for text, times in counts.items():
        what, _, done = text.rpartition(_ARROW)
        results[what].append((times, done))
    for what, came in sorted(results.items()):
        shown = ", ".join(f"{times} {done}" for times, done in sorted(came, reverse=True))
        yield f"{sum(times for times, _ in came):8} {what}: {shown}"
