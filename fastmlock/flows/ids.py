"""The numbers of the flows by name, and the kernel's own names of them, read from `frame.pxd`, where both stand."""
from __future__ import annotations

import re
from importlib.resources import files

_FLOW = re.compile(r"^    (F_\w+)(?: = (\d+))?(?: +# (.*))?$", re.MULTILINE)
_SYMBOL = re.compile(r"([a-z_0-9]*_[a-z_0-9]+)(?=[,: (]|$)")     # a comment that begins with a function's name


def _read() -> tuple[dict[str, int], dict[int, str]]:
    text = files("fastmlock.flows").joinpath("frame.pxd").read_text()
    block = text[text.index("cdef enum Flow:"):]
    numbers: dict[str, int] = {}
    symbols: dict[int, str] = {}
    value = -1
    for name, given, comment in _FLOW.findall(block[:block.index("\n\n")]):
        value = int(given) if given else value + 1
        numbers[name] = value
        symbol = _SYMBOL.match(comment)
        symbols[value] = symbol[1] if symbol else name.removeprefix("F_").lower()
    return numbers, symbols


#: number of each flow, and the kernel function it stands for (its own name in small letters where there is no one)
FLOWS, SYMBOLS = _read()
