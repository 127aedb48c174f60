"""The memory cgroup that the recordings were made in: what writing its files asks for.

How much a cgroup holds beside what can be reclaimed (page tables, stacks, inodes) no model knows. So a limit is
understood that is below what the recorder had written before its first command, 5 MiB, and a request that surely goes
beyond what there is; recordings on 6.1 show 2M to take all, and 8M to take nothing from some hundred pages.
"""
from __future__ import annotations

import errno
from collections.abc import Callable

from .system import NotSupported

HIGH, RECLAIM = "/cg/t/memory.high", "/cg/t/memory.reclaim"
LOW_BYTES, MUCH_BYTES = 5 << 20, 64 << 20
RECLAIM_SINCE = 519
"""The release that brought memory.reclaim."""
_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}


def parse_bytes(value: str) -> int | None:
    """What memparse() makes of a number with a unit; None if that is not what the text is."""
    unit = _UNITS.get(value[-1:].upper(), 0)
    digits = value[:-1] if unit else value
    return int(digits) << unit if digits.isdecimal() else None


def high(value: str, reclaim_all: Callable[[], int]) -> tuple[int, int]:
    """memory.high: a limit below what the cgroup cannot give up makes it give up all else. -> (ret, errno)"""
    if value == "max":
        return 0, 0
    limit = parse_bytes(value)
    if limit is None:
        return -1, errno.EINVAL
    if limit > LOW_BYTES:
        raise NotSupported(f"memory.high of {value}: how much the cgroup holds is not known; "
                           f"use at most {LOW_BYTES >> 20}M, or max")
    reclaim_all()
    return 0, 0


def reclaim(value: str, release: int, reclaim_all: Callable[[], int]) -> tuple[int, int]:
    """memory.reclaim: EAGAIN if less could be had than was asked for. -> (ret, errno)"""
    if release < RECLAIM_SINCE:
        return -1, errno.ENOENT
    wanted = parse_bytes(value)
    if wanted is None:
        return -1, errno.EINVAL
    if wanted < MUCH_BYTES:
        raise NotSupported(f"memory.reclaim of {value}: which pages a partial reclaim takes is not modelled; "
                           f"use {MUCH_BYTES >> 20}M")
    reclaim_all()
    return -1, errno.EAGAIN
