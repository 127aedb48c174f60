"""What the steps of a scenario left behind, for people to read: one kernel, or several one below the other.

    p0 munlock A 0 1
        5.17-rc2  nr_unevictable -1, mlocked +1; F [0] UM mapped 2
        5.18      no change; F [0] LUM mapped 2 count 1
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Record = dict[str, Any]
_SHOWN = "LUM"


def side_by_side(runs: Mapping[str, Iterable[Record]], *, every: bool = True) -> Iterator[str]:
    """Lines for the records of one scenario on each kernel named: the command, and below it what it left on each, or on
    all of them if that is the same. With `every`, all commands, what processes have locked, and pages whenever they are
    not as they were; else only commands that change a counter or are there to lock and unlock."""
    width = max(map(len, runs), default=0)
    all_of_them = {1: "", 2: "both"}.get(len(runs), "all").ljust(width if len(runs) > 1 else 0)
    before: list[Record | None] = [None] * len(runs)
    for step in zip(*runs.values()):
        command = str(step[0]["cmd"])
        if not command:
            continue                        # the first record, of the machine
        left = [_left(record, last, every) for record, last in zip(step, before)]
        before = list(step)
        if not every and not any(left):
            continue
        yield command
        if len(set(left)) > 1:
            for kernel, text in zip(runs, left):
                yield f"    {kernel.ljust(width)}  {text or 'nothing'}"
        elif left[0]:
            yield f"    {all_of_them}  {left[0]}" if all_of_them else f"    {left[0]}"


def _left(record: Record, before: Record | None, every: bool) -> str:
    """What a step changed, and the pages that it leaves, in one line; "" where no counter changed and no error."""
    changed = [f"{name.removeprefix('unevictable_pgs_')} {value:+d}" for name, value in record["dvs"].items()
               if "active" not in name]
    if record["err"]:
        changed.append(str(record["err"]))
    if every:
        changed += _locked(record, before)
    pages = _pages(record)
    if every and before and not changed and pages != _pages(before):
        return "; ".join(pages)
    if not changed and not _locks(str(record["cmd"])):
        return ""
    return "; ".join([", ".join(changed) or "no change", *pages])


def _pages(record: Record) -> list[str]:
    """Of each file, and the anonymous ones of each region."""
    pages = [f"{name} {_runs(runs)}" for name, runs in record["f"].items()]
    for process, state in record["p"].items():
        for region, seen in state["reg"].items():
            anonymous = [run for run in seen["pg"] if run[2] == "a"]
            if anonymous:
                pages.append(f"{process}.{region} {_runs(anonymous)}")
    return pages


def _locked(record: Record, before: Record | None) -> list[str]:
    """VmLck of the processes in which it is not what it was: "p0-3 VmLck 8 kB"."""
    was = {process: state["VmLck"] for process, state in before["p"].items()} if before else {}
    return [f"p{numbers} {text}" for numbers, text in _together(
        (int(process[1:]), int(process[1:]), f"VmLck {state['VmLck']} kB") for process, state in record["p"].items()
        if state["VmLck"] != was.get(process, 0))]


def _locks(command: str) -> bool:
    words = command.split()
    return (len(words) > 1 and words[1] in ("mlock", "mlock2", "munlock", "munmap", "exit")) or words[0] in (
        "race", "compact", "truncate", "reclaim", "reap")


def _runs(runs: list[list[Any]]) -> str:
    """Pages in equal state: "[0-3] LUM mapped 2 count 2"."""
    shown = []
    for first, last, _, mapcount, flags, count in runs:
        state = "".join(flag for flag in flags if flag in _SHOWN) or "-"
        if mapcount > 0:
            state += f" mapped {mapcount}"
        if count >= 0:
            state += f" count {count}"
        shown.append((first, last, state))
    return " ".join(f"[{pages}] {state}" for pages, state in _together(shown))


def _together(spans: Iterable[tuple[int, int, str]]) -> Iterator[tuple[str, str]]:
    """Spans (first, last, text) that follow each other and have one text are one: ("3", text), ("0-3", text)."""
    alike: list[tuple[int, int, str]] = []
    for first, last, text in spans:
        if alike and alike[-1][1:] == (first - 1, text):
            first = alike.pop()[0]
        alike.append((first, last, text))
    return ((f"{first}-{last}" if last > first else f"{first}", text) for first, last, text in alike)
