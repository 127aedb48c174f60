"""What each patch of the series does: a text, and a scenario run before and after it.

The texts are `patches/NN.md`. A fenced block marked ``scenario`` in one is run at the point before the patch and at the
patch, and what both leave behind stands below it in the output; one marked ``check`` names a check of this module.
`docs` writes the pages under docs/patches, which a test holds against what the program says now.
"""
from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastmlock import kernels
from fastmlock.explore import barrier
from fastmlock.scenario import language
from fastmlock.scenario.run import run
from fastmlock.system import System

from . import collapse

CHECKS = {"barrier": barrier.report, "collapse": collapse.report}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_SHOWN = "LUM"


class NoPatch(ValueError):
    """There is no such patch; the text is one line."""


def points(number: int) -> tuple[str, str]:
    """The kernels before and after patch `number`."""
    return kernels.SERIES[number - 1], kernels.SERIES[number]


def explain(number: str | int) -> Iterator[str]:
    """The lines of the explanation of a patch, "01" to "13". Raises NoPatch."""
    text = str(number)
    if not re.fullmatch(r"[0-9]{1,2}", text) or not 1 <= int(text) <= len(kernels.PATCHES):
        raise NoPatch(f"no patch {text[:20]!a}: use 01 to {len(kernels.PATCHES)}")
    at, page = 0, files("fastmlock.series").joinpath(f"patches/{int(text):02}.md").read_text()
    for fence in _FENCE.finditer(page):
        yield from page[at:fence.start()].splitlines()
        at = fence.end()
        yield "```"
        yield from fence[2].splitlines()
        yield "```"
        if fence[1] == "scenario":
            yield ""
            yield "```"
            yield from compare(fence[2], *points(int(text)), cpus=3)
            yield "```"
        elif fence[1] == "check":
            yield ""
            yield "```"
            for name in fence[2].split():
                yield from CHECKS[name]()
            yield "```"
    yield from page[at:].splitlines()


def compare(text: str, before: str, after: str, *, cpus: int = 2) -> Iterator[str]:
    """Lines: each command of a scenario that leaves something behind, and what, on two kernels."""
    scenario = language.parse(text, "<patch>")
    records = [list(run(scenario, System(kernel, cpus=cpus), kernel=kernel)) for kernel in (before, after)]
    width = max(len(before), len(after))
    for one, other in zip(*records):
        if not one["cmd"]:
            continue
        left, right = _left(one), _left(other)
        if not left and not right:
            continue
        yield str(one["cmd"])
        if left == right:
            yield f"    {'both'.ljust(width)}  {left}"
        else:
            yield f"    {before.ljust(width)}  {left or 'nothing'}"
            yield f"    {after.ljust(width)}  {right or 'nothing'}"


def _left(record: dict[str, Any]) -> str:
    """What a step changed, and the pages that it leaves, in one line; "" where no counter changed and no error."""
    changed = [f"{name.removeprefix('unevictable_pgs_')} {value:+d}" for name, value in record["dvs"].items()
               if "active" not in name]
    if record["err"]:
        changed.append(str(record["err"]))
    if not changed and not _locks(str(record["cmd"])):
        return ""
    pages = [f"{name} {_runs(runs)}" for name, runs in record["f"].items()]
    for process, state in record["p"].items():
        for region, seen in state["reg"].items():
            anonymous = [run for run in seen["pg"] if run[2] == "a"]
            if anonymous:
                pages.append(f"{process}.{region} {_runs(anonymous)}")
    return "; ".join([", ".join(changed) or "no change", *pages])


def _locks(command: str) -> bool:
    words = command.split()
    return (len(words) > 1 and words[1] in ("mlock", "mlock2", "munlock", "munmap", "exit")) or words[0] in (
        "race", "compact", "truncate", "reclaim", "reap")


def _runs(runs: list[list[Any]]) -> str:
    """Pages in equal state: "[0-3] LUM mapped 2 count 2"."""
    shown: list[tuple[int, int, str]] = []
    for first, last, _, mapcount, flags, count in runs:
        state = "".join(flag for flag in flags if flag in _SHOWN) or "-"
        if mapcount > 0:
            state += f" mapped {mapcount}"
        if count >= 0:
            state += f" count {count}"
        if shown and shown[-1][2] == state and shown[-1][1] + 1 == first:
            shown[-1] = (shown[-1][0], last, state)
        else:
            shown.append((first, last, state))
    return " ".join(f"[{first}{f'-{last}' if last > first else ''}] {state}" for first, last, state in shown)


def docs(folder: str | Path) -> list[Path]:
    """Writes all pages into `folder`. -> their paths"""
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(1, len(kernels.PATCHES) + 1):
        path = Path(folder) / f"{number:02}.md"
        path.write_text("\n".join(explain(number)) + "\n")
        paths.append(path)
    return paths


if __name__ == "__main__":
    docs(sys.argv[1] if len(sys.argv) > 1 else "docs/patches")
