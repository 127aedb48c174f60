"""``fastmlock kernels``: the releases that the model knows, and what differs between them."""
from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from . import DONE


def register(commands: Any) -> None:
    sub = commands.add_parser("kernels", help="list the known kernels and their traits", description=(
        "Lists the kernels that the model knows, each with its traits (those that are 0 are left out)."))
    sub.add_argument("kernel", metavar="RELEASE", nargs="*", help="these only")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from fastmlock import kernels

    names = arguments.kernel or list(kernels.RELEASES)
    rows = [(name, traits(asdict(kernels.get(name)))) for name in names]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name.ljust(width)}  {text}")
    return DONE


def traits(values: dict[str, int]) -> str:
    """Traits in words: 1 is the name alone (but of a size), 0 is left out; the patches of the series as one."""
    patches = [name for name, value in values.items() if name[0] == "p" and name[1:].isdigit() and value]
    words = [f"{name}={value}" if value != 1 or name.endswith("_size") else name for name, value in values.items()
             if value and name not in patches]
    if patches:
        words.insert(0, ",".join(_ranges([int(name[1:]) for name in patches])))
    return " ".join(words)


def _ranges(numbers: list[int]) -> list[str]:
    """1, 2, 3, 5 as p01-p03, p05."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return [f"p{first:02}" if first == last else f"p{first:02}-p{last:02}" for first, last in found]
