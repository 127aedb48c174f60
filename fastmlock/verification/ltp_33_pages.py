"""LTP's memcontrol test: 135,168 bytes mlocked, and how many of these pages the counters know of."""
from __future__ import annotations

from dataclasses import replace

from fastmlock import kernels
from fastmlock.system import System
from fastmlock.verification.point import Comparison, Point

PAGES = 135168 // 4096


def unevictable(drain: int) -> int:
    """nr_unevictable after one process maps 33 anonymous pages and mlocks them."""
    system = System(replace(kernels.get("5.18"), drain_on_populate=drain))
    pid = system.spawn(cpu=0)
    system.mmap(pid, 0x100000000000, PAGES * 4096, 3, 0x22 | 0x10, None, 0)
    system.mlock(pid, 0x100000000000, PAGES * 4096)
    return int(system.vmstat()["nr_unevictable"])


def point(quick: bool) -> Point:
    rows = [Comparison(what="without the drain at the end of populate", model=unevictable(0), known=122880 // 4096,
                       unit="pages"),
            Comparison(what="with it (ece369c7e104)", model=unevictable(1), known=135168 // 4096, unit="pages")]
    return Point(name="ltp-33-pages", title="LTP's 33 mlocked pages", factor=1, comparisons=rows,
                 source="Hugh Dickins, 28 Mar 2022, 47f6d39c-a075-50cb-1cfb-26dd957a48af@google.com: "
                        "`unevictable 122880` of 135168 bytes")


POINTS = {"ltp-33-pages": point}
