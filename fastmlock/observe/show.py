"""What `fastmlock run --show` prints: files of /proc as text, by name."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from .pages import kpagecount, kpageflags, pagemap
from .proc import meminfo, smaps, status, vmstat

if TYPE_CHECKING:
    from fastmlock.scenario.observe import Region
    from fastmlock.system import System

Process = tuple[int, int, "list[Region]"]       # number in the scenario, pid, regions

MACHINE: dict[str, Callable[[System], str]] = {"vmstat": vmstat, "meminfo": meminfo}
PROCESS: dict[str, Callable[[System, int], str]] = {"status": status, "smaps": smaps}
PAGES = ("pagemap", "kpageflags", "kpagecount")
NAMES = (*MACHINE, *PROCESS, *PAGES)


def show(system: System, processes: Sequence[Process], names: Sequence[str]) -> Iterator[str]:
    """The files `names` of the machine and of each process, each behind a line that says which it is.

    Of the binary files, a line for each page of a region: its place, then the word in hexadecimal.
    """
    for name in names:
        if name in MACHINE:
            yield f"==> /proc/{name} <==\n{MACHINE[name](system)}"
            continue
        for number, pid, regions in processes:
            if name in PROCESS:
                yield f"==> /proc/p{number}/{name} <==\n{PROCESS[name](system, pid)}"
                continue
            where = f"/proc/p{number}/pagemap" if name == "pagemap" else f"/proc/{name} by p{number}"
            yield f"==> {where} <==\n" + "".join(
                f"{region.name}[{i}] {word:016x}\n" for region in regions
                for i, word in enumerate(_words(system, pid, region, name)))


def _words(system: System, pid: int, region: Region, name: str) -> list[int]:
    words = pagemap(system, pid, region.addr, region.pages)
    if name != "pagemap":
        words = (kpageflags if name == "kpageflags" else kpagecount)(system, (words << 9 >> 9).astype("i8"))
    return [int(word) for word in words]
