"""The numbers of the flows by name, read from `frame.pxd`, where they are given out."""
from __future__ import annotations

import re
from importlib.resources import files


def _read() -> dict[str, int]:
    text = files("fastmlock.flows").joinpath("frame.pxd").read_text()
    block = text[text.index("cdef enum Flow:"):]
    numbers: dict[str, int] = {}
    value = -1
    for name, given in re.findall(r"^    (F_\w+)(?: = (\d+))?", block[:block.index("\n\n")], re.MULTILINE):
        value = int(given) if given else value + 1
        numbers[name] = value
    return numbers


FLOWS = _read()
