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

from fastmlock import kernels
from fastmlock.explore import barrier
from fastmlock.scenario import language
from fastmlock.scenario.brief import side_by_side
from fastmlock.scenario.run import run
from fastmlock.system import System

from . import collapse

CHECKS = {"barrier": barrier.report, "collapse": collapse.report}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


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
    yield from side_by_side({kernel: run(scenario, System(kernel, cpus=cpus), kernel=kernel)
                             for kernel in (before, after)}, every=False)


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
